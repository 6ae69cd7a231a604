//! Why the demo stopped.

use std::fmt::Display;

/// What ends a run before its check.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// Ctrl-C or SIGTERM; the next run continues.
    #[error("interrupted")]
    Interrupted,
    /// A sentence for people.
    #[error("{0}")]
    Failed(String),
}

/// A result of the demo.
pub(crate) type Result<T, E = DemoError> = std::result::Result<T, E>;

/// Shorthand for [`DemoError::Failed`].
pub(crate) fn failed<T>(what: impl Into<String>) -> Result<T> {
    Err(DemoError::Failed(what.into()))
}

/// Says what was tried when something failed.
pub(crate) trait Context<T> {
    /// Puts `what: ` before the cause.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|cause| DemoError::Failed(format!("{}: {cause}", what())))
    }
}
