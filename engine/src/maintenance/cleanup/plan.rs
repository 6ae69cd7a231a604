//! What a cleanup would remove: each table by its own policy, and one that cannot be looked at stops no other.

use super::holds::{HeldSnapshot, spares_of_manifest, spares_of_refs, spares_of_table};
use super::{
    CleanupPlan, CleanupPolicies, CleanupPolicy, MAX_CLOCK_SKEW, Retention, Spare, TableCleanup,
};
use crate::error::{Error, ErrorKind, Result, caught};
use crate::ids::{OpId, TableName};
use crate::maintenance::plan::beyond_us;
use crate::protocol::{cleanup_floor, may_forget};
use crate::publish::Rounds;
use crate::store::state::State;
use crate::store::{
    MANIFEST_PATH, Snapshot, Stamp, Store, TABLE_FOLDERS, TableEntry, branches_of, read_version,
    version_named,
};
use futures::{StreamExt, TryStreamExt};
use lance::Dataset;
use lance_table::io::commit::ManifestNamingScheme;
use object_store::path::Path;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How long a decision to abort is kept: longer than any process is believed to sleep.
const DECISION_RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

/// Versions that are read at one time.
const AT_ONCE: usize = 8;

/// What all tables of a plan are held against.
pub(super) struct Look<'a> {
    pub(super) policies: &'a CleanupPolicies,
    pub(super) snapshot: Snapshot,
    windows: Vec<(Retention, Window)>,
    /// What keeps and leases hold.
    pub(super) held: Vec<HeldSnapshot>,
    undecided: BTreeMap<TableName, u64>,
    /// The paths that undecided operations write or read.
    pub(super) under_way: BTreeSet<String>,
}

/// The part of the manifest's history that stays readable.
#[derive(Clone)]
pub(super) struct Window {
    pub(super) oldest: u64,
    state: Arc<State>,
}

impl Look<'_> {
    pub(super) fn window(&self, retention: Retention) -> Result<&Window> {
        let found = self.windows.iter().find(|(r, _)| *r == retention);
        found
            .map(|(_, window)| window)
            .ok_or_else(|| Error::internal("cleanup: a retention without its window"))
    }

    /// The floor of a table: its pin in the oldest snapshot of its own window.
    fn floor(&self, table: &TableName, entry: &TableEntry, policy: CleanupPolicy) -> Result<u64> {
        // A table that the oldest snapshot of the window does not show was made inside it: all of it is kept.
        let shown = self.window(policy.retention)?.state.tables.get(table);
        let oldest = shown.filter(|t| t.is_same_table(entry));
        Ok(cleanup_floor(
            oldest.map_or(0, |t| t.version),
            self.undecided.get(table).copied(),
            self.snapshot.state.floor(table),
        ))
    }
}

impl Store {
    /// Plans a cleanup of the whole store. Another daemon's cleanup may take a version away between its listing and
    /// its reading; what is planned from a fresh look does not miss it.
    pub async fn plan_cleanup(&self, policies: &CleanupPolicies) -> Result<CleanupPlan> {
        let mut rounds = Rounds::new();
        loop {
            match self.plan_from_fresh_look(policies).await {
                Err(e) if e.kind() == ErrorKind::Storage => rounds.lost(self, e).await?,
                planned => return planned,
            }
        }
    }

    async fn plan_from_fresh_look(&self, policies: &CleanupPolicies) -> Result<CleanupPlan> {
        let mut plan = CleanupPlan::default();
        let standing = self.sidecar_ops().await?;
        let look = self.look(policies, &standing).await?;
        plan.holds = look.held.iter().map(|held| held.hold.clone()).collect();
        for table in look.snapshot.state.tables.keys() {
            let policy = policies.of(table.as_str());
            match self.plan_table_in_rounds(&look, table).await {
                Ok(cleanup) if cleanup.is_empty() => {}
                Ok(cleanup) if policy.enabled => plan.tables.push(cleanup),
                Ok(cleanup) => plan.off.push(cleanup),
                Err(_) if !policy.enabled => {}
                Err(e) => plan.failed.push((table.to_string(), e.to_string())),
            }
        }
        self.plan_dropped(&look, &mut plan).await?;
        if policies.default.enabled {
            plan.manifest = self.plan_manifest(&look).await?;
        }
        let age = u64::try_from(DECISION_RETENTION.as_millis()).unwrap_or(u64::MAX);
        let oldest = self.clock().now_ms().saturating_sub(age);
        let aborted = look.snapshot.state.aborted.iter();
        plan.decisions = aborted
            .filter(|(op, d)| may_forget(d.at_ms < oldest, standing.contains(op)))
            .map(|(op, _)| *op)
            .collect();
        plan.forgotten = self.forgettable(&look, oldest);
        Ok(plan)
    }

