//! How often work on a claim has begun and not come to an answer: what an input that kills its agent is known by.
//!
//! A panic can be caught; an abort (no memory, no stack) or a kill cannot. The claim therefore says, durably and before
//! the work, that another attempt begins. [`Spool::begin`] raises the count and [`Spool::answered`] takes it back when
//! the attempt came to an end, be it that the claim has to wait. What is left when the owner is dead is the number of
//! attempts that nobody ended.
//!
//! A claim without a record has begun one attempt: the claim is durable before the work on it begins, so the usual
//! batch, which is committed at once, costs no further write. The record is a decimal number; one that cannot be read
//! counts as none.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Claim, Spool, SpoolError, moves::write_durable};

/// The record, in the claim. A dotfile, so that it can never be an entry.
pub(super) const ATTEMPTS_FILE: &str = ".attempts";

/// What it is called while it is written.
pub(super) const ATTEMPTS_TEMPORARY: &str = ".attempts.tmp";

/// What the record of a claim says.
pub(super) fn read(dir: &Path) -> u32 {
    let text = fs::read_to_string(dir.join(ATTEMPTS_FILE)).unwrap_or_default();
    text.trim().parse().unwrap_or(1)
}

fn write(dir: &Path, count: u32) -> Result<(), SpoolError> {
    let paths: [PathBuf; 2] = [ATTEMPTS_TEMPORARY, ATTEMPTS_FILE].map(|name| dir.join(name));
    write_durable(&paths[0], &paths[1], format!("{count}\n").as_bytes())
}

impl Spool {
    /// Says that one more attempt on the claim begins. Durable when it returns.
    pub(crate) fn begin(&self, claim: &mut Claim) -> Result<(), SpoolError> {
        write(&claim.dir, claim.unanswered + 1)?;
        claim.unanswered += 1;
        Ok(())
    }

    /// Says that no attempt on the claim is under way and that those before are no sign against it: it waits for
    /// something else, or its agent stops.
    pub(crate) fn answered(&self, claim: &mut Claim) -> Result<(), SpoolError> {
        if claim.unanswered > 0 {
            write(&claim.dir, 0)?;
            claim.unanswered = 0;
        }
        Ok(())
    }
}
