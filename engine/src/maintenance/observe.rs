//! Observing a table again and again: what has not changed is not read again.
//!
//! A look asks for the latest version. Where that is the one it saw last, nothing else is asked; where it is newer, its manifest and its
//! list of indexes are read. Versions are counted from what is known: a listing grows with history, so it is made once, and
//! again when it is old, since others clean up as well.

use super::health::StoredVersions;
use super::listed::{Listed, listed_indexes, look_at_files};
use super::plan::CompactionPlan;
use super::tasks::TaskBounds;
use super::{Shown, TableHealth, Target};
use crate::error::Result;
use crate::ids::TableName;
use crate::store::{Snapshot, Store, transaction_id};
use lance::Dataset;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How many tables are remembered; beyond it all are forgotten and looked at anew.
const MOST: usize = 20_000;

/// How a table is looked at.
#[derive(Debug, Clone)]
pub struct Looking<'a> {
    /// The bounds of its compaction tasks.
    pub bounds: &'a TaskBounds,
    /// What is done about versions of others above its pin: published, or reported. `None`: they are not looked for.
    pub adopt: Option<bool>,
    /// How old what is known may be before all of it is asked for again.
    pub anew_after: Duration,
}

/// What a look saw.
#[derive(Debug)]
pub struct Observed {
    /// How the table is.
    pub health: TableHealth,
    /// What a compaction would do; nothing where no fragment is worth it.
    pub rewrites: CompactionPlan,
    /// Whether versions of others stand above its pin.
    pub drift: bool,
}

/// What makes a version that one and no other, also after its table was made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Identity {
    version: u64,
    transaction: Option<String>,
    e_tag: Option<String>,
}

impl Identity {
    fn of(dataset: &Dataset) -> Self {
        let manifest = dataset.manifest();
        Self {
            version: manifest.version,
            transaction: manifest.transaction_file.clone(),
            e_tag: dataset.manifest_location().e_tag.clone(),
        }
    }
}

/// What readers of a table see, and what stands above it.
struct Visible {
    path: String,
    dataset: Arc<Dataset>,
    /// The manifest that shows it, of a store.
    snapshot: Option<Snapshot>,
    head: u64,
    drift: bool,
}

/// What is known of one table.
#[derive(Debug, Clone)]
struct Known {
    since: Duration,
    versions: Option<StoredVersions>,
    indexes: Option<(Identity, Arc<Vec<Listed>>)>,
    plan: Option<(Identity, TaskBounds, CompactionPlan)>,
}

/// What is known of the tables of a location, by path.
#[derive(Debug, Default)]
pub(crate) struct Memo(Mutex<HashMap<String, Known>>);

impl Memo {
    fn tables(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of<T>(&self, path: &str, read: impl FnOnce(&Known) -> Option<T>) -> Option<T> {
        self.tables().get(path).and_then(read)
    }

    fn note(&self, path: &str, now: Duration, write: impl FnOnce(&mut Known)) {
        let mut tables = self.tables();
        if tables.len() >= MOST {
            tables.clear();
        }
        let known = tables.entry(path.to_owned()).or_insert(Known {
            since: now,
            versions: None,
            indexes: None,
            plan: None,
        });
        write(known);
    }

    /// Forgets a table: versions of it were removed, or it is to be looked at as if for the first time.
    pub(crate) fn forget(&self, path: &str) {
        self.tables().remove(path);
    }

    fn forget_older(&self, path: &str, now: Duration, age: Duration) {
        let is_old = |known: &Known| now.saturating_sub(known.since) >= age;
        let mut tables = self.tables();
        if tables.get(path).is_some_and(is_old) {
            tables.remove(path);
        }
    }
}

impl Store {
    /// What is known of the tables here from one look to the next.
    pub(crate) fn memo(&self) -> Arc<Memo> {
        self.shelf.of()
    }

