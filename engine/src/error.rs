//! One error type: what to do (`ErrorKind`), a message for people, and the private cause.

mod told;

use crate::op::OpId;
use futures::FutureExt;
use std::any::Any;
use std::error::Error as StdError;
use std::panic::AssertUnwindSafe;

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The request is wrong and will stay wrong: correct the input.
    InvalidInput,
    /// The named store, table, version or operation does not exist.
    NotFound,
    /// Someone else committed first; nothing of this operation is visible. Safe to retry from a fresh snapshot.
    Conflict,
    /// What the request was computed from has changed since; nothing of it is visible. Read again, and compute it anew.
    Stale,
    /// It is not known whether the operation is committed; ask again by its ULID before retrying.
    Unknown,
    /// The table has versions that no operation of ours explains; see `squire repair`.
    Drift,
    /// A safety check refused; nothing was done.
    Refused,
    /// The version is below the floor and may be gone; take a fresh snapshot.
    Expired,
    /// The store was written by a newer format; upgrade squire.
    FormatTooNew,
    /// The storage failed; nothing is known to be wrong with the request.
    Storage,
    /// Cancelled at a safe point.
    Cancelled,
    /// What was made could not replace what it should replace, or Lance cannot make it for this table: nothing was
    /// committed, and trying again gives the same until the table's schema or the release changes.
    Unfit,
    /// A broken assumption of the engine itself; please report it.
    Internal,
}

/// What the one retry loop does with an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// Start again from a fresh snapshot.
    Retry,
    /// Find out first: load the state and evaluate again.
    Look,
    /// Report it.
    Fail,
}

/// An error of the engine.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    op: Option<OpId>,
    source: Option<Box<dyn StdError + Send + Sync>>,
    attached: Option<Box<dyn Any + Send + Sync>>,
}

/// A result of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a cause.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            op: None,
            source: None,
            attached: None,
        }
    }

    /// The same error, caused by `source`.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same error, about operation `op`.
    #[must_use]
    pub fn of(mut self, op: OpId) -> Self {
        self.op = Some(op);
        self
    }

    /// The same error with something for programs beside its words: it is not shown, and replaces what was there.
    #[must_use]
    pub fn with(mut self, what: impl Any + Send + Sync) -> Self {
        self.attached = Some(Box::new(what));
        self
    }

    /// What [`Self::with`] gave it.
    pub fn attached<T: Any>(&self) -> Option<&T> {
        self.attached.as_ref()?.downcast_ref()
    }

    /// The same error with `context: ` before its message.
    #[must_use]
    pub fn context(mut self, context: impl std::fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message);
        self
    }

    /// The same error, followed by what to do about it.
    #[must_use]
    pub fn advice(mut self, what: impl std::fmt::Display) -> Self {
        self.message = format!("{} ({what})", self.message);
        self
    }

    /// The same error, met while a table or a store was read or maintained: Lance calls what it cannot read an invalid
    /// input, but nobody gave it one, and no other request would help.
    #[must_use]
    pub fn of_what_stands(mut self) -> Self {
        if self.kind == ErrorKind::InvalidInput {
            self.kind = ErrorKind::Storage;
        }
        self
    }

    /// What caused it, the outermost first.
    pub(crate) fn causes(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        let outermost: Option<&(dyn StdError + 'static)> = self.source();
        std::iter::successors(outermost, |cause: &&(dyn StdError + 'static)| {
            (*cause).source()
        })
    }

    /// Shorthand for [`ErrorKind::InvalidInput`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// Shorthand for [`ErrorKind::Conflict`].
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Conflict, message)
    }

    /// Shorthand for [`ErrorKind::Internal`].
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Internal, message)
    }

    /// The error in a few words: without the places in Lance's source that it names, and not much of what it quotes.
    pub fn brief(&self) -> String {
        let text = self.to_string();
        let places = text.split(", ").filter(|part| !part.contains(".cargo/"));
        let text = places.collect::<Vec<_>>().join(", ");
        text.chars().take(BRIEF_CHARS).collect()
    }

    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The operation whose outcome is unknown or that was met on the way.
    pub fn op(&self) -> Option<OpId> {
        self.op
    }

    /// What the retry loop does with it.
    pub fn disposition(&self) -> Disposition {
        match self.kind {
            ErrorKind::Conflict => Disposition::Retry,
            ErrorKind::Unknown => Disposition::Look,
            ErrorKind::InvalidInput
            | ErrorKind::NotFound
            | ErrorKind::Stale
            | ErrorKind::Drift
            | ErrorKind::Refused
            | ErrorKind::Expired
            | ErrorKind::FormatTooNew
            | ErrorKind::Storage
            | ErrorKind::Cancelled
            | ErrorKind::Unfit
            | ErrorKind::Internal => Disposition::Fail,
        }
    }
}

/// How much of a text of someone else's is quoted.
const QUOTED_CHARS: usize = 80;