    /// Plans one table, and looks again where the storage failed by it: the others are not planned anew for it.
    async fn plan_table_in_rounds(
        &self,
        look: &Look<'_>,
        table: &TableName,
    ) -> Result<TableCleanup> {
        let what = format!("table {table}");
        let mut rounds = Rounds::new();
        let mut planned = caught(&what, self.plan_table(look, table)).await;
        loop {
            match planned {
                Err(e) if e.kind() == ErrorKind::Storage => rounds.lost(self, e).await?,
                planned => return planned,
            }
            let standing = self.sidecar_ops().await?;
            let fresh = self.look(look.policies, &standing).await?;
            planned = caught(&what, self.plan_table(&fresh, table)).await;
        }
    }

    async fn look<'a>(&self, policies: &'a CleanupPolicies, standing: &[OpId]) -> Result<Look<'a>> {
        let snapshot = self.load().await?;
        let tables = &snapshot.state.tables;
        let mut retentions: Vec<Retention> = vec![policies.longest(tables.keys())];
        let dropped = snapshot.state.dropped.values().map(|d| &d.table);
        let all = tables.keys().chain(dropped);
        retentions.extend(all.map(|t| policies.of(t.as_str()).retention));
        let mut windows: Vec<(Retention, Window)> = Vec::new();
        for retention in retentions {
            if windows.iter().all(|(r, _)| *r != retention) {
                windows.push((retention, self.window(&snapshot, retention).await?));
            }
        }
        let held = self.held_snapshots(&snapshot.state).await?;
        let (undecided, under_way) = self.undecided_roots(standing).await?;
        Ok(Look {
            policies,
            windows,
            held,
            undecided,
            under_way,
            snapshot,
        })
    }

    async fn plan_table(&self, look: &Look<'_>, table: &TableName) -> Result<TableCleanup> {
        let entry = look.snapshot.state.table(table)?;
        let policy = look.policies.of(table.as_str());
        self.check_listable(&entry.path).await?;
        let pinned = self.open_pinned(entry).await?;
        let floor = look.floor(table, entry, policy)?;
        let held = spares_of_table(&look.held, table);
        let cleanup = removable(table.to_string(), &pinned, floor, held).await?;
        self.spare(cleanup, &entry.path, Some(&pinned), look.policies)
            .await
    }

    /// The manifest's own versions. Only archived publishes may go; the run looks at the watermark.
    async fn plan_manifest(&self, look: &Look<'_>) -> Result<Option<TableCleanup>> {
        let state = &look.snapshot.state;
        let longest = look.policies.longest(state.tables.keys());
        let floor = look.window(longest)?.oldest.max(state.manifest_floor);
        let dataset = self.manifest_dataset(&look.snapshot).await?;
        let held = spares_of_manifest(&look.held);
        let cleanup = removable(MANIFEST_PATH.to_owned(), &dataset, floor, held).await?;
        Ok((!cleanup.versions.is_empty() || !cleanup.spared.is_empty()).then_some(cleanup))
    }

    /// Plans the cleanup of a plain table of a watched directory: its own versions by age and number.
    pub async fn plan_plain_cleanup(
        &self,
        path: &str,
        policies: &CleanupPolicies,
    ) -> Result<TableCleanup> {
        let plan = async {
            self.check_plain(path).await?;
            let dataset = self.latest(path).await?;
            check_apart(&dataset).await?;
            let retention = policies.of(path).retention;
            let floor = self.oldest_kept(&dataset, retention).await?;
            let cleanup = removable(path.to_owned(), &dataset, floor, Vec::new()).await?;
            self.spare(cleanup, path, None, policies).await
        };
        caught(path, plan).await
    }

    /// What is left of `cleanup` of the table at `path` when what it may not do is taken out: removing older versions
    /// of a table that cannot be read or not be understood, and files that other tables refer to.
    async fn spare(
        &self,
        mut cleanup: TableCleanup,
        path: &str,
        pinned: Option<&Dataset>,
        policies: &CleanupPolicies,
    ) -> Result<TableCleanup> {
        if cleanup.versions.is_empty() {
            return Ok(cleanup);
        }
        self.check_folders(path).await?;
        let head = self.latest(path).await?;
        if let Some(why) = beyond_us(head.manifest()) {
            return Err(Error::new(ErrorKind::Refused, why));
        }
        let mut staying: Vec<&Dataset> = vec![head.as_ref()];
        staying.extend(pinned.filter(|p| p.manifest().version != head.manifest().version));
        for version in &staying {
            self.check_readable(version, path).await?;
        }
        self.hold_referenced(&mut cleanup, path, &head, policies)
            .await?;
        if let Some(oldest) = cleanup.versions.first() {
            for version in staying {
                self.check_rows(version, path, *oldest).await?;
            }
        }
        Ok(cleanup)
    }

    /// Refuses a table in whose folders may lie what is not its own, or what Lance's cleanup does not know: it removes whatever no
    /// version of the table refers to.
    async fn check_folders(&self, path: &str) -> Result<()> {
        let refused = |why: String| Err(Error::new(ErrorKind::Refused, why));
        if self.objects.has_direct_local_paths() {
            for folder in TABLE_FOLDERS {
                let folder = format!("/{}", self.object_path(&format!("{path}/{folder}")));
                let found = tokio::fs::symlink_metadata(&folder).await;
                if found.is_ok_and(|found| found.is_symlink()) {
                    return refused(format!(
                        "{folder} is a link, so what lies there may be another table's; nothing is removed"
                    ));
                }
            }
        }
        let versions = self.object_path(&format!("{path}/_versions"));
        let listed = self.objects.list_with_delimiter(Some(&versions)).await?;
        let mut names = listed.objects.iter().filter_map(|o| o.location.filename());
        match names.find(|name| ManifestNamingScheme::parse_detached_version(name).is_some()) {
            Some(detached) => refused(format!(
                "_versions/{detached} is a detached version, whose files a cleanup would remove; nothing is removed until it is gone"
            )),
            None => Ok(()),
        }
    }

    /// The manifest versions that must stay readable. Pins never go down, so the oldest one bounds every table.
    async fn window(&self, snapshot: &Snapshot, retention: Retention) -> Result<Window> {
        let oldest = self
            .oldest_kept(self.manifest_dataset(snapshot).await?.as_ref(), retention)
            .await?;
        Ok(Window {
            oldest,
            state: self.manifest_at(oldest).await?.state,
        })
    }

    /// The oldest version that `retention` keeps. Found by bisection: reading every manifest of a long history costs
    /// more than all that cleanup saves. Clocks of writers differ, so a version counts as younger than it says.
    async fn oldest_kept(&self, dataset: &Dataset, retention: Retention) -> Result<u64> {
        let refs = dataset.version_refs().await?;
        let mut versions: Vec<u64> = refs.iter().map(|r| r.version).collect();
        versions.sort_unstable();
        let limit = self.oldest_kept_ms(retention);
        let spared = usize::try_from(retention.versions.max(1)).unwrap_or(usize::MAX);
        let (mut low, mut high) = (0, versions.len().saturating_sub(spared));
        while low < high {
            let middle = low.midpoint(high);
            let read = match read_version(dataset, versions[middle]).await {
                Ok(read) => read,
                Err(e) => {
                    let naming = dataset.manifest_location().naming_scheme;
                    let base = &dataset.branch_location().path;
                    let path = naming.manifest_path(base, versions[middle]);
                    return Err(self.unless_torn(&path, e).await);
                }
            };
            let at = read.map_or(i64::MIN, |read| read.timestamp.timestamp_millis());
            if at < limit {
                low = middle + 1
            } else {
                high = middle
            }
        }
        let young = self.first_younger(dataset, &versions[..low], limit).await?;
        let oldest = young.or_else(|| versions.get(low).copied());
        Ok(oldest.unwrap_or_else(|| dataset.manifest().version))
    }

    /// The first of `versions` that is younger than `limit` all the same: a writer whose clock was behind put one above it that
    /// says that it is older. The storage's times tell which may be; what a version says of itself decides.
    async fn first_younger(
        &self,
        dataset: &Dataset,
        versions: &[u64],
        limit: i64,
    ) -> Result<Option<u64>> {
        let (Some(oldest), Some(newest)) = (versions.first(), versions.last()) else {
            return Ok(None);
        };
        let path = dataset.manifest_location().path.as_ref();
        let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
        let directory = Path::parse(directory)
            .map_err(|e| Error::internal("the directory of a version").caused_by(e))?;
        let listed = self.objects.list_with_delimiter(Some(&directory)).await?;
        let mut suspects: Vec<u64> = listed
            .objects
            .iter()
            .filter(|meta| meta.last_modified.timestamp_millis() > limit)
            .filter_map(|meta| version_named(&meta.location))
            .filter(|version| (*oldest..=*newest).contains(version))
            .collect();
        suspects.sort_unstable();
        let mut reads = std::pin::pin!(
            futures::stream::iter(suspects)
                .map(|version| async move { read_version(dataset, version).await })
                .buffered(AT_ONCE)
        );
        while let Some(read) = reads.try_next().await? {
            if let Some(read) = read.filter(|read| read.timestamp.timestamp_millis() >= limit) {
                return Ok(Some(read.version));
            }
        }
        Ok(None)
    }

    fn oldest_kept_ms(&self, retention: Retention) -> i64 {
        let skew = if retention.age.is_zero() {
            Duration::ZERO
        } else {
            MAX_CLOCK_SKEW
        };
        let age = u64::try_from((retention.age + skew).as_millis()).unwrap_or(u64::MAX);
        i64::try_from(self.clock().now_ms().saturating_sub(age)).unwrap_or(i64::MAX)
    }

    pub(super) async fn manifest_dataset(&self, snapshot: &Snapshot) -> Result<Arc<Dataset>> {
        self.open_at(MANIFEST_PATH, snapshot.version()).await
    }

    /// The base of every table that an undecided operation writes or reads, and their paths.
    async fn undecided_roots(
        &self,
        standing: &[OpId],
    ) -> Result<(BTreeMap<TableName, u64>, BTreeSet<String>)> {
        let mut paths = BTreeSet::new();
        let mut roots: BTreeMap<TableName, u64> = BTreeMap::new();
        for op in standing {
            let Some(sidecar) = self.sidecar(*op).await? else {
                continue;
            };
            for entry in sidecar.writes.iter().chain(&sidecar.reads) {
                let root = roots.entry(entry.table.clone()).or_insert(entry.base);
                *root = (*root).min(entry.base);
                paths.insert(entry.path.clone());
            }
        }
        Ok((roots, paths))
    }
}

