//! The manifest's state: one config key for each fact.
//!
//! | key | value (JSON) |
//! |---|---|
//! | `format` | format and the store's id |
//! | `pin/<table>` | path, pinned version, the transaction that made it, key |
//! | `floor/<table>`, `floor/__manifest` | the lowest version that readers may ask for |
//! | `dropped/<path>` | a table that was dropped, and how far its removal is |
//! | `op/<ulid>` | the decision to abort, with the tables that the operation wrote |
//! | `index/<table>/<name>` | a declared index |
//! | `policy/<table>` | a table's policy |
//! | `keep/<name>` | a manifest version that cleanup spares |
//! | `batch/<id>` | the operation that committed the batch, a digest of it, and the manifest version before it |
//! | `archive` | up to which manifest version the commit log was copied |

use super::sidecar::{Sidecar, SidecarTable};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::{Key, OpId, TableName};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::{BTreeMap, HashMap};

/// Changes to the manifest: a key with its new value, or without one to remove it.
pub type Updates = Vec<(String, Option<String>)>;

/// The newest store format that this squire reads.
pub const FORMAT: u32 = SEVERAL_KEYS;

/// The format of a store that has a table whose key is more than one column: an earlier release cannot read such a key.
const SEVERAL_KEYS: u32 = 4;

/// The format of a store that dropped a table. An earlier release would use the dropped table's path again, or publish it once
/// more, so it may not open one.
const DROPPED: u32 = 3;

/// The format of a store that is made. Since then each cleanup changes the mark (`newest`), and one of an earlier release would not.
pub(super) const MARKED: u32 = 2;

/// How many batch ids stand in the manifest. Older ones that the commit log holds are dropped from it; more would
/// make every publish write more, fewer would make more look-ups read the log.
pub const MAX_BATCHES: usize = 256;

/// A visible table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableEntry {
    /// The dataset below the store's root.
    pub path: String,
    /// The visible version.
    pub version: u64,
    /// The key, if one is declared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// The transaction that made the visible version: a number alone would fit a table that was dropped and made again
    /// at the same path. Pins of earlier releases have none.
    #[serde(default, rename = "txn", skip_serializing_if = "Option::is_none")]
    pub transaction: Option<String>,
    /// How often a table that had been made again at its path was adopted. Versions are compared within one of these.
    #[serde(default, skip_serializing_if = "is_first")]
    pub incarnation: u32,
}

fn is_first(incarnation: &u32) -> bool {
    *incarnation == 0
}

impl TableEntry {
    /// Whether the visible version can be one that `transaction` made.
    pub(crate) fn stands_on(&self, transaction: Option<&str>) -> bool {
        self.transaction.is_none() || self.transaction.as_deref() == transaction
    }

    /// Whether `other` shows the same table, so that their versions can be compared.
    pub fn is_same_table(&self, other: &Self) -> bool {
        self.path == other.path && self.incarnation == other.incarnation
    }

    /// What is said of a table that was made again under its pin.
    pub(crate) fn replaced(&self, table: impl std::fmt::Display) -> Error {
        Error::new(
            ErrorKind::Drift,
            format!(
                "{table} was dropped and made again: version {} is not the one that was committed; restore {} from a backup, or see `squire repair` to adopt what stands there",
                self.version, self.path
            ),
        )
    }
}

/// The decision to abort an operation. It never changes and is kept at least 30 days.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// When, milliseconds since the epoch; only its removal looks at it.
    pub at_ms: u64,
    /// What the operation wrote, so that dead versions can be healed without its sidecar.
    pub writes: Vec<SidecarTable>,
}

/// How far the removal of a dropped table is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Removal {
    /// Older snapshots still show it.
    Shown,
    /// Readers are refused, and its files go.
    Expired,
    /// Its files are gone. The path stays burned.
    Done,
}

