//! Who is still writing: the files that some process has open for it, whatever their names say.
//!
//! A look at size and time tells a slow producer from a finished one only while it writes. Linux also tells who has a file
//! open, in `/proc`, of the processes that this one may look into: those of its own user, or all of them for root. Of the
//! others, and on other systems, nothing is known; what they write late is found afterwards (`agent::followed`).

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    fs,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use super::{Claim, Spool};

impl Spool {
    /// The entries of `incoming` that a process has open for writing. One that is listed before this look and is not
    /// among them was closed by whoever made it.
    pub(crate) fn being_written(&self) -> HashSet<OsString> {
        let open = open_for_writing(&self.incoming);
        let entries = open.iter().filter_map(|file| file.iter().next());
        entries.map(OsStr::to_os_string).collect()
    }

    /// Whether a process has a file of this claim open for writing.
    pub(crate) fn is_being_written(&self, claim: &Claim) -> bool {
        let open = open_for_writing(&claim.dir);
        // The records are our own.
        open.iter()
            .any(|file| !file.as_os_str().as_bytes().starts_with(b"."))
    }
}

/// The files below `dir` that a process has open for writing, relative to it.
fn open_for_writing(dir: &Path) -> Vec<PathBuf> {
    let (Ok(dir), Ok(processes)) = (fs::canonicalize(dir), fs::read_dir("/proc")) else {
        return Vec::new();
    };
    let mut open = Vec::new();
    for process in processes.flatten() {
        if !process.file_name().as_bytes()[0].is_ascii_digit() {
            continue;
        }
        // Gone, or not ours to look into.
        let Ok(handles) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for handle in handles.flatten() {
            // The link alone is read: following it could hang on somebody's network file system.
            let Ok(file) = fs::read_link(handle.path()) else {
                continue;
            };
            if let Ok(below) = file.strip_prefix(&dir)
                && is_for_writing(&process.path(), &handle.file_name())
            {
                open.push(below.to_path_buf());
            }
        }
    }
    open
}

/// Whether a handle was opened for writing, as `/proc/<pid>/fdinfo/<fd>` says: `flags:`, octal, of which the last two bits
/// are the access mode and 0 is read only.
fn is_for_writing(process: &Path, handle: &OsStr) -> bool {
    let info = fs::read_to_string(process.join("fdinfo").join(handle)).unwrap_or_default();
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|flags| u64::from_str_radix(flags.trim(), 8).ok());
    flags.is_some_and(|flags| flags & 0o3 != 0)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_is_open_for_writing_until_its_writer_closes_it() {
        let root = TempDir::new().unwrap();
        let spool = Spool::open(root.path()).unwrap();
        let (file, batch) = (
            spool.incoming.join("a.csv"),
            spool.incoming.join("batch/b.csv"),
        );
        fs::create_dir(spool.incoming.join("batch")).unwrap();
        let writers = [&file, &batch].map(|path| fs::File::create(path).unwrap());
        let readers = [&file, &batch].map(|path| fs::File::open(path).unwrap());
        let both = ["a.csv", "batch"].map(OsString::from);
        assert_eq!(spool.being_written(), HashSet::from(both));
        let taken = spool.claim(ulid::Ulid::from_parts(1, 7), &["batch"]);
        let claim = taken.unwrap().claim.unwrap();
        assert!(
            spool.is_being_written(&claim),
            "it keeps it over the rename"
        );
        drop(writers);
        assert_eq!(spool.being_written(), HashSet::new());
        assert!(!spool.is_being_written(&claim), "its lock does not count");
        drop(readers);
    }
}
