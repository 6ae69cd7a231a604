//! Names of operations: the only type of the engine that `protocol.rs` needs.

/// An operation: its index in the scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u8);

impl OpId {
    /// As the engine's own, for the tests of `protocol.rs`.
    #[cfg(test)]
    pub fn from_parts(_ms: u64, n: u128) -> Self {
        Self(u8::try_from(n).unwrap_or(u8::MAX))
    }
}
