//! Parting: entries of one claim get a claim of their own.
//!
//! One claim is one commit, so entries that cannot be committed together must not stay in it: one that is bad or was
//! committed before, one that is still being written, what goes alone, what is too much, and all of a group over which agents
//! died or whose commit was lost for good. Each part is a new claim, whose operation has never begun; what was known of
//! the group is not known of its parts. Nobody has begun to work on them, which their record says before they hold anything.

use std::{ffi::OsString, fs};

use squire_failpoints::Seam;
use ulid::Ulid;

use super::{Claim, Spool, SpoolError, pass, sync_dir};

impl Spool {
    /// Moves `entries` into a claim of `operation`, which must be new. Only while nothing can commit the claim's own operation: it
    /// never began, or the store has said that it is aborted. Durable when it returns.
    pub(crate) fn part(
        &self,
        claim: &mut Claim,
        entries: &[OsString],
        operation: Ulid,
    ) -> Result<Claim, SpoolError> {
        let mut part = self.create_claim(operation)?;
        self.answered(&mut part)?;
        for entry in entries {
            let Some(index) = claim.entries.iter().position(|name| name == entry) else {
                let name = entry.clone();
                return Err(SpoolError::NoSuchEntry { name });
            };
            let from = claim.path(entry);
            fs::rename(&from, part.path(entry)).map_err(SpoolError::io("move", &from))?;
            part.entries.push(claim.entries.remove(index));
            pass(Seam::AgentWhileParting, &claim.dir)?;
        }
        part.entries.sort();
        // The new home first, as in `claim`.
        sync_dir(&part.dir)?;
        sync_dir(&self.claimed)?;
        sync_dir(&claim.dir)?;
        Ok(part)
    }
}
