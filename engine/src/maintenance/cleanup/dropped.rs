//! Tables that were dropped: their files go once no snapshot shows them any more.
//!
//! 1. A dropped table stays as it is while a snapshot of its retention shows it, or a held one, and while a tag, a branch, a
//!    clone or an undecided operation needs it.
//! 2. Then its removal is published, as floors are, so that a reader hears "expired"; holds are looked at once more.
//! 3. Its folder is removed, and that is published too: nobody looks there again. The path stays burned.
//!
//! A path that has an operation's name in it is never made a second time, so it may be forgotten as a decision may.

use super::holds::{HeldSnapshot, spares_of_refs};
use super::plan::Look;
use super::{CleanupPlan, CleanupReport, TableCleanup};
use crate::error::{Error, ErrorKind, Result, caught};
use crate::ids::TableName;
use crate::oversight::Oversight;
use crate::protocol::{PROP_STORE, may_forget};
use crate::publish::Record;
use crate::store::state::{Dropped, Removal, encode};
use crate::store::{Snapshot, Store, Updates, is_incarnation};
use futures::TryStreamExt;
use lance::Dataset;
use serde::Serialize;
use squire_failpoints::{Seam, hit};

/// A dropped table whose files are due.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DroppedCleanup {
    /// What it was called.
    pub table: TableName,
    /// Its folder below the store's root.
    pub path: String,
    /// What keeps its files all the same; they go if there is nothing.
    pub stays_for: Vec<String>,
}

impl DroppedCleanup {
    pub(super) fn goes(&self) -> bool {
        self.stays_for.is_empty()
    }
}

/// What of `held` shows the table at `path`.
fn shown_by<'a>(
    held: impl IntoIterator<Item = &'a HeldSnapshot>,
    path: &str,
) -> impl Iterator<Item = String> {
    let shows = move |held: &&HeldSnapshot| held.state.tables.values().any(|t| t.path == path);
    let shown = held.into_iter().filter(shows);
    shown.map(|held| format!("{} {}", held.hold.kind, held.hold.name))
}

/// Keeps those of `plan` that `held` shows.
pub(super) fn hold_dropped(plan: &mut CleanupPlan, held: &[HeldSnapshot]) {
    for dropped in &mut plan.dropped {
        dropped.stays_for.extend(shown_by(held, &dropped.path));
    }
}

impl Store {
    pub(super) async fn plan_dropped(&self, look: &Look<'_>, plan: &mut CleanupPlan) -> Result<()> {
        for (path, dropped) in &look.snapshot.state.dropped {
            let policy = look.policies.of(dropped.table.as_str());
            let is_shown = dropped.removal == Removal::Shown
                && look.window(policy.retention)?.oldest <= dropped.shown_until;
            if is_shown || dropped.removal == Removal::Done || !policy.enabled {
                continue;
            }
            match caught(path, self.needed_by(look, path, dropped)).await {
                Ok(stays_for) => plan.dropped.push(DroppedCleanup {
                    table: dropped.table.clone(),
                    path: path.clone(),
                    stays_for,
                }),
                Err(e) => plan.failed.push((path.clone(), e.to_string())),
            }
        }
        Ok(())
    }

