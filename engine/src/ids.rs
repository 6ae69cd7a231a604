//! Names: operations, tables and their keys.

pub use crate::op::OpId;

use crate::error::{Error, Result, quoted};
use serde::{Deserialize, Serialize};

impl OpId {
    /// Parses the 26-letter form.
    pub fn parse(text: &str) -> Result<Self> {
        let ulid = ulid::Ulid::from_string(text).map_err(|e| {
            Error::invalid(format!("{} is not an operation ULID", quoted(text))).caused_by(e)
        });
        ulid.map(Self::from)
    }
}

impl TryFrom<String> for OpId {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        Self::parse(&text)
    }
}

/// The name of a table: a letter or underscore, then letters, digits, `_` and `-`, 128 at most.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TableName(String);

impl TableName {
    /// Checks and takes a name.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        let mut chars = name.chars();
        let first_ok = chars
            .next()
            .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
        if first_ok
            && name.len() <= 128
            && chars.all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        {
            return Ok(Self(name));
        }
        Err(Error::invalid(format!(
            "{} is not a table name: start with a letter or _, then letters, digits, _ and -, at most 128",
            quoted(&name)
        )))
    }

    /// Refuses a name that a new table may not take: Squire and LanceDB use such names for what they keep beside tables,
    /// and in the manifest a table `__manifest` would share the floor of the manifest itself. Tables of earlier releases
    /// that have one can still be read.
    ///
    /// # Errors
    /// `InvalidInput`, with the rule.
    pub fn check_new(&self) -> Result<()> {
        if self.0.starts_with("__") || self.0.starts_with("_squire") {
            return Err(Error::invalid(format!(
                "{:?} is no name for a new table: names that begin with __ or _squire are reserved",
                self.0
            )));
        }
        Ok(())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for TableName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<TableName> for String {
    fn from(name: TableName) -> Self {
        name.0
    }
}

impl TryFrom<String> for TableName {
    type Error = Error;
    fn try_from(name: String) -> Result<Self> {
        Self::new(name)
    }
}

impl std::str::FromStr for TableName {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        Self::new(name)
    }
}

/// The columns whose values together tell one row of a table from every other. In records it is a text, or a list of
/// several.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Columns", into = "Columns")]
pub struct Key(Vec<String>);

/// How a key stands in records.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Columns {
    One(String),
    Several(Vec<String>),
}

impl Key {
    /// Checks and takes columns.
    ///
    /// # Errors
    /// `InvalidInput` when there is none, one has no name, or one stands twice.
    pub fn new(columns: Vec<String>) -> Result<Self> {
        let repeated = |at: &usize| columns[..*at].contains(&columns[*at]);
        if let Some(twice) = (0..columns.len()).find(repeated) {
            let twice = quoted(&columns[twice]);
            return Err(Error::invalid(format!(
                "column {twice} stands twice in a key"
            )));
        }
        if columns.is_empty() || columns.iter().any(String::is_empty) {
            return Err(Error::invalid(
                "a key is the name of a column, or of several with commas between them",
            ));
        }
        Ok(Self(columns))
    }

    /// The columns, at least one.
    pub fn columns(&self) -> &[String] {
        &self.0
    }

    /// Whether it tells rows apart as `other` does.
    pub fn is_of_the_columns_of(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().all(|column| other.0.contains(column))
    }

    /// Whether it has more than one column.
    pub fn has_several(&self) -> bool {
        self.0.len() > 1
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl std::str::FromStr for Key {
    type Err = Error;
    /// Of a command line: a comma ends a column's name.
    fn from_str(text: &str) -> Result<Self> {
        Self::new(text.split(',').map(str::to_owned).collect())
    }
}

impl From<Key> for Columns {
    fn from(key: Key) -> Self {
        match <[String; 1]>::try_from(key.0) {
            Ok([column]) => Self::One(column),
            Err(columns) => Self::Several(columns),
        }
    }
}

impl TryFrom<Columns> for Key {
    type Error = Error;
    fn try_from(columns: Columns) -> Result<Self> {
        match columns {
            Columns::One(column) => Self::new(vec![column]),
            Columns::Several(columns) => Self::new(columns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, TableName};

    #[test]
    fn a_key_of_one_column_is_a_text_in_records() {
        for (text, record) in [("id", r#""id""#), ("b,a", r#"["b","a"]"#)] {
            let key: Key = text.parse().unwrap();
            assert_eq!(serde_json::to_string(&key).unwrap(), record);
            assert_eq!(serde_json::from_str::<Key>(record).unwrap(), key);
        }
        for bad in ["", "a,", ",", "a,b,a"] {
            assert!(bad.parse::<Key>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Key>("[]").is_err());
    }

    #[test]
    fn reserved_names_are_none_for_new_tables() {
        let check = |name: &str| TableName::new(name).unwrap().check_new();
        for name in ["__manifest", "__x", "_squire", "_squire_x"] {
            let told = check(name).unwrap_err().to_string();
            assert!(told.contains("reserved"), "{told}");
        }
        for name in ["_x", "x__", "squire", "_manifest"] {
            assert!(check(name).is_ok(), "{name}");
        }
    }
}
