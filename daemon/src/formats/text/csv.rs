//! CSV as RFC 4180 has it: a header, commas, quotes around whole fields, quotes within them doubled.
//!
//! A field without quotes that is empty is null; `""` is an empty text.

use std::borrow::Cow;

use super::{cell::Value, lines::Lines};
use crate::formats::{FormatError, error::quoted};

/// One record and the lines that it takes.
#[derive(Debug, Default)]
pub(super) struct Record {
    bytes: Vec<u8>,
    /// The line on which it begins.
    pub(super) line: u64,
    fields: Vec<Span>,
}

/// Where a field stands in its record, without its quotes.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
    quoted: bool,
    /// It holds doubled quotes.
    doubled: bool,
}

impl Record {
    /// The fields in their order.
    pub(super) fn fields(&self) -> impl ExactSizeIterator<Item = Field<'_>> {
        // Checked when it was read.
        let text = std::str::from_utf8(&self.bytes).unwrap_or_default();
        self.fields.iter().map(|span| {
            let part = &text[span.start..span.end];
            Field {
                text: if span.doubled {
                    part.replace("\"\"", "\"").into()
                } else {
                    part.into()
                },
                quoted: span.quoted,
            }
        })
    }

    /// Bytes of the record.
    pub(super) fn length(&self) -> usize {
        self.bytes.len()
    }
}

/// A field, its quotes removed.
#[derive(Debug)]
pub(super) struct Field<'a> {
    pub(super) text: Cow<'a, str>,
    pub(super) quoted: bool,
}

impl Field<'_> {
    pub(super) fn value(&self) -> Value<'_> {
        if self.text.is_empty() && !self.quoted {
            Value::Null
        } else {
            Value::Field(&self.text)
        }
    }
}

/// The records of a file behind its header.
pub(super) struct Records<'a> {
    lines: Lines<'a>,
    pub(super) header: Vec<String>,
    pub(super) record: Record,
    most_columns: usize,
}

impl<'a> Records<'a> {
    /// Reads the header. What has more fields than `most_columns` is cut after the first that is too much: each takes more memory
    /// than its comma.
    pub(super) fn new(lines: Lines<'a>, most_columns: usize) -> Result<Self, FormatError> {
        let mut records = Self {
            lines,
            header: Vec::new(),
            record: Record::default(),
            most_columns,
        };
        if !records.read()? {
            return Err(FormatError::Empty {
                path: records.lines.path.into(),
            });
        }
        if let Some(detail) = records.other_separator() {
            return Err(records.lines.refuse(records.record.line, detail));
        }
        let header = records.record.fields().map(|field| field.text.into_owned());
        records.header = header.collect();
        Ok(records)
    }

    /// What is wrong with a header of one column that looks like several.
    fn other_separator(&self) -> Option<String> {
        let mut fields = self.record.fields();
        let (Some(only), None) = (fields.next(), fields.next()) else {
            return None;
        };
        let found = only.text.chars().find(|c| matches!(c, ';' | '\t' | '|'));
        found.filter(|_| !only.quoted).map(|separator| {
            format!(
                "has one column, {}; if {} separates fields, write commas, and if it belongs to the name, quote it",
                quoted(&only.text),
                quoted(&separator.to_string())
            )
        })
    }

    /// Whether there was another record. It has as many fields as the header.
    pub(super) fn next(&mut self) -> Result<bool, FormatError> {
        if !self.read()? {
            return Ok(false);
        }
        let (found, expected) = (self.record.fields.len(), self.header.len());
        if found == expected {
            return Ok(true);
        }
        let more = if found > self.most_columns {
            "at least "
        } else {
            ""
        };
        let mut detail = format!("has {more}{found} fields, and the header has {expected}");
        if found == expected + 1 {
            detail.push_str("; quote fields with commas in them");
        }
        if let Some(name) = self.header.get(found) {
            detail = format!("{detail}; column {} is the first without one", quoted(name));
        }
        Err(self.lines.refuse(self.record.line, detail))
    }

