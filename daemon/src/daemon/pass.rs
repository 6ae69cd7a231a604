//! One pass: recovery first, then observe, plan, schedule and execute.

use super::execution::{Ending, execute};
use super::planning::{OperationKind, OperationSpec, TablePlan, bounds, memory_estimate, plan};
use super::scheduling::{Cooldowns, MemoryBudget, WorkItem, score};
use super::status::{Status, TableStatus};
use crate::cli::CLONES_ELSEWHERE;
use crate::config::{Config, DriftPolicy};
use crate::http::ControlVerb;
use crate::place::Place;
use futures::StreamExt;
use squire_engine::clock::Clock;
use squire_engine::error::Result;
use squire_engine::ids::TableName;
use squire_engine::invariants::violations;
use squire_engine::maintenance::Target;
use squire_engine::recovery::Watch as RecoveryWatch;
use squire_engine::store::State;
use squire_engine::store::state::MAX_BATCHES;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The reason of work that a person asked for.
const ASKED_FOR: &str = "asked for";

/// What passes remember.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    recovery: HashMap<String, RecoveryWatch>,
    cooldowns: Cooldowns,
    last_cleanup: HashMap<String, Duration>,
    states: HashMap<String, Arc<State>>,
    /// Tables with a broken invariant, by place, which invariant and what was seen: not maintained until a person has
    /// looked and starts the daemon again.
    stopped: HashMap<String, BTreeMap<TableName, BTreeMap<&'static str, String>>>,
}

impl Memory {
    fn why_stopped(&self, place: &Place, target: &Target) -> Option<&String> {
        let broken = self.stopped.get(&place.uri)?.get(target.table()?)?;
        broken.values().next()
    }
}

/// One pass over all places.
pub(crate) struct Pass<'a> {
    pub(crate) config: &'a Config,
    pub(crate) status: &'a Arc<Status>,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) cancel: &'a CancellationToken,
    pub(crate) requests: Vec<(ControlVerb, Option<String>)>,
}

