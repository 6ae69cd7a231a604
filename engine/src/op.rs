//! The name of an operation.

use serde::{Deserialize, Serialize};

/// The ULID of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OpId(ulid::Ulid);

impl OpId {
    /// An id from a time (milliseconds since the epoch) and 80 random bits.
    pub fn from_parts(ms: u64, random: u128) -> Self {
        Self(ulid::Ulid::from_parts(ms, random))
    }
}

impl From<OpId> for ulid::Ulid {
    fn from(id: OpId) -> Self {
        id.0
    }
}

impl From<ulid::Ulid> for OpId {
    fn from(id: ulid::Ulid) -> Self {
        Self(id)
    }
}

impl std::fmt::Display for OpId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl From<OpId> for String {
    fn from(id: OpId) -> Self {
        id.to_string()
    }
}
