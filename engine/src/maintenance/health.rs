//! Observation: the health of one table, from manifests and listings alone.

use super::listed::{Listed, covered_by, listed_indexes, look_at_files, segment_bytes};
use super::settings::{TableSettings, auto_cleanup};
use super::tasks::{FragmentFacts, TaskBounds, candidates};
use super::{Shown, Target};
use crate::error::Result;
use crate::journal::Account;
use crate::store::{Snapshot, Store, fragment_bytes, own_file};
use futures::TryStreamExt;
use lance::Dataset;
use lance_table::format::Fragment;
use object_store::ObjectMeta;
use object_store::path::Path;
use roaring::RoaringBitmap;
use serde::Serialize;
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// One index.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IndexHealth {
    /// Its name.
    pub name: String,
    /// Rows in fragments that it does not cover.
    pub unindexed_rows: u64,
    /// Seconds since it was last built or extended, while rows are unindexed.
    pub stale_seconds: Option<u64>,
    /// Declared but not built yet.
    pub missing: bool,
    /// What is wrong with its files: one is gone, or has another size than was written.
    pub damaged: Option<String>,
    /// Bytes of its segments, as far as its version says.
    pub bytes: u64,
    /// A fingerprint of its files and their damage, or its declaration, and of the table's schema, for this release: what cannot be done
    /// to it rests until this changes.
    #[serde(skip)]
    pub fingerprint: u64,
}

/// One table.
#[derive(Debug, Default, Clone, PartialEq, Serialize)]
pub struct TableHealth {
    /// The table's name, or its path in a watched directory.
    pub table: String,
    /// The visible version.
    pub pin: u64,
    /// The latest version.
    pub head: u64,
    /// How many versions storage holds.
    pub versions: u64,
    /// Fragments at the visible version.
    pub fragments: u64,
    /// Fragments worth rewriting.
    pub candidate_fragments: u64,
    /// Rows that a reader sees.
    pub rows: u64,
    /// Rows deleted but still stored.
    pub deleted_rows: u64,
    /// Bytes of the data files at the visible version.
    pub bytes: u64,
    /// Its indexes.
    pub indexes: Vec<IndexHealth>,
    /// The settings by which commits of any client clean it up (`lance.auto_cleanup.*`).
    pub auto_cleanup: BTreeMap<String, String>,
    /// What was written into it, and why, as far as the daemon has counted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<Account>,
    /// A fingerprint of its schema, for this release: what rests because of a schema rests until this changes.
    #[serde(skip)]
    pub schema: u64,
}

/// The versions on storage: the latest, and how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoredVersions {
    pub(crate) head: u64,
    pub(crate) count: u64,
}

/// Ids, names and types of all fields, nested ones too.
fn fingerprint(dataset: &Dataset) -> u64 {
    let mut hasher = DefaultHasher::new();
    for field in dataset.schema().fields_pre_order() {
        let kind = field.logical_type.to_string();
        (field.id, &field.name, kind, field.nullable).hash(&mut hasher);
    }
    hasher.finish()
}

/// A fingerprint of an index on a table with the schema `schema`, by what it consists of.
fn index_fingerprint(schema: u64, parts: impl Iterator<Item = impl Hash>) -> u64 {
    let mut hasher = DefaultHasher::new();
    schema.hash(&mut hasher);
    parts.for_each(|part| part.hash(&mut hasher));
    hasher.finish()
}

impl Store {
    /// The fragments of a dataset, as planning sees them, from manifests alone; where a manifest has no sizes of files,
    /// as those of old releases, also from a listing.
    pub(crate) async fn fragment_facts(
        &self,
        dataset: &Dataset,
        listed: &[Listed],
    ) -> Result<Vec<FragmentFacts>> {
        let mut facts = manifest_facts(dataset, listed);
        let fragments = dataset.fragments();
        let unsized_files = |f: &Fragment| -> Vec<Path> {
            let files = f
                .files
                .iter()
                .filter(|file| file.file_size_bytes.get().is_none());
            files.filter_map(|file| own_file(dataset, file)).collect()
        };
        let known = |path: &Path| self.files.size(path.as_ref());
        let missing = fragments.iter().flat_map(unsized_files);
        if missing.into_iter().any(|path| known(&path).is_none()) {
            let listed = self.objects.list(Some(dataset.data_dir()));
            let listed: Vec<ObjectMeta> = listed.try_collect().await?;
            let sizes = listed.into_iter().map(|m| (m.location.into(), m.size));
            self.files.sized(sizes);
        }
        for (fact, fragment) in facts.iter_mut().zip(fragments.iter()) {
            fact.bytes += unsized_files(fragment)
                .iter()
                .filter_map(known)
                .sum::<u64>();
        }
        Ok(facts)
    }
}

/// What `dataset`'s manifest says of its fragments. Indexes that Lance hides because it cannot read them cover fragments, too:
/// it refuses a rewrite that mixes what they cover with what they do not.
fn manifest_facts(dataset: &Dataset, listed: &[Listed]) -> Vec<FragmentFacts> {
    let segments = listed.iter().flat_map(|index| &index.segments);
    let coverage: Vec<&RoaringBitmap> = segments
        .filter_map(|segment| segment.fragment_bitmap.as_ref())
        .collect();
    dataset
        .fragments()
        .iter()
        .map(|f| FragmentFacts {
            id: f.id,
            rows: f.physical_rows.unwrap_or(0) as u64,
            deleted: f
                .deletion_file
                .as_ref()
                .and_then(|d| d.num_deleted_rows)
                .unwrap_or(0) as u64,
            bytes: fragment_bytes(f),
            touched: f.deletion_file.as_ref().map_or(0, |d| d.read_version),
            indexes: coverage
                .iter()
                .enumerate()
                .filter(|(_, c)| u32::try_from(f.id).is_ok_and(|id| c.contains(id)))
                .map(|(i, _)| i)
                .collect(),
            ..FragmentFacts::default()
        })
        .collect()
}

