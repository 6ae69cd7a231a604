//! The spool: a directory protocol by which several agents share the work and no batch is lost or committed twice.
//!
//! ```text
//! SPOOL/incoming/<name>           producers rename finished entries to here; an entry is a file or a directory
//! SPOOL/claimed/<ULID>/<name>     taken by the operation ULID; one claim may hold several entries, which are one commit
//! SPOOL/claimed/<ULID>/.lock      flock held by the owner while it works on the claim
//! SPOOL/claimed/<ULID>/.attempts  how many attempts have begun and not come to an answer; absent: one
//! SPOOL/claimed/<ULID>/.changed   its files changed while they were read: it must rest before it is read again
//! SPOOL/claimed/<ULID>/.waiting   why it was let go of, for people; nothing decides by it
//! SPOOL/done/<name>               committed
//! SPOOL/rejected/<name>           refused, beside <name>.reason.txt and <name>.reason.json; nobody tries again
//! ```
//!
//! All of it is one local filesystem, so that each move is one atomic rename.
//!
//! # The flow
//! 1. [`Spool::claim`] makes `claimed/<ULID>/`, locks it, and renames entries into it. The rename is the claim: whoever comes second gets
//!    `NotFound` and leaves the rest of its group to the first. What it returns is durable **before** the commit of ULID may begin.
//! 2. The agent commits operation ULID in the store, then calls [`Spool::finish`]. An entry that can never be committed goes to
//!    [`Spool::reject`] first.
//! 3. If the store says that ULID is aborted, [`Spool::retry_as`] renames the claim to a new ULID; the lock moves with it. Entries that cannot
//!    go together get claims of their own by [`Spool::part`], which only moves what no operation can commit any more.
//! 4. [`Spool::resume`] takes over a claim that nobody holds: its owner is dead, or let go of it because it has to wait. The new owner
//!    asks the store about ULID: committed -> `finish`; not committed -> have the store decide that it is aborted (a write of the old owner
//!    may still be on its way) -> [`Spool::begin`] -> `retry_as` -> commit.
//!
//! # Who owns a claim
//! Whoever holds the flock of the `.lock` that stands in the claim now. The kernel frees it when the owner dies, however it dies, and keeps
//! it while the owner is merely stopped: no clock decides. A claim that has to wait has no owner and costs no file handle. A lock says nothing about a directory that was removed or renamed
//! after the file was opened, so everyone who gets one checks that it is still the file at that path ([`lock_claim`]). Only the owner renames or
//! removes a claim. There is no lock over the whole spool, because one stopped agent would stop all others.
//!
//! # A crash at any line
//! | after | what is found | what the next agent does |
//! |---|---|---|
//! | `create_dir` of the claim, creation or lock of `.lock` | a claim without entries | removes it |
//! | some of the renames of `claim` | a claim with a part of the group; the rest is in `incoming` | commits the part as in the next row; claims the rest |
//! | some of the renames of [`Spool::part`] | two claims, of which the new one's ULID never began | each as in the next row |
//! | `claim`, before or during the commit | a claim; the store knows or does not know ULID | has ULID decided in the store, then `finish` or `retry_as` |
//! | the commit | a claim; ULID is committed | `finish` |
//! | some of the moves of `finish` | a claim with the other entries; ULID is committed | `finish` |
//! | the last move of `finish`, or removal of `.lock` | a claim without entries | removes it |
//! | the count of `begin` | a claim with one more attempt that nobody ended | has ULID decided in the store; too many -> `reject` |
//! | the rename of `retry_as` | a claim named by the new ULID, which the store does not know | has it decided, then `retry_as` |
//! | reservation of a name in `done`/`rejected` | an empty file or directory of that name; the entry is still claimed | moves it to `<name>~<ULID>`; the empty one stays, harmless |
//! | a reason of `reject` | reserved name and reasons; the entry is still claimed | rejects again, under `<name>~<ULID>`, with reasons of its own |
//! | the move of `take_back`, by a person | the entry in `incoming`, its reasons still in `rejected` | claims it; the reasons stay, harmless |
//!
//! After a power cut a rename may be undone, unless its directories were synced. Two of them must not be: `incoming -> claimed` (the
//! entry would be claimed again although ULID is committed) and `retry_as` (the claim would go back to an ULID that is aborted although
//! the new one is committed). Both are synced before they return, and again by `resume`, since the dead owner may not have come
//! so far. A `finish` that is undone is only done again.

