//! Begins jobs and attempts, and folds in what came of them. Nothing here waits: what takes time is a task of its own that
//! sends its [`Done`], which `fold` takes in; `obey` does what people ask for.

mod fold;
mod obey;

use super::attempts::{Attempts, Begun, Stop};
use super::jobs::{Done, Surround, Watched};
use super::service::Options;
use super::status::Status;
use super::wakes::{Wakes, below};
use crate::config::Config;
use crate::decide::board::Board;
use crate::decide::gate::Gate;
use crate::decide::waits::Held;
use crate::decide::work::{WorkItem, WorkKey};
use crate::memory::attempts;
use crate::place::location::Location;
use crate::place::table::config_name;
use crate::place::{CLONES_ELSEWHERE, Place};
use crate::run::report::OperationReport;
use crate::run::{Claims, Surroundings, execute_claimed};
use crate::supervisor::Supervisor;
use crate::watch::FileWatch;
use jiff::Timestamp;
use serde_json::Value;
use squire_engine::clock::{Clock, Entropy};
use squire_engine::error::{Error, ErrorKind, caught};
use squire_engine::maintenance::Pace;
use squire_engine::recovery::Watch as RecoveryWatch;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::UnboundedSender;
use tracing::Instrument;

/// How often it is looked what is held back.
const GATED_EVERY: Duration = Duration::from_secs(1);

/// How much of what is handed back stands in the log; `/status` has more.
const TOLD: usize = 10;

/// Everything that the daemon knows and does.
pub(super) struct Reconciler {
    pub(super) config: Arc<Config>,
    options: Options,
    pub(super) status: Arc<Status>,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    locations: BTreeMap<String, Watched>,
    board: Board,
    /// What this daemon is called in its claims.
    holder: String,
    gate: Gate,
    /// When it was looked whether what is held back still is.
    gated: Option<Duration>,
    /// The rate of the budget, which all attempts share.
    pace: Arc<Pace>,
    pub(super) attempts: Attempts,
    pub(super) tasks: Supervisor,
    done: UnboundedSender<Done>,
    pub(super) wakes: Arc<Wakes>,
    files: Option<FileWatch>,
    /// Locations whose round ended and whose cleanups were not decided since.
    rounds: BTreeSet<String>,
    /// Locations whose work waits for room on their disk, as they were told last.
    cramped: BTreeSet<String>,
    /// Tables that have settings and are nowhere, as they were told last.
    unknown_tables: Vec<String>,
    /// How many attempts went bad.
    bad: usize,
    /// Why locations could not be opened.
    pub(super) unopened: Vec<Error>,
    draining: bool,
}

impl Reconciler {
    pub(super) fn new(
        config: Config,
        options: Options,
        status: Arc<Status>,
        done: UnboundedSender<Done>,
    ) -> Self {
        let entropy = Entropy::new(options.store.seed);
        let instance = entropy.op_id(options.store.clock.now_ms());
        let holder = format!("{} (daemon {instance})", options.store.actor);
        status.set_holder(&holder);
        let mut reconciler = Self {
            holder,
            board: Board::new(&config.budget, options.once),
            gate: Gate::default(),
            gated: None,
            pace: Arc::new(Pace::new(
                config.budget.bytes_per_second,
                options.store.clock.clone(),
            )),
            config: Arc::new(config),
            status,
            clock: options.store.clock.clone(),
            entropy,
            options,
            locations: BTreeMap::new(),
            attempts: Attempts::default(),
            tasks: Supervisor::default(),
            done,
            wakes: Arc::default(),
            files: None,
            rounds: BTreeSet::new(),
            cramped: BTreeSet::new(),
            unknown_tables: Vec::new(),
            bad: 0,
            unopened: Vec::new(),
            draining: false,
        };
        reconciler.bound_metrics();
        reconciler.gate.keep_free(reconciler.config.budget.min_free);
        reconciler.follow_watches();
        reconciler
    }

    fn bound_metrics(&self) {
        let tables = self.config.daemon.metrics_tables;
        self.status.metrics.bound_tables(tables);
    }