/// A text of someone else's, or its beginning, in quotes and with its control characters escaped.
pub fn quoted(text: &str) -> String {
    match beginning(text, QUOTED_CHARS) {
        Some(shown) => format!("{shown:?}..."),
        None => format!("{text:?}"),
    }
}

/// The first `chars` characters of a text that has more.
fn beginning(text: &str, chars: usize) -> Option<&str> {
    let (end, _) = text.char_indices().nth(chars)?;
    Some(&text[..end])
}

/// How much of an error is told where it stands among others.
const BRIEF_CHARS: usize = 300;

/// How much of a panic's message is told: the rest quotes data or paths of the machine that built us.
const PANIC_CHARS: usize = 200;

/// Runs `work`. Lance and Arrow panic on tables and files that they do not expect; that ends this one piece of work, as
/// an `Internal` error that names `what`, and nothing else.
///
/// # Errors
/// Those of `work`, and its panic.
pub async fn caught<T>(what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(done) => done,
        Err(panic) => Err(Error::internal(format!(
            "{what}: panicked: {}",
            panic_text(panic.as_ref())
        ))),
    }
}

/// The first line of a panic's message, shortened.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text.as_str(),
        (None, None) => "without a message",
    };
    let line = text.lines().next().unwrap_or_default();
    line.chars().take(PANIC_CHARS).collect()
}

/// How much of a cause is told: some quote whole answers of a server, which nobody reads.
const CAUSE_CHARS: usize = 500;

/// How much of a cause is read for that: what is left out of it may be long.
const CAUSE_READ: usize = 16 * CAUSE_CHARS;

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        if let Some(op) = self.op {
            write!(f, " (operation {op})")?;
        }
        if let Some(source) = &self.source {
            let text = source.to_string();
            let text = beginning(&text, CAUSE_READ).unwrap_or(&text);
            let cause = told::for_people(text);
            match beginning(&cause, CAUSE_CHARS) {
                Some(shown) => write!(f, ": {shown} ...")?,
                None => write!(f, ": {cause}")?,
            }
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source
            .as_ref()
            .map(|s| s.as_ref() as &(dyn StdError + 'static))
    }
}

/// A file that Lance does not find is a storage failure: what a caller may name (tables, versions, operations) is
/// looked up in the manifest first, so a missing file never means a wrong request.
impl From<lance::Error> for Error {
    fn from(error: lance::Error) -> Self {
        use lance::Error as L;
        if error.is_commit_status_unknown() {
            return Self::new(ErrorKind::Unknown, "the outcome of a commit is unknown")
                .caused_by(error);
        }
        let (kind, message) = match &error {
            L::CommitConflict { .. }
            | L::DatasetAlreadyExists { .. }
            | L::RetryableCommitConflict { .. }
            | L::IncompatibleTransaction { .. }
            | L::TooMuchWriteContention { .. } => {
                (ErrorKind::Conflict, "lost to a concurrent commit")
            }
            // What an older release committed meanwhile, and this one cannot read: above it nothing has to be read of it.
            L::InvalidInput { source, .. }
                if source.to_string().ends_with("is a required field") =>
            {
                (ErrorKind::Conflict, "lost to a concurrent commit")
            }
            L::InvalidInput { .. }
            | L::SchemaMismatch { .. }
            | L::Schema { .. }
            | L::FieldNotFound { .. } => (ErrorKind::InvalidInput, "invalid input"),
            L::NotSupported { .. } => (ErrorKind::Unfit, "lance cannot do this"),
            L::Internal { .. } => (ErrorKind::Internal, "lance failed"),
            _ => (ErrorKind::Storage, "storage failed"),
        };
        Self::new(kind, message).caused_by(error)
    }
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        Self::new(ErrorKind::Storage, "storage failed").caused_by(error)
    }
}

impl From<squire_failpoints::Injected> for Error {
    fn from(injected: squire_failpoints::Injected) -> Self {
        Self::new(ErrorKind::Storage, "injected").caused_by(injected)
    }
}

#[cfg(test)]
mod tests {
    use super::{Error, ErrorKind, quoted};

    #[test]
    fn what_is_quoted_is_short_and_escaped() {
        assert_eq!(quoted("a\u{1b}[2J\nb"), r#""a\u{1b}[2J\nb""#);
        let long = quoted(&"ö".repeat(5_000));
        assert_eq!(long.chars().count(), 80 + "\"\"...".len());
    }

    #[test]
    fn a_commit_of_an_older_release_is_a_lost_race() {
        let told = |what: &str| Error::from(lance::Error::invalid_input(what)).kind();
        let lost = told("new_index_details is a required field");
        assert_eq!(lost, ErrorKind::Conflict);
        assert_eq!(told("no such column"), ErrorKind::InvalidInput);
    }

    #[test]
    fn a_damaged_table_is_not_bad_usage() {
        let damaged = Error::invalid("bad magic").of_what_stands();
        assert_eq!(damaged.kind(), ErrorKind::Storage);
        let lost = Error::conflict("lost").of_what_stands();
        assert_eq!(lost.kind(), ErrorKind::Conflict);
    }
}