mod attempts;
mod contents;
mod done;
mod identity;
mod incoming;
mod moves;
mod part;
mod retry;
mod state;
#[cfg(test)]
mod tests;
mod writers;

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Component, Path, PathBuf},
    thread,
};

use squire_failpoints::{Seam, hit};
use ulid::Ulid;

use crate::input::{Named, shown, shown_path};
use attempts::{ATTEMPTS_FILE, ATTEMPTS_TEMPORARY};
pub(crate) use contents::{Contents, ContentsError};
pub(crate) use identity::EntryId;
pub(crate) use incoming::{Entry, Lag, Listing, tables_at};
use moves::{move_to_free_name, release, reserve, sync_dir, with_suffix, write_durable};
use state::WAITING_FILE;
pub(crate) use state::{ClaimState, Owner, Rejected, WaitRecord};

/// The lock file of a claim. A dotfile, so that it can never be an entry.
const LOCK_FILE: &str = ".lock";

/// Stands in a claim whose files changed while they were read. In the claim, because another agent may take it over.
const CHANGED_FILE: &str = ".changed";

/// Appended to the name of a rejected entry for the files that say why, to people and to programs.
const REASON_SUFFIXES: [&str; 2] = [".reason.txt", ".reason.json"];

/// How often the creation of a claim starts over when a sweeper takes the still empty directory for a dead one. A sweeper holds the
/// lock for a few system calls; being caught this often means that the ULID is in use.
const CREATE_ATTEMPTS: usize = 64;

/// The spool cannot be used, or a step failed. After an error a claim may be dropped: it is then an orphan, and nothing is lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpoolError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}; {}", shown_path(path), advice(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// One of the four directories is on another filesystem.
    #[error(
        "{} is not on the filesystem of the other spool directories; entries are moved by rename, so put all four on one",
        shown_path(path)
    )]
    OtherFilesystem {
        /// The directory.
        path: PathBuf,
    },
    /// An entry cannot be renamed although its directory is on the filesystem of the others: a directory of an overlay's lower
    /// layer (of a container's image), or of another mount of the same filesystem.
    #[error(
        "{} is on the filesystem of the other spool directories and cannot be renamed there (an overlay's lower layer, or another \
         mount of it); copy it instead of renaming it, or mount the spool as one",
        shown_path(path)
    )]
    Unmovable {
        /// The entry.
        path: PathBuf,
    },
    /// The operation id already names a claim.
    #[error("{} is already a claim; use a new operation id", shown_path(path))]
    ClaimExists {
        /// Its directory.
        path: PathBuf,
    },
    /// An entry cannot go back, since there is another one of its name.
    #[error(
        "{} is there already, so `{}` stays in rejected; have the other one committed first, or rename one of them",
        shown_path(path),
        shown(name)
    )]
    Taken {
        /// The other one.
        path: PathBuf,
        /// The entry in `rejected`.
        name: OsString,
    },
    /// A rejected entry without a byte: a name that an agent reserves at this moment or had reserved when it died, or a file that
    /// was rejected for being empty.
    #[error(
        "`{}` is empty, so there is nothing to try again; write it again",
        shown(name)
    )]
    Nothing {
        /// The entry in `rejected`.
        name: OsString,
    },
    /// The name is not one of an entry of this claim, or not a plain file name.
    #[error("`{}` is not an entry here; name one as it is listed", shown(name))]
    NoSuchEntry {
        /// The name.
        name: OsString,
    },
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        ErrorKind::NotFound => "bring it back, or mount it",
        _ => "check its permissions and the free space",
    }
}

