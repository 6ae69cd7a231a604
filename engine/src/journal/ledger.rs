//! The ledger: what users wrote into each table, and what maintenance wrote for it, usefully or for nothing.
//!
//! 1. Whoever writes or deletes counts it here, in memory, by the table's path. What users wrote is what fragments hold that
//!    were not there at the last look and that this process did not write. What stood there at the first look is found:
//!    nobody knows who wrote it, or how often.
//! 2. The daemon keeps it across restarts, as one object in the records of the location: `_squire/ledger.json`, or
//!    `.squire/ledger.json` beside plain tables, or the same in the state directory.
//!
//! It decides about nothing but pace. Of two daemons on one location the last to write keeps its counts, and what other
//! processes compact counts as written by users; a record that cannot be read is left alone, and counting begins anew.

use crate::error::{Error, ErrorKind, Result};
use crate::store::{Lasting, Store, fragment_bytes};
use lance::Dataset;
use lance::dataset::optimize::RewriteResult;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::OnceCell;

/// The record of a location's ledger. In its first format what was found counted as written.
const LEDGER: Lasting = Lasting {
    name: "ledger.json",
    format: 2,
    to_begin: "count anew",
};

/// Tables of one location that are kept; beyond it those with the fewest bytes go.
const MOST: usize = 10_000;

/// After so long what is recent counts half.
const HALF_LIFE_MS: u64 = 24 * 3_600 * 1_000;

/// Bytes, by why they were written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Data files that stood there at the first look.
    #[serde(default)]
    pub found: u64,
    /// Data files that users wrote since.
    pub written: u64,
    /// Data files that replaced others.
    pub rewritten: u64,
    /// What a run wrote and nothing came to refer to.
    pub wasted: u64,
    /// Segments of indexes, built, extended or moved.
    pub indexed: u64,
    /// What cleanup deleted.
    pub deleted: u64,
}

impl Amounts {
    /// What maintenance wrote.
    pub fn maintained(&self) -> u64 {
        self.rewritten
            .saturating_add(self.wasted)
            .saturating_add(self.indexed)
    }

    /// Bytes that maintenance wrote for each byte that came to it: to put in order what was found is no waste either.
    pub fn amplification(&self) -> f64 {
        self.maintained() as f64 / self.found.saturating_add(self.written).max(1) as f64
    }

    fn each(&mut self, with: &Self, apply: impl Fn(u64, u64) -> u64) {
        for (mine, other) in [
            (&mut self.found, with.found),
            (&mut self.written, with.written),
            (&mut self.rewritten, with.rewritten),
            (&mut self.wasted, with.wasted),
            (&mut self.indexed, with.indexed),
            (&mut self.deleted, with.deleted),
        ] {
            *mine = apply(*mine, other);
        }
    }
}

/// What is known of one table.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Since it was first seen.
    pub total: Amounts,
    /// Lately: what is a day old counts half.
    pub recent: Amounts,
}

/// An account, and how far it goes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    #[serde(flatten)]
    account: Account,
    /// When what is recent was halved last.
    halved_ms: u64,
    /// The fragments below this id were counted; none before the first look.
    seen: Option<u64>,
}

impl Account {
    /// Adds what was written up to `now_ms`. `halved_ms` is when what is recent was halved last; 0 before the first time.
    pub fn add(&mut self, amounts: &Amounts, halved_ms: &mut u64, now_ms: u64) {
        if *halved_ms == 0 {
            *halved_ms = now_ms;
        }
        let Self { total, recent } = self;
        let halvings = now_ms.saturating_sub(*halved_ms) / HALF_LIFE_MS;
        if halvings > 0 {
            *halved_ms += halvings * HALF_LIFE_MS;
            let by = u32::try_from(halvings).unwrap_or(u32::MAX);
            let halved = |mine: u64, _| mine.checked_shr(by).unwrap_or(0);
            recent.each(&Amounts::default(), halved);
        }
        total.each(amounts, u64::saturating_add);
        recent.each(amounts, u64::saturating_add);
    }
}

impl Entry {
    /// What came into the table without maintenance.
    fn size(&self) -> u64 {
        let Amounts { found, written, .. } = self.account.total;
        found.saturating_add(written)
    }

    fn add(&mut self, amounts: &Amounts, now_ms: u64) {
        self.account.add(amounts, &mut self.halved_ms, now_ms);
    }
}

/// The record.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    tables: BTreeMap<String, Entry>,
}

#[derive(Debug, Default)]
struct Books {
    accounts: BTreeMap<String, Entry>,
    /// Data files that this process wrote and no look has met yet.
    ours: HashMap<String, HashSet<String>>,
}

/// The accounts of a location's tables, by path.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    books: Mutex<Books>,
    read: OnceCell<()>,
    /// Whether there is something to keep.
    changed: AtomicBool,
    /// Whether what stands there cannot be read, and is left alone.
    is_foreign: AtomicBool,
}

impl Ledger {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the table at `path`.
    pub(crate) fn account(&self, path: &str) -> Option<Account> {
        self.books().accounts.get(path).map(|entry| entry.account)
    }

