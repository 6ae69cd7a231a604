//! What is kept from running for now: by a person, outside of its maintenance windows, or for want of room on its disk. Pure.
//!
//! What a person asked for runs outside of windows, too; a pause holds that as well, until it is lifted, and so does a disk
//! on which it would leave too little. What runs already is not set apart: it shows in the next reading as it is written.

use super::planning::OperationKind;
use super::room::Room;
use super::waits::Held;
use super::work::{Scope, WorkItem, WorkKey};
use crate::config::{MinFree, Opening, Windows};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// What a person keeps from running: what is left out is all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Paused {
    /// A location, as it is watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<String>,
    /// A table, by its name or its folder's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) table: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<OperationKind>,
}

/// A pause, and why it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pause {
    #[serde(flatten)]
    pub(crate) what: Paused,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// Since when, in seconds since the epoch.
    pub(crate) since: u64,
}

/// Without what may be written or left out at the end.
fn bare<'a>(name: &'a str, end: &str) -> &'a str {
    name.strip_suffix(end).unwrap_or(name)
}

fn same_table(a: &str, b: &str) -> bool {
    bare(a, ".lance") == bare(b, ".lance")
}

pub(crate) fn same_store(a: &str, b: &str) -> bool {
    a.trim_end_matches('/') == b.trim_end_matches('/')
}

impl Paused {
    /// Whether work of `key` is part of it. A store's cleanup is not part of one of its tables; it leaves that table alone.
    pub(crate) fn covers(&self, key: &WorkKey) -> bool {
        let table = match (&self.table, &key.scope) {
            (None, _) => true,
            (Some(_), Scope::Store) => false,
            (Some(table), Scope::Table(target)) => target.is_within(table),
        };
        let store = self.store.as_deref();
        table
            && store.is_none_or(|store| same_store(store, &key.location))
            && self.kind.is_none_or(|kind| kind == key.kind)
    }

    /// Whether all of it is part of `wider`.
    pub(crate) fn is_within(&self, wider: &Self) -> bool {
        fn part<T>(wider: Option<&T>, of: Option<&T>, same: impl Fn(&T, &T) -> bool) -> bool {
            match (wider, of) {
                (None, _) => true,
                (Some(_), None) => false,
                (Some(wider), Some(of)) => same(wider, of),
            }
        }
        part(wider.store.as_ref(), self.store.as_ref(), |a, b| {
            same_store(a, b)
        }) && part(wider.table.as_ref(), self.table.as_ref(), |a, b| {
            same_table(a, b)
        }) && part(wider.kind.as_ref(), self.kind.as_ref(), |a, b| a == b)
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Paused { store, table, kind } = &self.what;
        f.write_str("paused")?;
        match kind {
            Some(kind) => write!(f, ": {}", kind.as_str())?,
            None => f.write_str(": all work")?,
        }
        if let Some(table) = table {
            write!(f, " of {table}")?;
        }
        if let Some(store) = store {
            write!(f, " in {store}")?;
        }
        match &self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

/// What is held back at one time.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    pauses: Arc<Vec<Pause>>,
    now: Timestamp,
    /// What the windows that were met say; there are few different ones.
    openings: Vec<(Windows, Opening)>,
    /// The disks of local locations, as last measured, and what stays free of each.
    rooms: BTreeMap<String, Room>,
    min_free: Option<MinFree>,
}

impl Gate {
    /// At `now`, with these pauses.
    pub(crate) fn turn(&mut self, now: Timestamp, pauses: Arc<Vec<Pause>>) {
        // The wall clock may be put back.
        let back = now < self.now;
        self.openings.retain(|(_, says)| !back && says.holds(now));
        self.now = now;
        self.pauses = pauses;
    }

    /// So much of each disk stays free from now on.
    pub(crate) fn keep_free(&mut self, least: Option<MinFree>) {
        self.min_free = least;
    }

    /// What the disk of `location` has now, where that is known.
    pub(crate) fn measured(&mut self, location: &str, room: Option<Room>) {
        match room {
            Some(room) => self.rooms.insert(location.to_owned(), room),
            None => self.rooms.remove(location),
        };
    }

    /// The disk of `location` and what stays free of it, where both are known.
    fn room(&self, location: &str) -> Option<(Room, MinFree)> {
        Some((*self.rooms.get(location)?, self.min_free?))
    }

    /// The disk of `location`, if it has less free than it should.
    pub(crate) fn short(&self, location: &str) -> Option<Room> {
        let (room, least) = self.room(location)?;
        room.is_short(least).then_some(room)
    }

    /// Whether `item`, which runs, has to end for the room that it takes.
    pub(crate) fn ends_for_room(&self, item: &WorkItem) -> bool {
        let writes = item.key.kind != OperationKind::Cleanup;
        let room = self.room(&item.key.location);
        writes && room.is_some_and(|(room, least)| room.is_ending(least))
    }

