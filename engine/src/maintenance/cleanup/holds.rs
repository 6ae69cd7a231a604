//! What holds whole snapshots: keeps, which stand in the manifest, and leases, which stand beside it.
//!
//! A held snapshot is spared exactly: its manifest version, and of each table the version that it pins. The floors rise
//! above it all the same, so that what lies between goes. Readers open it by its manifest version.
//!
//! Both can come while a cleanup is under way. Whoever holds an older snapshot puts the hold first and asks for the floors
//! then; cleanup publishes the floors first and asks for the holds then. So one of them sees the other.

use super::dropped::hold_dropped;
use super::{CleanupPlan, Spare};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::ids::TableName;
use crate::publish::Record;
use crate::store::state::{State, encode};
use crate::store::{Snapshot, Store, branches_of, check_floors, tags_of};
use lance::Dataset;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long the name of a keep may be: it stands in every version of the manifest.
const NAME_BYTES: usize = 64;

/// What makes cleanup spare something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HoldKind {
    /// A named snapshot, until it is let go.
    Keep,
    /// A reader's, until it ends or its ttl has passed.
    Lease,
    /// A tag of the table.
    Tag,
    /// A branch of the table.
    Branch,
    /// Another table that refers to files of this one.
    Clone,
}

impl std::fmt::Display for HoldKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Keep => "keep",
            Self::Lease => "lease",
            Self::Tag => "tag",
            Self::Branch => "branch",
            Self::Clone => "clone",
        })
    }
}

/// A snapshot that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hold {
    /// What holds it.
    pub kind: HoldKind,
    /// The keep's name, or the lease's id.
    pub name: String,
    /// Which it is.
    pub manifest_version: u64,
    /// Who holds it and what for; empty for a keep.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub by: String,
}

impl Hold {
    fn spare(&self, version: u64) -> Spare {
        Spare {
            version,
            kind: self.kind,
            name: self.name.clone(),
        }
    }
}

/// A held snapshot with what it shows.
pub(super) struct HeldSnapshot {
    pub(super) hold: Hold,
    pub(super) state: Arc<State>,
}

/// What `holds` spare: versions by table, and of the manifest.
#[derive(Default)]
pub(super) struct Spared {
    tables: BTreeMap<TableName, BTreeSet<u64>>,
    manifest: BTreeSet<u64>,
}

impl Spared {
    pub(super) fn of<'a>(holds: impl IntoIterator<Item = &'a HeldSnapshot>) -> Self {
        let mut spared = Self::default();
        for held in holds {
            spared.manifest.insert(held.hold.manifest_version);
            for (table, entry) in &held.state.tables {
                let versions = spared.tables.entry(table.clone()).or_default();
                versions.insert(entry.version);
            }
        }
        spared
    }

    /// Takes what is spared out of `plan`.
    fn shorten(&self, plan: &mut CleanupPlan) {
        for cleanup in &mut plan.tables {
            let spared = self
                .tables
                .iter()
                .find(|(t, _)| t.as_str() == cleanup.table);
            if let Some((_, spared)) = spared {
                cleanup.versions.retain(|v| !spared.contains(v));
            }
        }
        if let Some(manifest) = &mut plan.manifest {
            manifest.versions.retain(|v| !self.manifest.contains(v));
        }
    }
}

/// What `held` spares of a table.
pub(super) fn spares_of_table(held: &[HeldSnapshot], table: &TableName) -> Vec<Spare> {
    let shown = held.iter().filter_map(|held| {
        let entry = held.state.tables.get(table)?;
        Some(held.hold.spare(entry.version))
    });
    shown.collect()
}

/// What `held` spares of the manifest.
pub(super) fn spares_of_manifest(held: &[HeldSnapshot]) -> Vec<Spare> {
    let holds = held.iter().map(|held| &held.hold);
    holds
        .map(|hold| hold.spare(hold.manifest_version))
        .collect()
}

