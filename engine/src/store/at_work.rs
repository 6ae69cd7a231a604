//! The maintenance runs of this process: recovery, which goes on beside them, does not take one of them for dead.

use crate::ids::OpId;
use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The runs of one store that this process has under way.
#[derive(Debug, Default)]
pub(crate) struct AtWork(Mutex<HashSet<OpId>>);

impl AtWork {
    fn ops(&self) -> MutexGuard<'_, HashSet<OpId>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `op` is at work until the answer is dropped, however that comes about.
    pub(crate) fn enter(&self, op: OpId) -> Entered<'_> {
        self.ops().insert(op);
        Entered { at_work: self, op }
    }

    /// Whether `op` is at work here.
    pub(crate) fn contains(&self, op: OpId) -> bool {
        self.ops().contains(&op)
    }
}

/// A run at work.
#[derive(Debug)]
pub(crate) struct Entered<'a> {
    at_work: &'a AtWork,
    op: OpId,
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.at_work.ops().remove(&self.op);
    }
}
