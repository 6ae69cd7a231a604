//! What an entry is made of: whether it may be opened at all, and whether somebody still writes to it.
//!
//! Nothing here follows a link. An agent may read more than those who fill its spool: through a link they would have it
//! commit what only it can read.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, Metadata},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    io::Errno,
};

use super::{Spool, names_in};
use crate::input::batch::BATCH_FILE;
use crate::input::{Named, shown_path};

/// One look at the files of an entry. Two looks that are equal had nothing written, replaced or added in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Contents(Vec<Seen>);

/// One file or directory. A new file in the place of an old one has another inode or, where that is used again, another
/// time of change.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    name: OsString,
    is_dir: bool,
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

/// An entry that is not looked into.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentsError {
    /// A symbolic link.
    #[error(
        "{} is a symbolic link, and links are not followed out of a spool; put the file itself",
        shown_path(path)
    )]
    Link {
        /// The link.
        path: PathBuf,
    },
    /// A FIFO, a socket or a device: opening it may wait for ever, or do something.
    #[error(
        "{} is neither a file nor a directory; put a data file",
        shown_path(path)
    )]
    Special {
        /// The thing.
        path: PathBuf,
    },
    /// It cannot be looked at.
    #[error(
        "{} cannot be read: {source}; check that it exists and its permissions",
        shown_path(path)
    )]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
}

impl Contents {
    /// Looks at the entry at `path`: a file, or a directory and the files in it. What lies deeper is not looked at: no
    /// batch has it.
    pub(crate) fn of(path: &Path) -> Result<Self, ContentsError> {
        let failed = |source| ContentsError::Io {
            path: path.to_path_buf(),
            source,
        };
        let top = look(path)?;
        let mut seen = Vec::new();
        if top.is_dir() {
            for child in fs::read_dir(path).map_err(failed)? {
                let child = child.map_err(failed)?;
                seen.push(Seen::new(child.file_name(), &look(&child.path())?));
            }
            seen.sort_by(|a, b| a.name.cmp(&b.name));
        }
        seen.push(Seen::new(OsString::new(), &top));
        Ok(Self(seen))
    }

    /// Whether nothing was done to it for `quiet` before `now`. The time of change decides: the kernel sets it at each
    /// change of bytes, size or times, and a producer cannot set it back.
    pub(crate) fn rests(&self, quiet: Duration, now: SystemTime) -> bool {
        let resting = |seen: &Seen| now.duration_since(seen.last_change()).unwrap_or_default();
        self.0.iter().all(|seen| resting(seen) >= quiet)
    }

    /// Whether it has the same files with the same bytes, as far as size and time of writing say; it may have been moved.
    pub(crate) fn holds_the_same_as(&self, other: &Self) -> bool {
        let same = |(a, b): (&Seen, &Seen)| {
            let written = a.is_dir || (a.bytes, a.modified) == (b.bytes, b.modified);
            (&a.name, a.is_dir, a.inode) == (&b.name, b.is_dir, b.inode) && written
        };
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(same)
    }
}

impl Spool {
    /// Whether nothing was done to an entry of `incoming` for `quiet` before `now`; true of one that cannot be looked at.
    pub(crate) fn rests(&self, name: &OsStr, quiet: Duration, now: SystemTime) -> bool {
        if quiet.is_zero() {
            return true;
        }
        let contents = Contents::of(&self.incoming.join(name));
        contents.map_or(true, |contents| contents.rests(quiet, now))
    }

    /// Whether this process may read an entry of `incoming`. One that is gone, or no file, is left to whoever claims it.
    pub(crate) fn may_read(&self, name: &OsStr) -> Result<(), ContentsError> {
        let path = self.incoming.join(name);
        match look(&path) {
            Ok(meta) if meta.is_dir() => {}
            Ok(_) => return permitted(&path, Access::READ_OK),
            Err(_) => return Ok(()),
        }
        permitted(&path, Access::READ_OK | Access::EXEC_OK)?;
        for child in names_in(&path).into_iter().flatten() {
            let child = path.join(child);
            let is_read = match child.file_name() {
                Some(name) if name == BATCH_FILE => true,
                _ => Named::inside(&child, false) == Named::Data,
            };
            if is_read && look(&child).is_ok_and(|meta| meta.is_file()) {
                permitted(&child, Access::READ_OK)?;
            }
        }
        Ok(())
    }
}

/// Whether this process has such access to what stands at `path`. Nothing is opened.
fn permitted(path: &Path, access: Access) -> Result<(), ContentsError> {
    match accessat(CWD, path, access, AtFlags::EACCESS) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(ContentsError::Io {
            path: path.to_path_buf(),
            source: e.into(),
        }),
    }
}