/// A table that was dropped. What stands at its path is never the store's again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// What it was called.
    pub table: TableName,
    /// The operation that dropped it.
    pub op: OpId,
    /// When, milliseconds since the epoch.
    pub at_ms: u64,
    /// The last manifest version that shows it.
    pub shown_until: u64,
    /// Its floor then.
    #[serde(default)]
    pub floor: u64,
    /// How far its removal is.
    pub removal: Removal,
    /// What was visible then, unless whatever stands there shall go; unknown of one that an earlier release dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<TableEntry>,
}

/// A declared index.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct IndexDeclaration {
    /// The column.
    pub column: String,
    /// btree, bitmap, inverted, ivf_pq, ...
    pub kind: String,
}

/// What to do with external commits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriftPolicy {
    /// Report them and leave the table alone.
    #[default]
    Report,
    /// Publish them as they come.
    Adopt,
}

/// A table's policy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TablePolicy {
    /// What to do with external commits.
    #[serde(default)]
    pub drift: DriftPolicy,
}

/// A batch that was committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchEntry {
    /// The operation that committed it.
    pub op: OpId,
    /// The manifest version that its publish stood on.
    pub after: u64,
    /// A digest of what it did; none where an earlier release committed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// How far the commit log is copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Archive {
    /// Every publish up to this manifest version is in `commits.lance`.
    pub through: u64,
    /// Whether batch ids were dropped from the manifest, so that a look-up must read the log too.
    #[serde(default)]
    pub evicted: bool,
}

#[derive(Debug, Serialize, Deserialize)]
struct FormatKey {
    format: u32,
    store: OpId,
}

/// The facts of one manifest version.
#[derive(Debug, Clone)]
pub struct State {
    /// The manifest version.
    pub version: u64,
    /// The format of the store's layout.
    pub format: u32,
    /// The store's id, which every version of ours carries.
    pub store: OpId,
    /// Visible tables.
    pub tables: BTreeMap<TableName, TableEntry>,
    /// Floors by table.
    pub floors: BTreeMap<TableName, u64>,
    /// The manifest's own floor.
    pub manifest_floor: u64,
    /// Operations decided to abort.
    pub aborted: BTreeMap<OpId, Decision>,
    /// Tables that were dropped, by path.
    pub dropped: BTreeMap<String, Dropped>,
    /// Declared indexes by table and name.
    pub indexes: BTreeMap<(TableName, String), IndexDeclaration>,
    /// Policies by table.
    pub policies: BTreeMap<TableName, TablePolicy>,
    /// Kept manifest versions by name.
    pub keeps: BTreeMap<String, u64>,
    /// Recent batches.
    pub batches: BTreeMap<String, BatchEntry>,
    /// How far the commit log is copied.
    pub archive: Archive,
}

fn decode<T: DeserializeOwned>(key: &str, value: &str) -> Result<T> {
    serde_json::from_str(value).map_err(|e| {
        Error::new(
            ErrorKind::Refused,
            format!("manifest key {key:?} cannot be read: {value:?}"),
        )
        .caused_by(e)
    })
}

pub(crate) fn encode<T: Serialize>(value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::internal("encoding a manifest value").caused_by(e))
}

impl State {
    /// The config of a new manifest.
    pub(crate) fn initial(store: OpId) -> HashMap<String, String> {
        HashMap::from([Self::format_key(MARKED, store)])
    }

    fn format_key(format: u32, store: OpId) -> (String, String) {
        let format = serde_json::json!({ "format": format, "store": store });
        ("format".to_owned(), format.to_string())
    }

    /// The update that keeps releases out which do not know `format`.
    fn format_update(&self, format: u32) -> (String, Option<String>) {
        let (key, value) = Self::format_key(self.format.max(format), self.store);
        (key, Some(value))
    }

    /// The updates that show the table `name`, which was made just now.
    pub(crate) fn create_updates(&self, name: &TableName, created: &TableEntry) -> Result<Updates> {
        let mut updates = vec![(format!("pin/{name}"), Some(encode(created)?))];
        if created.key.as_ref().is_some_and(Key::has_several) {
            updates.push(self.format_update(SEVERAL_KEYS));
        }
        Ok(updates)
    }