    /// Reads one record, past blank lines. In a file of one column a blank line could be a null as well as nothing.
    fn read(&mut self) -> Result<bool, FormatError> {
        let Self { lines, record, .. } = self;
        loop {
            record.bytes.clear();
            record.line = lines.number + 1;
            if !lines.next(&mut record.bytes)? {
                return Ok(false);
            }
            // A quote is never alone: it opens, closes or is doubled. So a record ends with a line after an even number of them.
            let mut from = 0;
            let mut open = false;
            loop {
                let quotes = record.bytes[from..].iter().filter(|byte| **byte == b'"');
                open ^= quotes.count() % 2 == 1;
                from = record.bytes.len();
                if !open || !lines.next(&mut record.bytes)? {
                    break;
                }
            }
            let end = [&b"\r\n"[..], b"\n"];
            let end = end.into_iter().find(|end| record.bytes.ends_with(end));
            record.bytes.truncate(from - end.map_or(0, <[u8]>::len));
            if !record.bytes.is_empty() {
                break;
            }
            if self.header.len() == 1 {
                let detail = "is blank, which could mean a null or nothing; write \"\" for an empty text, or remove the line";
                return Err(lines.refuse(record.line, detail));
            }
        }
        let text = lines.utf8(record.line, &record.bytes)?;
        record.fields.clear();
        split(text, self.most_columns, &mut record.fields).map_err(|(at, detail)| {
            let before = text[..at].bytes().filter(|byte| *byte == b'\n');
            lines.refuse(record.line + before.map(|_| 1).sum::<u64>(), detail)
        })?;
        Ok(true)
    }
}

/// The fields of a record, or what is wrong with it and at which byte.
fn split(text: &str, most: usize, fields: &mut Vec<Span>) -> Result<(), (usize, &'static str)> {
    let mut start = 0;
    loop {
        if fields.len() > most {
            return Ok(());
        }
        let field = match text.as_bytes().get(start) {
            Some(b'"') => quoted_field(text, start)?,
            _ => plain_field(text, start)?,
        };
        let next = field.end + usize::from(field.quoted);
        fields.push(field);
        if next == text.len() {
            return Ok(());
        }
        start = next + 1;
    }
}

fn plain_field(text: &str, start: usize) -> Result<Span, (usize, &'static str)> {
    let length = text[start..].find(',');
    let end = length.map_or(text.len(), |length| start + length);
    let odd = text.as_bytes()[start..end]
        .iter()
        .position(|byte| matches!(byte, b'"' | b'\r'));
    if let Some(odd) = odd {
        let at = start + odd;
        return Err(match text.as_bytes()[at] {
            b'"' => (
                at,
                "has a quote in a field that does not begin with one; quote the whole field and double the quotes in it",
            ),
            _ => (
                at,
                "has a carriage return without a line feed; end lines with either \\n or \\r\\n, or quote the field",
            ),
        });
    }
    Ok(Span {
        start,
        end,
        quoted: false,
        doubled: false,
    })
}

fn quoted_field(text: &str, quote: usize) -> Result<Span, (usize, &'static str)> {
    let start = quote + 1;
    let (mut end, mut doubled) = (start, false);
    loop {
        let length = text[end..].find('"');
        end += length.ok_or((
            quote,
            "has a quote that nothing closes; close it, or double it if it belongs to the text",
        ))?;
        match text.as_bytes().get(end + 1) {
            Some(b'"') => {
                doubled = true;
                end += 2;
            }
            None | Some(b',') => break,
            Some(_) => {
                return Err((
                    quote,
                    "has a quoted field with text after its closing quote; close the quote at the end of the field, and double quotes in it",
                ));
            }
        }
    }
    Ok(Span {
        start,
        end,
        quoted: true,
        doubled,
    })
}