impl Seen {
    fn new(name: OsString, meta: &Metadata) -> Self {
        Self {
            name,
            is_dir: meta.is_dir(),
            inode: meta.ino(),
            bytes: meta.len(),
            modified: meta.modified().ok(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    fn last_change(&self) -> SystemTime {
        let (seconds, nanos) = self.changed;
        let seconds = u64::try_from(seconds).unwrap_or_default();
        let nanos = u32::try_from(nanos).unwrap_or_default();
        SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)
    }
}

/// The metadata of what stands at `path` itself, if it is something to read.
fn look(path: &Path) -> Result<Metadata, ContentsError> {
    let meta = fs::symlink_metadata(path).map_err(|source| ContentsError::Io {
        path: path.to_path_buf(),
        source,
    })?;
    let path = || path.to_path_buf();
    match meta.file_type() {
        kind if kind.is_symlink() => Err(ContentsError::Link { path: path() }),
        kind if kind.is_dir() || kind.is_file() => Ok(meta),
        _ => Err(ContentsError::Special { path: path() }),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        os::unix::{fs::symlink, net::UnixListener},
    };

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn a_change_is_seen_in_a_file_and_in_a_directory() {
        let root = TempDir::new().unwrap();
        let (dir, file) = (root.path().join("batch"), root.path().join("batch/t.csv"));
        fs::create_dir(&dir).unwrap();
        fs::write(&file, "id\n").unwrap();
        for path in [&dir, &file] {
            let before = Contents::of(path).unwrap();
            assert_eq!(Contents::of(path).unwrap(), before);
            let mut open = fs::File::options().append(true).open(&file).unwrap();
            open.write_all(b"1\n").unwrap();
            assert_ne!(Contents::of(path).unwrap(), before, "{}", path.display());
        }
        let before = Contents::of(&dir).unwrap();
        fs::write(dir.join("u.csv"), "").unwrap();
        assert_ne!(Contents::of(&dir).unwrap(), before);
    }

    #[test]
    fn it_rests_when_nothing_was_done_to_it_for_a_while() {
        let quiet = Duration::from_secs(2);
        let root = TempDir::new().unwrap();
        let file = root.path().join("t.csv");
        fs::write(&file, "id\n").unwrap();
        // Whatever time a producer gives it.
        let open = fs::File::options().write(true).open(&file).unwrap();
        open.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let seen = Contents::of(&file).unwrap();
        let changed = seen.0[0].last_change();
        assert!(!seen.rests(quiet, changed));
        assert!(!seen.rests(quiet, changed + quiet - Duration::from_millis(1)));
        assert!(seen.rests(quiet, changed + quiet));
        assert!(
            !seen.rests(quiet, changed - quiet),
            "the clock was set back"
        );
    }

    #[test]
    fn an_entry_rests_in_incoming_or_is_left_to_its_claim() {
        let root = TempDir::new().unwrap();
        let spool = Spool::open(root.path()).unwrap();
        fs::create_dir(spool.incoming.join("batch")).unwrap();
        fs::write(spool.incoming.join("batch/t.csv"), "id\n").unwrap();
        let name = OsStr::new("batch");
        let seen = Contents::of(&spool.incoming.join(name)).unwrap();
        let changed = seen.0.iter().map(Seen::last_change).max().unwrap();
        let quiet = Duration::from_secs(2);
        assert!(spool.rests(name, Duration::ZERO, changed));
        assert!(!spool.rests(name, quiet, changed));
        assert!(spool.rests(name, quiet, changed + quiet));
        assert!(spool.rests(OsStr::new("gone"), quiet, changed));
    }

    #[test]
    fn links_and_what_is_no_file_are_refused() {
        let root = TempDir::new().unwrap();
        let dir = root.path().join("batch");
        fs::create_dir(&dir).unwrap();
        symlink("/etc/passwd", root.path().join("link.csv")).unwrap();
        symlink("/etc", root.path().join("linked")).unwrap();
        symlink("/etc/passwd", dir.join("t.csv")).unwrap();
        for name in ["link.csv", "linked", "batch"] {
            let refused = Contents::of(&root.path().join(name));
            assert!(matches!(refused, Err(ContentsError::Link { .. })), "{name}");
        }
        let socket = root.path().join("s.csv");
        let _listening = UnixListener::bind(&socket).unwrap();
        assert!(matches!(
            Contents::of(&socket),
            Err(ContentsError::Special { .. })
        ));
    }
}