    /// Reads the state from a manifest version's config map.
    pub fn parse(version: u64, config: &HashMap<String, String>) -> Result<Self> {
        let format = config.get("format").ok_or_else(|| {
            Error::new(
                ErrorKind::Refused,
                "this is not a squire manifest: it has no key \"format\"",
            )
        })?;
        let head: serde_json::Value = decode("format", format)?;
        let found = head
            .get("format")
            .and_then(serde_json::Value::as_u64)
            .unwrap_or(0);
        if found > u64::from(FORMAT) {
            return Err(Error::new(
                ErrorKind::FormatTooNew,
                format!(
                    "the store has format {found}, this squire reads up to {FORMAT}; upgrade squire"
                ),
            ));
        }
        let head: FormatKey = decode("format", format)?;
        let mut state = Self {
            version,
            format: head.format,
            store: head.store,
            tables: BTreeMap::new(),
            floors: BTreeMap::new(),
            manifest_floor: 0,
            aborted: BTreeMap::new(),
            dropped: BTreeMap::new(),
            indexes: BTreeMap::new(),
            policies: BTreeMap::new(),
            keeps: BTreeMap::new(),
            batches: BTreeMap::new(),
            archive: Archive::default(),
        };
        for (key, value) in config {
            state.take(key, value)?;
        }
        Ok(state)
    }

    fn take(&mut self, key: &str, value: &str) -> Result<()> {
        let (area, name) = key.split_once('/').unwrap_or((key, ""));
        match area {
            "pin" => {
                self.tables
                    .insert(TableName::new(name)?, decode(key, value)?);
            }
            "floor" if name == "__manifest" => self.manifest_floor = decode(key, value)?,
            "floor" => {
                self.floors
                    .insert(TableName::new(name)?, decode(key, value)?);
            }
            "op" => {
                self.aborted.insert(OpId::parse(name)?, decode(key, value)?);
            }
            "dropped" => {
                self.dropped.insert(name.to_owned(), decode(key, value)?);
            }
            "index" => {
                let (table, index) = name.split_once('/').ok_or_else(|| {
                    Error::new(
                        ErrorKind::Refused,
                        format!("manifest key {key:?} names no index"),
                    )
                })?;
                self.indexes.insert(
                    (TableName::new(table)?, index.to_owned()),
                    decode(key, value)?,
                );
            }
            "policy" => {
                self.policies
                    .insert(TableName::new(name)?, decode(key, value)?);
            }
            "keep" => {
                self.keeps.insert(name.to_owned(), decode(key, value)?);
            }
            "batch" => {
                self.batches.insert(name.to_owned(), decode(key, value)?);
            }
            "archive" => self.archive = decode(key, value)?,
            // Lance's own keys, and facts that a later format of the same number may add.
            _ => {}
        }
        Ok(())
    }