    /// Counts `amounts` for the table at `path`.
    pub(crate) fn add(&self, path: &str, amounts: Amounts, now_ms: u64) {
        if amounts == Amounts::default() {
            return;
        }
        let mut books = self.books();
        let account = books.accounts.entry(path.to_owned()).or_default();
        account.add(&amounts, now_ms);
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Counts the data files of `results`, which are about to land in the table at `path`: they are none of a user's.
    pub(crate) fn expect(&self, path: &str, results: &[RewriteResult]) {
        let fragments = results.iter().flat_map(|result| &result.new_fragments);
        let files = fragments.flat_map(|f| &f.files).map(|f| f.path.clone());
        let mut books = self.books();
        books.ours.entry(path.to_owned()).or_default().extend(files);
    }

    /// Counts what users wrote into the table at `path` up to `version`, or what is found there.
    pub(crate) fn saw(&self, path: &str, version: &Dataset, now_ms: u64) {
        let manifest = version.manifest();
        let next = manifest.max_fragment_id().map_or(0, |id| id + 1);
        let mut books = self.books();
        let seen = books.accounts.get(path).and_then(|a| a.seen);
        if seen == Some(next) {
            return;
        }
        // Ids go up; a table with fewer was made anew.
        let from = seen.filter(|seen| *seen < next).unwrap_or(0);
        let ours = books.ours.remove(path).unwrap_or_default();
        let is_ours = |f: &&lance_table::format::Fragment| {
            f.files.iter().any(|file| ours.contains(&file.path))
        };
        let new = manifest.fragments.iter().filter(|f| f.id >= from);
        let theirs = new.filter(|f| !is_ours(f)).map(fragment_bytes).sum();
        let account = books.accounts.entry(path.to_owned()).or_default();
        account.seen = Some(next);
        let mut amounts = Amounts::default();
        match seen {
            None => amounts.found = theirs,
            Some(_) => amounts.written = theirs,
        }
        account.add(&amounts, now_ms);
        self.changed.store(true, Ordering::Relaxed);
    }
}

/// Whether the record itself is at fault, and not the way to it.
fn is_lasting(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Internal | ErrorKind::FormatTooNew)
}

impl Store {
    /// What was written into the tables here, and why.
    pub(crate) fn ledger(&self) -> Arc<Ledger> {
        self.shelf.of()
    }

    /// Reads the ledger, once for each process. While that fails it is neither read nor written.
    pub(crate) async fn read_ledger(&self) {
        let read = async {
            match self.lasting::<Record>(&LEDGER).await {
                Ok(record) => {
                    let ledger = self.ledger();
                    let mut books = ledger.books();
                    // What was counted before it could be read is on top of it.
                    for (path, kept) in record.into_iter().flat_map(|record| record.tables) {
                        let account = books.accounts.entry(path).or_default();
                        let mut counted = std::mem::replace(account, kept);
                        if kept.seen.is_some() {
                            counted.account.total.found = 0;
                        }
                        account.add(&counted.account.total, kept.halved_ms);
                        account.seen = account.seen.max(counted.seen);
                    }
                    Ok(())
                }
                Err(error) if is_lasting(&error) => {
                    self.ledger().is_foreign.store(true, Ordering::Relaxed);
                    tracing::warn!(uri = self.uri(), %error, "what was written into these tables is counted in memory only");
                    Ok(())
                }
                Err(error) => Err(error),
            }
        };
        let ledger = self.ledger();
        if let Err(error) = ledger.read.get_or_try_init(|| read).await {
            tracing::debug!(uri = self.uri(), %error, "the ledger cannot be read now");
        }
    }

    /// Keeps the ledger, if there is something new to keep.
    ///
    /// # Errors
    /// Those of the storage, when it may be written nowhere.
    pub async fn keep_ledger(&self) -> Result<()> {
        let ledger = self.ledger();
        if !ledger.read.initialized()
            || ledger.is_foreign.load(Ordering::Relaxed)
            || !ledger.changed.swap(false, Ordering::Relaxed)
        {
            return Ok(());
        }
        let mut tables = ledger.books().accounts.clone();
        if tables.len() > MOST {
            let mut by_size: Vec<u64> = tables.values().map(Entry::size).collect();
            by_size.sort_unstable_by(|a, b| b.cmp(a));
            let least = by_size[MOST - 1];
            tables.retain(|_, entry| entry.size() >= least);
        }
        let record = Record { tables };
        let kept = self.put_lasting(&LEDGER, &record).await;
        if kept.is_err() {
            ledger.changed.store(true, Ordering::Relaxed);
        }
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::{Account, Amounts, Entry, HALF_LIFE_MS};

    fn of(written: u64, rewritten: u64) -> Amounts {
        Amounts {
            written,
            rewritten,
            ..Amounts::default()
        }
    }

    #[test]
    fn what_is_a_day_old_counts_half() {
        let mut account = Entry::default();
        account.add(&of(100, 800), 5);
        account.add(&of(0, 0), HALF_LIFE_MS);
        assert_eq!(account.account.recent, of(100, 800));
        account.add(&of(7, 0), 5 + 2 * HALF_LIFE_MS);
        let Account { total, recent } = account.account;
        assert_eq!((total, recent), (of(107, 800), of(32, 200)));
        account.add(&of(1, 0), 1_000 * HALF_LIFE_MS);
        let Account { total, recent } = account.account;
        assert_eq!((total.written, recent), (108, of(1, 0)));
    }

    #[test]
    fn all_that_maintenance_writes_counts() {
        let amounts = Amounts {
            found: 0,
            written: 10,
            rewritten: 5,
            wasted: 10,
            indexed: 15,
            deleted: 1_000,
        };
        assert!((amounts.amplification() - 3.0).abs() < 1e-9);
    }
}
