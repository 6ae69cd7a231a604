//! Everything that Prometheus reads, on a registry of its own.
//!
//! What a table looks like (gauges) is replaced as a whole by [`Metrics::observe_table`] after each
//! scan, so an index that was dropped does not linger, and [`Metrics::forget_table`] takes a
//! vanished table out: a stale gauge would keep an alert firing. What happened (counters) stays, as
//! counters must.
//!
//! Parts: `grouped` (bounds what a scrape holds), `tables`, `maintenance`, `agent`, `disk`, and `register` (short ways to make a metric). Names are
//! part of the operator's interface: the rules and the dashboard in `ops/` use them.

mod agent;
mod disk;
mod flight;
mod grouped;
mod maintenance;
mod register;
mod tables;
#[cfg(test)]
mod tests;

use prometheus::{
    Encoder, Error, Gauge, Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
    TextEncoder,
};

use squire_engine::store::Traffic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

pub(crate) use agent::{AgentMetrics, BatchResult};
use disk::DiskGauges;
use maintenance::MaintenanceMetrics;
pub(crate) use maintenance::{Ending, Removed};
use register::{counter, counters, float_gauge, gauge, gauges, histogram, integer};
use tables::TableGauges;
pub(crate) use tables::{IndexObservation, TableObservation};

/// Upper bounds in seconds. From one local table to a prefix of thousands of tables.
const SCAN_BUCKETS: [f64; 12] = [
    0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0,
];

const TABLE: [&str; 2] = ["store", "table"];
const INDEX: [&str; 3] = ["store", "table", "index"];

/// All metrics of the process. Cheap to clone: clones count into the same registry.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    tables: TableGauges,
    maintenance: MaintenanceMetrics,
    /// The write agent.
    pub(crate) agent: AgentMetrics,
    /// 1 while the file on disk is refused and the old configuration runs on.
    pub(crate) config_reload_failed: IntGauge,
    /// How many watched locations are not open.
    pub(crate) locations_not_open: IntGauge,
    /// Duration of one look at all tables of a location.
    pub(crate) scan_duration: Histogram,
    /// Looks at all tables of a location that took longer than their interval.
    pub(crate) loop_overruns: IntCounter,
    invariants_violated: IntCounterVec,
    object_store_requests: IntCounterVec,
    object_store_bytes: IntCounterVec,
    unreadable: IntGaugeVec,
    sidecars: IntGaugeVec,
    stranded: IntGaugeVec,
    stranded_reclaimed: IntCounterVec,
    disks: DiskGauges,
    executor_away: IntCounter,
    loop_turned: Gauge,
    running: IntGauge,
    waiting: IntGauge,
    longest_wait: Gauge,
    longest_still: Gauge,
    paused: IntGauge,
    /// Tables beyond which series are of stores; and whether there ever were so many, since a series that comes and goes
    /// with one table more or less is none.
    bound: Arc<(AtomicUsize, AtomicBool)>,
}

/// What the daemon does now, as far as it is a number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Load {
    pub(crate) running: usize,
    /// The longest time for which an attempt at work has made no step.
    pub(crate) longest_still: Duration,
    pub(crate) paused: bool,
    /// Tasks for which an executor was away, since the process began.
    pub(crate) away: u64,
}

