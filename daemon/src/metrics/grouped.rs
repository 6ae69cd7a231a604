//! Bounds what a scrape holds: beyond a number of tables, series are of stores and no longer of tables.
//!
//! A thousand tables give some fifteen thousand series and 1.6 MB a scrape, of which a person reads none: that a store has a
//! table that lacks maintenance is what wakes somebody, and `/status` names it.

use prometheus::proto::{LabelPair, Metric, MetricFamily, MetricType};
use std::collections::{BTreeMap, BTreeSet};

/// The label that a group lacks, and those that are of one table only.
const OF_TABLE: [&str; 2] = ["table", "index"];

/// How the values of several tables become one.
fn join(name: &str) -> fn(f64, f64) -> f64 {
    match name {
        // The table that was left alone for longest is the one to be told of.
        _ if name.ends_with("_timestamp_seconds") => f64::min,
        _ if name.ends_with("_seconds") => f64::max,
        _ => |a, b| a + b,
    }
}

/// How many tables have series of their own.
pub(super) fn tables(families: &[MetricFamily]) -> usize {
    let metrics = families.iter().flat_map(MetricFamily::get_metric);
    let named = metrics.filter_map(|metric| {
        let of = |wanted: &str| {
            let mut labels = metric.get_label().iter();
            labels.find(|l| l.name() == wanted).map(LabelPair::value)
        };
        Some((of("store")?, of("table").filter(|table| !table.is_empty())?))
    });
    named.collect::<BTreeSet<_>>().len()
}

/// `families` with one series per store where there was one per table.
pub(super) fn by_store(families: Vec<MetricFamily>) -> Vec<MetricFamily> {
    families.into_iter().map(grouped).collect()
}

fn grouped(mut family: MetricFamily) -> MetricFamily {
    let is_of_table = |l: &LabelPair| OF_TABLE.contains(&l.name());
    let of_tables = |m: &Metric| m.get_label().iter().any(is_of_table);
    if !family.get_metric().iter().any(of_tables) {
        return family;
    }
    let (join, kind) = (join(family.name()), family.get_field_type());
    let mut groups: BTreeMap<Vec<(String, String)>, f64> = BTreeMap::new();
    for metric in family.get_metric() {
        let labels = metric.get_label().iter().filter(|l| !is_of_table(l));
        let labels = labels.map(|l| (l.name().to_owned(), l.value().to_owned()));
        let value = match kind {
            MetricType::COUNTER => metric.get_counter().get_value(),
            _ => metric.get_gauge().get_value(),
        };
        let group = groups.entry(labels.collect());
        group
            .and_modify(|sum| *sum = join(*sum, value))
            .or_insert(value);
    }
    let metrics = groups.into_iter().map(|(labels, value)| {
        let pairs = labels.into_iter().map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name(name);
            pair.set_value(value);
            pair
        });
        let mut metric = Metric::from_label(pairs.collect());
        if kind == MetricType::COUNTER {
            let mut counter = prometheus::proto::Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = prometheus::proto::Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    });
    family.set_metric(metrics.collect());
    family
}
