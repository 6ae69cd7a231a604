//! The command line's writer: one JSON document, or lines for people.

use super::exit_code;
use crate::agent::printable;
use serde::Serialize;
use serde_json::{Value, json};
use squire_engine::error::Error;
use std::io::Write;
use std::process::ExitCode;

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
        let mut out = std::io::stdout().lock();
        // A reader that went away is not our failure.
        if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
            tracing::debug!("standard output is closed");
        }
    }

    /// Reports an error and gives its exit code.
    pub(crate) fn fail(self, error: &Error) -> ExitCode {
        if self.json {
            let kind = serde_json::to_value(format!("{:?}", error.kind())).unwrap_or(Value::Null);
            self.line(&render(&json!({
                "error": { "kind": kind, "message": error.to_string(), "op": error.op() }
            })));
        } else {
            let mut err = std::io::stderr().lock();
            if writeln!(err, "squire: {}", paragraph(&error.to_string())).is_err() {
                tracing::debug!("standard error is closed");
            }
        }
        exit_code(error.kind())
    }
}

/// An error, whose cause may have several lines: those are indented, so that none looks like a message of its own.
fn paragraph(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(printable).collect();
    lines.join("\n  ")
}

fn render(document: &impl Serialize) -> String {
    serde_json::to_string_pretty(document)
        .unwrap_or_else(|e| format!("{{\"error\":{{\"message\":{:?}}}}}", e.to_string()))
}