impl SpoolError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io {
            action,
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Entries that this process owns for as long as the value lives. Dropping it gives it to whoever calls
/// [`Spool::resume`] next, so drop it only when nothing of its operation is still running.
#[derive(Debug)]
pub(crate) struct Claim {
    operation: Ulid,
    dir: PathBuf,
    entries: Vec<OsString>,
    unanswered: u32,
    changed: bool,
    /// Held, never read: its flock is the ownership.
    _lock: File,
}

impl Claim {
    /// The operation that commits these entries.
    pub(crate) fn operation(&self) -> Ulid {
        self.operation
    }

    /// The names of the entries, sorted.
    pub(crate) fn entries(&self) -> &[OsString] {
        &self.entries
    }

    /// Which entries they are.
    pub(crate) fn ids(&self) -> Vec<EntryId> {
        let names = self.entries.iter();
        names
            .map(|name| EntryId::in_claim(&self.dir, name))
            .collect()
    }

    /// How many attempts have begun and not come to an answer, the current one included.
    pub(crate) fn unanswered(&self) -> u32 {
        self.unanswered
    }

    /// Whether its files changed while they were read.
    pub(crate) fn changed(&self) -> bool {
        self.changed
    }

    /// Where an entry is now. Not stable over [`Spool::retry_as`].
    pub(crate) fn path(&self, entry: &OsStr) -> PathBuf {
        self.dir.join(entry)
    }
}

/// A claim as it is found, whoever has it.
#[derive(Debug)]
pub(crate) struct Found {
    /// The operation that it is named by.
    pub(crate) operation: Ulid,
    /// Its entries, sorted; an error if it cannot be looked into (somebody put a file in its place, say).
    pub(crate) entries: Result<Vec<EntryId>, SpoolError>,
}

/// What became of an attempt to claim some entries.
#[derive(Debug)]
pub(crate) struct Claimed {
    /// The entries that were won; `None` if others were faster with all of them.
    pub(crate) claim: Option<Claim>,
    /// Entries that nobody took but that could not be moved (a directory owned by someone else, say); they are still in `incoming`.
    pub(crate) refused: Vec<(OsString, SpoolError)>,
    /// Whether one was gone, so that those behind it were left to whoever took it.
    pub(crate) overtaken: bool,
}

/// An open spool directory. Cheap; any number of processes may have one.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    incoming: PathBuf,
    claimed: PathBuf,
    done: PathBuf,
    rejected: PathBuf,
}

impl Spool {
    /// Creates the four directories where they are missing.
    pub(crate) fn open(root: &Path) -> Result<Self, SpoolError> {
        let spool = Self::at(root);
        let dirs = spool.dirs();
        for dir in dirs {
            fs::create_dir_all(dir).map_err(SpoolError::io("create", dir))?;
        }
        for dir in dirs {
            if device(dir)? != device(&spool.incoming)? {
                return Err(SpoolError::OtherFilesystem { path: dir.clone() });
            }
        }
        sync_dir(root)?;
        Ok(spool)
    }

    fn at(root: &Path) -> Self {
        Self {
            incoming: root.join("incoming"),
            claimed: root.join("claimed"),
            done: root.join("done"),
            rejected: root.join("rejected"),
        }
    }

    fn dirs(&self) -> [&PathBuf; 4] {
        [&self.incoming, &self.claimed, &self.done, &self.rejected]
    }

    /// The directory to watch for new entries.
    pub(crate) fn incoming_dir(&self) -> &Path {
        &self.incoming
    }

