//! Tasks that others execute: workers, as processes of their own on this machine or on any that reaches the storage.
//!
//! ```text
//!   run (commits) ──envelope──> executor ──> worker: names, writes, reads back ──> result, put once
//!        ^                                                                              │
//!        └────────── takes in what comes, as it comes: commit, carry, or give up <──────┘
//! ```
//! 1. [`Envelope`] is a task as data: what is rewritten, of which version of which table, for which run.
//! 2. `lending` hands tasks out, as many at a time as its [`Executor`] takes, and commits what comes of them.
//! 3. An executor only starts a worker and says how it ended; it decides nothing and is believed nothing: what counts is the
//!    result on storage (`outcome`), one for each task.
//! 4. `worker` is what a worker does with an envelope.
//!
//! A worker works under the licence of its run: the run's record. What it writes is named in the run's journal first, so that
//! whoever ends the run, or takes it for dead, reclaims by proof what no version refers to. A worker commits nothing.

mod envelope;
mod lending;
mod outcome;
mod worker;

pub use envelope::Envelope;
pub(super) use lending::Lending;
pub use worker::Executed;

use crate::oversight::Oversight;
use async_trait::async_trait;
use std::fmt::Debug;
use tokio_util::sync::CancellationToken;

/// What workers may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkerBounds {
    /// Workers at one time, at most.
    pub at_once: usize,
    /// Bytes that tasks in flight read together, at most; a single one may read more.
    pub bytes_at_once: u64,
    /// Bytes that a worker may hold.
    pub memory: u64,
}

/// Has workers execute tasks.
#[async_trait]
pub trait Executor: Debug + Send + Sync {
    /// What its workers may use.
    fn bounds(&self) -> WorkerBounds;

    /// Has one worker make the attempt at the task in `handed`, and says how it ended. A worker must be at work no more when
    /// this returns, unless it says [`Ended::Lost`]: what is at work afterwards writes files that nobody reclaims soon.
    async fn run(&self, handed: &Handed) -> Ended;
}

/// A task that is handed to a worker.
#[derive(Debug)]
pub struct Handed {
    /// What the worker is given.
    pub envelope: Envelope,
    /// Who watches the run; a worker that moves is a step of it.
    pub oversight: Oversight,
    stop: CancellationToken,
}

impl Handed {
    /// Waits until nobody has a use for what the worker does.
    pub async fn stopped(&self) {
        tokio::select! {
            () = self.oversight.given_up() => {}
            () = self.stop.cancelled() => {}
        }
    }
}

/// How a worker ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// By itself, with this exit code; and what it said of that.
    Exited(i32, String),
    /// It was killed, or its machine is gone for certain; why, as far as that is known.
    Died(String),
    /// It was stopped, as asked.
    Stopped,
    /// None can be had now.
    Away(String),
    /// Nobody knows whether it is still at work.
    Lost(String),
}
