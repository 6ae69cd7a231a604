//! The command line's writer: one JSON document, or lines for people.

use super::table::Line;
use crate::exit::exit_code;
use crate::input::printable;
use serde::Serialize;
use serde_json::{Value, json};
use squire_engine::error::Error;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// Why standard output did not take what was printed. Like standard output, there is one for the process, so that no
/// command can forget to look.
static LOST: OnceLock<String> = OnceLock::new();

/// Whether the reader of standard output went away.
static CLOSED: AtomicBool = AtomicBool::new(false);

/// Where answers go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints `document` as JSON, or `lines` for people: each stays one line, whatever texts of others it holds.
    pub(crate) fn print(self, document: &impl Serialize, lines: &[String]) {
        let lines: Vec<Line> = lines.iter().cloned().map(Line::from).collect();
        self.print_lines(document, &lines);
    }

    /// The same for lines with colours, which only a terminal is shown.
    pub(crate) fn print_lines(self, document: &impl Serialize, lines: &[Line]) {
        let text = if self.json {
            render(document)
        } else {
            let colour = wants_colour();
            let lines: Vec<String> = lines.iter().map(|line| line.render(colour)).collect();
            lines.join("\n")
        };
        self.line(&text);
    }

    /// Prints a document of one line, in whatever form answers are wanted: one of many, for a program that reads along.
    pub(crate) fn say(self, document: &Value) {
        self.line(&document.to_string());
    }

    /// Prints `document`, or a whole text of ours whose lines are meant to be lines.
    pub(crate) fn print_text(self, document: &impl Serialize, text: &str) {
        if self.json {
            self.line(&render(document));
        } else {
            let lines: Vec<String> = text.lines().map(printable_but_tabs).collect();
            self.line(&lines.join("\n"));
        }
    }

    /// Clears a terminal; between documents and in pipes there is nothing to clear.
    pub(crate) fn clear(self) {
        if !self.json && io::stdout().is_terminal() {
            let mut out = io::stdout().lock();
            self.printed(write!(out, "\u{1b}[2J\u{1b}[H").and_then(|()| out.flush()));
        }
    }

    /// Whether nobody reads any more what is printed.
    pub(crate) fn closed(self) -> bool {
        CLOSED.load(Ordering::Relaxed) || LOST.get().is_some()
    }

    fn line(self, text: &str) {
        let mut out = io::stdout().lock();
        self.printed(writeln!(out, "{text}").and_then(|()| out.flush()));
    }

    /// Takes note of whether something could be printed. A reader that went away has what it wanted.
    pub(crate) fn printed(self, printed: io::Result<()>) {
        match printed {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                CLOSED.store(true, Ordering::Relaxed);
            }
            Err(error) => {
                LOST.get_or_init(|| error.to_string());
            }
        }
    }

    /// How the process ends when a command ended with `code`: an answer that could not be written is no success.
    pub(crate) fn end(self, code: ExitCode) -> ExitCode {
        let Some(why) = LOST.get() else {
            return code;
        };
        complain(&format!(
            "what was done is done, but the answer could not be written to standard output: {why}"
        ));
        ExitCode::FAILURE
    }

    /// Reports an error and gives its exit code.
    pub(crate) fn fail(self, error: &Error) -> ExitCode {
        if self.json {
            let kind = serde_json::to_value(format!("{:?}", error.kind())).unwrap_or(Value::Null);
            self.line(&render(&json!({
                "error": { "kind": kind, "message": error.to_string(), "op": error.op() }
            })));
        } else {
            complain(&paragraph(&error.to_string()));
        }
        exit_code(error.kind())
    }
}

/// Scripts of shells are indented, some with tabs.
fn printable_but_tabs(line: &str) -> String {
    let parts: Vec<String> = line.split('\t').map(printable).collect();
    parts.join("\t")
}

/// Colour is for terminals that take it, and for people who did not ask to be spared (<https://no-color.org>).
fn wants_colour() -> bool {
    let spared = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stdout().is_terminal() && !spared && !dumb
}

/// An error, whose cause may have several lines: those are indented, so that none looks like a message of its own.
fn paragraph(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(printable).collect();
    lines.join("\n  ")
}

fn complain(what: &str) {
    if writeln!(io::stderr().lock(), "squire: {what}").is_err() {
        tracing::debug!("standard error is closed");
    }
}

fn render(document: &impl Serialize) -> String {
    serde_json::to_string_pretty(document)
        .unwrap_or_else(|e| format!("{{\"error\":{{\"message\":{:?}}}}}", e.to_string()))
}