impl Store {
    /// The dataset that a reader of `target` sees.
    pub(crate) async fn visible(
        &self,
        snapshot: Option<&Snapshot>,
        target: &Target,
    ) -> Result<Arc<Dataset>> {
        match (target.shown(), snapshot) {
            (Shown::Pin(table), Some(snapshot)) => {
                self.open_pinned(snapshot.state.table(table)?).await
            }
            (Shown::Pin(table), None) => {
                let snapshot = self.load().await?;
                self.open_pinned(snapshot.state.table(table)?).await
            }
            (Shown::Head(path), _) => self.latest(&path).await,
        }
    }

    /// Observes `target` as if for the first time.
    pub async fn health(&self, target: &Target, bounds: &TaskBounds) -> Result<TableHealth> {
        let snapshot = match target.table() {
            Some(_) => Some(self.load().await?),
            None => None,
        };
        let dataset = self.visible(snapshot.as_ref(), target).await?;
        let refs = dataset.version_refs().await?;
        let stored = StoredVersions {
            head: refs.iter().map(|r| r.version).max().unwrap_or(0),
            count: refs.len() as u64,
        };
        let mut listed = listed_indexes(&dataset).await?;
        look_at_files(self, &dataset, &mut listed, &[]).await?;
        self.read_ledger().await;
        let seen = (dataset.as_ref(), listed.as_slice(), stored);
        self.health_of(snapshot.as_ref(), target, seen, bounds)
            .await
    }

    /// How `target` is, by what was read of it.
    pub(crate) async fn health_of(
        &self,
        snapshot: Option<&Snapshot>,
        target: &Target,
        (dataset, listed, stored): (&Dataset, &[Listed], StoredVersions),
        bounds: &TaskBounds,
    ) -> Result<TableHealth> {
        let facts = self.fragment_facts(dataset, listed).await?;
        let config = &dataset.manifest().config;
        // Settings that cannot be followed are told by the plan.
        let bounds =
            TableSettings::of(config).map_or_else(|_| bounds.clone(), |of| of.bounds(bounds));
        Ok(TableHealth {
            table: target.to_string(),
            pin: dataset.manifest().version,
            head: stored.head,
            versions: stored.count,
            fragments: facts.len() as u64,
            candidate_fragments: candidates(&facts, &bounds) as u64,
            rows: facts.iter().map(FragmentFacts::live).sum(),
            deleted_rows: facts.iter().map(|f| f.deleted).sum(),
            bytes: facts.iter().map(|f| f.bytes).sum(),
            indexes: self.index_health(snapshot, target, (dataset, listed), &facts),
            auto_cleanup: auto_cleanup(config),
            ledger: self.ledger().account(&self.below_root(dataset)),
            schema: fingerprint(dataset),
        })
    }

    /// The path of `dataset` below the root.
    pub(crate) fn below_root(&self, dataset: &Dataset) -> String {
        let whole = dataset.branch_location().path;
        let root = self.object_path("");
        let below = whole.as_ref().strip_prefix(root.as_ref());
        below.unwrap_or_default().trim_start_matches('/').to_owned()
    }

    fn index_health(
        &self,
        snapshot: Option<&Snapshot>,
        target: &Target,
        (dataset, built): (&Dataset, &[Listed]),
        facts: &[FragmentFacts],
    ) -> Vec<IndexHealth> {
        let schema = fingerprint(dataset);
        let now = i64::try_from(self.clock().now_ms()).unwrap_or(i64::MAX);
        let mut health: Vec<IndexHealth> = built
            .iter()
            .map(|index| {
                let covered = covered_by(&index.segments);
                let unindexed_rows: u64 = facts
                    .iter()
                    .filter(|f| u32::try_from(f.id).is_ok_and(|id| !covered.contains(id)))
                    .map(FragmentFacts::live)
                    .sum();
                let at = index.segments.iter().filter_map(|s| s.created_at).max();
                let age = at.map(|at| (now - at.timestamp_millis()) / 1000);
                IndexHealth {
                    name: index.name.clone(),
                    unindexed_rows,
                    stale_seconds: age
                        .map(|age| u64::try_from(age).unwrap_or(0))
                        .filter(|_| unindexed_rows > 0),
                    missing: false,
                    damaged: index.damaged.clone(),
                    bytes: index.segments.iter().map(segment_bytes).sum(),
                    fingerprint: index_fingerprint(
                        schema,
                        index.segments.iter().map(|s| (s.uuid, &index.damaged)),
                    ),
                }
            })
            .collect();
        if let (Target::Pinned(table), Some(snapshot)) = (target, snapshot) {
            let rows: u64 = facts.iter().map(FragmentFacts::live).sum();
            for (name, declared) in snapshot
                .state
                .indexes_of(table)
                .filter(|(name, _)| built.iter().all(|index| index.name != *name))
            {
                health.push(IndexHealth {
                    name: name.to_owned(),
                    unindexed_rows: rows,
                    stale_seconds: None,
                    missing: true,
                    damaged: None,
                    bytes: 0,
                    fingerprint: index_fingerprint(schema, std::iter::once(declared)),
                });
            }
        }
        health
    }
}