    /// That work of `kind` on `location` which may write `needs` would leave too little.
    pub(crate) fn no_room(&self, location: &str, kind: OperationKind, needs: u64) -> Option<Held> {
        let (room, least) = self.room(location)?;
        room.holds(least, kind, needs)
    }

    fn opening(&mut self, windows: &Windows) -> Opening {
        if windows.is_empty() {
            return Opening::Open { until: None };
        }
        let known = self.openings.iter().find(|(of, _)| of == windows);
        if let Some((_, says)) = known {
            return *says;
        }
        let says = windows.at(self.now);
        self.openings.push((windows.clone(), says));
        says
    }

    /// Whether nothing may run by these windows now.
    pub(crate) fn is_closed(&mut self, windows: &Windows) -> bool {
        matches!(self.opening(windows), Opening::Closed { .. })
    }

    /// Why `item` may not run now.
    pub(crate) fn held(&mut self, item: &WorkItem) -> Option<Held> {
        let WorkKey { location, kind, .. } = &item.key;
        let closed = |gate: &mut Self| match item.trigger.keeps_windows() {
            true => gate.closed(&item.policy.windows),
            false => None,
        };
        self.paused(&item.key)
            .or_else(|| closed(self))
            .or_else(|| self.no_room(location, *kind, item.needs))
    }

    /// The pause that work of `key` is part of.
    pub(crate) fn paused(&self, key: &WorkKey) -> Option<Held> {
        let pause = self.pauses.iter().find(|p| p.what.covers(key))?;
        Some(Held::Paused(pause.to_string()))
    }

    /// That nothing may run by these windows now.
    pub(crate) fn closed(&mut self, windows: &Windows) -> Option<Held> {
        match self.opening(windows) {
            Opening::Open { .. } => None,
            Opening::Closed { opens } => Some(Held::Closed(opens)),
        }
    }

