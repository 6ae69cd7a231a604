//! The document of `/status`.

use super::asked::is;
use super::{OfLocation, ReloadOutcome, Seen, Shown, WAITING, what};
use crate::decide::gate::{Paused, same_store};
use crate::decide::waits::{Wait, Waits};
use crate::http::Scope;
use serde::Serialize;
use serde_json::{Map, Value, json};
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
    /// Everything that is known of what is within `scope`. What is told in words, and what counts all there is, is for those who
    /// may see all.
    pub(super) fn document(&self, scope: &Scope, settled: bool, now_ms: u64) -> Value {
        let within = |location: &str, table: &str| scope.sees(location, table);
        let waiting = self.waiting.iter();
        let waiting = waiting.filter(|w| within(&w.location, &w.table));
        let waiting: Vec<&Waits> = waiting.collect();
        let first = &waiting[..waiting.len().min(WAITING)];
        let doing = || {
            self.doing
                .iter()
                .filter(move |d| within(&d.location, &d.table))
        };
        let pauses = self.pauses.list();
        let pauses = pauses.iter().filter(|p| self.concerns(&p.what, scope));
        let history = self.history.iter();
        let history = history.filter(|done| within(&done.place, &done.table));
        let mut document = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "now_ms": now_ms,
            "ready": self.ready(settled),
            "paused": self.is_paused(),
            "pauses": pauses.collect::<Vec<_>>(),
            "doing": what(doing()),
            "attempts": doing().collect::<Vec<_>>(),
            "waiting": { "count": waiting.len(), "first": first },
            "stores": self.shown(scope, now_ms),
            "history": history.collect::<Vec<_>>(),
            "last_errors": [],
        });
        match (scope, document.as_object_mut()) {
            (Scope::All, Some(document)) => self.add_words_and_counts(document),
            (scope, Some(document)) => {
                let of = json!({ "location": scope.location(), "table": scope.table() });
                document.insert("scope".to_owned(), of);
            }
            (_, None) => {}
        }
        document
    }

    /// Whether a pause keeps something within `scope` from running: one that is wider does, too. The name of a table that is not
    /// there is not shown.
    fn concerns(&self, paused: &Paused, scope: &Scope) -> bool {
        let of = |uri: &str| {
            paused
                .store
                .as_deref()
                .is_none_or(|own| same_store(own, uri))
        };
        let Some(named) = paused.table.as_deref() else {
            return *scope == Scope::All || scope.location().is_some_and(of);
        };
        let mut tables = self.tables.keys();
        *scope == Scope::All
            || tables.any(|(uri, table)| scope.sees(uri, table) && of(uri) && is(table, named))
    }

    fn add_words_and_counts(&self, document: &mut Map<String, Value>) {
        let count = |name: &str| self.counts.get(name).copied().unwrap_or(0);
        let told = |(at, outcome): &(f64, ReloadOutcome)| json!({ "at": at, "outcome": outcome });
        let more = [
            ("daemon", json!(self.holder)),
            ("drain", json!(self.drain())),
            (
                "maintenance",
                json!({
                    "compactions": count("compact"),
                    "reindexes": count("reindex"),
                    "cleanups": count("cleanup"),
                    "conflicts": count("conflicts"),
                    "failures": count("failures"),
                }),
            ),
            ("reload", json!(self.reload.as_ref().map(told))),
            ("last_errors", json!(self.last_errors)),
        ];
        document.extend(more.map(|(name, value)| (name.to_owned(), value)));
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

    /// All locations with their tables, as far as `scope` reaches. What is of a location as a whole is not of one table.
    fn shown(&self, scope: &Scope, now_ms: u64) -> Vec<Value> {
        let waits = self.waits(now_ms);
        let mut stores: BTreeMap<&str, Vec<WithWaits<'_>>> = BTreeMap::new();
        for uri in self.places.iter().filter(|uri| scope.sees_location(uri)) {
            stores.entry(uri).or_default();
        }
        let within = |((store, name), _): &(&(String, String), &Shown)| scope.sees(store, name);
        for ((store, name), table) in self.tables.iter().filter(within) {
            let waits = of(&waits, store, name);
            stores
                .entry(store)
                .or_default()
                .push(WithWaits { table, waits });
        }
        let unknown = OfLocation::default();
        let shown = stores.into_iter().map(|(uri, tables)| {
            let of_location = self.locations.get(uri).filter(|_| scope.table().is_none());
            let of_location = of_location.unwrap_or(&unknown);
            let of_all = |waits| match scope.table() {
                None => waits,
                Some(_) => &[][..],
            };
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
                "waits": of_all(of(&waits, uri, WHOLE)),
                "tables": tables,
                "skipped": self.skipped.get(uri).filter(|_| scope.table().is_none()),
            })
        });
        shown.collect()
    }
}
