//! Drift: versions above a pin that no operation of ours explains. A person decides; the preview says what about.

use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Key, TableName};
use crate::protocol::{Chain, Class, Kind, Obstacle, clean_prefix};
use crate::publish::{Change, PUBLISH_ROUNDS, Published, Record};
use crate::recovery::Met;
use crate::store::state::{DriftPolicy, encode};
use crate::store::{Pinned, Snapshot, Standing, Store, TableEntry, tags_of};
use lance_core::datatypes::Schema;
use serde::Serialize;
use squire_failpoints::{Seam, hit};

/// The Lance tag that keeps a drifted table's pinned version from someone else's cleanup.
const PIN_TAG: &str = "squire-pin";

/// One version above a pin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DriftVersion {
    /// The version.
    pub version: u64,
    /// Lance's name of its operation, `unreadable` when it cannot be read.
    pub operation: String,
    /// Whether it preserves content.
    pub preserves_content: bool,
}

/// What `repair` shows before anything is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DriftReport {
    /// The table.
    pub table: TableName,
    /// The visible version.
    pub pin: u64,
    /// The latest version: what `--force` publishes and `--discard` takes back.
    pub head: u64,
    /// Every version in between.
    pub versions: Vec<DriftVersion>,
    /// Whether the table was dropped and made again: the pinned version is not the one that was committed, and all
    /// versions are somebody else's. Only `--force` helps, which adopts what stands there.
    pub replaced: bool,
    /// The pinned version is gone, and others of the table are there.
    pub gone: bool,
    /// Rows at the pin; 0 when the table was replaced, or the pin is gone.
    pub pinned_rows: u64,
    /// Rows at HEAD, when it can be read.
    pub head_rows: Option<u64>,
    /// Columns that the store builds on, and HEAD has not: of the key, of declared indexes.
    pub lacks: Vec<String>,
}

/// What to do about drift.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RepairAction {
    /// Publish content-preserving versions only.
    Publish,
    /// Publish the reviewed head, foreign content included.
    Force,
    /// Restore the pinned version above the drift.
    Discard,
}

impl Store {
    /// The drift of `table`, after undecided operations in its way were met.
    ///
    /// # Errors
    /// Those of a table that cannot be opened at its pin, with drift or without.
    pub async fn drift(&self, table: &TableName) -> Result<Option<DriftReport>> {
        let Some(Pinned { snapshot, entry }) = self.drifted(table).await? else {
            // Nothing stands above the pin of a table that is gone, either.
            let snapshot = self.load().await?;
            self.open_pinned(snapshot.state.table(table)?).await?;
            return Ok(None);
        };
        let replaced = !self.pin_stands(&entry).await?;
        let gone = !replaced && self.is_pin_gone(&entry).await?;
        let from = match (replaced, gone) {
            (true, _) => 0,
            (_, true) => entry.version.min(self.newest_of(&entry).await? - 1),
            (false, false) => entry.version,
        };
        let chain = self.scan(snapshot.state.store, &entry.path, from).await?;
        let mut versions = Vec::new();
        for (version, class) in chain.iter() {
            let operation = match self.transaction_of(&entry.path, version).await {
                Ok(Some(t)) => t.operation.to_string(),
                Ok(None) | Err(_) => "unreadable".to_owned(),
            };
            versions.push(DriftVersion {
                version,
                operation,
                preserves_content: class == Class::Maintenance,
            });
        }
        let pinned_rows = match replaced || gone {
            true => 0,
            false => self.open_pinned(&entry).await?.count_rows(None).await? as u64,
        };
        let (mut head_rows, mut lacks) = (None, Vec::new());
        if let Ok(head) = self.open_at(&entry.path, chain.head()).await {
            head_rows = head.count_rows(None).await.ok().map(|rows| rows as u64);
            lacks = lacking(&snapshot, table, &entry, head.schema());
        }
        Ok(Some(DriftReport {
            table: table.clone(),
            pin: entry.version,
            head: chain.head(),
            versions,
            replaced,
            gone,
            pinned_rows,
            head_rows,
            lacks,
        }))
    }

    async fn newest_of(&self, entry: &TableEntry) -> Result<u64> {
        Ok(self.latest(&entry.path).await?.manifest().version)
    }

    /// Where `table` stands, if it is the one that was committed.
    async fn genuine(&self, table: &TableName) -> Result<Standing> {
        let pinned = self.pinned(table).await?;
        match self.pin_stands(&pinned.entry).await? {
            true => self.above(pinned).await,
            false => Err(pinned.entry.replaced(format!("table {table}"))),
        }
    }

    /// The first foreign version above the pin as it stands now; waits for nobody.
    pub async fn drift_now(&self, table: &TableName) -> Result<Option<u64>> {
        Ok(match self.genuine(table).await?.obstacle() {
            Some(Obstacle::Foreign(version)) => Some(version),
            Some(Obstacle::Operation(_)) | None => None,
        })
    }