    /// Takes `names` for `operation`, which must be new, up to the first that is gone: whoever took it is about to take
    /// those behind it, and two that go on side by side lose every other rename. Durable when it returns.
    pub(crate) fn claim<N: AsRef<OsStr>>(
        &self,
        operation: Ulid,
        names: &[N],
    ) -> Result<Claimed, SpoolError> {
        for name in names {
            require_plain(name.as_ref())?;
        }
        let gone = |name: &N| {
            let meta = fs::symlink_metadata(self.incoming.join(name.as_ref()));
            meta.is_err_and(|e| e.kind() == ErrorKind::NotFound)
        };
        let mut claimed = Claimed {
            claim: None,
            refused: Vec::new(),
            overtaken: names.first().is_none_or(gone),
        };
        if claimed.overtaken {
            return Ok(claimed);
        }
        let mut claim = self.create_claim(operation)?;
        for name in names.iter().map(AsRef::as_ref) {
            let from = self.incoming.join(name);
            match fs::rename(&from, claim.path(name)) {
                Ok(()) => {
                    claim.entries.push(name.to_os_string());
                    pass(Seam::AgentWhileClaiming, &claim.dir)?;
                }
                Err(e) if e.kind() == ErrorKind::NotFound => {
                    claimed.overtaken = true;
                    break;
                }
                Err(e) if e.kind() == ErrorKind::CrossesDevices => {
                    // Another filesystem was mounted there: none of them can be moved.
                    if claim.entries.is_empty() && device(&self.incoming)? != device(&self.claimed)?
                    {
                        self.sweep(&claim.dir)?;
                        let path = self.incoming.clone();
                        return Err(SpoolError::OtherFilesystem { path });
                    }
                    let unmovable = SpoolError::Unmovable { path: from };
                    claimed.refused.push((name.to_os_string(), unmovable));
                }
                Err(e) => {
                    let failed = SpoolError::io("claim", &from)(e);
                    claimed.refused.push((name.to_os_string(), failed));
                }
            }
        }
        if claim.entries.is_empty() {
            self.sweep(&claim.dir)?;
            return Ok(claimed);
        }
        claim.entries.sort();
        // The new home first: should the power fail in between, an entry is rather in two places than in none.
        sync_dir(&claim.dir)?;
        sync_dir(&self.claimed)?;
        sync_dir(&self.incoming)?;
        claimed.claim = Some(claim);
        Ok(claimed)
    }

    /// Every claim, oldest first, whoever has it.
    pub(crate) fn claims(&self) -> Result<Vec<Found>, SpoolError> {
        let mut claims = Vec::new();
        for name in names_in(&self.claimed)? {
            let Some(operation) = name.to_str().and_then(|name| Ulid::from_string(name).ok())
            else {
                continue;
            };
            let dir = self.claimed.join(&name);
            let entries = match entries_in(&dir) {
                // Finished or renamed by its owner meanwhile.
                Err(SpoolError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                    continue;
                }
                entries => entries,
            };
            let entries = entries.map(|names| {
                let ids = names.iter().map(|name| EntryId::in_claim(&dir, name));
                ids.collect()
            });
            claims.push(Found { operation, entries });
        }
        Ok(claims)
    }

    /// Takes over a claim that nobody holds; removes it and gives `None` if it holds nothing. Durable when it returns.
    pub(crate) fn resume(&self, operation: Ulid) -> Result<Option<Claim>, SpoolError> {
        let dir = self.claimed.join(operation.to_string());
        let Some(lock) = lock_claim(&dir)? else {
            return Ok(None);
        };
        let entries = entries_in(&dir)?;
        if entries.is_empty() {
            self.sweep(&dir)?;
            return Ok(None);
        }
        sync_dir(&dir)?;
        sync_dir(&self.claimed)?;
        sync_dir(&self.incoming)?;
        Ok(Some(Claim {
            operation,
            unanswered: attempts::read(&dir),
            changed: fs::symlink_metadata(dir.join(CHANGED_FILE)).is_ok(),
            dir,
            entries,
            _lock: lock,
        }))
    }

