//! Work that cannot be done to a table as it is, and rests. Pure.
//!
//! What could not replace what it should have replaced would come out the same again, and costs a rewrite each time.
//! It rests until the table's schema changes, a person asks for it, or another release starts: nothing is kept beyond
//! this process.

use super::scheduling::WorkKey;
use std::collections::HashMap;

/// Why one kind of work on one table rests.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    schema: u64,
    reason: String,
}

/// All resting work.
#[derive(Debug, Default)]
pub(crate) struct Quarantine(HashMap<WorkKey, Held>);

impl Quarantine {
    /// Lets `key` rest while the table's schema is `schema`. Whether that is news.
    pub(crate) fn hold(&mut self, key: WorkKey, schema: u64, reason: String) -> bool {
        let held = Held { schema, reason };
        let before = self.0.insert(key, held);
        before.is_none_or(|before| before.schema != schema)
    }

    /// Why `key` rests, if it does with this schema; with another one it rests no more.
    pub(crate) fn why(&mut self, key: &WorkKey, schema: u64) -> Option<&str> {
        if self.0.get(key).is_some_and(|held| held.schema != schema) {
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
