//! What lies in `incoming`: entries that may be claimed, and what is left alone.

use std::{
    ffi::OsString,
    fs,
    io::ErrorKind,
    path::Path,
    time::{Duration, SystemTime},
};

use super::super::batch::BatchSpec;
use super::{Contents, Named, Spool, SpoolError, names_in};

/// Something in `incoming` that may be claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its file name.
    pub(crate) name: OsString,
    /// When it was last written.
    pub(crate) modified: SystemTime,
    /// Whether it is a directory.
    pub(crate) is_dir: bool,
    /// The size of a file.
    pub(crate) bytes: u64,
}

/// One look at `incoming`, sorted by name.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// What may be claimed.
    pub(crate) entries: Vec<Entry>,
    /// What stays: a producer is still at work on it, or its name says that it is no input.
    pub(crate) ignored: Vec<(OsString, Named)>,
}

impl Listing {
    /// How long the oldest waiting entry has been waiting at `now`; for display only.
    pub(crate) fn oldest_age(&self, now: SystemTime) -> Option<Duration> {
        let oldest = self.entries.iter().map(|entry| entry.modified).min();
        oldest.map(|modified| now.duration_since(modified).unwrap_or_default())
    }
}

impl Spool {
    /// What lies in `incoming` now.
    pub(crate) fn list_incoming(&self) -> Result<Listing, SpoolError> {
        let mut listing = Listing::default();
        for name in names_in(&self.incoming)? {
            let path = self.incoming.join(&name);
            let meta = match fs::symlink_metadata(&path) {
                Ok(meta) => meta,
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                Err(e) => return Err(SpoolError::io("read", &path)(e)),
            };
            let named = match Named::of(&name, meta.is_dir()) {
                Named::Data if meta.is_dir() && is_being_filled(&path) => Named::Unfinished,
                named => named,
            };
            match named {
                Named::Data => listing.entries.push(Entry {
                    name,
                    modified: meta.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                    is_dir: meta.is_dir(),
                    bytes: meta.len(),
                }),
                other => listing.ignored.push((name, other)),
            }
        }
        Ok(listing)
    }
}

impl Spool {
    /// Whether an entry of `incoming` looks like a batch that only appends. What cannot be told goes alone.
    pub(crate) fn goes_with_others(&self, entry: &Entry) -> bool {
        if !entry.is_dir {
            return true;
        }
        let path = self.incoming.join(&entry.name);
        // Not through links, which are refused once it is ours.
        Contents::of(&path).is_ok() && BatchSpec::parse(&path).is_ok_and(|b| b.only_appends())
    }
}

/// Whether a file in this directory is being written, as far as its name says; false of one that cannot be listed.
fn is_being_filled(dir: &Path) -> bool {
    let Ok(children) = fs::read_dir(dir) else {
        return false;
    };
    children.flatten().any(|child| {
        let is_dir = child.file_type().is_ok_and(|kind| kind.is_dir());
        Named::inside(&child.path(), is_dir) == Named::Unfinished
    })
}