    /// Says that the files changed while they were read. Not durable: no writer outlives a power cut.
    pub(crate) fn tell_changed(&self, claim: &mut Claim) -> Result<(), SpoolError> {
        let path = claim.dir.join(CHANGED_FILE);
        File::create(&path).map_err(SpoolError::io("create", &path))?;
        claim.changed = true;
        Ok(())
    }

    /// Renames the claim to a new operation, after the store has said that its old one is aborted and can never be committed.
    /// Durable when it returns.
    pub(crate) fn retry_as(&self, claim: &mut Claim, operation: Ulid) -> Result<(), SpoolError> {
        let dir = self.claimed.join(operation.to_string());
        if fs::symlink_metadata(&dir).is_ok() {
            return Err(SpoolError::ClaimExists { path: dir });
        }
        fs::rename(&claim.dir, &dir).map_err(SpoolError::io("rename", &claim.dir))?;
        claim.operation = operation;
        claim.dir = dir;
        sync_dir(&self.claimed)
    }

    /// Moves the entries to `done` and removes the claim; gives where they lie now. Only after its operation was seen committed, or
    /// when it has no entries left.
    pub(crate) fn finish(&self, claim: Claim) -> Result<Vec<PathBuf>, SpoolError> {
        let mut moved = Vec::with_capacity(claim.entries.len());
        for entry in &claim.entries {
            let from = claim.path(entry);
            moved.push(move_to_free_name(
                &from,
                &self.done,
                entry,
                claim.operation,
            )?);
            pass(Seam::AgentWhileFinishing, &claim.dir)?;
        }
        sync_dir(&self.done)?;
        sync_dir(&claim.dir)?;
        self.sweep(&claim.dir)?;
        Ok(moved)
    }

    /// Moves one entry to `rejected` with the reason beside it, in words and as a record, and returns its new path, which `reason`
    /// is asked with. Only before anything of the claim's operation was committed. The claim keeps its other entries; without any
    /// left, [`Self::finish`] removes it.
    pub(crate) fn reject(
        &self,
        claim: &mut Claim,
        entry: &OsStr,
        reason: impl FnOnce(&Path) -> [String; 2],
    ) -> Result<PathBuf, SpoolError> {
        let Some(index) = claim.entries.iter().position(|name| name == entry) else {
            return Err(SpoolError::NoSuchEntry {
                name: entry.to_os_string(),
            });
        };
        let from = claim.path(entry);
        // The reason first: once the entry has left the claim, nobody would know to write it.
        let to = reserve(
            &from,
            &self.rejected,
            entry,
            claim.operation,
            &REASON_SUFFIXES,
        )?;
        let beside = REASON_SUFFIXES.map(|suffix| with_suffix(&to, suffix));
        let temporary = self
            .rejected
            .join(format!(".{}.reason.tmp", claim.operation));
        let mut moved = Ok(());
        for (path, text) in beside.iter().zip(reason(&to)) {
            let text = format!("{}\n", text.trim_end());
            moved = moved.and_then(|()| write_durable(&temporary, path, text.as_bytes()));
        }
        let moved =
            moved.and_then(|()| fs::rename(&from, &to).map_err(SpoolError::io("move", &from)));
        if let Err(e) = moved {
            for reserved in [&to, &temporary].into_iter().chain(&beside) {
                release(reserved, &from);
            }
            return Err(e);
        }
        claim.entries.remove(index);
        sync_dir(&self.rejected)?;
        sync_dir(&claim.dir)?;
        Ok(to)
    }