    /// What is visible of `table`, if it is drifted.
    async fn drifted(&self, table: &TableName) -> Result<Option<Pinned>> {
        // An undecided operation is resolved first: it is not drift. Each round settles one.
        for _ in 0..PUBLISH_ROUNDS {
            let pinned = self.pinned(table).await?;
            if !self.pin_stands(&pinned.entry).await? || self.is_pin_gone(&pinned.entry).await? {
                return Ok(Some(pinned));
            }
            let at = self.above(pinned.clone()).await?;
            match at.obstacle() {
                None if at.chain.head() == at.entry.version => return Ok(None),
                None | Some(Obstacle::Foreign(_)) => return Ok(Some(pinned)),
                Some(Obstacle::Operation(op)) => match self.meet(op, table).await {
                    Ok(Met::Gone) => {}
                    Ok(Met::Unexplained(_)) => return Ok(Some(pinned)),
                    // Its undo is blocked by a foreign version above it: what stands there is for a person to decide.
                    Err(e) if e.kind() == ErrorKind::Drift => return Ok(Some(pinned)),
                    Err(e) => return Err(e),
                },
            }
        }
        Err(Error::conflict(format!(
            "table {table} does not come to rest"
        )))
    }

    /// Acts on the drift that `preview` showed, and on nothing else. Returns the new pin.
    ///
    /// # Errors
    /// `Conflict` when the table moved since the preview; `Refused` when `Publish` would publish foreign content.
    pub async fn repair(&self, preview: &DriftReport, action: RepairAction) -> Result<u64> {
        let table = &preview.table;
        let moved =
            || Error::conflict(format!("table {table} moved since the preview; look again"));
        let Some(Pinned { snapshot, entry }) = self.drifted(table).await? else {
            return Err(moved());
        };
        if preview.replaced || preview.gone {
            return self.adopt(&snapshot, &entry, preview, action).await;
        }
        if !self.pin_stands(&entry).await? {
            return Err(moved());
        }
        let chain = self
            .scan(snapshot.state.store, &entry.path, entry.version)
            .await?;
        if entry.version != preview.pin || chain.head() != preview.head {
            return Err(moved());
        }
        let to = match action {
            RepairAction::Publish => refuse_content(table, &chain)?,
            RepairAction::Force => {
                refuse_aborted(&snapshot, table, &chain)?;
                preview.head
            }
            RepairAction::Discard => {
                let slot = preview.head + 1;
                self.restore_strict(
                    snapshot.state.store,
                    self.new_op(),
                    &entry.path,
                    entry.version,
                    slot,
                )
                .await?;
                hit(Seam::RepairAfterRestore)?;
                slot
            }
        };
        self.sync_found().await?;
        hit(Seam::RepairBeforePublish)?;
        let what = format!("{action:?}").to_lowercase();
        let mut record = Record::new(
            self.new_op(),
            "repair",
            &self.options().actor,
            format!("repair --{what}"),
        );
        record.tables = vec![Change {
            table: table.clone(),
            from: entry.version,
            to,
        }];
        let made = self.made_by(&entry.path, to).await?;
        let updates = vec![snapshot.state.pin_update(table, to, made)?];
        match self.try_publish(&snapshot, updates, &record).await? {
            Published::Won(_) => {}
            Published::Lost(e) => return Err(moved().caused_by(e)),
        }
        self.unprotect(&entry).await;
        Ok(to)
    }

    /// Makes a table that was dropped and made again the store's, at the reviewed head. Its versions start anew, so older
    /// snapshots of it are expired, and an operation that stands on the old ones must have ended.
    async fn adopt(
        &self,
        snapshot: &Snapshot,
        entry: &TableEntry,
        preview: &DriftReport,
        action: RepairAction,
    ) -> Result<u64> {
        let table = &preview.table;
        let moved = format!("table {table} moved since the preview; look again");
        if action != RepairAction::Force {
            // What it tells is why nothing else can be done.
            let pinned = self.open_pinned(entry).await;
            return Err(pinned.err().unwrap_or_else(|| Error::conflict(moved)));
        }
        for op in self.sidecar_ops().await? {
            let sidecar = self.sidecar(op).await?;
            if sidecar.is_some_and(|s| s.writes.iter().any(|w| w.table == *table)) {
                return Err(Error::new(
                    ErrorKind::Refused,
                    format!(
                        "table {table}: operation {op} on what it was is not decided; remove its sidecar when nothing of it matters"
                    ),
                ));
            }
        }
        let head = self.newest_of(entry).await?;
        if (entry.version, head) != (preview.pin, preview.head) {
            return Err(Error::conflict(moved));
        }
        if preview.gone {
            let above = self.scan(
                snapshot.state.store,
                &entry.path,
                entry.version.min(head - 1),
            );
            refuse_aborted(snapshot, table, &above.await?)?;
        }
        let made = self.made_by(&entry.path, head).await?;
        let adopted = TableEntry {
            version: preview.head,
            transaction: made,
            incarnation: entry.incarnation + 1,
            ..entry.clone()
        };
        hit(Seam::RepairBeforePublish)?;
        let actor = &self.options().actor;
        let message = match preview.replaced {
            true => "repair --force of a table that was made again",
            false => "repair --force of a table whose pin is gone",
        };
        let mut record = Record::new(self.new_op(), "repair", actor, message);
        record.tables = vec![Change {
            table: table.clone(),
            from: 0,
            to: preview.head,
        }];
        // Of one that was made again no number was ever freed by us.
        let floor = match preview.replaced {
            true => 0,
            false => snapshot.state.floor(table).min(head),
        };
        let floor = (floor > 0).then(|| floor.to_string());
        let updates = vec![
            (format!("pin/{table}"), Some(encode(&adopted)?)),
            (format!("floor/{table}"), floor),
        ];
        match self.try_publish(snapshot, updates, &record).await? {
            Published::Won(_) => Ok(preview.head),
            Published::Lost(e) => Err(Error::conflict(moved).caused_by(e)),
        }
    }

