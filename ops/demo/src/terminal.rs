//! The writer of this program: everything that people read goes through here.

use indicatif::{MultiProgress, ProgressDrawTarget};
use std::fmt::Display;
use std::io::IsTerminal;

/// Standard output, with a live view below it if it is a terminal.
#[derive(Debug, Clone)]
pub(crate) struct Terminal {
    bars: Option<MultiProgress>,
}

impl Terminal {
    /// Looks at what standard output is.
    pub(crate) fn detect() -> Self {
        let live = std::io::stdout().is_terminal();
        let bars = live.then(|| MultiProgress::with_draw_target(ProgressDrawTarget::stdout()));
        Self { bars }
    }

    /// The bars of the live view; `None` when output goes to a file or a pipe.
    pub(crate) fn bars(&self) -> Option<&MultiProgress> {
        self.bars.as_ref()
    }

    /// Prints lines, above the live view.
    pub(crate) fn say(&self, text: impl Display) {
        match &self.bars {
            Some(bars) => bars.suspend(|| print(&text)),
            None => print(&text),
        }
    }
}

#[expect(
    clippy::disallowed_macros,
    reason = "the one writer of standard output"
)]
fn print(text: &impl Display) {
    println!("{text}");
}

/// Prints why the demo ends without a verdict.
#[expect(clippy::disallowed_macros, reason = "the one writer of standard error")]
pub(crate) fn complain(text: impl Display) {
    eprintln!("squire-demo: {text}");
}
