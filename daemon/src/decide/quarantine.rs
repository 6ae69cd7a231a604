//! Work that cannot be done to a table as it is, and rests. Pure.
//!
//! What could not replace what it should have replaced would come out the same again, and costs a rewrite each time.
//! It rests until the table's schema changes, a person asks for it, or another release starts: nothing is kept beyond
//! this process. Of a reindex, single indexes rest, and the others of their table are looked after.

use super::planning::OperationKind;
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

/// A part of a table's maintenance: a kind, or of a reindex one index.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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
pub(crate) struct Quarantine(HashMap<Part, Held>);

impl Quarantine {
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

#[cfg(test)]
mod tests {
    use super::{OperationKind, Part, Quarantine};

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
