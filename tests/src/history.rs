//! What a commit costs: how long it takes, the processor time of the process, and how much it has grown.

use crate::cost::Cost;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How many commits are measured at each age of a store.
const MEASURED: usize = 100;

/// Measures `commit` in a store that is `age` commits old.
pub async fn measure(what: &str, age: u64, commit: impl AsyncFn()) -> Value {
    // The first after commits of others looks around.
    commit().await;
    let mut times: Vec<Duration> = Vec::with_capacity(MEASURED);
    let before = Cost::of("self").cpu;
    for _ in 0..MEASURED {
        let start = Instant::now();
        commit().await;
        times.push(start.elapsed());
    }
    let Cost { cpu, rss, .. } = Cost::of("self");
    times.sort_unstable();
    let millis = |part: usize| times[MEASURED * part / 100].as_secs_f64() * 1_000.0;
    let (p50, p99) = (millis(50), millis(99));
    let cpu = (cpu - before) * 1_000.0 / MEASURED as f64;
    println!(
        "{what:<28} after {age:>6} commits: p50 {p50:>6.2} ms, p99 {p99:>6.2} ms, CPU {cpu:>6.2} ms, {:>5} MiB held",
        rss >> 20
    );
    json!({ "what": format!("commit against history, {what}"), "commit": age, "p50_ms": p50, "p99_ms": p99, "cpu_ms": cpu, "resident_bytes": rss })
}
