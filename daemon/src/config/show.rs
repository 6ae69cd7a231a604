//! The effective configuration, each value with where it comes from.

use super::locate::Locator;
use super::{Config, ConfigError};
use serde::Serialize;

/// One line of the effective configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    /// The section's header as it stands in a file: `[policy]`, `[[watch]]`; empty for none.
    section: String,
    /// The key in its section.
    key: String,
    /// Its value in TOML. Secrets are masked.
    value: String,
    /// `default`, or the file and line that set it.
    origin: String,
}

impl Config {
    /// Every setting with its value and its origin; `text` is what `self` was parsed from, `file` its name.
    pub(crate) fn settings(&self, text: &str, file: &str) -> Result<Vec<Setting>, ConfigError> {
        let shown = toml::to_string(self).map_err(|e| ConfigError::Invalid {
            origin: file.to_owned(),
            place: None,
            key: String::new(),
            reason: format!("cannot be shown: {e}"),
        })?;
        let locator = Locator::new(text);
        let mut at = Section::default();
        let mut settings = Vec::new();
        for line in shown.lines() {
            if line.starts_with('[') {
                at.enter(line);
            } else if let Some((key, value)) = line.split_once(" = ") {
                if at.is_table() && key == "name" {
                    at.table = locator.table_named(value);
                }
                let set = at.paths(key).find_map(|path| locator.at_path(&path));
                settings.push(Setting {
                    section: at.header.clone(),
                    key: key.to_owned(),
                    value: value.to_owned(),
                    origin: set.map_or_else(
                        || String::from("default"),
                        |place| format!("{file}:{}", place.line),
                    ),
                });
            }
        }
        Ok(settings)
    }
}

/// The settings as a file that can be used, each line with its origin behind it.
pub(crate) fn render(settings: &[Setting]) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    let mut before = None;
    for setting in settings {
        // A new element of an array begins with its first key again.
        let again = setting.section.starts_with("[[")
            && matches!(setting.key.as_str(), "uri" | "name" | "file");
        if before != Some(&setting.section) || again {
            if !lines.is_empty() {
                lines.push(String::new());
            }
            lines.push(setting.section.clone());
        }
        before = Some(&setting.section);
        let assignment = format!("{} = {}", setting.key, setting.value);
        lines.push(format!("{assignment:<44} # {}", setting.origin));
    }
    lines
}

/// Where the walk through the shown document is.
#[derive(Debug, Default)]
struct Section {
    header: String,
    /// How many headers of the same array came before.
    index: usize,
    /// The index in the file of the `[[table]]` that is shown: they are shown in another order.
    table: Option<usize>,
}

impl Section {
    fn enter(&mut self, header: &str) {
        let nested = header.starts_with(&format!("[{}.", self.name()));
        if header == self.header || (header.starts_with("[[") && nested) {
            self.index += 1;
        } else if !nested {
            self.index = 0;
        }
        self.header = header.to_owned();
    }

    fn name(&self) -> &str {
        self.header.trim_matches(['[', ']'])
    }

    fn is_table(&self) -> bool {
        self.header == "[[table]]"
    }

    /// The dotted paths at which a file can set `key` here, the nearest first.
    fn paths(&self, key: &str) -> impl Iterator<Item = String> {
        let (first, rest) = self.name().split_once('.').unwrap_or((self.name(), ""));
        let under = if rest.is_empty() {
            key.to_owned()
        } else {
            format!("{rest}.{key}")
        };
        let own = match first {
            "watch" | "token" => Some(format!("{first}.{}.{under}", self.index)),
            "table" => self.table.map(|index| format!("table.{index}.{under}")),
            _ => Some(format!("{first}.{under}")),
        };
        let inherited = (first == "table").then(|| format!("policy.{under}"));
        own.into_iter().chain(inherited)
    }
}
