//! Which entry an entry is.

use std::{
    ffi::{OsStr, OsString},
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
};

/// Which entry, whatever its claim is called by now. Claims get new names, and two of them may hold entries of one name: the same file
/// was sent again while the first has to wait.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct EntryId {
    /// Its name.
    pub(crate) name: OsString,
    /// What no rename changes. `None` where the name is enough (in `incoming`), or nothing else is known.
    inode: Option<u64>,
}

impl EntryId {
    /// The only one of that name.
    pub(crate) fn named(name: impl Into<OsString>) -> Self {
        Self {
            name: name.into(),
            inode: None,
        }
    }

    /// The one of that name in the claim at `dir`.
    pub(super) fn in_claim(dir: &Path, name: &OsStr) -> Self {
        let meta = fs::symlink_metadata(dir.join(name));
        Self {
            name: name.to_os_string(),
            inode: meta.ok().map(|meta| meta.ino()),
        }
    }
}
