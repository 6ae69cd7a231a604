//! Work that cannot be done to a table as it is, and rests. Pure.
//!
//! What could not replace what it should have replaced would come out the same again, and costs a rewrite each time.
//! It rests until the table's schema changes, a person asks for it, or another release starts: the location keeps it
//! beyond this process. Of a reindex, single indexes rest, and the others of their table are looked after.
//!
//! Work that lands again and again and leaves what asks for it as it was is such work, too: see [`Convergence`].

use super::planning::OperationKind;
use super::waits::Resting;
use squire_engine::maintenance::{TableHealth, Unfit};
use std::collections::BTreeMap;

/// What a table looked like when work on it was decided. What rests does so until its part of this changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fingerprints {
    pub(crate) schema: u64,
    indexes: BTreeMap<String, u64>,
}

impl Fingerprints {
    pub(crate) fn of(health: &TableHealth) -> Self {
        let indexes = health.indexes.iter();
        Self {
            schema: health.schema,
            indexes: indexes.map(|i| (i.name.clone(), i.fingerprint)).collect(),
        }
    }

    /// Of each index.
    pub(crate) fn indexes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.indexes.iter().map(|(name, of)| (name.as_str(), *of))
    }

    /// Of the index `name`; 0 of one that was not there.
    pub(crate) fn index(&self, name: &str) -> u64 {
        self.indexes.get(name).copied().unwrap_or_default()
    }
}

/// A part of a table's maintenance: a kind, or of a reindex one index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part(OperationKind, Option<String>);

impl From<OperationKind> for Part {
    fn from(kind: OperationKind) -> Self {
        Self(kind, None)
    }
}

impl Part {
    pub(crate) fn index(name: &str) -> Self {
        Self(OperationKind::Reindex, Some(name.to_owned()))
    }
}

/// Why one part rests.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    fingerprint: u64,
    reason: String,
}

/// What rests of one table.
#[derive(Debug, Default)]
pub(crate) struct Quarantine(BTreeMap<Part, Held>);

impl Quarantine {
    /// What an earlier process noted.
    pub(crate) fn resumed(noted: &[Unfit]) -> Self {
        let held = noted.iter().filter_map(|unfit| {
            let part = Part(OperationKind::named(&unfit.kind)?, unfit.index.clone());
            let held = Held {
                fingerprint: unfit.fingerprint,
                reason: unfit.reason.clone(),
            };
            Some((part, held))
        });
        Self(held.collect())
    }

    /// What rests of a table that looks like `now`.
    pub(crate) fn resting(&self, now: &Fingerprints) -> Vec<Resting> {
        let still = self.0.iter().filter(|(Part(_, index), held)| {
            let of = index.as_ref().map_or(now.schema, |index| now.index(index));
            held.fingerprint == of
        });
        let resting = still.map(|(Part(kind, index), held)| {
            let why = match index {
                Some(index) => format!("index {index}: {}", held.reason),
                None => held.reason.clone(),
            };
            Resting::unfit(*kind, why)
        });
        resting.collect()
    }

    /// What is noted for later processes, of `table`.
    pub(crate) fn noted(&self, table: &str) -> Vec<Unfit> {
        let noted = self.0.iter().map(|(Part(kind, index), held)| Unfit {
            table: table.to_owned(),
            kind: kind.as_str().to_owned(),
            index: index.clone(),
            fingerprint: held.fingerprint,
            reason: held.reason.clone(),
        });
        noted.collect()
    }

    /// Lets `part` rest while what it is about has this `fingerprint`. Whether that is news.
    pub(crate) fn hold(&mut self, part: Part, fingerprint: u64, reason: String) -> bool {
        let held = Held {
            fingerprint,
            reason,
        };
        let before = self.0.insert(part, held);
        before.is_none_or(|before| before.fingerprint != fingerprint)
    }

    /// Why `part` rests, if it does with this fingerprint; with another one it rests no more.
    pub(crate) fn why(&mut self, part: &Part, fingerprint: u64) -> Option<&str> {
        let held = self.0.get(part);
        if held.is_some_and(|held| held.fingerprint != fingerprint) {
            self.0.remove(part);
        }
        self.0.get(part).map(|held| held.reason.as_str())
    }

    /// A person asks for it: it is tried once more.
    pub(crate) fn release(&mut self, part: &Part) {
        self.0.remove(part);
    }
}

/// Attempts that changed the table, one after another, and not what asks for them. One may be a mistake of the count.
const IN_VAIN: u32 = 3;

/// What asks for work of a kind, and what a writer would change of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Asks {
    head: u64,
    rows: u64,
    /// Fragments worth merging, or rows that an index lacks.
    units: u64,
    deleted: u64,
}

