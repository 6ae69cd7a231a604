//! The command line's writer: one JSON document, or lines for people.

use super::exit_code;
use crate::agent::printable;
use serde::Serialize;
use serde_json::{Value, json};
use squire_engine::error::Error;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::OnceLock;

/// Why standard output did not take what was printed. Like standard output, there is one for the process, so that no
/// command can forget to look.
static LOST: OnceLock<String> = OnceLock::new();

/// Where answers go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints `document` as JSON, or `lines` for people: each stays one line, whatever texts of others it holds.
    pub(crate) fn print(self, document: &impl Serialize, lines: &[String]) {
        let text = if self.json {
            render(document)
        } else {
            let lines: Vec<String> = lines.iter().map(|line| printable(line)).collect();
            lines.join("\n")
        };
        self.line(&text);
    }

    fn line(self, text: &str) {
        let mut out = io::stdout().lock();
        self.printed(writeln!(out, "{text}").and_then(|()| out.flush()));
    }

    /// Takes note of whether something could be printed. A reader that went away has what it wanted.
    pub(crate) fn printed(self, printed: io::Result<()>) {
        if let Err(error) = printed
            && error.kind() != ErrorKind::BrokenPipe
        {
            LOST.get_or_init(|| error.to_string());
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