    async fn needed_by(
        &self,
        look: &Look<'_>,
        path: &str,
        dropped: &Dropped,
    ) -> Result<Vec<String>> {
        let mut needed: Vec<String> = shown_by(&look.held, path).collect();
        if look.under_way.contains(path) {
            needed.push(String::from("an undecided operation"));
        }
        // Nothing is left of it that could be read when a removal ended half-way.
        if dropped.removal == Removal::Expired {
            return Ok(needed);
        }
        let Some(dataset) = self.open_latest(path).await? else {
            return Ok(needed);
        };
        if let Some(entry) = &dropped.entry
            && !self.pin_stands(entry).await?
        {
            let table = &dropped.table;
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "something else than squire made a table there after {table} was dropped; move it elsewhere, or remove it by hand"
                ),
            ));
        }
        if let Some(version) = self.written_after(look, dropped, &dataset).await? {
            let table = &dropped.table;
            return Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "somebody else committed version {version} there after {table} was dropped; copy what is wanted of it elsewhere, and remove the folder by hand"
                ),
            ));
        }
        let refs = spares_of_refs(&dataset).await?.into_iter();
        needed.extend(refs.map(|spare| format!("{} {}", spare.kind, spare.name)));
        let refs = dataset.version_refs().await?;
        let mut all = TableCleanup {
            table: path.to_owned(),
            floor: u64::MAX,
            versions: refs.iter().map(|r| r.version).collect(),
            held: Vec::new(),
            spared: Vec::new(),
            planned_at: None,
        };
        self.hold_referenced(&mut all, path, &dataset, look.policies)
            .await?;
        needed.extend(
            all.held
                .into_iter()
                .map(|held| format!("clone {}", held.by)),
        );
        needed.dedup();
        Ok(needed)
    }

    /// The newest version of a dropped table, if others committed it after the drop: LanceDB lists the folder until it is removed.
    async fn written_after(
        &self,
        look: &Look<'_>,
        dropped: &Dropped,
        newest: &Dataset,
    ) -> Result<Option<u64>> {
        let at = u64::try_from(newest.manifest().timestamp().timestamp_millis()).unwrap_or(0);
        if at <= dropped.at_ms {
            return Ok(None);
        }
        let transaction = newest.read_transaction().await?;
        let store = look.snapshot.state.store.to_string();
        let properties = transaction.and_then(|t| t.transaction_properties);
        let is_ours = properties.is_some_and(|p| p.get(PROP_STORE) == Some(&store));
        Ok((!is_ours).then(|| newest.manifest().version))
    }

    /// The dropped paths that may be forgotten.
    pub(super) fn forgettable(&self, look: &Look<'_>, oldest_ms: u64) -> Vec<String> {
        let dropped = look.snapshot.state.dropped.iter();
        let forgotten = dropped.filter(|(path, dropped)| {
            dropped.removal == Removal::Done
                && is_incarnation(path)
                && may_forget(dropped.at_ms < oldest_ms, look.under_way.contains(*path))
        });
        forgotten.map(|(path, _)| path.clone()).collect()
    }

    /// Removes the folders of `plan`'s dropped tables.
    pub(super) async fn remove_dropped(
        &self,
        plan: &CleanupPlan,
        oversight: &Oversight,
        report: &mut CleanupReport,
    ) -> Result<()> {
        for dropped in plan.dropped.iter().filter(|dropped| dropped.goes()) {
            oversight.step();
            hit(Seam::CleanupBeforeTable)?;
            let path = &dropped.path;
            match caught(path, self.remove_folder(path)).await {
                Ok(bytes) => report.bytes_removed += bytes,
                Err(e) => {
                    report.failed.push((path.clone(), e.to_string()));
                    continue;
                }
            }
            hit(Seam::CleanupAfterTable)?;
            let op = self.new_op();
            self.publish_until(|snapshot| {
                let done = removal_update(snapshot, path, Removal::Done)?;
                let told = format!("removed {path}");
                let record = Record::new(op, "cleanup", &self.options().actor, told);
                Ok((!done.is_empty()).then_some((done, record)))
            })
            .await?;
            report.tables_removed.push(dropped.table.clone());
        }
        Ok(())
    }

    async fn remove_folder(&self, path: &str) -> Result<u64> {
        let folder = self.object_path(path);
        let listed = self.objects.list(Some(folder));
        let bytes = listed.try_fold(0, |sum, file| async move { Ok(sum + file.size) });
        let bytes = bytes.await?;
        self.forget_handle(path);
        self.memo().forget(path);
        self.remove_dir(path).await?;
        Ok(bytes)
    }
}

/// The update that moves the removal of the table at `path` on to `removal`; none when it is there already.
pub(super) fn removal_update(on: &Snapshot, path: &str, removal: Removal) -> Result<Updates> {
    let was = on.state.dropped.get(path);
    let Some(was) = was.filter(|was| (was.removal as u8) < removal as u8) else {
        return Ok(Updates::new());
    };
    let now = Dropped {
        removal,
        ..was.clone()
    };
    Ok(vec![(format!("dropped/{path}"), Some(encode(&now)?))])
}
