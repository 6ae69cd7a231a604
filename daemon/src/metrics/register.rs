//! Short ways to make a metric and register it at once.

use prometheus::core::Collector;
use prometheus::{
    Error, Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry,
};

/// Gauges of the library are `i64`; a count beyond that would be a defect elsewhere, and is shown
/// as the largest.
pub(super) fn integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> Result<C, Error> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

pub(super) fn counter(r: &Registry, name: &str, help: &str) -> Result<IntCounter, Error> {
    register(r, IntCounter::new(name, help)?)
}

pub(super) fn counters(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntCounterVec, Error> {
    register(r, IntCounterVec::new(Opts::new(name, help), labels)?)
}

pub(super) fn gauge(r: &Registry, name: &str, help: &str) -> Result<IntGauge, Error> {
    register(r, IntGauge::new(name, help)?)
}

pub(super) fn gauges(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, Error> {
    register(r, IntGaugeVec::new(Opts::new(name, help), labels)?)
}

pub(super) fn float_gauge(r: &Registry, name: &str, help: &str) -> Result<Gauge, Error> {
    register(r, Gauge::new(name, help)?)
}

pub(super) fn float_gauges(
    r: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<GaugeVec, Error> {
    register(r, GaugeVec::new(Opts::new(name, help), labels)?)
}

pub(super) fn histogram(
    r: &Registry,
    name: &str,
    help: &str,
    buckets: &[f64],
) -> Result<Histogram, Error> {
    register(
        r,
        Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets.to_vec()))?,
    )
}