impl Metrics {
    /// Registers everything. Fails only if a name is invalid or used twice, which a test excludes.
    pub(crate) fn new() -> Result<Self, Error> {
        let registry = Registry::new();
        let r = &registry;
        let help = "Always 1; the labels tell what runs.";
        let build = gauges(r, "squire_build_info", help, &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let help = "1 while the configuration file is refused and the old one runs on.";
        let config_reload_failed = gauge(r, "squire_config_reload_failed", help)?;
        let help = "Watched locations that cannot be opened, or were not opened yet.";
        let locations_not_open = gauge(r, "squire_locations_not_open", help)?;
        let help = "Duration of one look at all tables of a location.";
        let scan_duration = histogram(r, "squire_scan_duration_seconds", help, &SCAN_BUCKETS)?;
        let help = "Looks at all tables of a location that took longer than their interval.";
        let loop_overruns = counter(r, "squire_loop_overruns_total", help)?;
        let help = "Broken invariants seen; any is a defect.";
        let name = "squire_invariants_violated_total";
        let invariants_violated = counters(r, name, help, &["invariant"])?;
        let help = "Requests to storage, by operation.";
        let name = "squire_object_store_requests_total";
        let object_store_requests = counters(r, name, help, &["store", "op"])?;
        let help = "Bytes that requests to storage moved, by operation.";
        let name = "squire_object_store_bytes_total";
        let object_store_bytes = counters(r, name, help, &["store", "op"])?;
        let help = "1 while a table (or, without a table, a place) cannot be opened or observed.";
        let unreadable = gauges(r, "squire_unreadable", help, &TABLE)?;
        let help = "Recovery records present: operations that run or await recovery.";
        let sidecars = gauges(r, "squire_sidecars", help, &["store"])?;
        let help = "Bytes that maintenance wrote and did not settle: of runs at work, and of dead ones until they are reclaimed.";
        let stranded = gauges(r, "squire_stranded_bytes", help, &["store"])?;
        let help = "Bytes that maintenance rewrote for nothing and recovery deleted.";
        let name = "squire_stranded_bytes_reclaimed_total";
        let stranded_reclaimed = counters(r, name, help, &["store"])?;
        let help = "Rewrite tasks for which Ray was away; they waited, or were executed here.";
        let executor_away = counter(r, "squire_executor_away_total", help)?;
        let help = "When the daemon's loop turned last; 0 in an agent.";
        let loop_turned = float_gauge(r, "squire_loop_turned_timestamp_seconds", help)?;
        let running = gauge(r, "squire_running", "Attempts at work.")?;
        let waiting = gauge(r, "squire_waiting", "Decided work that waits for its turn.")?;
        let help = "How long the work that waits for longest has waited for its turn; what a pause or a window holds back does not count.";
        let longest_wait = float_gauge(r, "squire_longest_wait_seconds", help)?;
        let help =
            "The longest time for which an attempt at work has made no step; 0 if none runs.";
        let longest_still = float_gauge(r, "squire_longest_still_seconds", help)?;
        let help = "1 while nothing new is begun because someone paused it.";
        let paused = gauge(r, "squire_paused", help)?;
        Ok(Self {
            tables: TableGauges::new(r)?,
            maintenance: MaintenanceMetrics::new(r)?,
            agent: AgentMetrics::new(r)?,
            config_reload_failed,
            locations_not_open,
            scan_duration,
            loop_overruns,
            invariants_violated,
            object_store_requests,
            object_store_bytes,
            unreadable,
            sidecars,
            stranded,
            stranded_reclaimed,
            disks: DiskGauges::new(r)?,
            executor_away,
            loop_turned,
            running,
            waiting,
            longest_wait,
            longest_still,
            paused,
            bound: Arc::new((AtomicUsize::new(usize::MAX), AtomicBool::new(false))),
            registry,
        })
    }

    /// Replaces what is shown of a table.
    pub(crate) fn observe_table(&self, store: &str, table: &str, seen: &TableObservation) {
        self.tables.observe(store, table, seen);
    }

    /// Takes out the gauges of a table that is gone.
    pub(crate) fn forget_table(&self, store: &str, table: &str) {
        self.forget_gauges(store, table);
        self.set_unreadable(store, table, false);
        self.maintenance.forget(store, table);
    }

    /// Takes out what a table looks like; how its maintenance went stays.
    pub(crate) fn forget_gauges(&self, store: &str, table: &str) {
        self.tables.forget(store, table);
    }

    /// Shows whether a table, or with an empty `table` the place itself, cannot be opened or observed.
    pub(crate) fn set_unreadable(&self, store: &str, table: &str, unreadable: bool) {
        if unreadable {
            let gauge = self.unreadable.with_label_values(&[store, table]);
            gauge.set(1);
        } else {
            tables::forget(&self.unreadable, &[store, table]);
        }
    }

    /// Shows whether a run, named by store, table and kind, rests because its result was unfit.
    pub(crate) fn quarantined(&self, run: [&str; 3], rests: bool) {
        self.maintenance.quarantined(run, rests);
    }

    /// Work is due; named by store, table and kind. From the first time on its last success has a time.
    pub(crate) fn due(&self, run: [&str; 3], now: f64) {
        self.maintenance.due(run, now);
    }

    /// Counts a finished run, named by store, table and kind; `now` (Unix seconds) is kept as the
    /// last success if it was one.
    pub(crate) fn run_finished(&self, run: [&str; 3], result: Ending, now: f64) {
        self.maintenance.finished(run, result, now);
    }

    /// Counts one more try of a maintenance commit after a conflict; store, table and kind.
    pub(crate) fn run_retried(&self, run: [&str; 3]) {
        self.maintenance.retried(run);
    }

    /// Counts what a run took away.
    pub(crate) fn removed(&self, store: &str, table: &str, removed: Removed) {
        self.maintenance.removed(store, table, removed);
    }

    /// Counts what was written into an index, named by store, table and index.
    pub(crate) fn index_written(&self, index: [&str; 3], bytes: u64) {
        self.maintenance.index_written(index, bytes);
    }

    /// Counts a resolved operation, for example `forward` or `aborted`.
    pub(crate) fn recovered(&self, store: &str, outcome: &str) {
        self.maintenance.recovered(store, outcome);
    }

    /// Shows how many sidecars a store has.
    pub(crate) fn set_sidecars(&self, store: &str, count: u64) {
        self.sidecars
            .with_label_values(&[store])
            .set(integer(count));
    }

    /// Shows how many bytes are stranded in a store.
    pub(crate) fn set_stranded(&self, store: &str, bytes: u64) {
        self.stranded
            .with_label_values(&[store])
            .set(integer(bytes));
    }

    /// Shows what is free on the disk of a store, and how much of it should be, as far as either is known.
    pub(crate) fn set_disk(&self, store: &str, free: Option<u64>, least: Option<u64>) {
        self.disks.set(store, free, least);
    }

    /// Counts stranded bytes that were deleted.
    pub(crate) fn reclaimed_stranded(&self, store: &str, bytes: u64) {
        self.stranded_reclaimed
            .with_label_values(&[store])
            .inc_by(bytes);
    }

    /// Counts a broken invariant by its ID, for example `I5`.
    pub(crate) fn invariant_violated(&self, invariant: &str) {
        self.invariants_violated
            .with_label_values(&[invariant])
            .inc();
    }

    /// Adds what was asked of the storage of a location.
    pub(crate) fn object_store(&self, store: &str, traffic: Traffic) {
        let Traffic {
            reads,
            read_bytes,
            writes,
            written_bytes,
        } = traffic;
        for (op, requests, bytes) in [
            ("read", reads, read_bytes),
            ("write", writes, written_bytes),
        ] {
            let of = [store, op];
            self.object_store_requests
                .with_label_values(&of)
                .inc_by(requests);
            self.object_store_bytes.with_label_values(&of).inc_by(bytes);
        }
    }

    /// A location is watched no more: nothing is asked of its storage.
    pub(crate) fn forget_object_store(&self, store: &str) {
        for of in ["read", "write"].map(|op| [store, op]) {
            tables::forget(&self.object_store_requests, &of);
            tables::forget(&self.object_store_bytes, &of);
        }
    }

    /// With more than `tables` series are of stores, and none of tables; a new bound is a new start.
    pub(crate) fn bound_tables(&self, tables: usize) {
        let (bound, passed) = self.bound.as_ref();
        if bound.swap(tables, Ordering::Relaxed) != tables {
            passed.store(false, Ordering::Relaxed);
        }
    }

    /// So much work waits for its turn, the one that waits for longest for so long.
    pub(crate) fn waits(&self, count: usize, longest: Duration) {
        self.waiting.set(integer(count as u64));
        self.longest_wait.set(longest.as_secs_f64());
    }

    /// The loop turned at `now` (Unix seconds), and this is what it does.
    pub(crate) fn turned(&self, now: f64, load: Load) {
        let counted = self.executor_away.get();
        self.executor_away.inc_by(load.away.saturating_sub(counted));
        self.loop_turned.set(now);
        self.running.set(integer(load.running as u64));
        self.longest_still.set(load.longest_still.as_secs_f64());
        self.paused.set(i64::from(load.paused));
    }

    /// The Prometheus text format.
    pub(crate) fn encode(&self) -> String {
        let mut text = Vec::new();
        let mut families = self.registry.gather();
        let (bound, passed) = self.bound.as_ref();
        if grouped::tables(&families) > bound.load(Ordering::Relaxed) {
            passed.store(true, Ordering::Relaxed);
        }
        if passed.load(Ordering::Relaxed) {
            families = grouped::by_store(families);
        }
        if let Err(error) = TextEncoder::new().encode(&families, &mut text) {
            tracing::error!(%error, "cannot encode the metrics");
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}
