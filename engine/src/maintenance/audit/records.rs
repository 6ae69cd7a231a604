//! What a store keeps of itself: the manifest's history, floors, keeps, leases, sidecars, the commit log.

use super::{Audit, Auditor, Finding, Shown, finding};
use crate::error::Result;
use crate::ids::TableName;
use crate::store::state::State;
use crate::store::{COMMITS_PATH, INTERNAL, MANIFEST_PATH};
use futures::StreamExt;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Versions of the manifest that are read at one time.
const AT_ONCE: usize = 16;

const RESTORE: &str = "restore this file from a backup";
const REPORT: &str = "restore the store's _squire folder from a backup, and report this";

/// The versions of the manifest that could be read, and what is wrong with the others.
struct History {
    states: BTreeMap<u64, Arc<State>>,
    findings: Vec<Finding>,
}

impl Auditor<'_> {
    /// Audits what the store keeps of itself, and learns what its tables must have. Before [`Auditor::table`].
    ///
    /// # Errors
    /// Those of the storage, and `Cancelled`; without its latest manifest a store is none.
    pub async fn records(&mut self) -> Result<Audit> {
        let mut audit = Audit {
            table: INTERNAL.to_owned(),
            ..Audit::default()
        };
        let latest = self.store.load().await?.state;
        let held = self.held(&latest, &mut audit.findings).await;
        let history = self.history(&latest, &held).await?;
        audit.versions = history.states.len() as u64;
        audit.findings.extend(history.findings);
        for (version, state) in &history.states {
            self.learn(&latest, state, held.contains_key(version));
        }
        audit.findings.extend(contradictions(&latest));
        self.check_declared(&latest, &mut audit.findings).await;
        self.check_sidecars(&mut audit.findings).await?;
        self.check_log(&latest, &mut audit).await?;
        Ok(audit)
    }

    /// Manifest versions that keeps and leases hold, with who does.
    async fn held(&self, latest: &State, findings: &mut Vec<Finding>) -> BTreeMap<u64, String> {
        let keeps = latest.keeps.iter();
        let mut held: BTreeMap<u64, String> = keeps
            .map(|(name, version)| (*version, format!("keep {name}")))
            .collect();
        match self.store.leases().await {
            Ok(leases) => held.extend(leases.iter().filter_map(|lease| {
                let lease = lease.live(self.store.now())?;
                Some((lease.manifest_version, format!("lease {}", lease.id)))
            })),
            Err(e) => findings.push(finding("_squire/leases", e.to_string(), "remove that file")),
        }
        held
    }

    /// Reads every version of the manifest from its floor on, and those that are held.
    async fn history(&self, latest: &State, held: &BTreeMap<u64, String>) -> Result<History> {
        let (mut states, mut unread) = (BTreeMap::new(), Vec::new());
        let from = latest.manifest_floor.max(1);
        let wanted: BTreeSet<u64> = (from..=latest.version)
            .chain(held.keys().copied())
            .collect();
        let total = wanted.len() as u64;
        let reads = futures::stream::iter(wanted)
            .map(|version| async move { (version, self.store.manifest_at(version).await) });
        let mut reads = std::pin::pin!(reads.buffered(AT_ONCE));
        let mut done = 0;
        while let Some((version, read)) = reads.next().await {
            self.check_cancelled()?;
            done += 1;
            (self.options.progress)(INTERNAL, done, total);
            match read {
                Ok(snapshot) => drop(states.insert(version, snapshot.state)),
                Err(e) => unread.push((version, e)),
            }
        }
        // What a cleanup has removed meanwhile is no finding.
        let now = match unread.is_empty() {
            true => latest.manifest_floor,
            false => self.store.load().await?.state.manifest_floor,
        };
        let missing = unread.into_iter().filter_map(|(version, e)| {
            let who = held.get(&version);
            if version < now && who.is_none() {
                return None;
            }
            let for_whom = who.map_or_else(String::new, |who| format!(", which {who} holds"));
            Some(Finding {
                versions: vec![version],
                ..finding(
                    MANIFEST_PATH,
                    format!("version {version}{for_whom} cannot be read: {}", e.brief()),
                    RESTORE,
                )
            })
        });
        Ok(History {
            findings: missing.collect(),
            states,
        })
    }

    /// Takes note of what `state` shows of tables that are still there, above their floors or held.
    fn learn(&mut self, latest: &State, state: &State, is_held: bool) {
        for (table, entry) in &state.tables {
            let now = latest.tables.get(table);
            let readable = is_held || entry.version >= latest.floor(table);
            if !readable || !now.is_some_and(|now| now.is_same_table(entry)) {
                continue;
            }
            let shown = Shown {
                version: entry.version,
                transaction: entry.transaction.clone(),
            };
            let of_table = self.shown.entry(entry.path.clone()).or_default();
            let newest = of_table.entry(shown).or_insert(state.version);
            *newest = (*newest).max(state.version);
        }
    }

    /// A declared index is built, or can be: its column is there.
    async fn check_declared(&self, latest: &State, findings: &mut Vec<Finding>) {
        for ((table, name), declaration) in &latest.indexes {
            let Some(entry) = latest.tables.get(table) else {
                continue;
            };
            // A table that cannot be opened is told of by its own audit.
            let Ok(dataset) = self.store.open_pinned(entry).await else {
                continue;
            };
            if dataset.schema().field(&declaration.column).is_none() {
                let gone = format!(
                    "index {name} of table {table} is declared on column {:?}, which is not there",
                    declaration.column
                );
                let key = format!("{MANIFEST_PATH}: index/{table}/{name}");
                findings.push(finding(
                    &key,
                    gone,
                    "withdraw it: `squire index --withdraw`",
                ));
            }
        }
    }

    async fn check_sidecars(&self, findings: &mut Vec<Finding>) -> Result<()> {
        for op in self.store.sidecar_ops().await? {
            self.check_cancelled()?;
            if let Err(e) = self.store.sidecar(op).await {
                let file = format!("{INTERNAL}/recovery/{op}.json");
                let remedy = "remove it when its writer has ended, or upgrade squire";
                findings.push(finding(&file, e.to_string(), remedy));
            }
        }
        Ok(())
    }

    /// The commit log has all that the manifest has given away.
    async fn check_log(&self, latest: &State, audit: &mut Audit) -> Result<()> {
        let through = latest.archive.through;
        if through > latest.version {
            let ahead = format!(
                "is said to be copied up to manifest version {through}, and the latest is {}",
                latest.version
            );
            audit.findings.push(finding(COMMITS_PATH, ahead, REPORT));
        }
        if latest.manifest_floor > through + 1 {
            let gap = format!(
                "is copied up to manifest version {through}, and versions below {} may be gone",
                latest.manifest_floor
            );
            audit.findings.push(finding(COMMITS_PATH, gap, REPORT));
        }
        let log = match self.store.commit_log().await {
            Ok(log) => log,
            Err(e) => {
                let remedy =
                    "restore it from a backup; versions of the manifest stay until it can be read";
                audit
                    .findings
                    .push(finding(COMMITS_PATH, e.to_string(), remedy));
                return Ok(());
            }
        };
        match log {
            None if through > 0 => {
                let gone = format!("is missing, and was copied up to manifest version {through}");
                audit.findings.push(finding(COMMITS_PATH, gone, RESTORE));
            }
            None => {}
            Some(_) => {
                let target = crate::maintenance::Target::Plain(COMMITS_PATH.to_owned());
                let of_log = self.table(&target).await?;
                audit.files += of_log.files;
                audit.read += of_log.read;
                let below = of_log.findings.into_iter().map(|found| Finding {
                    file: format!("{COMMITS_PATH}/{}", found.file),
                    ..found
                });
                audit.findings.extend(below);
            }
        }
        Ok(())
    }
}

