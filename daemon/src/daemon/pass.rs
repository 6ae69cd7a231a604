//! One pass: recovery first, then observe, plan, schedule and execute.

use super::execution::{Ending, OperationReport, execute};
use super::planning::{OperationKind, OperationSpec, TablePlan, bounds, memory_estimate, plan};
use super::quarantine::{Fingerprints, Quarantine};
use super::scheduling::{Cooldowns, MemoryBudget, WorkItem, WorkKey, score};
use super::status::{Status, TableStatus};
use super::unreferenced::Counts;
use crate::cli::{CLONES_ELSEWHERE, UNKNOWN_TABLE};
use crate::config::{Config, DriftPolicy};
use crate::http::{Ask, ControlVerb};
use crate::place::{Place, Selection, step};
use futures::StreamExt;
use squire_engine::clock::Clock;
use squire_engine::error::{Result, caught};
use squire_engine::ids::TableName;
use squire_engine::invariants::violations;
use squire_engine::maintenance::{CompactionPlan, Target, Unreferenced};
use squire_engine::recovery::Watch as RecoveryWatch;
use squire_engine::store::State;
use squire_engine::store::state::MAX_BATCHES;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Why a table that others have written to is left alone.
const DRIFTED: &str =
    "skipped: versions above the pin that squire did not make; see `squire repair`";

/// The reason of work that a person asked for.
const ASKED_FOR: &str = "asked for";

/// What passes remember.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    recovery: HashMap<String, RecoveryWatch>,
    cooldowns: Cooldowns,
    quarantine: Quarantine,
    /// Why tables that should be compacted are not, as it was told last.
    left_alone: HashMap<WorkKey, String>,
    last_cleanup: HashMap<String, Duration>,
    /// Tables that have settings and are nowhere, as they were told last.
    unknown_tables: Vec<String>,
    states: HashMap<String, Arc<State>>,
    unreferenced: Counts,
    /// Tables with a broken invariant, by place, which invariant and what was seen: not maintained until a person has
    /// looked and starts the daemon again.
    stopped: HashMap<String, BTreeMap<TableName, BTreeMap<&'static str, String>>>,
}

impl Memory {
    fn why_stopped(&self, place: &Place, target: &Target) -> Option<&String> {
        let broken = self.stopped.get(&place.uri)?.get(target.table()?)?;
        broken.values().next()
    }

    /// Tells why a table that should be compacted is not, once for each reason.
    fn tell_left_alone(&mut self, place: &Place, target: &Target, why: Option<String>) {
        let key = WorkKey::new(&place.uri, target.clone(), OperationKind::Compact);
        let before = self.left_alone.remove(&key);
        let Some(why) = why else { return };
        if before.as_ref() != Some(&why) {
            tracing::warn!(place = place.uri, %target, why, "this table is not compacted");
        }
        self.left_alone.insert(key, why);
    }
}

/// The state of a table that nothing keeps maintenance off, and why it is in it.
fn state_of(planned: &TablePlan) -> (&'static str, String) {
    match (planned.operations.first(), &planned.left_alone) {
        (Some(first), _) => ("due", first.reason.clone()),
        (None, Some(why)) => ("left alone", why.clone()),
        (None, None) => ("healthy", planned.otherwise.clone()),
    }
}

/// One pass over all places.
pub(crate) struct Pass<'a> {
    pub(crate) config: &'a Config,
    pub(crate) status: &'a Arc<Status>,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) cancel: &'a CancellationToken,
    pub(crate) requests: Vec<Ask>,
}

