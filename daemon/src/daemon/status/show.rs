//! The document of `/status`.

use super::{OfLocation, Seen, Shown, WAITING};
use crate::decide::waits::{Wait, Waits};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// A table, and what of its work is due and does not run.
#[derive(Serialize)]
struct WithWaits<'a> {
    #[serde(flatten)]
    table: &'a Shown,
    waits: &'a [&'a Wait],
}

/// What waits of each location and each of its tables.
type WaitsOf<'a> = BTreeMap<(&'a str, &'a str), Vec<&'a Wait>>;

fn of<'a, 'w>(waits: &'w WaitsOf<'a>, uri: &'a str, table: &'a str) -> &'w [&'a Wait] {
    waits.get(&(uri, table)).map_or(&[], Vec::as_slice)
}

/// As which table a store as a whole waits.
const WHOLE: &str = "all tables";

impl Seen {
    /// Everything that is known.
    pub(super) fn document(&self, settled: bool, now_ms: u64) -> Value {
        let count = |name: &str| self.counts.get(name).copied().unwrap_or(0);
        let first: Vec<&Waits> = self.waiting.iter().take(WAITING).collect();
        let stores = self.shown(now_ms);
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "now_ms": now_ms,
            "ready": self.ready(settled),
            "paused": self.is_paused(),
            "pauses": self.pauses.list().as_ref(),
            "daemon": self.holder,
            "doing": self.what(),
            "attempts": self.doing,
            "waiting": { "count": self.waiting.len(), "first": first },
            "drain": self.drain(),
            "stores": stores,
            "maintenance": {
                "compactions": count("compact"),
                "reindexes": count("reindex"),
                "cleanups": count("cleanup"),
                "conflicts": count("conflicts"),
                "failures": count("failures"),
            },
            "history": self.history,
            "reload": self.reload.as_ref().map(|(at, outcome)| json!({ "at": at, "outcome": outcome })),
            "last_errors": self.last_errors,
        })
    }

    /// What rests, and what waits for its turn, a window or a person.
    fn waits(&self, now_ms: u64) -> WaitsOf<'_> {
        let mut waits = WaitsOf::new();
        for ((store, table), rests) in &self.rests {
            let lasts = rests.iter().filter(|wait| wait.lasts(now_ms));
            waits.entry((store, table)).or_default().extend(lasts);
        }
        for (uri, location) in &self.locations {
            let rests = location.rests.iter().filter(|wait| wait.lasts(now_ms));
            waits.entry((uri, WHOLE)).or_default().extend(rests);
        }
        for Waits {
            location,
            table,
            wait,
            ..
        } in &self.waiting
        {
            waits.entry((location, table)).or_default().push(wait);
        }
        waits
    }

    /// All locations with their tables.
    fn shown(&self, now_ms: u64) -> Vec<Value> {
        let waits = self.waits(now_ms);
        let mut stores: BTreeMap<&str, Vec<WithWaits<'_>>> = BTreeMap::new();
        for uri in &self.places {
            stores.entry(uri).or_default();
        }
        for ((store, name), table) in &self.tables {
            let waits = of(&waits, store, name);
            stores
                .entry(store)
                .or_default()
                .push(WithWaits { table, waits });
        }
        let unknown = OfLocation::default();
        let shown = stores.into_iter().map(|(uri, tables)| {
            let of_location = self.locations.get(uri).unwrap_or(&unknown);
            json!({
                "uri": uri,
                "kind": match self.stores.contains(uri) {
                    true => "store",
                    false => "plain",
                },
                "unreadable": of_location.unreadable,
                "stranded_bytes": of_location.stranded_bytes,
                "sidecars": of_location.sidecars,
                "disk": of_location.disk,
                "waits": of(&waits, uri, WHOLE),
                "tables": tables,
                "skipped": self.skipped.get(uri),
            })
        });
        shown.collect()
    }
}