/// Facts of one manifest version that contradict each other.
fn contradictions(state: &State) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut say = |key: String, what: String| {
        let key = format!("{MANIFEST_PATH}: {key}");
        found.push(finding(&key, what, REPORT));
    };
    for (table, floor) in &state.floors {
        match state.tables.get(table) {
            Some(entry) if entry.version < *floor => {
                let above = format!("{floor} is above the pin {}", entry.version);
                say(format!("floor/{table}"), above);
            }
            _ => {}
        }
    }
    if state.manifest_floor > state.version {
        let above = format!("{} is above the latest version", state.manifest_floor);
        say(String::from("floor/__manifest"), above);
    }
    let named = state.floors.keys().map(|table| ("floor", table));
    let indexes = state.indexes.keys().map(|(table, _)| ("index", table));
    let policies = state.policies.keys().map(|table| ("policy", table));
    let without: BTreeSet<(&str, &TableName)> = named
        .chain(indexes)
        .chain(policies)
        .filter(|(_, table)| !state.tables.contains_key(*table))
        .collect();
    for (area, table) in without {
        say(
            format!("{area}/{table}"),
            String::from("is about a table that has no pin"),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Finding, contradictions};
    use crate::ids::OpId;
    use crate::store::state::State;
    use std::collections::HashMap;

    #[test]
    fn a_floor_above_its_pin_and_facts_without_a_table_are_seen() {
        let mut config = State::initial(OpId::from_parts(1, 1));
        let mut put = |key: &str, value: &str| config.insert(key.to_owned(), value.to_owned());
        put("pin/t", r#"{"path":"t.lance","version":3}"#);
        put("floor/t", "3");
        fn found(config: &HashMap<String, String>) -> Vec<Finding> {
            contradictions(&State::parse(7, config).unwrap())
        }
        assert_eq!(found(&config), []);
        config.insert("floor/t".to_owned(), "4".to_owned());
        config.insert("floor/u".to_owned(), "1".to_owned());
        config.insert("floor/__manifest".to_owned(), "8".to_owned());
        let told: Vec<String> = found(&config).into_iter().map(|f| f.file).collect();
        let all = ["floor/t", "floor/__manifest", "floor/u"];
        assert_eq!(
            told,
            all.map(|key| format!("_squire/manifest.lance: {key}"))
        );
    }
}