    /// The tables of `location` whose cleanup is paused, of a store that is cleaned as a whole.
    pub(crate) fn spared(&self, location: &str) -> Vec<String> {
        let kind = |p: &Paused| p.kind.is_none_or(|kind| kind == OperationKind::Cleanup);
        let here = |p: &Paused| p.store.as_deref().is_none_or(|s| same_store(s, location));
        let paused = self.pauses.iter().map(|p| &p.what);
        let paused = paused.filter(|p| kind(p) && here(p));
        paused
            .filter_map(|p| p.table.as_deref().map(|t| bare(t, ".lance").to_owned()))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::decide::planning::OperationSpec;
    use crate::decide::work::Trigger;
    use crate::place::table::cleanup_item;
    use squire_engine::maintenance::Target;

    fn what(store: Option<&str>, table: Option<&str>, kind: Option<OperationKind>) -> Paused {
        Paused {
            store: store.map(str::to_owned),
            table: table.map(str::to_owned),
            kind,
        }
    }

    fn item(table: Option<&str>, trigger: Trigger, config: &str) -> WorkItem {
        let scope = table.map_or(Scope::Store, |t| Scope::Table(Target::Plain(t.to_owned())));
        let spec = OperationSpec {
            kind: OperationKind::Cleanup,
            reason: String::new(),
            debt: 1.0,
            needs: 0,
        };
        let policy = Config::parse(config, "squire.toml").unwrap().policy;
        cleanup_item("/lake", scope, spec, (trigger, policy))
    }

    fn gate(pauses: &[Paused], now: &str) -> Gate {
        let pauses = pauses.iter().map(|what| Pause {
            what: what.clone(),
            reason: Some("an audit".into()),
            since: 1,
        });
        let mut gate = Gate::default();
        gate.turn(now.parse().unwrap(), Arc::new(pauses.collect()));
        gate
    }

    const NOON: &str = "2026-11-26T12:00:00Z";

    #[test]
    fn a_pause_holds_what_it_names_and_no_more() {
        use OperationKind::{Cleanup, Compact};
        for (paused, table, of_store) in [
            (what(None, None, None), true, true),
            (what(Some("/lake/"), None, None), true, true),
            (what(Some("/other"), None, None), false, false),
            (what(None, Some("t"), None), true, false),
            (what(None, Some("t.lance"), Some(Cleanup)), true, false),
            (what(None, Some("u"), None), false, false),
            (what(None, None, Some(Cleanup)), true, true),
            (what(None, None, Some(Compact)), false, false),
        ] {
            let mut gate = gate(std::slice::from_ref(&paused), NOON);
            let mut held = |t: Option<&str>| gate.held(&item(t, Trigger::Asked, "")).is_some();
            assert_eq!(
                (held(Some("t.lance")), held(None)),
                (table, of_store),
                "{paused:?}"
            );
        }
        let spared = gate(&[what(None, Some("t.lance"), None)], NOON).spared("/lake");
        assert_eq!(spared, ["t"], "a store's cleanup leaves it alone");
    }

    #[test]
    fn a_pause_of_a_table_holds_its_branches() {
        let of = |target: Target| WorkKey {
            location: String::from("/lake"),
            scope: Scope::Table(target),
            kind: OperationKind::Compact,
        };
        let branch = Target::Branch {
            table: String::from("t.lance"),
            branch: String::from("x"),
        };
        let (table, branch) = (of(Target::Plain(String::from("t.lance"))), of(branch));
        for (paused, holds) in [
            ("t", [true, true]),
            ("t@x", [false, true]),
            ("t.lance@x", [false, true]),
            ("u", [false, false]),
        ] {
            let paused = what(None, Some(paused), None);
            assert_eq!(
                [&table, &branch].map(|key| paused.covers(key)),
                holds,
                "{paused:?}"
            );
        }
    }

    #[test]
    fn a_resume_lifts_what_is_within_it() {
        let one = what(Some("/lake"), Some("t"), Some(OperationKind::Compact));
        let wider = [
            what(None, None, None),
            what(Some("/lake/"), None, None),
            what(None, Some("t.lance"), None),
            one.clone(),
        ];
        assert!(wider.iter().all(|wider| one.is_within(wider)));
        for other in [
            what(Some("/lake"), Some("u"), None),
            what(None, None, Some(OperationKind::Reindex)),
        ] {
            assert!(!one.is_within(&other), "{other:?}");
        }
        assert!(!what(None, None, None).is_within(&one));
    }

    #[test]
    fn what_would_leave_too_little_of_its_disk_waits_and_a_cleanup_does_not() {
        use OperationKind::{Cleanup, Compact, Reindex};
        let least = |text: &str| Config::parse(text, "squire.toml").unwrap().budget.min_free;
        let mut gate = gate(&[], NOON);
        let room = |free| Some(Room { free, all: 1_000 });
        for (min_free, free, needs, held) in [
            ("min_free = \"10%\"", 150, 50, false),
            ("min_free = \"10%\"", 150, 51, true),
            ("min_free = \"10%\"", 99, 0, true),
            ("min_free = \"20B\"", 20, 0, false),
            ("min_free = \"20B\"", 30, 11, true),
            ("min_free = \"off\"", 0, 1 << 40, false),
            ("", 50, 0, false),
            ("", 49, 0, true),
        ] {
            gate.keep_free(least(&format!("[budget]\n{min_free}\n")));
            gate.measured("/lake", room(free));
            for (kind, trigger) in [(Compact, Trigger::Threshold), (Reindex, Trigger::Asked)] {
                let mut item = item(Some("t"), trigger, "");
                (item.key.kind, item.needs) = (kind, needs);
                let told = gate.held(&item);
                assert_eq!(told.is_some(), held, "{min_free} {free} {needs}: {told:?}");
            }
            assert_eq!(
                gate.held(&item(None, Trigger::Regular, "")),
                None,
                "{Cleanup:?}"
            );
        }
        gate.keep_free(least("[budget]\nmin_free = \"100B\"\n"));
        let mut item = item(Some("t"), Trigger::Threshold, "");
        item.key.kind = Compact;
        for (free, short, ends) in [(100, false, false), (99, true, false), (49, true, true)] {
            gate.measured("/lake", room(free));
            assert_eq!(gate.short("/lake").is_some(), short, "{free}");
            assert_eq!(gate.ends_for_room(&item), ends, "{free}");
        }
        item.key.location = "s3://bucket".into();
        assert_eq!(gate.held(&item), None, "a bucket has no end");
    }

    #[test]
    fn windows_hold_back_what_nobody_asked_for() {
        let nights = "[policy]\nwindows = [\"22:00-06:00\"]\n";
        let mut gate = gate(&[], NOON);
        let held = gate.held(&item(Some("t"), Trigger::Threshold, nights));
        let told = held.unwrap().to_string();
        assert_eq!(told, "its maintenance window opens at 2026-11-26T22:00:00Z");
        for trigger in [Trigger::Asked, Trigger::Room] {
            assert_eq!(gate.held(&item(Some("t"), trigger, nights)), None);
        }
        assert_eq!(gate.held(&item(Some("t"), Trigger::Regular, "")), None);
        for (now, is_held) in [
            ("2026-11-26T21:59:59Z", true),
            ("2026-11-26T22:00:00Z", false),
            ("2026-11-27T06:00:00Z", true),
            // The wall clock is put back.
            ("2026-11-27T05:00:00Z", false),
        ] {
            gate.turn(now.parse().unwrap(), Arc::default());
            let held = gate.held(&item(Some("t"), Trigger::Regular, nights));
            assert_eq!(held.is_some(), is_held, "{now}");
        }
    }
}