impl Pass<'_> {
    /// Runs the pass and measures it; a pass that takes longer than the scan interval is an overrun. Returns how much
    /// failed: recoveries, observations and attempts.
    pub(crate) async fn timed(&self, places: &[Place], memory: &mut Memory) -> usize {
        let started = self.clock.monotonic();
        let done = self.run(places, memory).await;
        let took = self.clock.monotonic().saturating_sub(started);
        self.status
            .metrics
            .scan_duration
            .observe(took.as_secs_f64());
        if took > self.config.daemon.scan_interval {
            self.status.metrics.loop_overruns.inc();
        }
        for place in places {
            let (reads, writes) = place.store.take_requests();
            self.status.metrics.object_store_requests("read", reads);
            self.status.metrics.object_store_requests("write", writes);
        }
        done
    }

    /// Runs the pass. Returns what failed in it.
    async fn run(&self, places: &[Place], memory: &mut Memory) -> usize {
        let mut items = Vec::new();
        let mut failed = 0;
        let watched = self.status.watched();
        let mut unseen = watched.len().saturating_sub(places.len());
        for (index, place) in places.iter().enumerate() {
            if self.cancel.is_cancelled() {
                return failed;
            }
            failed += self.recover(place, memory).await;
            let observing = format!("observing {}", place.uri);
            let observed = self.observe(index, place, memory, &mut items);
            match caught(&observing, observed).await {
                Ok(unreadable) => {
                    failed += unreadable;
                    self.status.metrics.set_unreadable(&place.uri, "", false);
                }
                Err(e) => {
                    tracing::warn!(place = place.uri, error = %e, "this place cannot be observed now");
                    self.status.error(format!("{}: {e}", place.uri));
                    self.status.metrics.set_unreadable(&place.uri, "", true);
                    failed += 1;
                    unseen += 1;
                }
            }
            self.status.progressed();
        }
        if unseen == 0 {
            self.tell_unknown_tables(memory);
        }
        if self.status.is_paused() {
            return failed;
        }
        let now = self.clock.monotonic();
        items.retain(|item| {
            let key = item.key(&places[item.place].uri);
            item.spec.reason == ASKED_FOR || !memory.cooldowns.blocks(&key, now)
        });
        items.sort_by_key(|item| std::cmp::Reverse(item.score));
        failed + self.execute_all(places, items, memory).await
    }

    /// Tells of tables that have settings and are in no location, once for each.
    fn tell_unknown_tables(&self, memory: &mut Memory) {
        let unknown = self.config.unknown_tables(&self.status.table_names());
        let before = std::mem::replace(&mut memory.unknown_tables, unknown);
        for table in &memory.unknown_tables {
            if !before.contains(table) {
                tracing::warn!(table, "{UNKNOWN_TABLE}");
            }
        }
    }

    /// Recovers what operations left at a place. Returns how much of it failed.
    async fn recover(&self, place: &Place, memory: &mut Memory) -> usize {
        let watch = memory.recovery.entry(place.uri.clone()).or_default();
        let asked = |ask: &Ask| ask.verb == ControlVerb::Recover && ask.is_about(&place.uri);
        let force = self.requests.iter().any(asked);
        let recovering = format!("recovery of {}", place.uri);
        let report = match caught(&recovering, place.recover(watch, force)).await {
            Ok(report) => report,
            Err(e) => {
                tracing::warn!(place = place.uri, error = %e, "recovery failed");
                self.status.error(format!("{recovering}: {e}"));
                return 1;
            }
        };
        for (outcome, ops) in [
            ("committed", &report.committed),
            ("aborted", &report.aborted),
            ("healed", &report.healed),
        ] {
            for op in ops {
                tracing::info!(%op, outcome, "recovered an operation");
                self.status.metrics.recovered(&place.uri, outcome);
            }
        }
        for (op, bytes) in &report.reclaimed {
            tracing::info!(%op, bytes, "reclaimed what a maintenance run rewrote for nothing");
            self.status.metrics.reclaimed_stranded(&place.uri, *bytes);
        }
        for (op, error) in &report.failed {
            tracing::warn!(op, error, "an operation could not be resolved");
            self.status.error(format!("recovery of {op}: {error}"));
        }
        let waiting = report.pending.len() + report.failed.len();
        self.status.metrics.set_sidecars(&place.uri, waiting as u64);
        match caught(&recovering, place.stranded_bytes()).await {
            Ok(bytes) => self.status.metrics.set_stranded(&place.uri, bytes),
            Err(e) => self.status.error(format!("stranded files: {e}")),
        }
        report.failed.len()
    }

    /// Observes what stands at `place` and adds what is due. Returns how many tables could not be observed.
    async fn observe(
        &self,
        index: usize,
        place: &Place,
        memory: &mut Memory,
        items: &mut Vec<WorkItem>,
    ) -> Result<usize> {
        if place.managed {
            self.check_invariants(place, memory).await?;
            self.archive_early(place).await?;
        }
        let Selection { targets, skipped } = place.targets().await?;
        let mut present = Vec::new();
        let mut unreadable = 0;
        for target in &targets {
            present.push(target.to_string());
            // A failing table never stops the others.
            let work = self.observe_target(index, place, target, memory);
            match step("look", target, work).await {
                Ok(due) => items.extend(due),
                Err(e) => {
                    tracing::warn!(%target, error = %e, "this table cannot be observed now");
                    self.status.unreadable(&place.uri, &target.to_string(), &e);
                    unreadable += 1;
                }
            }
        }
        self.status.retain(&place.uri, &present, skipped);
        self.regular_cleanup(index, place, &targets, memory, items);
        Ok(unreadable)
    }

    /// Copies the commit log when more batch ids stand in the manifest than should: only archived ones may leave it,
    /// and every publish writes those that stay.
    async fn archive_early(&self, place: &Place) -> Result<()> {
        if place.store.load().await?.state.batches.len() > MAX_BATCHES {
            // A log that cannot be written makes publishes longer, and stops no table.
            if let Err(e) = place.store.archive().await {
                tracing::warn!(place = place.uri, error = %e, "the commit log cannot be written now");
                self.status.error(format!("{}: {e}", place.uri));
            }
        }
        Ok(())
    }

    /// The cheap invariants, always. A violation is an error for people, a metric, and no more maintenance of its tables.
    async fn check_invariants(&self, place: &Place, memory: &mut Memory) -> Result<()> {
        let state = place.store.load().await?.state;
        let before = memory.states.insert(place.uri.clone(), state.clone());
        let stopped = memory.stopped.entry(place.uri.clone()).or_default();
        for violation in violations(before.as_deref(), &state) {
            let (invariant, seen) = (violation.invariant, violation.seen);
            let known = |table| {
                let broken = stopped.get(table);
                broken.is_some_and(|b: &BTreeMap<_, _>| b.contains_key(invariant))
            };
            if !violation.tables.is_empty() && violation.tables.iter().all(known) {
                continue;
            }
            tracing::error!(
                invariant,
                seen,
                place = place.uri,
                "an invariant of the protocol is violated"
            );
            self.status.metrics.invariant_violated(invariant);
            self.status
                .error(format!("{}: {invariant}: {seen}", place.uri));
            let why = format!("stopped: invariant {invariant} is violated: {seen}");
            for table in violation.tables {
                let broken = stopped.entry(table).or_default();
                broken.insert(invariant, why.clone());
            }
        }
        Ok(())
    }

    /// Observes one table and says what is to be done to it now.
    async fn observe_target(
        &self,
        index: usize,
        place: &Place,
        target: &Target,
        memory: &mut Memory,
    ) -> Result<Vec<WorkItem>> {
        let policy = self.config.policy_for(Place::config_name(target));
        let stopped = memory.why_stopped(place, target).cloned();
        let drift = match target.table() {
            Some(table) if stopped.is_none() => place
                .store
                .handle_drift(table, policy.drift == DriftPolicy::Adopt)
                .await?
                .is_some(),
            _ => false,
        };
        let health = place.store.health(target, &bounds(&policy)).await?;
        let (bytes, fingerprints) = (health.bytes, Fingerprints::of(&health));
        let resting = self.resting_indexes(place, target, &fingerprints, memory);
        let rewrites = if health.candidate_fragments > 0 {
            let bounds = bounds(&policy);
            place.store.compaction_plan(target, &bounds).await?
        } else {
            CompactionPlan::default()
        };
        let mut considered = health.clone();
        considered
            .indexes
            .retain(|i| !resting.contains_key(&i.name));
        let mut planned = plan(&considered, &rewrites, &policy);
        self.add_requested(place, target, &mut planned);
        let left_alone = drift || stopped.is_some();
        let rests = match left_alone {
            true => None,
            false => {
                let index = resting.iter().next();
                self.set_apart(
                    (place, target),
                    &mut planned,
                    fingerprints.schema,
                    index,
                    memory,
                )
            }
        };
        let (state, reason) = match (stopped, rests) {
            (Some(why), _) => ("stopped", why),
            (None, _) if drift => ("drift", DRIFTED.to_owned()),
            (None, Some(why)) => ("quarantined", why),
            (None, None) => state_of(&planned),
        };
        memory.tell_left_alone(place, target, planned.left_alone.clone());
        let seen = TableStatus {
            unreferenced: self.unreferenced(place, target, memory).await,
            health,
            state,
            reason,
            drift,
        };
        self.status.observe(&place.uri, seen);
        if left_alone {
            return Ok(Vec::new());
        }
        let due = planned.operations.into_iter().map(|spec| WorkItem {
            place: index,
            target: target.clone(),
            score: score(&spec),
            memory: memory_estimate(spec.kind, bytes, &policy),
            spec,
            policy: policy.clone(),
            fingerprints: fingerprints.clone(),
            resting: resting.keys().cloned().collect(),
        });
        Ok(due.collect())
    }

    /// What no version of `target` refers to, as of the last full scan.
    async fn unreferenced(
        &self,
        place: &Place,
        target: &Target,
        memory: &mut Memory,
    ) -> Option<Unreferenced> {
        let (now, every) = (
            self.clock.monotonic(),
            self.config.daemon.full_scan_interval,
        );
        memory.unreferenced.of(place, target, now, every).await
    }

    /// The indexes of `target` that rest, and why; none of them when a person asks for them.
    fn resting_indexes(
        &self,
        place: &Place,
        target: &Target,
        fingerprints: &Fingerprints,
        memory: &mut Memory,
    ) -> BTreeMap<String, String> {
        let asked = self
            .asked(place, target)
            .any(|kind| kind == OperationKind::Reindex);
        let mut resting = BTreeMap::new();
        for (index, fingerprint) in fingerprints.indexes() {
            let key = WorkKey::new(&place.uri, target.clone(), OperationKind::Reindex);
            let key = key.of_index(index);
            if asked {
                memory.quarantine.release(&key);
            }
            if let Some(why) = memory.quarantine.why(&key, fingerprint) {
                resting.insert(index.to_owned(), why.to_owned());
            }
        }
        resting
    }

    /// Takes what rests out of `planned`, and says of each kind whether there was anything to do. `index` is one that
    /// rests, and why. Returns why the first of them rests.
    fn set_apart(
        &self,
        (place, target): (&Place, &Target),
        planned: &mut TablePlan,
        schema: u64,
        index: Option<(&String, &String)>,
        memory: &mut Memory,
    ) -> Option<String> {
        let table = target.to_string();
        let mut rests = None;
        for kind in OperationKind::ALL {
            let run = [place.uri.as_str(), &table, kind.as_str()];
            let index = index.filter(|_| kind == OperationKind::Reindex);
            if planned.operations.iter().any(|o| o.kind == kind) || index.is_some() {
                self.status.due(run);
            } else if kind != OperationKind::Cleanup {
                self.status.nothing_to_do(run);
            }
            let key = WorkKey::new(&place.uri, target.clone(), kind);
            if self.asked(place, target).any(|asked| asked == kind) {
                memory.quarantine.release(&key);
            }
            let why = memory.quarantine.why(&key, schema);
            self.status
                .metrics
                .quarantined(run, why.is_some() || index.is_some());
            if let Some(why) = why {
                planned.operations.retain(|o| o.kind != kind);
                rests.get_or_insert(format!("{} rests: {why}", kind.as_str()));
            }
            if let Some((index, why)) = index {
                rests.get_or_insert(format!("index {index} rests: {why}"));
            }
        }
        rests
    }

    /// What a person asked for to be done to `target`.
    fn asked(&self, place: &Place, target: &Target) -> impl Iterator<Item = OperationKind> {
        let named = |t: &str| t == Place::config_name(target) || t == target.to_string();
        self.requests
            .iter()
            .filter(move |ask| ask.is_about(&place.uri))
            .filter(move |ask| ask.table.as_deref().is_none_or(named))
            .filter_map(|ask| match ask.verb {
                ControlVerb::Optimize => Some(OperationKind::Compact),
                ControlVerb::Reindex => Some(OperationKind::Reindex),
                ControlVerb::Cleanup => Some(OperationKind::Cleanup),
                ControlVerb::Recover
                | ControlVerb::Pause
                | ControlVerb::Resume
                | ControlVerb::Cancel => None,
            })
    }

    fn add_requested(&self, place: &Place, target: &Target, plan: &mut TablePlan) {
        for kind in self.asked(place, target) {
            let reason = String::from(ASKED_FOR);
            match plan.operations.iter_mut().find(|o| o.kind == kind) {
                Some(planned) => planned.reason = reason,
                None => plan.operations.push(OperationSpec {
                    kind,
                    reason,
                    debt: 1.0,
                }),
            }
        }
    }

    /// Cleanup runs every full scan, whatever compaction does; for a store it covers all tables at once.
    fn regular_cleanup(
        &self,
        index: usize,
        place: &Place,
        targets: &[Target],
        memory: &mut Memory,
        items: &mut Vec<WorkItem>,
    ) {
        if memory
            .stopped
            .get(&place.uri)
            .is_some_and(|s| !s.is_empty())
        {
            // A cleanup covers the whole store, and what is wrong with one table is not known.
            items.retain(|i| i.place != index || i.spec.kind != OperationKind::Cleanup);
            return;
        }
        let now = self.clock.monotonic();
        let due = memory
            .last_cleanup
            .get(&place.uri)
            .is_none_or(|last| now.saturating_sub(*last) >= self.config.daemon.full_scan_interval);
        let covered = if place.managed { 1 } else { targets.len() };
        let cleans = |i: &WorkItem| i.place == index && i.spec.kind == OperationKind::Cleanup;
        let mut first = true;
        items.retain(|item| {
            // Too many versions stay too many until retention lets them go: asking at every pass would not help.
            let wanted = due || item.spec.reason == ASKED_FOR;
            !cleans(item) || (wanted && (!place.managed || std::mem::take(&mut first)))
        });
        if !due {
            return;
        }
        if memory.last_cleanup.insert(place.uri.clone(), now).is_none() {
            tracing::warn!(
                place = place.uri,
                "before the first cleanup: {CLONES_ELSEWHERE}"
            );
        }
        for target in targets.iter().take(covered) {
            let planned = |i: &WorkItem| cleans(i) && (place.managed || i.target == *target);
            if items.iter().any(planned) {
                continue;
            }
            let policy = self.config.policy_for(Place::config_name(target));
            let spec = OperationSpec {
                kind: OperationKind::Cleanup,
                reason: String::from("regular"),
                debt: 0.0,
            };
            items.push(WorkItem {
                place: index,
                target: target.clone(),
                score: score(&spec),
                memory: 0,
                spec,
                policy,
                fingerprints: Fingerprints::default(),
                resting: BTreeSet::new(),
            });
        }
    }

    async fn execute_all(
        &self,
        places: &[Place],
        items: Vec<WorkItem>,
        memory: &mut Memory,
    ) -> usize {
        let mut failed = 0;
        let concurrent = self.config.budget.max_concurrent.max(1);
        let memory_budget = MemoryBudget::new(self.config.budget.memory);
        let memory_budget = &memory_budget;
        let watched = &self.status.watched();
        let mut running = futures::stream::iter(items)
            .map(|item| async move {
                let _held = memory_budget.hold(item.memory).await;
                self.status.doing(format!(
                    "{} {}: {}",
                    item.spec.kind.as_str(),
                    item.target,
                    item.spec.reason
                ));
                let report = execute(places, watched, &item, self.config, self.cancel).await;
                (item, report)
            })
            .buffer_unordered(concurrent);
        while let Some((item, report)) = running.next().await {
            let bad = report.ending.is_bad();
            failed += usize::from(bad);
            self.note(&places[item.place], &item, &report, memory);
            self.status.report(report);
        }
        self.status.doing(String::from("idle"));
        failed
    }

    /// Remembers and logs how an attempt ended.
    fn note(&self, place: &Place, item: &WorkItem, report: &OperationReport, memory: &mut Memory) {
        let kind = item.spec.kind.as_str();
        let detail = report.detail.as_deref().unwrap_or("");
        let (target, key) = (&item.target, item.key(&place.uri));
        let run = [place.uri.as_str(), &report.table, kind];
        if report.ending == Ending::Unfit {
            let schema = item.fingerprints.schema;
            if memory.quarantine.hold(key, schema, detail.to_owned()) {
                tracing::error!(place = place.uri, %target, kind, detail, "the result was unfit and was not committed; this rests until the schema or the release changes, or someone asks for it");
            }
            self.status.metrics.quarantined(run, true);
            return;
        }
        for (index, why) in &report.unfit_indexes {
            let fingerprint = item.fingerprints.index(index);
            let key = key.clone().of_index(index);
            if memory.quarantine.hold(key, fingerprint, why.clone()) {
                tracing::error!(place = place.uri, %target, kind, index, why, "this index cannot be built or extended and nothing was committed; it rests until it, the schema or the release changes, or someone asks for it");
            }
            self.status.metrics.quarantined(run, true);
        }
        let bad = report.ending.is_bad();
        let now = self.clock.monotonic();
        memory.cooldowns.note(key, &item.policy, bad, now);
        if bad {
            tracing::warn!(%target, kind, detail, "maintenance did not succeed");
        } else if report.ending == Ending::Skipped {
            tracing::info!(%target, kind, detail, "maintenance was skipped");
        } else {
            tracing::info!(
                %target,
                kind,
                reason = item.spec.reason,
                removed = report.fragments_removed,
                added = report.fragments_added,
                versions = report.versions_removed,
                bytes = report.bytes_removed,
                detail,
                "maintenance done"
            );
        }
    }
}