/// What tags and branches of a table spare: a tag its version, a branch the one that it began at, whose files it may
/// share. Lance spares these as well, a branch where it spells the table as Lance does.
///
/// Of a branch of the table every number is spared that another branch, or the tag of any, names: which of them are its own is
/// Lance's to tell apart.
pub(super) async fn spares_of_refs(dataset: &Dataset) -> Result<Vec<Spare>> {
    let tags = tags_of(dataset).await?.into_iter();
    let tags = tags.map(|(name, version)| Spare {
        version,
        kind: HoldKind::Tag,
        name,
    });
    let branches = branches_of(dataset).await?.into_iter();
    let own = dataset.manifest().branch.as_ref();
    let others = branches.filter(|(name, _)| Some(name) != own);
    let branches = others.flat_map(|(name, branch)| {
        let mut began = branch.identifier.version_mapping;
        if own.is_none() {
            began.truncate(1);
        }
        let began = began.into_iter().map(|(version, _)| version);
        let mut began: Vec<u64> = began.collect();
        if own.is_some() || began.is_empty() {
            began.push(branch.parent_version);
        }
        began.into_iter().map(move |version| Spare {
            version,
            kind: HoldKind::Branch,
            name: name.clone(),
        })
    });
    let mut spares: Vec<Spare> = tags.chain(branches).collect();
    spares.sort_by(|a, b| (a.kind, &a.name, a.version).cmp(&(b.kind, &b.name, b.version)));
    spares.dedup();
    Ok(spares)
}

/// Refuses a name that no keep may have.
fn check_name(name: &str) -> Result<()> {
    let first = name.chars().next();
    let fine = first.is_some_and(|c| c.is_ascii_alphanumeric())
        && name.len() <= NAME_BYTES
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'));
    if fine {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{} is no name of a keep: start with a letter or a digit, then letters, digits, _, - and ., at most {NAME_BYTES}",
        quoted(name)
    )))
}

fn no_keep(state: &State, name: &str) -> Error {
    let known: Vec<&str> = state.keeps.keys().map(String::as_str).collect();
    let known = match known.as_slice() {
        [] => String::from("none"),
        known => known.join(", "),
    };
    Error::new(
        ErrorKind::NotFound,
        format!("no keep {}; there are: {known}", quoted(name)),
    )
}

impl Store {
    /// Holds the snapshot at manifest version `at`, or the latest, under `name`, until [`Store::unkeep`]. Gives its
    /// manifest version. A keep that stands already is fine.
    ///
    /// # Errors
    /// `InvalidInput` for a bad name, `Refused` when the name holds another snapshot or something of it may be gone,
    /// `Drift` when a table was made again since, `NotFound` for a manifest version that was never made.
    pub async fn keep(&self, name: &str, at: Option<u64>) -> Result<u64> {
        check_name(name)?;
        let latest = self.load().await?;
        let shown = match (at, latest.state.keeps.get(name)) {
            (None, Some(kept)) => {
                return Err(already(name, *kept));
            }
            (None, None) => latest,
            (Some(version), _) => self
                .snapshot_at(version)
                .await
                .map_err(|e| match e.kind() {
                    ErrorKind::Expired => Error::new(ErrorKind::Refused, e.to_string()),
                    _ => e,
                })?,
        };
        self.check_holdable(&shown).await?;
        let (version, op) = (shown.version(), self.new_op());
        let actor = &self.options().actor;
        self.publish_until(|snapshot| {
            match snapshot.state.keeps.get(name) {
                Some(kept) if *kept == version => return Ok(None),
                Some(kept) => return Err(already(name, *kept)),
                None => {}
            }
            check_floors(&snapshot.state, &shown.state)?;
            let message = format!("manifest version {version} as {name}");
            let update = (format!("keep/{name}"), Some(encode(&version)?));
            Ok(Some((
                vec![update],
                Record::new(op, "keep", actor, message),
            )))
        })
        .await?;
        Ok(version)
    }

    /// Lets the keep `name` go. Gives the manifest version that it held.
    ///
    /// # Errors
    /// `NotFound` when there is none, with the names that there are.
    pub async fn unkeep(&self, name: &str) -> Result<u64> {
        let (op, actor) = (self.new_op(), &self.options().actor);
        let mut held = None;
        self.publish_until(|snapshot| {
            let Some(version) = snapshot.state.keeps.get(name) else {
                // Gone in a round that was lost: by this call, or by another that wanted the same.
                return match held {
                    Some(_) => Ok(None),
                    None => Err(no_keep(&snapshot.state, name)),
                };
            };
            held = Some(*version);
            let message = format!("{name} let go, manifest version {version}");
            let update = (format!("keep/{name}"), None);
            Ok(Some((
                vec![update],
                Record::new(op, "unkeep", actor, message),
            )))
        })
        .await?;
        held.ok_or_else(|| Error::internal("unkeep: published without a keep"))
    }

