//! What came of jobs and attempts, folded into what is known.

use super::Reconciler;
use crate::daemon::attempts::{Ended, Stop};
use crate::daemon::jobs::{Done, Recovered};
use crate::decide::room::Room;
use crate::decide::work::Scope;
use crate::metrics::Ending;
use crate::place::location::Found;
use crate::place::table::Observation;
use crate::place::{Place, UNKNOWN_TABLE};
use crate::run::report::OperationReport;
use squire_engine::error::Result;
use squire_engine::maintenance::{Target, Unfit};
use squire_engine::store::discovery::PassedOver;
use std::time::Duration;

impl Reconciler {
    /// Folds in what came of a job or an attempt.
    pub(in crate::daemon) fn fold(&mut self, done: Done) {
        let now = self.clock.monotonic();
        match done {
            Done::Attempted(number, report) => self.attempted(number, *report, now),
            Done::Opened(uri, opened) => self.opened(&uri, opened),
            Done::Recovered(uri, recovered) => self.recovered(&uri, *recovered),
            Done::Scanned(uri, scanned) => self.scanned(&uri, scanned, now),
            Done::Looked(uri, target, seen) => self.looked(&uri, &target, *seen, now),
            Done::Measured(uri, room) => self.measured(&uri, room),
            Done::Noted(uri) => {
                if let Some(watched) = self.locations.get_mut(&uri) {
                    watched.location.noted();
                }
            }
        }
    }

    fn opened(&mut self, uri: &str, opened: Result<(Place, Vec<Unfit>)>) {
        let Some(watched) = self.locations.get_mut(uri) else {
            return;
        };
        let root = |place: &Option<Place>| place.as_ref().map(|p| p.store.uri().to_owned());
        let before = root(&watched.place);
        match opened {
            Ok((place, unfit)) => {
                if place.managed {
                    self.status.note_store(uri);
                }
                watched.location.opened(place.managed, unfit);
                watched.place = Some(place);
            }
            Err(error) => {
                tracing::warn!(uri, %error, "this place cannot be opened; it is tried again");
                self.status.error(format!("{uri}: {error}"));
                self.status
                    .location_unreadable(uri, Some(error.to_string()));
                watched.location.closed();
                watched.place = None;
                if self.options.once {
                    self.unopened.push(error);
                }
            }
        }
        if before != root(&watched.place) {
            self.count_open();
        }
    }

    fn recovered(&mut self, uri: &str, recovered: Recovered) {
        let Some(watched) = self.locations.get_mut(uri) else {
            return;
        };
        watched.recovery = recovered.watch;
        if let Err(e) = &recovered.stranded {
            self.status.error(format!("stranded files: {e}"));
        }
        if let Ok(bytes) = recovered.stranded {
            self.status.stranded(uri, bytes);
        }
        match recovered.report {
            Ok(report) => {
                let changed = self.status.recovered(uri, &report);
                watched.location.recovered(report.failed.len(), changed);
            }
            Err(e) => {
                tracing::warn!(place = uri, error = %e, "recovery failed");
                self.status.error(format!("recovery of {uri}: {e}"));
                watched.location.recovered(1, false);
            }
        }
    }

    /// While there is too little room on a disk, its cleanups need no round to be decided.
    fn measured(&mut self, uri: &str, room: Option<Room>) {
        let Some(watched) = self.locations.get_mut(uri) else {
            return;
        };
        watched.location.measured();
        self.gate.measured(uri, room);
        let least = self.config.budget.min_free;
        self.status.measured(uri, room, least);
        if self.gate.short(uri).is_some() && watched.location.is_known() {
            self.rounds.insert(uri.to_owned());
        }
    }

