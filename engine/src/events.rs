//! What the protocol did, step by step: for traces, and for the check that replays them.
//!
//! An event is recorded after its step is durable and before the next one begins, so a process that dies has at most
//! one step that no event tells of.

use crate::ids::{OpId, TableName};
use serde::{Deserialize, Serialize};

/// A table and one of its versions.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct At {
    /// The table.
    pub table: TableName,
    /// The version.
    pub version: u64,
}

/// What a caller was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// It is visible.
    Committed,
    /// It never will be.
    Conflict,
    /// `squire op` says later.
    Unknown,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum ProtocolEvent {
    /// Phase A of a logical operation is complete.
    Begun {
        /// The operation.
        op: OpId,
        /// Its written tables, each at the pin that it was staged on.
        writes: Vec<At>,
        /// Its read tables, each at the version that was read.
        reads: Vec<At>,
    },
    /// A table of a logical operation was committed, invisible yet.
    Landed {
        /// The operation.
        op: OpId,
        /// The table and the version that it made.
        at: At,
    },
    /// The manifest moved, and the publish counts.
    Published {
        /// The manifest version that it made.
        manifest: u64,
        /// The operation that it is attributed to.
        op: OpId,
        /// `logical`, `maintenance`, `undo`, `abort`, ...
        kind: String,
    },
    /// A landed version was taken back.
    Undone {
        /// The operation that was taken back.
        op: OpId,
        /// The table and the version that the undo made.
        at: At,
        /// The version that it restored.
        target: u64,
    },
    /// Old versions of a table are about to be deleted.
    Removing {
        /// The table.
        table: TableName,
        /// The published floor.
        floor: u64,
        /// The versions.
        versions: Vec<u64>,
    },
    /// A caller was answered.
    Answered {
        /// The operation.
        op: OpId,
        /// What it was told.
        answer: Answer,
    },
}

/// Takes events as they happen. It must not fail and not wait for long.
pub trait EventSink: std::fmt::Debug + Send + Sync {
    /// Takes one event.
    fn record(&self, event: &ProtocolEvent);
}