    /// The snapshot that the keep `name` holds.
    ///
    /// # Errors
    /// `NotFound` when there is none, with the names that there are.
    pub async fn kept(&self, name: &str) -> Result<Snapshot> {
        let latest = self.load().await?;
        let version = latest.state.keeps.get(name);
        let version = *version.ok_or_else(|| no_keep(&latest.state, name))?;
        if version == latest.version() {
            return Ok(latest);
        }
        self.manifest_at(version).await
    }

    /// The snapshots that are held now, keeps first.
    pub async fn holds(&self) -> Result<Vec<Hold>> {
        let state = self.load().await?.state;
        self.holds_of(&state, self.now()).await
    }

    async fn holds_of(&self, state: &State, now_ms: i64) -> Result<Vec<Hold>> {
        let keeps = state.keeps.iter().map(|(name, version)| Hold {
            kind: HoldKind::Keep,
            name: name.clone(),
            manifest_version: *version,
            by: String::new(),
        });
        let leases = self.leases().await?;
        let leases = leases.iter().filter_map(|lease| lease.live(now_ms));
        let leases = leases.map(|lease| Hold {
            kind: HoldKind::Lease,
            name: lease.id.to_string(),
            manifest_version: lease.manifest_version,
            by: format!("{}: {}", lease.actor, lease.message),
        });
        Ok(keeps.chain(leases).collect())
    }

    /// What is held now, with what it shows.
    ///
    /// # Errors
    /// A hold whose manifest version cannot be read, by its name: nothing may be removed beside it.
    pub(super) async fn held_snapshots(&self, state: &State) -> Result<Vec<HeldSnapshot>> {
        self.held_snapshots_at(state, self.now()).await
    }

    async fn held_snapshots_at(&self, state: &State, now_ms: i64) -> Result<Vec<HeldSnapshot>> {
        let mut held = Vec::new();
        for hold in self.holds_of(state, now_ms).await? {
            let shown = self.manifest_at(hold.manifest_version).await;
            let shown = shown.map_err(|e| {
                let (kind, name) = (hold.kind, &hold.name);
                let advice = match kind {
                    HoldKind::Keep => format!("`squire unkeep` lets {name} go"),
                    _ => String::from("it ends with its reader, or when its ttl has passed"),
                };
                e.context(format!("{kind} {name}")).advice(advice)
            })?;
            held.push(HeldSnapshot {
                hold,
                state: shown.state,
            });
        }
        Ok(held)
    }

    /// Takes out of `plan`, whose floors are published, what is held by now, and gives expired leases up before anything
    /// of theirs goes. `ahead_ms`: how far the storage's clock is ahead of the local one.
    pub(super) async fn spare_held(&self, plan: &mut CleanupPlan, ahead_ms: i64) -> Result<()> {
        let now = self.now().saturating_add(ahead_ms);
        for lease in self.leases().await? {
            if lease.live(now).is_none() {
                self.give_up_lease(&lease).await?;
            }
        }
        // After the removals: a holder that renewed before one of them has put its new lease by now.
        let state = self.load().await?.state;
        let held = self.held_snapshots_at(&state, now).await?;
        Spared::of(&held).shorten(plan);
        hold_dropped(plan, &held);
        Ok(())
    }
}

fn already(name: &str, kept: u64) -> Error {
    Error::new(
        ErrorKind::Refused,
        format!(
            "{} holds manifest version {kept} already; let it go with `squire unkeep` first, or choose another name",
            quoted(name)
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::check_name;

    #[test]
    fn a_name_can_stand_in_a_key_a_path_and_a_message() {
        for fine in ["a", "2026-11-26", "release-1.2_x", &"x".repeat(64)] {
            assert!(check_name(fine).is_ok(), "{fine}");
        }
        for bad in ["", ".x", "-x", "a/b", "a b", "ä", "a\n", &"x".repeat(65)] {
            let told = check_name(bad).unwrap_err().to_string();
            assert!(told.contains("no name of a keep"), "{told}");
        }
    }
}
