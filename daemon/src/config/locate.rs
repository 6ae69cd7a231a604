//! From a byte offset or a key path to "line 12, `[policy] retention`", so that every error names
//! where it stands.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::bare;

/// One step into a document.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    /// A key of a table.
    Key(String),
    /// A place in an array of tables.
    Index(usize),
}

/// A place in the file: its line, and the key as it would be written under its section header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Counted from 1.
    pub(super) line: usize,
    /// In characters, counted from 1.
    pub(super) column: usize,
    /// `[policy] retention`; empty where the error belongs to no key.
    pub(super) key: String,
}

/// Every key of one document with where it stands.
#[derive(Debug)]
pub(super) struct Locator<'t> {
    text: &'t str,
    /// Path, span of the key (or of the array element), span of the value.
    entries: Vec<(Vec<Step>, Range<usize>, Range<usize>)>,
}

impl<'t> Locator<'t> {
    /// Indexes a document. One with a syntax error has no keys, but its lines are still counted.
    pub(super) fn new(text: &'t str) -> Self {
        let mut entries = Vec::new();
        if let Ok(document) = DeTable::parse(text) {
            visit_table(document.get_ref(), &mut Vec::new(), &mut entries);
        }
        Self { text, entries }
    }

    /// The innermost key whose name or value covers `offset`.
    pub(super) fn at_offset(&self, offset: usize) -> Place {
        let covering = self
            .entries
            .iter()
            .filter(|(_, key, value)| key.contains(&offset) || value.contains(&offset))
            .max_by_key(|(path, ..)| path.len());
        let (line, column) = self.position(offset);
        Place {
            line,
            column,
            key: covering.map(|(path, ..)| label(path)).unwrap_or_default(),
        }
    }

    /// The place of a dotted path such as `policy.cleanup.enabled` or `table.0.retention`, if the
    /// file has it.
    pub(super) fn at_path(&self, dotted: &str) -> Option<Place> {
        let wanted = dotted_steps(dotted);
        let (path, key, _) = self.entries.iter().find(|(path, ..)| *path == wanted)?;
        let (line, column) = self.position(key.start);
        Some(Place {
            line,
            column,
            key: label(path),
        })
    }

    /// The index of the `[[table]]` whose name is written as `quoted`, quotes included, with or without `.lance`.
    pub(super) fn table_named(&self, quoted: &str) -> Option<usize> {
        let name = quoted.trim_matches(['"', '\'']);
        self.entries
            .iter()
            .find_map(|(path, _, value)| match path.as_slice() {
                [Step::Key(table), Step::Index(index), Step::Key(key)]
                    if table == "table"
                        && key == "name"
                        && bare(self.text[value.clone()].trim_matches(['"', '\''])) == name =>
                {
                    Some(*index)
                }
                _ => None,
            })
    }

    fn position(&self, offset: usize) -> (usize, usize) {
        let before = &self.text[..self.text.floor_char_boundary(offset)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = before.bytes().filter(|byte| *byte == b'\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }
}

/// How a dotted path is written in the file; for a key that the file does not have.
pub(super) fn label_of(dotted: &str) -> String {
    label(&dotted_steps(dotted))
}

fn dotted_steps(dotted: &str) -> Vec<Step> {
    let step = |part: &str| {
        part.parse()
            .map_or_else(|_| Step::Key(part.to_owned()), Step::Index)
    };
    dotted.split('.').map(step).collect()
}

fn visit_table(
    table: &DeTable<'_>,
    path: &mut Vec<Step>,
    out: &mut Vec<(Vec<Step>, Range<usize>, Range<usize>)>,
) {
    for (key, value) in table.iter() {
        path.push(Step::Key(key.get_ref().to_string()));
        out.push((path.clone(), key.span(), value.span()));
        visit_value(value.get_ref(), path, out);
        path.pop();
    }
}

fn visit_value(
    value: &DeValue<'_>,
    path: &mut Vec<Step>,
    out: &mut Vec<(Vec<Step>, Range<usize>, Range<usize>)>,
) {
    if let DeValue::Table(table) = value {
        visit_table(table, path, out);
    } else if let DeValue::Array(items) = value {
        for (index, item) in items.iter().enumerate() {
            path.push(Step::Index(index));
            out.push((path.clone(), item.span(), item.span()));
            visit_value(item.get_ref(), path, out);
            path.pop();
        }
    }
}

/// `[policy] retention`, `[policy.cleanup] enabled`, `[[watch]] storage_options.region`, or just
/// `[[watch]]`.
fn label(path: &[Step]) -> String {
    let names: Vec<&str> = path
        .iter()
        .filter_map(|step| match step {
            Step::Key(name) => Some(name.as_str()),
            Step::Index(_) => None,
        })
        .collect();
    let in_array = path
        .get(1)
        .is_some_and(|step| matches!(step, Step::Index(_)));
    match (in_array, names.as_slice()) {
        (true, [section]) => format!("[[{section}]]"),
        (true, [section, key @ ..]) => format!("[[{section}]] {}", key.join(".")),
        (false, [section @ .., key]) if !section.is_empty() => {
            format!("[{}] {key}", section.join("."))
        }
        (_, [key]) => (*key).to_owned(),
        (_, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[policy]\nretention = \"7d\"\n\n[policy.cleanup]\nenabled = true\n\n[[watch]]\nuri = \"a\"\n[[watch]]\nuri = \"b\"\n";

    #[test]
    fn keys_are_found_by_offset_and_by_path() {
        let locator = Locator::new(TEXT);
        let at = |needle: &str| locator.at_offset(TEXT.find(needle).unwrap());
        assert_eq!(
            at("\"7d\""),
            Place {
                line: 2,
                column: 13,
                key: "[policy] retention".to_owned()
            }
        );
        assert_eq!(
            at("true"),
            Place {
                line: 5,
                column: 11,
                key: "[policy.cleanup] enabled".to_owned()
            }
        );
        assert_eq!(
            at("\"b\""),
            Place {
                line: 10,
                column: 7,
                key: "[[watch]] uri".to_owned()
            }
        );
        assert_eq!(
            locator.at_path("watch.1.uri").map(|place| place.line),
            Some(10)
        );
        assert_eq!(locator.at_path("policy.cooldown"), None);
    }

    #[test]
    fn a_broken_document_still_has_lines() {
        assert_eq!(
            Locator::new("a = 1\nb = \n").at_offset(10),
            Place {
                line: 2,
                column: 5,
                key: String::new()
            }
        );
    }
}