    /// The entry of a visible table.
    ///
    /// # Errors
    /// `NotFound`, with the names that do exist.
    pub fn table(&self, table: &TableName) -> Result<&TableEntry> {
        self.tables.get(table).ok_or_else(|| {
            if let Some(dropped) = self.dropped.values().rfind(|d| d.table == *table) {
                let gone = format!("table {table} was dropped by operation {}", dropped.op);
                return Error::new(ErrorKind::NotFound, gone);
            }
            let known: Vec<&str> = self.tables.keys().map(TableName::as_str).collect();
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "no table {table}; the store has: {}",
                    if known.is_empty() {
                        "none yet".into()
                    } else {
                        known.join(", ")
                    }
                ),
            )
        })
    }

    /// Whether an aborted operation other than `op` wrote to `path`, or a table was dropped there. Such a path is never
    /// published: a resolver or a cleanup may be deleting what is there.
    pub fn is_burned(&self, path: &str, op: OpId) -> bool {
        let written = self.aborted.iter().flat_map(|(other, decision)| {
            decision
                .writes
                .iter()
                .map(move |w| (*other, w.path.as_str()))
        });
        let dropped = self.dropped.iter().map(|(path, d)| (d.op, path.as_str()));
        crate::protocol::is_burned(written.chain(dropped), path, op)
    }

    /// The floor of a table.
    pub fn floor(&self, table: &TableName) -> u64 {
        self.floors.get(table).copied().unwrap_or(0)
    }

    /// The floor of the table that stands, or stood, at `path`.
    pub fn floor_at(&self, table: &TableName, path: &str) -> u64 {
        match self.dropped.get(path) {
            Some(dropped) if dropped.removal == Removal::Shown => dropped.floor,
            Some(_) => u64::MAX,
            None => self.floor(table),
        }
    }

    /// The updates that take `table` out: nothing of it stays but that its path is burned.
    pub(crate) fn drop_updates(
        &self,
        table: &TableName,
        op: OpId,
        at_ms: u64,
        is_whatever: bool,
    ) -> Result<Updates> {
        let entry = self.table(table)?;
        let dropped = Dropped {
            table: table.clone(),
            op,
            at_ms,
            shown_until: self.version,
            floor: self.floor(table),
            removal: Removal::Shown,
            entry: Some(entry.clone()).filter(|_| !is_whatever),
        };
        let mut updates = vec![
            self.format_update(DROPPED),
            (format!("dropped/{}", entry.path), Some(encode(&dropped)?)),
            (format!("pin/{table}"), None),
        ];
        if self.floors.contains_key(table) {
            updates.push((format!("floor/{table}"), None));
        }
        if self.policies.contains_key(table) {
            updates.push((format!("policy/{table}"), None));
        }
        let indexes = self.indexes_of(table);
        updates.extend(indexes.map(|(name, _)| (format!("index/{table}/{name}"), None)));
        Ok(updates)
    }

    /// The drift policy of a table.
    pub fn drift_policy(&self, table: &TableName) -> DriftPolicy {
        self.policies
            .get(table)
            .map(|p| p.drift)
            .unwrap_or_default()
    }

    /// The declared indexes of a table.
    pub fn indexes_of<'a>(
        &'a self,
        table: &'a TableName,
    ) -> impl Iterator<Item = (&'a str, &'a IndexDeclaration)> {
        self.indexes
            .iter()
            .filter(move |((t, _), _)| t == table)
            .map(|((_, name), d)| (name.as_str(), d))
    }

    /// The update that pins `table` at `version`, which `transaction` made, keeping what else its entry says.
    pub(crate) fn pin_update(
        &self,
        table: &TableName,
        version: u64,
        transaction: Option<String>,
    ) -> Result<(String, Option<String>)> {
        let entry = TableEntry {
            version,
            transaction,
            ..self.table(table)?.clone()
        };
        Ok((format!("pin/{table}"), Some(encode(&entry)?)))
    }

    /// The updates that record the batches of an operation that have an id, and drop archived ones beyond the bound.
    pub(crate) fn batch_updates(&self, sidecar: &Sidecar) -> Result<Updates> {
        let mut updates = Updates::new();
        for (id, digest) in sidecar.batch_ids() {
            let entry = BatchEntry {
                op: sidecar.op,
                after: self.version,
                digest: digest.map(str::to_owned),
            };
            updates.push((format!("batch/{id}"), Some(encode(&entry)?)));
        }
        let surplus = (self.batches.len() + updates.len()).saturating_sub(MAX_BATCHES);
        if updates.is_empty() || surplus == 0 {
            return Ok(updates);
        }
        let mut archived: Vec<(&String, u64)> = self
            .batches
            .iter()
            .filter(|(_, b)| b.after < self.archive.through)
            .map(|(id, b)| (id, b.after))
            .collect();
        archived.sort_unstable_by_key(|(_, after)| *after);
        // Twice the surplus and some, so that the `archive` key is not rewritten by every publish.
        let dropped: Vec<_> = archived
            .into_iter()
            .take(surplus + MAX_BATCHES / 10)
            .collect();
        if !dropped.is_empty() && !self.archive.evicted {
            updates.push((
                "archive".to_owned(),
                Some(encode(&Archive {
                    evicted: true,
                    ..self.archive
                })?),
            ));
        }
        updates.extend(
            dropped
                .into_iter()
                .map(|(id, _)| (format!("batch/{id}"), None)),
        );
        Ok(updates)
    }
}