    /// Takes up a changed configuration. Every location is looked at again: policies may have changed.
    pub(super) fn reload(&mut self, config: Config) {
        self.config = Arc::new(config);
        self.bound_metrics();
        self.board.set_budget(&self.config.budget);
        self.gate.keep_free(self.config.budget.min_free);
        let attempts = attempts(&self.config.budget);
        self.options.store.memory.share_among(attempts);
        self.pace.set(self.config.budget.bytes_per_second);
        self.follow_watches();
    }

    /// Watches what the configuration says, and forgets what is not watched any more, with all that is known of it.
    fn follow_watches(&mut self) {
        let wanted = self.options.watches(&self.config);
        let is_wanted = |uri: &String| wanted.iter().any(|watch| watch.uri == *uri);
        let gone: Vec<String> = self
            .locations
            .keys()
            .filter(|u| !is_wanted(u))
            .cloned()
            .collect();
        self.status
            .watches(wanted.iter().map(|w| w.uri.clone()).collect());
        for uri in gone {
            self.locations.remove(&uri);
            self.gate.measured(&uri, None);
            self.attempts
                .cancel(Stop::Ending, |_, item| item.key.location == uri);
            self.status.forget(&uri);
        }
        for watch in wanted {
            let watched = self.locations.entry(watch.uri.clone());
            let watched = watched.or_insert_with(|| Watched {
                location: Location::new(&watch.uri, self.options.once),
                watch: watch.clone(),
                place: None,
                recovery: RecoveryWatch::default(),
            });
            watched.watch = watch;
            watched.location.look_again();
        }
        let locations = &self.locations;
        self.board
            .retain(|key| locations.contains_key(&key.location));
        self.count_open();
    }

    /// Shows which locations are open, and listens to their files.
    fn count_open(&mut self) {
        self.show_open();
        let open = || self.locations.values().filter_map(|w| w.place.as_ref());
        self.files = (!self.options.once).then(|| self.wakes.watch(open()));
    }

    fn show_open(&self) {
        let open = || self.locations.values().filter(|w| w.place.is_some());
        let answering = open().filter(|w| w.location.answers()).count();
        self.status.opened(open().count(), answering);
    }

    /// Begins what can begin now.
    pub(super) fn turn(&mut self) {
        let now = self.clock.monotonic();
        self.status.turned();
        self.mind_the_gate(now);
        if !self.draining {
            self.begin_jobs(now);
            self.decide_cleanups(now);
            self.begin_attempts(now);
        }
        let patience = self.config.daemon.watchdog_progress;
        self.attempts.watch(now, patience);
        // Half of the time that a stop has is left for the commits.
        self.attempts.press(now, self.config.daemon.drain / 2);
        let doing = self.attempts.doing(now);
        let longest_still = self.attempts.longest_still(now);
        self.status.loaded(doing.len(), longest_still);
        self.status.doing(doing);
    }

    /// Asks all attempts to stop at their next safe point, and begins nothing any more. Says what is handed back: whoever looks
    /// next finds it due.
    pub(super) fn drain(&mut self) {
        if std::mem::replace(&mut self.draining, true) {
            return;
        }
        self.show_waiting(self.clock.monotonic());
        let (stopping, handed_back) = self.status.drained();
        let waiting = handed_back.len() - stopping;
        let what: Vec<String> = handed_back.iter().take(TOLD).map(told).collect();
        let what = what.join(", ");
        tracing::info!(
            stopping,
            waiting,
            what,
            "nothing is begun any more; this is handed back"
        );
        self.attempts.cancel(Stop::Ending, |_, _| true);
    }

    /// What time and people do to what is held back. Once a second, as the loop turns for that.
    fn mind_the_gate(&mut self, now: Duration) {
        if self
            .gated
            .is_some_and(|at| now.saturating_sub(at) < GATED_EVERY)
        {
            return;
        }
        self.gated = Some(now);
        let wall = i64::try_from(self.clock.now_ms()).unwrap_or(i64::MAX);
        let wall = Timestamp::from_millisecond(wall).unwrap_or(Timestamp::MAX);
        self.gate.turn(wall, self.status.pauses());
        self.board.look_again();
        let (gate, config) = (&mut self.gate, &self.config);
        self.attempts.cancel(Stop::Window, |_, item| {
            // As they are written now: a reload may have changed them under the attempt.
            let windows = match config_name(&item.key.scope) {
                Some(table) => config.policy_for(table).windows,
                None => config.policy.windows.clone(),
            };
            item.trigger.keeps_windows() && gate.is_closed(&windows)
        });
        self.attempts
            .cancel(Stop::Room, |_, item| gate.ends_for_room(item));
        self.show_waiting(now);
    }