impl Pass<'_> {
    /// Runs the pass and measures it; a pass that takes longer than the scan interval is an overrun.
    pub(crate) async fn timed(&self, places: &[Place], memory: &mut Memory) -> (usize, usize) {
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

    /// Runs the pass. Returns how many operations ran and how many of them failed.
    async fn run(&self, places: &[Place], memory: &mut Memory) -> (usize, usize) {
        let mut items = Vec::new();
        for (index, place) in places.iter().enumerate() {
            if self.cancel.is_cancelled() {
                return (0, 0);
            }
            if place.managed {
                self.recover(place, memory).await;
            }
            if let Err(e) = self.observe(index, place, memory, &mut items).await {
                tracing::warn!(place = place.uri, error = %e, "this place cannot be observed now");
                self.status.error(format!("{}: {e}", place.uri));
            }
            self.status.progressed();
        }
        if self.status.is_paused() {
            return (0, 0);
        }
        let now = self.clock.monotonic();
        items.retain(|item| !memory.cooldowns.blocks(item, now));
        items.sort_by_key(|item| std::cmp::Reverse(item.score));
        self.execute_all(places, items, memory).await
    }

    async fn recover(&self, place: &Place, memory: &mut Memory) {
        let watch = memory.recovery.entry(place.uri.clone()).or_default();
        let force = self
            .requests
            .iter()
            .any(|(verb, _)| *verb == ControlVerb::Recover);
        match place.store.recover(watch, force).await {
            Ok(report) => {
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
                match place.store.stranded_bytes().await {
                    Ok(bytes) => self.status.metrics.set_stranded(&place.uri, bytes),
                    Err(e) => self.status.error(format!("stranded files: {e}")),
                }
            }
            Err(e) => {
                tracing::warn!(place = place.uri, error = %e, "recovery failed");
                self.status.error(format!("recovery: {e}"));
            }
        }
    }

    async fn observe(
        &self,
        index: usize,
        place: &Place,
        memory: &mut Memory,
        items: &mut Vec<WorkItem>,
    ) -> Result<()> {
        if place.managed {
            self.check_invariants(place, memory).await?;
            self.archive_early(place).await?;
        }
        let targets = place.targets().await?;
        let mut present = Vec::new();
        for target in &targets {
            present.push(target.to_string());
            // A failing table never stops the others.
            let stopped = memory.why_stopped(place, target);
            if let Err(e) = self
                .observe_target(index, place, target, stopped, items)
                .await
            {
                tracing::warn!(%target, error = %e, "this table cannot be observed now");
                self.status.error(format!("{target}: {e}"));
            }
        }
        self.status.retain(&place.uri, &present);
        self.regular_cleanup(index, place, &targets, memory, items);
        Ok(())
    }

    /// Copies the commit log when more batch ids stand in the manifest than should: only archived ones may leave it,
    /// and every publish writes those that stay.
    async fn archive_early(&self, place: &Place) -> Result<()> {
        if place.store.load().await?.state.batches.len() > MAX_BATCHES {
            place.store.archive().await?;
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

    async fn observe_target(
        &self,
        index: usize,
        place: &Place,
        target: &Target,
        stopped: Option<&String>,
        items: &mut Vec<WorkItem>,
    ) -> Result<()> {
        let policy = self.config.policy_for(Place::config_name(target));
        let drift = match target.table() {
            Some(table) if stopped.is_none() => place
                .store
                .handle_drift(table, policy.drift == DriftPolicy::Adopt)
                .await?
                .is_some(),
            _ => false,
        };
        let health = place.store.health(target, &bounds(&policy)).await?;
        let bytes = health.bytes;
        let tasks = if health.candidate_fragments > 0 {
            place
                .store
                .compaction_tasks(target, &bounds(&policy))
                .await?
                .len()
        } else {
            0
        };
        let mut planned = plan(&health, tasks, &policy);
        self.add_requested(target, &mut planned);
        let (state, reason) = match (stopped, planned.operations.first()) {
            (Some(why), _) => ("stopped", why.clone()),
            _ if drift => (
                "drift",
                String::from(
                    "skipped: versions above the pin that squire did not make; see `squire repair`",
                ),
            ),
            (None, Some(first)) => ("due", first.reason.clone()),
            (None, None) => ("healthy", planned.otherwise.clone()),
        };
        self.status.observe(
            &place.uri,
            TableStatus {
                health,
                state,
                reason,
                drift,
            },
        );
        if drift || stopped.is_some() {
            return Ok(());
        }
        for kind in OperationKind::ALL {
            if !planned.operations.iter().any(|o| o.kind == kind) {
                self.status
                    .nothing_to_do(&place.uri, &target.to_string(), kind.as_str());
            }
        }
        items.extend(planned.operations.into_iter().map(|spec| WorkItem {
            place: index,
            target: target.clone(),
            score: score(&spec),
            memory: memory_estimate(spec.kind, bytes, &policy),
            spec,
            policy: policy.clone(),
        }));
        Ok(())
    }

    fn add_requested(&self, target: &Target, plan: &mut TablePlan) {
        for (verb, table) in &self.requests {
            let kind = match verb {
                ControlVerb::Optimize => OperationKind::Compact,
                ControlVerb::Reindex => OperationKind::Reindex,
                ControlVerb::Cleanup => OperationKind::Cleanup,
                ControlVerb::Recover
                | ControlVerb::Pause
                | ControlVerb::Resume
                | ControlVerb::Cancel => continue,
            };
            let meant = table
                .as_deref()
                .is_none_or(|t| t == Place::config_name(target));
            if meant && !plan.operations.iter().any(|o| o.kind == kind) {
                let reason = String::from(ASKED_FOR);
                plan.operations.push(OperationSpec {
                    kind,
                    reason,
                    debt: 1.0,
                });
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
        let mut first = true;
        items.retain(|item| {
            let cleans = item.place == index && item.spec.kind == OperationKind::Cleanup;
            // Too many versions stay too many until retention lets them go: asking at every pass would not help.
            let wanted = due || item.spec.reason == ASKED_FOR;
            !cleans || (wanted && (!place.managed || std::mem::take(&mut first)))
        });
        if !due {
            return;
        }
        let planned = items
            .iter()
            .any(|i| i.place == index && i.spec.kind == OperationKind::Cleanup);
        if memory.last_cleanup.insert(place.uri.clone(), now).is_none() {
            tracing::warn!(
                place = place.uri,
                "before the first cleanup: {CLONES_ELSEWHERE}"
            );
        }
        if planned {
            return;
        }
        for target in targets.iter().take(covered) {
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
            });
        }
    }

    async fn execute_all(
        &self,
        places: &[Place],
        items: Vec<WorkItem>,
        memory: &mut Memory,
    ) -> (usize, usize) {
        let mut ran = 0;
        let mut failed = 0;
        let concurrent = self.config.budget.max_concurrent.max(1);
        let memory_budget = MemoryBudget::new(self.config.budget.memory);
        let memory_budget = &memory_budget;
        let mut running = futures::stream::iter(items)
            .map(|item| async move {
                let _held = memory_budget.hold(item.memory).await;
                self.status.doing(format!(
                    "{} {}: {}",
                    item.spec.kind.as_str(),
                    item.target,
                    item.spec.reason
                ));
                let report = execute(places, &item, self.config, self.cancel).await;
                (item, report)
            })
            .buffer_unordered(concurrent);
        while let Some((item, report)) = running.next().await {
            self.status.progressed();
            ran += 1;
            let bad = matches!(report.ending, Ending::Failed | Ending::Conflict);
            failed += usize::from(bad);
            memory.cooldowns.note(&item, bad, self.clock.monotonic());
            let detail = report.detail.as_deref().unwrap_or("");
            if bad {
                tracing::warn!(target = %item.target, kind = item.spec.kind.as_str(), detail, "maintenance did not succeed");
            } else {
                tracing::info!(
                    target = %item.target,
                    kind = item.spec.kind.as_str(),
                    reason = item.spec.reason,
                    removed = report.fragments_removed,
                    added = report.fragments_added,
                    versions = report.versions_removed,
                    bytes = report.bytes_removed,
                    detail,
                    "maintenance done"
                );
            }
            self.status.report(report);
        }
        self.status.doing(String::from("idle"));
        (ran, failed)
    }
}