/// Refuses a branch in whose folder another one lies: Lance would take what is in it for files of the outer one.
async fn check_apart(dataset: &Dataset) -> Result<()> {
    let Some(own) = &dataset.manifest().branch else {
        return Ok(());
    };
    let branches = branches_of(dataset).await?;
    let is_inside = |name: &&String| {
        let rest = name.strip_prefix(own.as_str());
        rest.is_some_and(|rest| rest.starts_with('/'))
    };
    match branches.keys().find(is_inside) {
        None => Ok(()),
        Some(inner) => Err(Error::new(
            ErrorKind::Refused,
            format!(
                "branch {inner} lies in the folder of branch {own}, and Lance would take its files for those of {own}; nothing is removed"
            ),
        )),
    }
}

/// What goes of a table below `floor`, and what stays there for `held`, tags and branches.
async fn removable(
    table: String,
    dataset: &Dataset,
    floor: u64,
    held: Vec<Spare>,
) -> Result<TableCleanup> {
    let mut spared = held;
    spared.extend(spares_of_refs(dataset).await?);
    let refs = dataset.version_refs().await?;
    let stored: BTreeSet<u64> = refs.iter().map(|r| r.version).collect();
    spared.retain(|spare| spare.version < floor && stored.contains(&spare.version));
    let staying: BTreeSet<u64> = spared.iter().map(|spare| spare.version).collect();
    let old = stored.range(..floor).copied();
    let versions: Vec<u64> = old.filter(|version| !staying.contains(version)).collect();
    let planned_at = match versions.is_empty() {
        true => None,
        false => {
            let objects = dataset.object_store(None).await?;
            Some(Stamp::of(&objects.inner, &dataset.manifest_location().path).await?)
        }
    };
    Ok(TableCleanup {
        planned_at,
        table,
        floor,
        versions,
        held: Vec::new(),
        spared,
    })
}
