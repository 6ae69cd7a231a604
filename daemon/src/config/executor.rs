//! `[executor]`: who executes the tasks of a compaction, and with what.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::file::Refused;
use crate::units;
use std::time::Duration;

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
    /// Workers on the nodes of a Ray cluster.
    Ray,
}

/// What becomes of tasks while Ray is away.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WhenAway {
    /// They wait: the attempt fails, and the next one comes when it is due.
    #[default]
    Wait,
    /// Workers on this machine execute them.
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
    /// Where Ray is.
    pub(crate) ray_address: String,
    /// The Python that has Ray.
    pub(crate) ray_python: String,
    /// How a node starts squire, and with what options; by the path of this program where it is empty.
    pub(crate) ray_worker: Vec<String>,
    /// How long Ray may take to be joined: a cluster that is there answers within seconds, and Ray itself goes on trying for
    /// minutes. Afterwards it is away.
    #[serde(
        deserialize_with = "units::duration",
        serialize_with = "units::show_duration"
    )]
    pub(crate) ray_join: Duration,
    /// What becomes of tasks while Ray is away.
    pub(crate) ray_away: WhenAway,
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        Self {
            workers: 2,
            memory: 2 << 30,
            bytes_in_flight: 8 << 30,
            ray_address: "auto".to_owned(),
            ray_python: "python3".to_owned(),
            ray_worker: Vec::new(),
            ray_join: Duration::from_secs(30),
            ray_away: WhenAway::Wait,
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
        if self.ray_address == "local" {
            let why = "\"local\" would start another Ray for each attempt; start one with ray start --head, and use \"auto\"";
            return Err(Refused::at("executor.ray_address", why));
        }
        if self.ray_address.starts_with("ray://") {
            let why = "is of Ray Client, by which nobody can tell that a worker is gone; run squire on a node, and use \"auto\"";
            return Err(Refused::at("executor.ray_address", why));
        }
        if self.ray_join.is_zero() {
            let why = "must not be zero; use a duration such as \"30s\"";
            return Err(Refused::at("executor.ray_join", why));
        }
        Ok(self)
    }
}
