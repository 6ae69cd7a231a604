//! What a commit costs: how long it takes, the processor time of the process, and how much it has grown.

use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// How many commits are measured at each age of a store.
const MEASURED: usize = 100;

/// Milliseconds of processor time that this process has used, and the bytes that it holds.
fn used() -> (f64, u64) {
    let read =
        |name: &str| std::fs::read_to_string(format!("/proc/self/{name}")).expect("a process");
    let stat = read("stat");
    let behind = stat.rsplit_once(") ").expect("a name").1;
    let ticks = behind.split_whitespace().skip(11).take(2);
    let ticks: u32 = ticks.map(|t| t.parse::<u32>().expect("ticks")).sum();
    let pages = read("statm");
    let pages = pages.split_whitespace().nth(1).expect("resident pages");
    (
        f64::from(ticks) * 10.0,
        pages.parse::<u64>().expect("pages") * 4_096,
    )
}

/// Measures `commit` in a store that is `age` commits old.
pub async fn measure(what: &str, age: u64, commit: impl AsyncFn()) -> Value {
    // The first after commits of others looks around.
    commit().await;
    let mut times: Vec<Duration> = Vec::with_capacity(MEASURED);
    let (before, _) = used();
    for _ in 0..MEASURED {
        let start = Instant::now();
        commit().await;
        times.push(start.elapsed());
    }
    let (after, resident) = used();
    times.sort_unstable();
    let millis = |part: usize| times[MEASURED * part / 100].as_secs_f64() * 1_000.0;
    let (p50, p99) = (millis(50), millis(99));
    let cpu = (after - before) / MEASURED as f64;
    println!(
        "{what:<28} after {age:>6} commits: p50 {p50:>6.2} ms, p99 {p99:>6.2} ms, CPU {cpu:>6.2} ms, {:>5} MiB held",
        resident >> 20
    );
    json!({ "what": format!("commit against history, {what}"), "commit": age, "p50_ms": p50, "p99_ms": p99, "cpu_ms": cpu, "resident_bytes": resident })
}