impl Asks {
    fn of(kind: OperationKind, health: &TableHealth) -> Self {
        let lacking = health.indexes.iter().map(|i| i.unindexed_rows).sum();
        let (units, deleted) = match kind {
            OperationKind::Reindex => (lacking, 0),
            OperationKind::Compact | OperationKind::Cleanup => {
                (health.candidate_fragments, health.deleted_rows)
            }
        };
        Self {
            head: health.head,
            rows: health.rows,
            units,
            deleted,
        }
    }
}

/// Whether attempts get anywhere.
#[derive(Debug, Default)]
pub(crate) struct Convergence {
    last: BTreeMap<OperationKind, Asks>,
    /// What asked for an attempt that has changed the table.
    attempted: BTreeMap<OperationKind, Asks>,
    in_vain: BTreeMap<OperationKind, u32>,
}

impl Convergence {
    /// An attempt ended that has changed the table.
    pub(crate) fn attempted(&mut self, kind: OperationKind) {
        if let Some(asks) = self.last.get(&kind) {
            self.attempted.insert(kind, *asks);
        }
    }

    /// The table was looked at. Returns what is in vain as of now, and why.
    pub(crate) fn looked(&mut self, health: &TableHealth) -> Vec<(OperationKind, String)> {
        let mut news = Vec::new();
        for kind in [OperationKind::Compact, OperationKind::Reindex] {
            let now = Asks::of(kind, health);
            self.last.insert(kind, now);
            // A look that began before the attempt ended says nothing of it.
            let judged = self.attempted.get(&kind).filter(|b| b.head < now.head);
            let Some(before) = judged.copied() else {
                continue;
            };
            self.attempted.remove(&kind);
            let same = now.rows == before.rows;
            let vain = same && now.units >= before.units && now.deleted >= before.deleted;
            let in_vain = self.in_vain.entry(kind).or_default();
            *in_vain = if vain { *in_vain + 1 } else { 0 };
            if *in_vain == IN_VAIN {
                *in_vain = 0;
                let what = match kind {
                    OperationKind::Reindex => "rows that an index lacks",
                    OperationKind::Compact | OperationKind::Cleanup => "candidate fragments",
                };
                news.push((
                    kind,
                    format!(
                        "{IN_VAIN} attempts, each of which was committed, left {} {what} where there were {}",
                        now.units, before.units
                    ),
                ));
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::{Convergence, OperationKind, Part, Quarantine, TableHealth};
    use std::collections::BTreeMap;

    #[test]
    fn work_that_gets_nowhere_is_found_and_work_beside_a_writer_is_not() {
        let health = |head: u64, rows: u64, candidate_fragments: u64| TableHealth {
            table: "t".into(),
            pin: head,
            head,
            versions: head,
            fragments: candidate_fragments,
            candidate_fragments,
            rows,
            deleted_rows: 0,
            bytes: 1,
            indexes: Vec::new(),
            schema: 0,
            auto_cleanup: BTreeMap::new(),
            ledger: None,
        };
        let compact = OperationKind::Compact;
        // Of each attempt: rows and candidates afterwards; whether that is in vain at last.
        for (after, in_vain) in [
            ([(10, 16), (10, 16), (10, 17)], true),
            ([(10, 16), (10, 15), (10, 16)], false),
            ([(10, 16), (11, 16), (11, 16)], false),
        ] {
            let mut convergence = Convergence::default();
            assert!(convergence.looked(&health(1, 10, 16)).is_empty());
            let mut found = Vec::new();
            for (n, (rows, candidates)) in after.into_iter().enumerate() {
                convergence.attempted(compact);
                // A look from before is no judgement, however often.
                let (before, now) = (2 * n as u64 + 1, 2 * n as u64 + 3);
                let stale = health(before, 10, 16);
                assert!(convergence.looked(&stale).is_empty());
                found.extend(convergence.looked(&health(now, rows, candidates)));
            }
            assert_eq!(
                found.iter().any(|(kind, _)| *kind == compact),
                in_vain,
                "{after:?}"
            );
        }
    }

    #[test]
    fn unfit_work_rests_until_the_schema_changes_or_a_person_asks() {
        let mut quarantine = Quarantine::default();
        let compact = Part::from(OperationKind::Compact);
        assert!(quarantine.hold(compact.clone(), 1, "rows are missing".into()));
        assert!(!quarantine.hold(compact.clone(), 1, "rows are missing".into()));
        assert_eq!(quarantine.why(&compact, 1), Some("rows are missing"));
        for other in [OperationKind::Reindex.into(), Part::index("i")] {
            assert_eq!(quarantine.why(&other, 1), None);
        }

        assert_eq!(quarantine.why(&compact, 2), None);
        assert_eq!(quarantine.why(&compact, 1), None, "it was let go");

        assert!(quarantine.hold(compact.clone(), 2, "again".into()));
        quarantine.release(&compact);
        assert_eq!(quarantine.why(&compact, 2), None);
    }
}
