//! The claim that is worked on, and what was parted from it.
//!
//! It lies where everybody reaches it who ends the work: the attempt that renames it, the one that catches its panic or
//! its timeout, and the one that stops the agent while it hangs.

use super::spool::{Claim, Spool, SpoolError};
use squire_engine::error::{Error, Result};
use std::ffi::OsString;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Holds one claim at most, with the claims that its parts became, in the order in which they shall be worked on.
#[derive(Clone, Debug, Default)]
pub(super) struct Hand(Arc<Mutex<Held>>);

#[derive(Debug, Default)]
struct Held {
    claim: Option<Claim>,
    parts: Vec<Claim>,
}

impl Hand {
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_up(&self, claim: Claim) {
        self.lock().claim = Some(claim);
    }

    pub(super) fn put_down(&self) -> Result<(Claim, Vec<Claim>)> {
        let Held { claim, parts } = std::mem::take(&mut *self.lock());
        let claim = claim.ok_or_else(|| Error::internal("the claim is gone"))?;
        Ok((claim, parts))
    }

    /// Does something to the claim.
    pub(super) fn with<T>(&self, act: impl FnOnce(&mut Claim) -> T) -> Result<T> {
        let mut held = self.lock();
        let claim = held.claim.as_mut();
        claim
            .map(act)
            .ok_or_else(|| Error::internal("the claim is gone"))
    }

    /// Lays a part of the claim beside it.
    pub(super) fn lay_aside(&self, part: Claim) {
        self.lock().parts.push(part);
    }

    /// The names of its entries.
    pub(super) fn entries(&self) -> Result<Vec<OsString>> {
        self.with(|claim| claim.entries().to_vec())
    }

    /// The agent stops while this is worked on: that is no sign against the claims. Does nothing if somebody is moving them
    /// at this moment.
    pub(super) fn forgive(&self, spool: &Spool) -> Result<(), SpoolError> {
        if let Ok(held) = self.0.try_lock().as_deref_mut() {
            for claim in held.claim.iter_mut().chain(&mut held.parts) {
                spool.answered(claim)?;
            }
        }
        Ok(())
    }
}