    fn scanned(&mut self, uri: &str, scanned: Result<(Found, Vec<PassedOver>)>, now: Duration) {
        let Some(watched) = self.locations.get_mut(uri) else {
            return;
        };
        match scanned {
            Ok((found, skipped)) => {
                let present: Vec<String> = found.tables.keys().map(Target::to_string).collect();
                self.status.retain(uri, &present, skipped);
                self.status.location_unreadable(uri, None);
                if let Some(why) = &found.unarchived {
                    self.status.error(format!("{uri}: {why}"));
                }
                for broken in watched.location.scanned(found, now) {
                    self.status.broken(uri, &broken);
                }
                let location = &watched.location;
                self.board
                    .retain(|key| key.location != uri || location.wants(&key.scope, key.kind));
            }
            Err(e) => {
                let is_news = watched.location.answers();
                watched.location.unscanned();
                if is_news {
                    tracing::warn!(place = uri, error = %e, "this place cannot be observed now");
                    self.status.error(format!("{uri}: {e}"));
                    self.status.location_unreadable(uri, Some(e.to_string()));
                }
            }
        }
        self.show_open();
        self.end_round(uri, now);
    }

    fn looked(&mut self, uri: &str, target: &Target, seen: Result<Observation>, now: Duration) {
        let Some(watched) = self.locations.get_mut(uri) else {
            return;
        };
        let work = match seen {
            Ok(seen) => {
                let verdict = watched.location.looked(target, seen, &self.config, now);
                // What an earlier pass found unfit is no success of this one.
                let rests = |(_, due, rests): &(_, bool, bool)| *due && *rests;
                let of_pass = verdict.as_ref().filter(|_| self.options.once);
                self.bad += usize::from(of_pass.is_some_and(|v| v.kinds.iter().any(rests)));
                verdict.and_then(|verdict| self.status.judged(uri, target, verdict))
            }
            Err(e) => {
                tracing::warn!(place = uri, %target, error = %e, "this table cannot be observed now");
                if watched.location.unseen(target) {
                    self.status.unreadable(uri, &target.to_string(), &e);
                }
                Some(Vec::new())
            }
        };
        if let Some(work) = work {
            self.board.replace(uri, target, work, now);
        }
        self.end_round(uri, now);
    }

    /// Measures a round that ended, and tells of tables that have settings and are in no location, once for each.
    fn end_round(&mut self, uri: &str, now: Duration) {
        let Some(watched) = self.locations.get_mut(uri) else {
            return;
        };
        let Some(began) = watched.location.end_round() else {
            return;
        };
        let took = now.saturating_sub(began);
        self.status
            .metrics
            .scan_duration
            .observe(took.as_secs_f64());
        if took > self.config.daemon.scan_interval {
            self.status.metrics.loop_overruns.inc();
        }
        if let Some(place) = &watched.place {
            let traffic = place.store.take_traffic();
            self.status.metrics.object_store(uri, traffic);
        }
        self.rounds.insert(uri.to_owned());
        if self.locations.values().all(|w| w.location.is_known()) {
            let unknown = self.config.unknown_tables(&self.status.table_names());
            let before = std::mem::replace(&mut self.unknown_tables, unknown);
            for table in &self.unknown_tables {
                if !before.contains(table) {
                    tracing::warn!(table, "{UNKNOWN_TABLE}");
                }
            }
        }
    }

    fn attempted(&mut self, number: u64, mut report: OperationReport, now: Duration) {
        let Some(Ended { item, stop, began }) = self.attempts.end(number) else {
            return;
        };
        self.board.ended(&item.key);
        report.seconds = now.saturating_sub(began).as_secs_f64();
        let daemon = &self.config.daemon;
        match stop {
            Some(Stop::Hung) if report.ending == Ending::Cancelled => {
                report.hung(daemon.watchdog_progress.as_secs());
            }
            Some(why) => report.stopped(why.as_str(), why == Stop::Asked),
            None => {}
        }
        self.bad += usize::from(report.ending.is_bad());
        if let Some(watched) = self.locations.get_mut(&item.key.location) {
            let times = (now, daemon.scan_interval);
            let rests = watched.location.ended(&item, report.lesson(), times);
            self.status.rest(&report, &rests);
            let resting = watched.location.resting(now);
            self.status.location_rests(&item.key.location, resting);
            if let Scope::Table(target) = &item.key.scope
                && let Some(phase) = watched.location.phase(target)
            {
                self.status.moved(&item.key.location, target, phase);
            }
        }
        self.status.ended(&item, report);
    }
}