    /// One look at what stands above the pin of `table`, without waiting for anyone: content-preserving versions
    /// are published; foreign ones are published when the policy, the caller's or the store's, is to adopt them, and
    /// otherwise reported, with the pin kept from foreign cleanups.
    pub async fn handle_drift(
        &self,
        table: &TableName,
        adopt: bool,
    ) -> Result<Option<DriftReport>> {
        let at = self.genuine(table).await?;
        match at.obstacle() {
            Some(Obstacle::Operation(_)) => return Ok(None),
            None if at.chain.head() == at.entry.version => return Ok(None),
            None => {
                let record = Record::new(
                    self.new_op(),
                    Kind::Maintenance.as_str(),
                    &self.options().actor,
                    "catch up",
                );
                self.publish_prefix(table, &record).await?;
                return Ok(None);
            }
            Some(Obstacle::Foreign(_)) => {}
        }
        let Some(report) = self.drift(table).await? else {
            return Ok(None);
        };
        if report.gone {
            // Nobody has reviewed what is lost.
            self.open_pinned(&at.entry).await?;
        }
        if adopt || at.snapshot.state.drift_policy(table) == DriftPolicy::Adopt {
            self.repair(&report, RepairAction::Force).await?;
            let above = report.versions.iter();
            let above: Vec<String> = above
                .map(|v| format!("{} {}", v.version, v.operation))
                .collect();
            tracing::warn!(%table, pin = report.pin, head = report.head, versions = above.join(", "), "published what others committed: drift is adopted here");
            return Ok(None);
        }
        self.protect(&at.entry).await?;
        Ok(Some(report))
    }

    async fn protect(&self, entry: &TableEntry) -> Result<()> {
        let dataset = self.open_pinned(entry).await?;
        match tags_of(&dataset).await?.get(PIN_TAG) {
            Some(tagged) if *tagged == entry.version => {}
            Some(_) => dataset.tags().update(PIN_TAG, entry.version).await?,
            None => dataset.tags().create(PIN_TAG, entry.version).await?,
        }
        Ok(())
    }

    /// Best effort: a tag that stays only keeps a version longer.
    async fn unprotect(&self, entry: &TableEntry) {
        let removed = match self.any_handle(&entry.path).await {
            Ok(Some(dataset)) => match dataset.tags().delete(PIN_TAG).await {
                Ok(()) | Err(lance::Error::RefNotFound { .. }) => Ok(()),
                Err(e) => Err(e.into()),
            },
            Ok(None) => Ok(()),
            Err(e) => Err(e),
        };
        if let Err(e) = removed {
            tracing::warn!(path = %entry.path, error = %e, "the tag {PIN_TAG} stays on the table");
        }
    }
}

/// An aborted operation is never published, by nobody's word.
/// What the store builds on and `schema` has not.
fn lacking(
    snapshot: &Snapshot,
    table: &TableName,
    entry: &TableEntry,
    schema: &Schema,
) -> Vec<String> {
    let keys = entry.key.iter().flat_map(Key::columns);
    let keys = keys.map(|column| (column.as_str(), format!("the key column {column}")));
    let indexes = snapshot.state.indexes_of(table).map(|(name, declared)| {
        let told = format!("column {} of the declared index {name}", declared.column);
        (declared.column.as_str(), told)
    });
    let all = keys.chain(indexes);
    all.filter(|(column, _)| schema.field(column).is_none())
        .map(|(_, told)| told)
        .collect()
}

fn refuse_aborted(snapshot: &Snapshot, table: &TableName, chain: &Chain) -> Result<()> {
    let aborted = chain.iter().find_map(|(version, class)| match class {
        Class::Logical(op) if snapshot.state.aborted.contains_key(&op) => Some((version, op)),
        _ => None,
    });
    let Some((version, op)) = aborted else {
        return Ok(());
    };
    Err(Error::new(
        ErrorKind::Refused,
        format!(
            "table {table}: version {version} belongs to operation {op}, which was aborted; --discard takes it back with what stands above it"
        ),
    ))
}

/// HEAD, if all above the pin preserves content.
fn refuse_content(table: &TableName, chain: &Chain) -> Result<u64> {
    let n = clean_prefix(chain, chain.from);
    if n == chain.head() {
        return Ok(n);
    }
    Err(Error::new(
        ErrorKind::Refused,
        format!(
            "table {table}: version {} changes content; review it, then --force or --discard",
            n + 1
        ),
    ))
}
