//! The claim that is worked on.
//!
//! It lies where everybody reaches it who ends the work: the attempt that renames it, the one that catches its panic or
//! its timeout, and the one that stops the agent while it hangs.

use super::spool::{Claim, Spool, SpoolError};
use squire_engine::error::{Error, Result};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Holds one claim at most.
#[derive(Clone, Debug, Default)]
pub(super) struct Hand(Arc<Mutex<Option<Claim>>>);

impl Hand {
    fn lock(&self) -> MutexGuard<'_, Option<Claim>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_up(&self, claim: Claim) {
        *self.lock() = Some(claim);
    }

    pub(super) fn put_down(&self) -> Result<Claim> {
        let claim = self.lock().take();
        claim.ok_or_else(|| Error::internal("the claim is gone"))
    }

    /// Does something to the claim.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Claim) -> T) -> Result<T> {
        let mut claim = self.lock();
        let claim = claim.as_mut();
        claim
            .map(act)
            .ok_or_else(|| Error::internal("the claim is gone"))
    }

    /// The names of its entries, and where the first one is.
    pub(super) fn entries(&self) -> Result<(Vec<OsString>, PathBuf)> {
        self.with(|claim| {
            let entries = claim.entries().to_vec();
            let first = entries.first().cloned().unwrap_or_default();
            (entries, claim.path(&first))
        })
    }

    /// The agent stops while this is worked on: that is no sign against the claim. Does nothing if somebody is moving it
    /// at this moment.
    pub(super) fn forgive(&self, spool: &Spool) -> Result<(), SpoolError> {
        match self.0.try_lock().as_deref_mut() {
            Ok(Some(claim)) => spool.answered(claim),
            _ => Ok(()),
        }
    }
}
