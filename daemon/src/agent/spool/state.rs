//! What lies in a spool, for those who look at it from outside. Nothing is created, claimed or moved.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs::{self, File, TryLockError},
    io::ErrorKind,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::Path,
};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::{
    Claim, LOCK_FILE, Listing, REASON_SUFFIXES, Spool, SpoolError,
    done::{Resting, resting_in},
    entries_in,
    moves::with_suffix,
    names_in,
};
use crate::agent::reason::Reason;

/// Why a claim waits, in the claim; a record for those who look, which nothing decides by.
pub(super) const WAITING_FILE: &str = ".waiting";

/// Why a claim that nobody works on was let go of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WaitRecord {
    /// In one word.
    pub(crate) cause: String,
    /// In words.
    pub(crate) reason: String,
    /// How often it was tried by the agent that wrote this.
    pub(crate) tries: u32,
    /// When it was let go of, and when that agent tries it again, in milliseconds since 1970.
    pub(crate) time_ms: u64,
    pub(crate) next_ms: u64,
}

/// A claim, as it is seen.
#[derive(Debug)]
pub(crate) struct ClaimState {
    pub(crate) operation: Ulid,
    pub(crate) entries: Vec<OsString>,
    pub(crate) owner: Owner,
    /// Not of an attempt that is under way.
    pub(crate) waiting: Option<WaitRecord>,
}

/// Who works on a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// Nobody: it waits, or its agent is dead.
    Nobody,
    /// A process, whose number is known where the system tells.
    Process(Option<u32>),
}

/// A rejected entry.
#[derive(Debug)]
pub(crate) struct Rejected {
    pub(crate) entry: Resting,
    /// `None` where the record is missing or cannot be read.
    pub(crate) reason: Option<Reason>,
}

impl Spool {
    /// The spool at `root` as it is; an error unless all four directories are there.
    pub(crate) fn existing(root: &Path) -> Result<Self, SpoolError> {
        let spool = Self::at(root);
        for dir in spool.dirs() {
            let meta = fs::metadata(dir).map_err(SpoolError::io("read", dir))?;
            if !meta.is_dir() {
                return Err(SpoolError::io("list", dir)(ErrorKind::NotADirectory.into()));
            }
        }
        Ok(spool)
    }

    /// What lies in `incoming`, and what of it a process is still writing.
    pub(crate) fn incoming_state(&self) -> Result<(Listing, HashSet<OsString>), SpoolError> {
        let listing = self.list_incoming()?;
        Ok((listing, self.being_written()))
    }

    /// Every claim with entries.
    pub(crate) fn claim_states(&self) -> Result<Vec<ClaimState>, SpoolError> {
        let mut claims = Vec::new();
        for found in self.claims()? {
            let dir = self.claimed.join(found.operation.to_string());
            let entries = entries_in(&dir).unwrap_or_default();
            if entries.is_empty() {
                continue;
            }
            let owner = owner_of(&dir.join(LOCK_FILE));
            let waiting = fs::read(dir.join(WAITING_FILE)).ok();
            let waiting = waiting.and_then(|text| serde_json::from_slice(&text).ok());
            claims.push(ClaimState {
                operation: found.operation,
                entries,
                waiting: waiting.filter(|_| owner == Owner::Nobody),
                owner,
            });
        }
        Ok(claims)
    }

    /// Says in the claim why it is let go of. Not durable, and nothing depends on it.
    pub(crate) fn tell_waiting(&self, claim: &Claim, record: &WaitRecord) {
        let path = claim.dir.join(WAITING_FILE);
        let text = serde_json::to_vec(record).unwrap_or_default();
        if let Err(error) = fs::write(&path, text) {
            tracing::debug!(%error, "a claim's reason to wait cannot be written");
        }
    }

    /// What lies in `rejected`, oldest first.
    pub(crate) fn list_rejected(&self) -> Result<Vec<Rejected>, SpoolError> {
        let names: HashSet<OsString> = names_in(&self.rejected)?.into_iter().collect();
        let all = resting_in(&self.rejected)?.into_iter();
        let entries = all.filter(|entry| {
            !entry.name.as_bytes().starts_with(b".") && !is_reason(&entry.name, &names)
        });
        Ok(entries
            .map(|entry| Rejected {
                reason: self.reason_of(&entry.name),
                entry,
            })
            .collect())
    }

    fn reason_of(&self, name: &OsStr) -> Option<Reason> {
        let path = with_suffix(&self.rejected.join(name), REASON_SUFFIXES[1]);
        serde_json::from_slice(&fs::read(path).ok()?).ok()
    }
}

/// Whether a name in `rejected` is that of a reason: it ends like one, and has none itself.
fn is_reason(name: &OsStr, names: &HashSet<OsString>) -> bool {
    let ends = |suffix: &str| name.as_bytes().ends_with(suffix.as_bytes());
    let has = |suffix: &str| names.contains(with_suffix(Path::new(name), suffix).as_os_str());
    REASON_SUFFIXES.iter().any(|s| ends(s)) && !REASON_SUFFIXES.iter().any(|s| has(s))
}

/// Who holds the lock at `path`. It is asked for shared, for a moment, and never made: an agent that looks in this moment looks
/// again in its next round.
fn owner_of(path: &Path) -> Owner {
    let Ok(file) = File::open(path) else {
        return Owner::Nobody;
    };
    match file.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {
            let inode = file.metadata().map(|meta| meta.ino()).ok();
            Owner::Process(inode.and_then(holder_of))
        }
        Ok(()) | Err(TryLockError::Error(_)) => Owner::Nobody,
    }
}

/// The process that holds a lock on a file of this inode, as `/proc/locks` says: `1: FLOCK ADVISORY WRITE 4711 08:01:1234 0 EOF`.
fn holder_of(inode: u64) -> Option<u32> {
    let locks = fs::read_to_string("/proc/locks").ok()?;
    locks.lines().find_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [_, "FLOCK", _, "WRITE", pid, file, ..] = words.as_slice() else {
            return None;
        };
        let is_it = file.rsplit(':').next()?.parse() == Ok(inode);
        pid.parse().ok().filter(|_| is_it)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    #[test]
    fn a_claim_says_who_works_on_it_and_why_it_waits() {
        let root = TempDir::new().unwrap();
        assert!(Spool::existing(root.path()).is_err(), "it makes nothing");
        let spool = Spool::open(root.path()).unwrap();
        fs::write(spool.incoming.join("a.csv"), "id\n1\n").unwrap();
        let taken = spool.claim(Ulid::from_parts(1, 7), &["a.csv"]).unwrap();
        let claim = taken.claim.unwrap();
        let record = WaitRecord {
            cause: "drift".to_owned(),
            reason: "table t has drift".to_owned(),
            tries: 1,
            time_ms: 1,
            next_ms: 2,
        };
        spool.tell_waiting(&claim, &record);
        let spool = Spool::existing(root.path()).unwrap();
        let state = spool.claim_states().unwrap().remove(0);
        assert_eq!(state.owner, Owner::Process(Some(std::process::id())));
        assert_eq!((state.entries, state.waiting), (vec!["a.csv".into()], None));
        drop(claim);
        let state = spool.claim_states().unwrap().remove(0);
        assert_eq!((state.owner, state.waiting), (Owner::Nobody, Some(record)));
        let claim = spool.resume(state.operation).unwrap().unwrap();
        spool.finish(claim).unwrap();
        assert_eq!(spool.claim_states().unwrap().len(), 0);
        assert!(
            names_in(&spool.claimed).unwrap().is_empty(),
            "nothing is left"
        );
    }
}
