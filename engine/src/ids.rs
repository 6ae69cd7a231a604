//! Names: operations and tables.

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

#[cfg(test)]
mod tests {
    use super::TableName;

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
