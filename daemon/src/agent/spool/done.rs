//! What lies in `done`, and how the oldest of it goes.

use std::{
    ffi::OsString,
    fs,
    io::ErrorKind,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{Spool, SpoolError, names_in};

/// What was committed in the last minute stays, whatever there is too much of: it is looked at once more for somebody who still
/// writes to it (`agent::followed`).
const LEAST_AGE: Duration = Duration::from_secs(60);

/// An entry that lies in a directory of the spool for good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resting {
    /// Its name.
    pub(crate) name: OsString,
    /// When it was moved there. Its time of change, which a rename sets and no producer can.
    pub(crate) since: SystemTime,
    /// Bytes of its files.
    pub(crate) bytes: u64,
}

/// What was removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Removed {
    pub(crate) entries: usize,
    pub(crate) bytes: u64,
}

impl Spool {
    /// What lies in `done`, oldest first.
    pub(crate) fn list_done(&self) -> Result<Vec<Resting>, SpoolError> {
        resting_in(&self.done)
    }

    /// Removes what has been in `done` for longer than `age`, and then the oldest until `bytes` are left.
    pub(crate) fn trim_done(
        &self,
        age: Option<Duration>,
        bytes: Option<u64>,
        now: SystemTime,
    ) -> Result<Removed, SpoolError> {
        if fs::symlink_metadata(&self.done).is_ok_and(|done| done.is_symlink()) {
            let why = "it is a link, and what lies behind it may be somebody's archive";
            return Err(SpoolError::io("trim", &self.done)(std::io::Error::other(
                why,
            )));
        }
        let all = self.list_done()?;
        let mut left: u64 = all.iter().map(|entry| entry.bytes).sum();
        let mut removed = Removed::default();
        for entry in all {
            let rested = now.duration_since(entry.since).unwrap_or_default();
            let is_old = age.is_some_and(|age| rested > age);
            let is_too_much = bytes.is_some_and(|most| left > most);
            if rested < LEAST_AGE || !(is_old || is_too_much) {
                continue;
            }
            remove(&self.done.join(&entry.name))?;
            left -= entry.bytes;
            removed.entries += 1;
            removed.bytes += entry.bytes;
        }
        Ok(removed)
    }
}

/// The entries of a directory, oldest first.
pub(super) fn resting_in(dir: &Path) -> Result<Vec<Resting>, SpoolError> {
    let mut all = Vec::new();
    for name in names_in(dir)? {
        let path = dir.join(&name);
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            // Another agent was faster.
            Err(e) if e.kind() == ErrorKind::NotFound => continue,
            Err(e) => return Err(SpoolError::io("read", &path)(e)),
        };
        let bytes = if meta.is_dir() {
            bytes_in(&path)
        } else {
            meta.len()
        };
        all.push(Resting {
            name,
            since: changed(&meta),
            bytes,
        });
    }
    all.sort_by(|a, b| (a.since, &a.name).cmp(&(b.since, &b.name)));
    Ok(all)
}

/// Bytes of the files of a batch. What cannot be looked at counts as nothing: it is what is displayed and trimmed by, no more.
fn bytes_in(dir: &Path) -> u64 {
    let files = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = files.filter_map(|file| file.metadata().ok());
    sizes.map(|meta| meta.len()).sum()
}

/// When the kernel saw the last change of a file or of its name.
fn changed(meta: &fs::Metadata) -> SystemTime {
    let seconds = u64::try_from(meta.ctime()).unwrap_or_default();
    let nanos = u32::try_from(meta.ctime_nsec()).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)
}

/// Removes an entry; nothing here follows a link.
fn remove(path: &Path) -> Result<(), SpoolError> {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir());
    let removed = if is_dir {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    match removed {
        Err(e) if e.kind() != ErrorKind::NotFound => Err(SpoolError::io("remove", path)(e)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn names(spool: &Spool) -> Vec<OsString> {
        let all = spool.list_done().unwrap();
        all.into_iter().map(|entry| entry.name).collect()
    }

    #[test]
    fn the_oldest_go_by_age_and_by_bytes_and_the_newest_stay() {
        let root = TempDir::new().unwrap();
        let spool = Spool::open(root.path()).unwrap();
        let minute = Duration::from_secs(60);
        for name in ["b.csv", "a.csv"] {
            fs::write(spool.done.join(name), "12345").unwrap();
        }
        fs::create_dir(spool.done.join("batch")).unwrap();
        fs::write(spool.done.join("batch/t.csv"), "x".repeat(100)).unwrap();
        let all = spool.list_done().unwrap();
        let (first, last) = (all[0].since, all[2].since);
        let nothing = Removed::default();
        // Off, or not old enough, or of the last minute whatever there is too much of.
        assert_eq!(
            spool.trim_done(None, None, last + 9 * minute).unwrap(),
            nothing
        );
        let age = Some(9 * minute);
        assert_eq!(
            spool.trim_done(age, None, first + 9 * minute).unwrap(),
            nothing
        );
        let soon = first + Duration::from_secs(59);
        assert_eq!(spool.trim_done(None, Some(0), soon).unwrap(), nothing);
        let before: Vec<OsString> = names(&spool);
        let total: u64 = all.iter().map(|entry| entry.bytes).sum();
        let removed = spool
            .trim_done(None, Some(total - 1), last + minute)
            .unwrap();
        assert_eq!((removed.entries, removed.bytes), (1, all[0].bytes));
        assert_eq!(names(&spool), before[1..], "the oldest went");
        let removed = spool.trim_done(age, None, last + 10 * minute).unwrap();
        assert_eq!(removed.entries, 2, "directories as well");
        assert!(names(&spool).is_empty());
    }

    #[test]
    fn what_lies_behind_a_link_is_an_archive() {
        let root = TempDir::new().unwrap();
        let spool = Spool::open(root.path()).unwrap();
        let archive = root.path().join("archive");
        fs::rename(&spool.done, &archive).unwrap();
        std::os::unix::fs::symlink(&archive, &spool.done).unwrap();
        fs::write(archive.join("thesis.doc"), "years").unwrap();
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        let trimmed = spool.trim_done(Some(Duration::from_secs(60)), Some(0), later);
        assert!(trimmed.unwrap_err().to_string().contains("is a link"));
        assert_eq!(fs::read(archive.join("thesis.doc")).unwrap(), b"years");
    }
}
