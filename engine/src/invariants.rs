//! Invariants of the protocol that can be checked on manifest states alone: one pure predicate each, shared by the
//! tests and the running daemon.
//!
//! The numbers are those of ARCHITECTURE.md; the others need histories of operations and stand with the tests.

use crate::ids::TableName;
use crate::store::State;

/// I2: pins never go down. Gives the first table whose pin did, unless it was made anew at another path.
pub fn i2_pins_never_go_down(before: &State, after: &State) -> Result<(), TableName> {
    for (table, old) in &before.tables {
        let fell = after
            .tables
            .get(table)
            .is_some_and(|new| new.path == old.path && new.version < old.version);
        if fell {
            return Err(table.clone());
        }
    }
    Ok(())
}

/// I3: a decision is never changed. Gives nothing but the fact; decisions are only forgotten after their retention.
pub fn i3_decisions_never_change(before: &State, after: &State) -> Result<(), crate::ids::OpId> {
    for (op, old) in &before.aborted {
        if after.aborted.get(op).is_some_and(|new| new != old) {
            return Err(*op);
        }
    }
    Ok(())
}

/// I7: no floor is above its pin.
pub fn i7_floors_stay_below_pins(state: &State) -> Result<(), TableName> {
    for (table, entry) in &state.tables {
        if state.floor(table) > entry.version {
            return Err(table.clone());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn state(entries: &[(&str, &str)]) -> State {
        let mut config = State::initial(crate::ids::OpId::from_parts(1, 1));
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
        assert!(i2_pins_never_go_down(&pinned(3), &pinned(4)).is_ok());
        assert!(i2_pins_never_go_down(&pinned(4), &pinned(3)).is_err());
    }

    #[test]
    fn a_floor_above_its_pin_is_seen() {
        let at = |floor| {
            state(&[
                ("pin/t", r#"{"path":"t.lance","version":3}"#),
                ("floor/t", floor),
            ])
        };
        assert!(i7_floors_stay_below_pins(&at("3")).is_ok());
        assert!(i7_floors_stay_below_pins(&at("4")).is_err());
    }

    #[test]
    fn a_changed_decision_is_seen() {
        let op = crate::ids::OpId::from_parts(2, 2);
        let key = format!("op/{op}");
        let at = |ms| state(&[(key.as_str(), &format!(r#"{{"at_ms":{ms},"writes":[]}}"#))]);
        assert!(i3_decisions_never_change(&at(1), &at(1)).is_ok());
        assert!(i3_decisions_never_change(&at(1), &at(2)).is_err());
        assert!(i3_decisions_never_change(&at(1), &state(&[])).is_ok());
    }
}