    fn show_waiting(&mut self, now: Duration) {
        let (gate, mut cramped) = (&mut self.gate, BTreeMap::new());
        let waiting = self.board.waiting(now, |item| {
            let held = gate.held(item);
            if let Some(no_room @ Held::NoRoom { .. }) = &held {
                let told = cramped.entry(item.key.location.clone());
                told.or_insert_with(|| no_room.to_string());
            }
            held
        });
        let longest = self.board.longest_wait(now, |item| gate.held(item));
        self.status.waits(waiting, longest);
        self.tell_cramped(cramped);
    }

    /// Says once that work waits for room on the disk of a location, and once that none does any more.
    fn tell_cramped(&mut self, cramped: BTreeMap<String, String>) {
        for (place, what) in &cramped {
            if !self.cramped.contains(place) {
                tracing::warn!(place, what, "work waits for room on its disk");
            }
        }
        for place in &self.cramped {
            if !cramped.contains_key(place) {
                tracing::info!(place, "no work waits for room on its disk any more");
            }
        }
        self.cramped = cramped.into_keys().collect();
    }

    /// Whether every location was recovered and observed once, as far as that went.
    pub(super) fn is_settled(&self) -> bool {
        self.locations.values().all(|w| w.location.is_settled())
    }

    /// Whether a single pass is through.
    pub(super) fn is_through(&self) -> bool {
        self.is_observed() && self.board.is_empty() && self.rounds.is_empty()
    }

    /// Whether everything that a single pass looks at was looked at.
    fn is_observed(&self) -> bool {
        let quiet = |w: &Watched| w.location.is_settled() && w.location.is_quiet();
        self.locations.values().all(quiet)
    }

    /// How much failed until now: openings, recoveries, observations, attempts.
    pub(super) fn failed(&self) -> usize {
        let of_locations = self.locations.values().map(|w| w.location.failed);
        self.bad + of_locations.sum::<usize>()
    }

    /// Whether nothing at all could be opened.
    pub(super) fn is_closed(&self) -> bool {
        self.locations.values().all(|w| !w.location.is_open())
    }

    fn begin_jobs(&mut self, now: Duration) {
        for uri in self.locations.keys().cloned().collect::<Vec<_>>() {
            let pause = round_pause(self.config.daemon.scan_interval, &self.entropy);
            let Some(watched) = self.locations.get_mut(&uri) else {
                continue;
            };
            for job in watched.location.jobs(now, pause) {
                watched.begin(
                    &uri,
                    job,
                    &mut self.tasks,
                    Surround {
                        options: &self.options,
                        config: &self.config,
                        done: &self.done,
                    },
                );
            }
        }
    }

    /// The cleanups of the locations whose round ended. Not before each location was tried: files that a table of
    /// another refers to stay.
    fn decide_cleanups(&mut self, now: Duration) {
        if !self.locations.values().all(|w| w.location.is_tried()) {
            return;
        }
        for uri in std::mem::take(&mut self.rounds) {
            let Some(watched) = self.locations.get_mut(&uri) else {
                continue;
            };
            let short = self.gate.short(&uri).is_some();
            let cleanups = watched.location.regular_cleanups(now, &self.config, short);
            let (items, first) = cleanups;
            if first {
                tracing::warn!(place = uri, "before the first cleanup: {CLONES_ELSEWHERE}");
            }
            items.into_iter().for_each(|item| self.board.add(item, now));
        }
    }

