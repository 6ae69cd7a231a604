//! Work that cannot be done to a table as it is, and rests. Pure.
//!
//! What could not replace what it should have replaced would come out the same again, and costs a rewrite each time.
//! It rests until the table's schema changes, a person asks for it, or another release starts: nothing is kept beyond
//! this process. Of a reindex, single indexes rest, and the others of their table are looked after.

use super::scheduling::WorkKey;
use squire_engine::maintenance::TableHealth;
use std::collections::{BTreeMap, HashMap};

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

/// Why one kind of work on one table rests.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    fingerprint: u64,
    reason: String,
}

/// All resting work.
#[derive(Debug, Default)]
pub(crate) struct Quarantine(HashMap<WorkKey, Held>);

impl Quarantine {
    /// Lets `key` rest while what it is about has this `fingerprint`. Whether that is news.
    pub(crate) fn hold(&mut self, key: WorkKey, fingerprint: u64, reason: String) -> bool {
        let held = Held {
            fingerprint,
            reason,
        };
        let before = self.0.insert(key, held);
        before.is_none_or(|before| before.fingerprint != fingerprint)
    }

    /// Why `key` rests, if it does with this fingerprint; with another one it rests no more.
    pub(crate) fn why(&mut self, key: &WorkKey, fingerprint: u64) -> Option<&str> {
        let held = self.0.get(key);
        if held.is_some_and(|held| held.fingerprint != fingerprint) {
            self.0.remove(key);
        }
        self.0.get(key).map(|held| held.reason.as_str())
    }

    /// A person asks for it: it is tried once more.
    pub(crate) fn release(&mut self, key: &WorkKey) {
        self.0.remove(key);
    }
}

#[cfg(test)]
mod tests {
    use super::Quarantine;
    use crate::daemon::planning::OperationKind;
    use crate::daemon::scheduling::WorkKey;
    use squire_engine::maintenance::Target;

    fn key(table: &str, kind: OperationKind) -> WorkKey {
        WorkKey::new("lake", Target::Plain(table.to_owned()), kind)
    }

    #[test]
    fn unfit_work_rests_until_the_schema_changes_or_a_person_asks() {
        let mut quarantine = Quarantine::default();
        let compact = key("t.lance", OperationKind::Compact);
        assert!(quarantine.hold(compact.clone(), 1, "rows are missing".into()));
        assert!(!quarantine.hold(compact.clone(), 1, "rows are missing".into()));
        assert_eq!(quarantine.why(&compact, 1), Some("rows are missing"));
        let others = [
            key("t.lance", OperationKind::Reindex),
            key("u.lance", OperationKind::Compact),
            compact.clone().of_index("i"),
        ];
        for other in others {
            assert_eq!(quarantine.why(&other, 1), None);
        }

        assert_eq!(quarantine.why(&compact, 2), None);
        assert_eq!(quarantine.why(&compact, 1), None, "it was let go");

        assert!(quarantine.hold(compact.clone(), 2, "again".into()));
        quarantine.release(&compact);
        assert_eq!(quarantine.why(&compact, 2), None);
    }
}