    /// Looks at `target`.
    ///
    /// # Errors
    /// Those of the storage; `Drift` for a table that was made again under its pin.
    pub async fn observe(&self, target: &Target, looking: &Looking<'_>) -> Result<Observed> {
        let Visible {
            path,
            dataset,
            snapshot,
            head,
            drift,
        } = match target.shown() {
            Shown::Head(path) => {
                let dataset = self.latest(&path).await?;
                Visible {
                    path: path.into_owned(),
                    head: dataset.manifest().version,
                    dataset,
                    snapshot: None,
                    drift: false,
                }
            }
            Shown::Pin(table) => self.observe_pinned(table, looking).await?,
        };
        let now = self.clock().monotonic();
        self.memo().forget_older(&path, now, looking.anew_after);
        self.read_ledger().await;
        self.ledger().saw(&path, &dataset, self.clock().now_ms());
        let listed = self.indexes_of(&path, &dataset).await?;
        let versions = self.versions_of(&path, &dataset, head).await?;
        let seen = (dataset.as_ref(), listed.as_slice(), versions);
        let health = self.health_of(snapshot.as_ref(), target, seen, looking.bounds);
        let health = health.await?;
        let rewrites = match health.candidate_fragments {
            0 => CompactionPlan::default(),
            _ => {
                let plan = self.plan_of(&path, &dataset, &listed, looking.bounds);
                plan.await?
            }
        };
        Ok(Observed {
            health,
            rewrites,
            drift,
        })
    }

    /// A pin only goes up, so one that is remembered and that HEAD has not passed is the pin: the manifest need not be asked.
    async fn observe_pinned(&self, table: &TableName, looking: &Looking<'_>) -> Result<Visible> {
        if let Some(snapshot) = self.remembered().await
            && let Some(entry) = snapshot.state.tables.get(table)
            && let Ok(head) = self.latest(&entry.path).await
            && head.manifest().version == entry.version
            && entry.stands_on(transaction_id(head.manifest()).as_deref())
        {
            return Ok(Visible {
                path: entry.path.clone(),
                head: entry.version,
                dataset: head,
                snapshot: Some(snapshot),
                drift: false,
            });
        }
        let drift = match looking.adopt {
            Some(adopt) => self.handle_drift(table, adopt).await?.is_some(),
            None => false,
        };
        let snapshot = self.load().await?;
        let entry = snapshot.state.table(table)?;
        let dataset = self.open_pinned(entry).await?;
        Ok(Visible {
            path: entry.path.clone(),
            head: dataset.latest_version_id().await?,
            dataset,
            snapshot: Some(snapshot),
            drift,
        })
    }

    /// The indexes of this version, once for each; their files are looked at once for each index.
    async fn indexes_of(&self, path: &str, dataset: &Dataset) -> Result<Arc<Vec<Listed>>> {
        let identity = Identity::of(dataset);
        let known = self.memo().of(path, |known| known.indexes.clone());
        let before = match known {
            Some((of, listed)) if of == identity => return Ok(listed),
            Some((_, listed)) => listed,
            None => Arc::default(),
        };
        let mut listed = listed_indexes(dataset).await?;
        look_at_files(self, dataset, &mut listed, &before).await?;
        let listed = Arc::new(listed);
        let now = self.clock().monotonic();
        let kept = (identity, listed.clone());
        self.memo()
            .note(path, now, |known| known.indexes = Some(kept));
        Ok(listed)
    }

    /// How many versions there are up to `head`.
    async fn versions_of(
        &self,
        path: &str,
        dataset: &Dataset,
        head: u64,
    ) -> Result<StoredVersions> {
        let known = self.memo().of(path, |known| known.versions);
        let now = self.clock().monotonic();
        let count = match known {
            Some(known) if known.head <= head => known.count + (head - known.head),
            _ => dataset.version_refs().await?.len() as u64,
        };
        let versions = StoredVersions { head, count };
        self.memo()
            .note(path, now, |known| known.versions = Some(versions));
        Ok(versions)
    }

    /// A plan asks whether indexes can follow and how wide rows are: once for each version.
    async fn plan_of(
        &self,
        path: &str,
        dataset: &Dataset,
        listed: &[Listed],
        bounds: &TaskBounds,
    ) -> Result<CompactionPlan> {
        let identity = Identity::of(dataset);
        let known = self.memo().of(path, |known| {
            let (of, within, plan) = known.plan.as_ref()?;
            (*of == identity && within == bounds).then(|| plan.clone())
        });
        if let Some(plan) = known {
            return Ok(plan);
        }
        let plan = self.plan_compaction(dataset, listed, bounds).await?;
        let now = self.clock().monotonic();
        let kept = (identity, bounds.clone(), plan.clone());
        self.memo().note(path, now, |known| known.plan = Some(kept));
        Ok(plan)
    }
}
