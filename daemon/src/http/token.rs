//! The bearer tokens of callers.

use std::fmt;
use std::hint::black_box;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::text_file;

/// A secret that callers show. Neither printable nor comparable except by [`Token::matches`]; [`Token::shown`] is for who calls.
#[derive(Clone)]
pub(crate) struct Token(Vec<u8>);

/// Why a token was refused. Says nothing about the token itself.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// The file could not be read.
    #[error("{path}: cannot read the token: {source}")]
    Read {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Empty, or with characters that a header cannot carry.
    #[error(
        "{origin}: the token must be one line of printable ASCII without spaces, such as the output of `openssl rand -hex 32`"
    )]
    Malformed {
        /// Where it came from.
        origin: String,
    },
    /// It is given to somebody else, too.
    #[error("{origin}: another token is the same; each scope needs a token of its own")]
    Twice {
        /// Where it came from.
        origin: String,
    },
}

impl TokenError {
    /// Whether the file is not for this user to read.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Read { source, .. } if source.kind() == std::io::ErrorKind::PermissionDenied)
    }
}

impl Token {
    /// Reads a token file; white space around the token is dropped.
    pub(crate) fn load(path: &Path) -> Result<Self, TokenError> {
        let origin = path.display().to_string();
        match text_file::read(path) {
            Ok(text) => Self::parse(&text, &origin),
            Err(source) => Err(TokenError::Read {
                path: origin,
                source,
            }),
        }
    }

    /// Checks a token; `origin` is what an error calls it.
    pub(crate) fn parse(text: &str, origin: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(TokenError::Malformed {
                origin: origin.to_owned(),
            });
        }
        Ok(Self(text.as_bytes().to_vec()))
    }

    /// What a caller shows. Never to be printed.
    pub(crate) fn shown(&self) -> String {
        String::from_utf8_lossy(&self.0).into_owned()
    }

    /// Whether both are the same, of two that were read here.
    pub(super) fn is(&self, other: &Self) -> bool {
        self.0 == other.0
    }

    /// Compares in a time that depends on the length of what was presented only, so that answers do
    /// not leak the secret byte by byte.
    pub(crate) fn matches(&self, presented: &[u8]) -> bool {
        let secret = &self.0;
        let mut difference = usize::from(presented.len() != secret.len());
        for (given, wanted) in presented.iter().zip(secret.iter().cycle()) {
            difference = black_box(difference | usize::from(given ^ wanted));
        }
        difference == 0
    }
}

/// Whoever guesses writes no more than a line into the log in so long, however fast it is.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Calls with a wrong token, or none.
#[derive(Debug, Default)]
pub(crate) struct Guesses(Mutex<Guessed>);

#[derive(Debug, Default)]
struct Guessed {
    untold: u64,
    told: Option<Instant>,
}

impl Guesses {
    /// Counts one, and how many there are to tell of now, if that is due.
    fn count(&self, now: Instant) -> Option<u64> {
        let mut guessed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        guessed.untold += 1;
        let is_due = |told: Instant| now.saturating_duration_since(told) >= TELL_EVERY;
        if !guessed.told.is_none_or(is_due) {
            return None;
        }
        guessed.told = Some(now);
        Some(std::mem::take(&mut guessed.untold))
    }

    /// One was refused at `path`.
    pub(crate) fn tell(&self, path: &str) {
        if let Some(calls) = self.count(Instant::now()) {
            tracing::warn!(path, calls, "call refused: missing or wrong bearer token");
        }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_token_matches() {
        let token = Token::parse(" abc\n", "test").unwrap();
        assert!(token.matches(b"abc"));
        for other in ["", "a", "ab", "abd", "abcabc", "abca", "ABC"] {
            assert!(!token.matches(other.as_bytes()), "{other}");
        }
        assert_eq!(format!("{token:?}"), "Token(***)");
    }

    #[test]
    fn whoever_guesses_does_not_fill_the_log() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        assert_eq!(guesses.count(start), Some(1));
        for _ in 0..1_000 {
            assert_eq!(guesses.count(start), None);
        }
        assert_eq!(guesses.count(start + TELL_EVERY), Some(1_001));
    }

    #[test]
    fn unusable_tokens_are_refused() {
        for text in ["", " \n", "a b", "a\nb", "é"] {
            assert!(Token::parse(text, "test").is_err(), "{text:?}");
        }
    }
}
