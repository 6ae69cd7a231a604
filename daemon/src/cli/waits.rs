//! What of a plan does not run now, and until when: what a running daemon says of it, the windows of the configuration, and the
//! room on the disk.

use super::Context;
use super::control::status_of;
use crate::decide::gate::{Gate, Pause};
use crate::decide::planning::TablePlan;
use crate::decide::quarantine::{Fingerprints, Quarantine};
use crate::decide::waits::Wait;
use crate::decide::work::{Scope, WorkKey};
use crate::place::{Place, same_place};
use jiff::Timestamp;
use serde::Deserialize;
use squire_engine::maintenance::{TableHealth, Target, Unfit};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// A daemon that lives answers from memory.
const PATIENCE: Duration = Duration::from_secs(2);

/// The status of ten thousand tables is a quarter of it.
const MOST: u64 = 64 << 20;

/// What is read of `/status`.
#[derive(Debug, Deserialize)]
struct Told {
    /// Not told to whom sees one location alone.
    #[serde(default)]
    daemon: String,
    pauses: Vec<Pause>,
    stores: Vec<OfStore>,
}

#[derive(Debug, Deserialize)]
struct OfStore {
    uri: String,
    waits: Vec<Wait>,
    tables: Vec<OfTable>,
}

#[derive(Debug, Deserialize)]
struct OfTable {
    table: String,
    waits: Vec<Wait>,
}

/// What holds work of one location back.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Who watches it, as the daemon calls itself.
    pub(super) daemon: Option<String>,
    location: Option<OfStore>,
    /// What rests as unfit, of a location that no daemon answers for.
    unfit: Vec<Unfit>,
    gate: Gate,
    /// Why nothing is known of a daemon that was named.
    unknown: Option<String>,
}

/// What of `table` rests as `unfit`.
pub(super) fn resting(unfit: &[Unfit], table: &str, health: &TableHealth) -> Vec<Wait> {
    let of_table = unfit.iter().filter(|unfit| unfit.table == table);
    let noted: Vec<Unfit> = of_table.cloned().collect();
    let resting = Quarantine::resumed(&noted).resting(&Fingerprints::of(health));
    // Without an end: when the clock began does not matter.
    resting.into_iter().map(|rests| rests.shown(0)).collect()
}

impl Waiting {
    /// Asks the daemon at `named`, or the one of the configuration, if there is one.
    pub(super) async fn at(context: &Context, place: &Place, named: Option<SocketAddr>) -> Self {
        let now_ms = i64::try_from(context.options.clock.now_ms()).unwrap_or(i64::MAX);
        let now = Timestamp::from_millisecond(now_ms).unwrap_or(Timestamp::MAX);
        let mut waiting = Self::default();
        waiting.gate.turn(now, Arc::default());
        waiting.gate.keep_free(context.config.budget.min_free);
        let room = place.clone().measure().await;
        waiting.gate.measured(&place.uri, room);
        waiting.unfit = place.unfit().await;
        let Some(address) = named.or(context.config.daemon.listen) else {
            return waiting;
        };
        let unknown = match ask(context, address).await {
            Err(why) => format!("no daemon answers on {address}: {why}"),
            Ok(told) => {
                let is_here =
                    |uri: &str| same_place(uri, &place.uri) || same_place(uri, place.store.uri());
                match told.stores.into_iter().find(|store| is_here(&store.uri)) {
                    None => format!("the daemon on {address} does not watch {}", place.uri),
                    location => {
                        waiting.gate.turn(now, Arc::new(told.pauses));
                        (waiting.daemon, waiting.location) = (Some(told.daemon), location);
                        return waiting;
                    }
                }
            }
        };
        waiting.unknown = named.is_some().then_some(unknown);
        waiting
    }

    /// Lines about the location as a whole.
    pub(super) fn lines(&self) -> Vec<String> {
        let unknown = self.unknown.iter();
        let unknown = unknown.map(|why| format!("{why}; what is paused or rests is not known"));
        let waits = self.location.iter().flat_map(|location| {
            let told = |wait: &Wait| format!("{}: {wait}", location.uri);
            location.waits.iter().map(told)
        });
        unknown.chain(waits).collect()
    }

    /// What of `plan` of a table of `place` does not run now. A daemon knows best; what it has not seen yet is paused all the
    /// same, or has no room.
    pub(super) fn of(
        &mut self,
        context: &Context,
        (place, target): (&Place, &Target),
        (plan, health): (&TablePlan, &TableHealth),
    ) -> Vec<Wait> {
        let table = target.to_string();
        let tables = self.location.iter().flat_map(|location| &location.tables);
        let mut waits: Vec<Wait> = tables
            .filter(|of| of.table == table)
            .flat_map(|of| of.waits.clone())
            .collect();
        if self.location.is_none() {
            waits.extend(resting(&self.unfit, &table, health));
        }
        let windows = context
            .config
            .policy_for(Place::config_name(target))
            .windows;
        for spec in &plan.operations {
            if waits.iter().any(|wait| wait.kind == spec.kind) {
                continue;
            }
            let held = match &self.location {
                None => self.gate.closed(&windows),
                Some(location) => self.gate.paused(&WorkKey {
                    location: location.uri.clone(),
                    scope: Scope::Table(target.clone()),
                    kind: spec.kind,
                }),
            };
            let no_room = || self.gate.no_room(&place.uri, spec.kind, spec.needs);
            let held = held.or_else(no_room);
            waits.extend(held.map(|held| Wait::held(spec.kind, &held)));
        }
        waits
    }
}

async fn ask(context: &Context, address: SocketAddr) -> Result<Told, String> {
    let asked = tokio::time::timeout(PATIENCE, status_of(context, address, MOST)).await;
    let late = "it does not answer in time";
    let (code, document) = asked.map_err(|_| late)?.map_err(|e| e.to_string())?;
    match code {
        200 => serde_json::from_value(document)
            .map_err(|e| format!("its status is not understood: {e}")),
        _ => {
            let why = document["error"].as_str().unwrap_or_default();
            Err(format!("it answers {code}: {why}"))
        }
    }
}
