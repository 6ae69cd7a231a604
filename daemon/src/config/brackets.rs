//! Sections written in other brackets than theirs. The parser would tell of maps, sequences and structs.

use super::file::Refused;
use toml::{Table, Value};

/// Sections of which there are several.
const ARRAYS: [&str; 2] = ["watch", "table"];
/// Sections of which there is one.
const TABLES: [&str; 5] = ["daemon", "policy", "budget", "executor", "agent"];

/// The first section that is not written as it has to be, and how it is. Text that is no TOML is the parser's.
pub(super) fn check(text: &str) -> Result<(), Refused> {
    let Ok(file) = text.parse::<Table>() else {
        return Ok(());
    };
    for (name, value) in &file {
        let is_section = |value: &Value| value.is_table();
        let (several, one) = (
            ARRAYS.contains(&name.as_str()),
            TABLES.contains(&name.as_str()),
        );
        match value {
            Value::Array(elements) if several && elements.iter().all(is_section) => {
                for (index, element) in elements.iter().enumerate() {
                    check_part(element, name, &format!("{name}.{index}"))?;
                }
            }
            Value::Table(_) if one => check_part(value, name, name)?,
            _ if several => {
                let reason = format!("there can be several of these; write [[{name}]]");
                return Err(Refused::at(name, reason));
            }
            _ if one => {
                let reason = format!("there is one of these; write [{name}]");
                return Err(Refused::at(name, reason));
            }
            // An unknown section.
            _ => {}
        }
    }
    Ok(())
}

/// The part of one section, at `path`, that is a section of its own.
fn check_part(section: &Value, name: &str, path: &str) -> Result<(), Refused> {
    let (part, example) = match name {
        "policy" | "table" => ("cleanup", "enabled = true"),
        "watch" => ("storage_options", "region = \"eu-central-1\""),
        _ => return Ok(()),
    };
    if section.get(part).is_some_and(|value| !value.is_table()) {
        let reason = format!("is a section of its own; write [{name}.{part}] {example}");
        return Err(Refused::at(format!("{path}.{part}"), reason));
    }
    Ok(())
}
