//! Chaos: several processes work on one store while they are killed, paused and lied to by their storage, and every
//! answer and every snapshot is checked against a model.
//!
//! 1. [`plan`]: everything that is chosen at random, from the seed: operations, seams, faults, signals.
//! 2. [`writer`]: a writer process that commits through the engine; [`commands`]: a writer that runs `squire`; [`spool`]: a
//!    producer whose batches agents commit.
//! 3. [`processes`]: children, and the monkey that kills, stops and wakes them.
//! 4. [`history`]: what every writer began and was told, one line each, on disk before the next step.
//! 5. [`model`]: the tables as a replay of the commit log says they are.
//! 6. [`observe`]: readers; each snapshot is compared with the replay at its manifest version while the run goes on.
//! 7. [`settle`] and [`check`]: the store at rest and the whole history at the end; [`report`]: the table and the JSON document.
//! 8. [`run`]: the order of all that.
//!
//! The seed repeats what each process tries and which seams, faults and signals meet it; how the processes interleave
//! is the operating system's and does not repeat.

pub mod check;
pub mod commands;
pub mod history;
pub mod maintainer;
pub mod model;
pub mod observe;
pub mod plan;
pub mod processes;
pub mod replay;
pub mod report;
pub mod run;
pub mod settle;
pub mod spool;
pub mod writer;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

/// Two tables of accounts: transfers go between them, and their sum never changes.
pub const ACCOUNTS: [&str; 2] = ["acc_a", "acc_b"];
/// Two tables that get the same rows in one commit, and only ever grow.
pub const LOGS: [&str; 2] = ["log_a", "log_b"];
/// A table that is only merged into.
pub const UPSERTS: &str = "kv";
/// A table that is appended to, deleted from and overwritten.
pub const BIN: &str = "bin";
/// All of them, sorted.
pub const TABLES: [&str; 6] = ["acc_a", "acc_b", "bin", "kv", "log_a", "log_b"];

/// Accounts in each of the two tables.
pub const ACCOUNTS_EACH: i64 = 12;
/// What each account begins with.
pub const BALANCE: i64 = 1_000;

/// Microseconds of the machine's clock, which all processes of a run share.
pub fn now_us() -> u64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("after 1970");
    u64::try_from(since.as_micros()).expect("before the year 500000")
}

/// What was found wrong. The first finding ends the run.
#[derive(Debug, Clone, Default)]
pub struct Violations {
    found: Arc<Mutex<Vec<String>>>,
    any: Arc<AtomicBool>,
}

impl Violations {
    /// Adds one, and says it at once.
    pub fn add(&self, what: impl Into<String>) {
        let what = what.into();
        eprintln!("VIOLATION: {what}");
        self.any.store(true, Ordering::Relaxed);
        self.found.lock().expect("violations").push(what);
    }

    /// Whether there is any.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// All of them.
    pub fn all(&self) -> Vec<String> {
        self.found.lock().expect("violations").clone()
    }
}
