//! `[executor]`: who executes the tasks of a compaction, and with what.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::file::Refused;
use crate::units;

/// The least that a worker can work in.
const LEAST_MEMORY: u64 = 64 << 20;

/// Who executes the tasks of a compaction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ExecutorKind {
    /// The process that commits them, one after the other.
    #[default]
    Inline,
    /// Workers, each a process on this machine with memory of its own.
    Local,
}

/// `[executor]`: what workers may use.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ExecutorConfig {
    /// Workers of one attempt at one time.
    pub(crate) workers: usize,
    /// What each of them may hold, in bytes.
    #[serde(deserialize_with = "units::size", serialize_with = "units::show_size")]
    pub(crate) memory: u64,
    /// Bytes that the tasks of one attempt that are in flight read together.
    #[serde(deserialize_with = "units::size", serialize_with = "units::show_size")]
    pub(crate) bytes_in_flight: u64,
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        Self {
            workers: 2,
            memory: 2 << 30,
            bytes_in_flight: 8 << 30,
        }
    }
}

impl ExecutorConfig {
    /// The same, checked.
    pub(super) fn checked(self) -> Result<Self, Refused> {
        if self.workers == 0 {
            let why = "0 executes nothing; use 1 or more, or executor = \"inline\" in [policy]";
            return Err(Refused::at("executor.workers", why));
        }
        if self.memory < LEAST_MEMORY {
            let given = units::format_size(self.memory);
            let why = format!("{given} is under 64MiB, in which no worker can work");
            return Err(Refused::at("executor.memory", why));
        }
        if self.bytes_in_flight == 0 {
            let why =
                "0 executes one task at a time whatever workers says; use a size such as \"8GiB\"";
            return Err(Refused::at("executor.bytes_in_flight", why));
        }
        Ok(self)
    }
}