    fn begin_attempts(&mut self, now: Duration) {
        if self.options.once {
            if !self.is_observed() {
                return;
            }
            // A single pass does not wait for what may come.
            let gate = &mut self.gate;
            for (item, why) in self.board.take_down(|item| gate.held(item)) {
                let (what, why) = (item.to_string(), why.to_string());
                tracing::info!(place = item.key.location, what, why, "this is held back");
            }
        }
        loop {
            let gate = &mut self.gate;
            let Some(item) = self.board.take(now, |item| gate.held(item)) else {
                return;
            };
            let Some(watched) = self.locations.get_mut(&item.key.location) else {
                self.board.ended(&item.key);
                continue;
            };
            let Some(place) = watched.place.clone() else {
                self.board.ended(&item.key);
                continue;
            };
            if let Some((target, phase)) = watched.location.started(&item) {
                self.status.moved(&item.key.location, target, phase);
            }
            self.begin(item, place, now);
        }
    }

    /// A single pass does what it was started for, as a command does.
    fn claims(&self) -> Option<Claims> {
        let expiry = self.config.daemon.claim_expiry;
        let expiry = expiry.filter(|_| !self.options.once)?;
        Some(Claims {
            holder: self.holder.clone(),
            expiry,
        })
    }

    /// Begins an attempt. All that is logged below it carries what it is about.
    fn begin(&mut self, item: WorkItem, place: Place, now: Duration) {
        let around = Surroundings {
            place,
            places: self
                .locations
                .values()
                .filter_map(|w| w.place.clone())
                .collect(),
            watched: self.locations.keys().cloned().collect(),
            spared: self.gate.spared(&item.key.location),
            config: self.config.clone(),
            claims: self.claims(),
        };
        let begun = self.attempts.begin(item.clone(), &self.pace, now);
        let Begun {
            number,
            oversight,
            abandon,
        } = begun;
        let WorkKey {
            location, scope, ..
        } = &item.key;
        let span = tracing::error_span!("attempt", attempt = number, location, table = %scope);
        let done = self.done.clone();
        let work = async move {
            let report = tokio::select! {
                biased;
                report = caught("the attempt", async {
                    Ok(execute_claimed(&around, &item, number, &oversight).await)
                }) => report,
                () = abandon.cancelled() => Err(Error::new(
                    ErrorKind::Storage,
                    "it did not stop and was dropped where it stood; recovery settles it",
                )),
            };
            let report = report.unwrap_or_else(|error| {
                let mut report = OperationReport::new(&item, number);
                report.failed(&error);
                report
            });
            // Nobody listens any more when the daemon ends.
            done.send(Done::Attempted(number, Box::new(report))).ok();
        };
        self.tasks.start("attempt", work.instrument(span));
    }

    /// Versions appeared in folders: their tables are looked at.
    pub(super) fn wake(&mut self) {
        for folder in self.wakes.take() {
            for Watched {
                place, location, ..
            } in self.locations.values_mut()
            {
                let below = place.as_ref().and_then(|place| below(place, &folder));
                if let Some(below) = below {
                    location.woken(&below);
                }
            }
        }
    }
}

/// Jittered, so that daemons that were started together do not scan together.
fn round_pause(interval: Duration, entropy: &Entropy) -> Duration {
    interval.mul_f64(0.8) + entropy.jitter(interval).mul_f64(0.2)
}

/// One piece of work that is handed back.
fn told(work: &Value) -> String {
    let of = |name: &str| work[name].as_str().unwrap_or_default().to_owned();
    format!("{} {} ({})", of("kind"), of("table"), of("was"))
}

#[cfg(test)]
mod tests {
    use super::{Entropy, round_pause};
    use std::time::Duration;

    /// Daemons in containers have one process id, and are started together.
    #[test]
    fn no_two_daemons_scan_in_step() {
        let interval = Duration::from_secs(60);
        let pauses = |entropy: Entropy| -> Vec<Duration> {
            (0..8).map(|_| round_pause(interval, &entropy)).collect()
        };
        let (one, other) = (pauses(Entropy::new(None)), pauses(Entropy::new(None)));
        assert_ne!(one, other);
        assert_eq!(pauses(Entropy::new(Some(7))), pauses(Entropy::new(Some(7))));
        let within = |pause: &Duration| *pause >= interval.mul_f64(0.9) && *pause <= interval;
        assert!(one.iter().chain(&other).all(within));
    }
}
