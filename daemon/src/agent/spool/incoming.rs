//! What lies in `incoming`: entries that may be claimed, and what is left alone.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    io::ErrorKind,
    path::Path,
    time::{Duration, SystemTime},
};

use super::{Contents, Named, Spool, SpoolError, names_in};
use crate::input::batch::{BatchSpec, is_table_name};

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

/// What waits in `incoming` for one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lag {
    /// The table; `None`: batches that are directories, which may be for several.
    pub(crate) table: Option<String>,
    /// How many entries.
    pub(crate) entries: usize,
    /// How long the oldest of them has waited.
    pub(crate) oldest: Duration,
}

impl Listing {
    /// What waits, by table, at `now`; those that wait longest come first. For display only.
    pub(crate) fn lag(&self, now: SystemTime) -> Vec<Lag> {
        let mut lags: BTreeMap<Option<String>, Lag> = BTreeMap::new();
        for entry in &self.entries {
            let table = if entry.is_dir {
                None
            } else {
                table_named(&entry.name)
            };
            let age = now.duration_since(entry.modified).unwrap_or_default();
            let lag = lags.entry(table.clone()).or_insert(Lag {
                table,
                entries: 0,
                oldest: age,
            });
            lag.entries += 1;
            lag.oldest = lag.oldest.max(age);
        }
        let mut lags: Vec<Lag> = lags.into_values().collect();
        lags.sort_by_key(|lag| std::cmp::Reverse(lag.oldest));
        lags
    }

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

    /// Whether `incoming` was made without the other folders, after somebody removed the spool.
    pub(crate) fn is_in_part(&self) -> bool {
        self.incoming.is_dir() && !self.dirs().into_iter().all(|dir| dir.is_dir())
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

/// The tables that the entry at `path` is for, as far as its name or, of a directory, what lies in it tells. Not through links, which
/// are refused once it is claimed.
pub(crate) fn tables_at(path: &Path) -> Vec<String> {
    if fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
        return match (Contents::of(path), BatchSpec::parse(path)) {
            (Ok(_), Ok(batch)) => batch.tables.into_iter().map(|t| t.table).collect(),
            _ => Vec::new(),
        };
    }
    let table = path.file_name().and_then(table_named);
    table.into_iter().collect()
}

/// The table that a file of this name is for.
fn table_named(name: &OsStr) -> Option<String> {
    let name = name.to_string_lossy();
    let table = name.split('.').next()?;
    is_table_name(table).then(|| table.to_owned())
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
