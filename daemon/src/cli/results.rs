//! What a command has to say about several tables: one that fails does not stop the others, and the worst decides.

use super::Context;
use super::table::{Line, Span, Tone};
use crate::exit::{code, graver};
use crate::place::Selection;
use serde_json::{Map, Value, json};
use squire_engine::error::Error;
use squire_engine::store::discovery::PassedOver;
use std::process::ExitCode;

/// The answers for each table.
#[derive(Debug, Default)]
pub(super) struct Results {
    tables: Vec<Value>,
    lines: Vec<Line>,
    skipped: Vec<PassedOver>,
    code: u8,
}

fn skipped_lines(selection: &Selection) -> Vec<Line> {
    let skipped = selection.skipped.iter();
    skipped.map(|passed| passed.to_string().into()).collect()
}

impl Results {
    /// Answers about `selection`; what it passed over is told first.
    pub(super) fn of(selection: &Selection) -> Self {
        Self {
            lines: skipped_lines(selection),
            skipped: selection.skipped.clone(),
            ..Self::default()
        }
    }

    /// A line for people that is about no table.
    pub(super) fn say(&mut self, line: impl Into<Line>) {
        self.lines.push(line.into());
    }

    /// A table went well: its document, a JSON object, and its lines.
    pub(super) fn add(
        &mut self,
        mut document: Value,
        lines: impl IntoIterator<Item = impl Into<Line>>,
    ) {
        if let Value::Object(fields) = &mut document {
            fields.insert("error".to_owned(), Value::Null);
        }
        self.tables.push(document);
        self.lines.extend(lines.into_iter().map(Into::into));
    }

    /// A table failed. `document` is what there is to say about it all the same, a JSON object.
    pub(super) fn fail(&mut self, table: &str, error: &Error, mut document: Value) {
        if let Value::Object(fields) = &mut document {
            fields.insert("table".to_owned(), json!(table));
            fields.insert("error".to_owned(), json!(error.to_string()));
        }
        self.tables.push(document);
        let line = format!("{table}: failed: {error}");
        self.lines.push(Span::new(Tone::Bad, line).into());
        self.exits(code(error.kind()));
    }

    /// Something ended with `code`; the gravest decides how the command ends.
    pub(super) fn exits(&mut self, code: u8) {
        self.code = graver(self.code, code);
    }

    /// Whether a table failed, or anything else went wrong.
    pub(super) fn failed(&self) -> bool {
        self.code != 0
    }

    /// Prints everything, with `more` beside the tables.
    pub(super) fn finish(self, context: &Context, more: Map<String, Value>) -> ExitCode {
        let mut document = more;
        document.insert("tables".to_owned(), Value::Array(self.tables));
        document.insert("skipped".to_owned(), json!(self.skipped));
        context
            .out
            .print_lines(&Value::Object(document), &self.lines);
        ExitCode::from(self.code)
    }
}