    /// Makes and locks an empty claim. Until the lock is held and seen to be the one at that path, a sweeper may take the directory for one
    /// that a crash left behind; then it is made again. No entry is moved before.
    fn create_claim(&self, operation: Ulid) -> Result<Claim, SpoolError> {
        let dir = self.claimed.join(operation.to_string());
        for _ in 0..CREATE_ATTEMPTS {
            match fs::create_dir(&dir) {
                Ok(()) => {}
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) => return Err(SpoolError::io("create", &dir)(e)),
            }
            if let Some(lock) = lock_claim(&dir)? {
                if !entries_in(&dir)?.is_empty() {
                    return Err(SpoolError::ClaimExists { path: dir });
                }
                return Ok(Claim {
                    operation,
                    dir,
                    entries: Vec::new(),
                    unanswered: 1,
                    changed: false,
                    _lock: lock,
                });
            }
            thread::yield_now();
        }
        Err(SpoolError::ClaimExists { path: dir })
    }

    /// Removes a claim without entries. Call it only under its lock.
    fn sweep(&self, dir: &Path) -> Result<(), SpoolError> {
        let gone = |result: io::Result<()>| match result {
            // Someone put a new `.lock` there, between our two steps, to see whether the claim is dead: they will find it empty too.
            Err(e) if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::DirectoryNotEmpty) => {
                Err(e)
            }
            _ => Ok(()),
        };
        // The lock last: until then nobody else is here.
        let records = [
            WAITING_FILE,
            CHANGED_FILE,
            ATTEMPTS_TEMPORARY,
            ATTEMPTS_FILE,
            LOCK_FILE,
        ];
        for name in records {
            gone(fs::remove_file(dir.join(name)))
                .map_err(SpoolError::io("remove the records of", dir))?;
        }
        gone(fs::remove_dir(dir)).map_err(SpoolError::io("remove", dir))
    }
}

/// Marks a seam in the middle of moving the entries of `dir`.
fn pass(seam: Seam, dir: &Path) -> Result<(), SpoolError> {
    hit(seam).map_err(|e| SpoolError::io("move the entries of", dir)(io::Error::other(e)))
}

/// The filesystem that a directory is on.
fn device(dir: &Path) -> Result<u64, SpoolError> {
    let meta = fs::metadata(dir).map_err(SpoolError::io("read", dir))?;
    Ok(meta.dev())
}

/// The lock of a claim, or `None` if someone holds it or the claim is gone.
///
/// Between opening and locking the file, its owner may have finished or renamed the claim: then this lock is on a file that stands
/// elsewhere or nowhere, and means nothing.
fn lock_claim(dir: &Path) -> Result<Option<File>, SpoolError> {
    let path = dir.join(LOCK_FILE);
    let file = match File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
    {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(SpoolError::io("open", &path)(e)),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(e)) => return Err(SpoolError::io("lock", &path)(e)),
    }
    let held = file.metadata().map_err(SpoolError::io("read", &path))?;
    match fs::metadata(&path) {
        Ok(there) if (there.dev(), there.ino()) == (held.dev(), held.ino()) => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(SpoolError::io("read", &path)(e)),
    }
}

/// The entries of a claim: all but dotfiles, as in `incoming`.
fn entries_in(dir: &Path) -> Result<Vec<OsString>, SpoolError> {
    let mut names = names_in(dir)?;
    names.retain(|name| !name.as_bytes().starts_with(b"."));
    Ok(names)
}

/// The names in a directory, sorted.
fn names_in(dir: &Path) -> Result<Vec<OsString>, SpoolError> {
    let names =
        fs::read_dir(dir).and_then(|entries| entries.map(|entry| Ok(entry?.file_name())).collect());
    let mut names: Vec<OsString> = names.map_err(SpoolError::io("list", dir))?;
    names.sort();
    Ok(names)
}

/// Refuses a name that would lead out of a directory or hide in it.
fn require_plain(name: &OsStr) -> Result<(), SpoolError> {
    let mut components = Path::new(name).components();
    let plain = matches!((components.next(), components.next()), (Some(Component::Normal(part)), None) if part == name);
    if plain && !name.as_bytes().starts_with(b".") {
        return Ok(());
    }
    Err(SpoolError::NoSuchEntry {
        name: name.to_os_string(),
    })
}
