//! Invariants of the protocol that can be checked on manifest states alone: one pure predicate each, shared by the
//! tests and the running daemon.
//!
//! The numbers are those of ARCHITECTURE.md; the others need histories of operations and stand with the tests.

use crate::ids::{OpId, TableName};
use crate::store::State;
use std::collections::BTreeSet;

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// `I2`, `I3` or `I7`.
    pub invariant: &'static str,
    /// The tables that can no longer be trusted.
    pub tables: BTreeSet<TableName>,
    /// What was seen.
    pub seen: String,
}

/// I2: pins never go down. Gives the tables whose pin did, except those made anew, at another path or adopted at the same.
pub fn i2_pins_never_go_down(before: &State, after: &State) -> BTreeSet<TableName> {
    let fell = |(table, old): &(&TableName, &crate::store::TableEntry)| {
        let new = after.tables.get(*table);
        new.is_some_and(|new| new.is_same_table(old) && new.version < old.version)
    };
    let fallen = before.tables.iter().filter(fell);
    fallen.map(|(table, _)| table.clone()).collect()
}

/// I3: a decision is never changed, only forgotten after its retention. Gives the operations whose decision was.
pub fn i3_decisions_never_change(before: &State, after: &State) -> BTreeSet<OpId> {
    let changed = before
        .aborted
        .iter()
        .filter(|(op, old)| after.aborted.get(op).is_some_and(|new| new != *old));
    changed.map(|(op, _)| *op).collect()
}

/// I7: no floor is above its pin. Gives the tables whose floor is.
pub fn i7_floors_stay_below_pins(state: &State) -> BTreeSet<TableName> {
    let above = state
        .tables
        .iter()
        .filter(|(table, entry)| state.floor(table) > entry.version);
    above.map(|(table, _)| table.clone()).collect()
}

/// What `after` breaks, with `before` as the state that was seen last.
pub fn violations(before: Option<&State>, after: &State) -> Vec<Violation> {
    let mut found = Vec::new();
    for table in i7_floors_stay_below_pins(after) {
        found.push(Violation {
            invariant: "I7",
            seen: format!("floor {} of {table} is above its pin", after.floor(&table)),
            tables: BTreeSet::from([table]),
        });
    }
    let Some(before) = before else {
        return found;
    };
    for table in i2_pins_never_go_down(before, after) {
        found.push(Violation {
            invariant: "I2",
            seen: format!("the pin of {table} went down"),
            tables: BTreeSet::from([table]),
        });
    }
    for op in i3_decisions_never_change(before, after) {
        let written = [before, after].map(|s| s.aborted.get(&op).map(|d| d.writes.as_slice()));
        found.push(Violation {
            invariant: "I3",
            seen: format!("the decision about {op} changed"),
            tables: written
                .into_iter()
                .flatten()
                .flatten()
                .map(|write| write.table.clone())
                .collect(),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn state(entries: &[(&str, &str)]) -> State {
        let mut config = State::initial(OpId::from_parts(1, 1));
        let more: HashMap<String, String> = entries
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        config.extend(more);
        State::parse(1, &config).unwrap()
    }

    fn pinned(version: u64) -> State {
        state(&[(
            "pin/t",
            &format!(r#"{{"path":"t.lance","version":{version}}}"#),
        )])
    }

    #[test]
    fn a_falling_pin_is_seen() {
        assert!(violations(Some(&pinned(3)), &pinned(4)).is_empty());
        let found = violations(Some(&pinned(4)), &pinned(3));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].invariant, "I2");
        assert_eq!(found[0].tables, BTreeSet::from(["t".parse().unwrap()]));
    }

    #[test]
    fn an_adopted_table_starts_anew() {
        let adopted = r#"{"path":"t.lance","version":1,"incarnation":1}"#;
        let adopted = state(&[("pin/t", adopted)]);
        assert!(violations(Some(&pinned(4)), &adopted).is_empty());
    }

    #[test]
    fn a_floor_above_its_pin_is_seen() {
        let at = |floor| {
            state(&[
                ("pin/t", r#"{"path":"t.lance","version":3}"#),
                ("floor/t", floor),
            ])
        };
        assert!(violations(None, &at("3")).is_empty());
        assert_eq!(violations(None, &at("4"))[0].invariant, "I7");
    }

    #[test]
    fn a_changed_decision_is_seen() {
        let op = OpId::from_parts(2, 2);
        let key = format!("op/{op}");
        let at = |ms| state(&[(key.as_str(), &format!(r#"{{"at_ms":{ms},"writes":[]}}"#))]);
        assert!(violations(Some(&at(1)), &at(1)).is_empty());
        assert_eq!(violations(Some(&at(1)), &at(2))[0].invariant, "I3");
        assert!(violations(Some(&at(1)), &state(&[])).is_empty());
    }
}
