//! What a daemon costs that has nothing to do, and how soon it begins what becomes due.

use super::Figures;
use super::daemons::Daemon;
use super::lake::{Fleet, rows};
use crate::append_rows;
use std::time::{Duration, Instant};

/// How often something becomes due.
const ROUNDS: usize = 9;

/// Small commits that make a table due.
const COMMITS: i64 = 16;

/// A daemon on so many tables that are all in order, for so long.
pub async fn run(tables: usize, seconds: u64, figures: &mut Figures) {
    let fleet = Fleet::of(tables).await;
    fleet.fill(1, 10).await;
    let config = fleet.config("");
    let began = Instant::now();
    let daemon = Daemon::start(&fleet, "idle", &config);
    daemon.ready().await;
    let what = |of: &str| format!("{of}, {tables} tables");
    figures.add(
        &what("start until ready"),
        began.elapsed().as_secs_f64(),
        "s",
    );
    // Requests are counted when a round ends: whole minutes hold whole rounds.
    let measured = Duration::from_secs(seconds.max(60));
    tokio::time::sleep(Duration::from_secs(65)).await;
    let requests = || daemon.metric("squire_object_store_requests_total", "");
    let (before, asked) = (daemon.cost(), requests());
    tokio::time::sleep(measured).await;
    let (after, minutes) = (daemon.cost(), measured.as_secs_f64() / 60.0);
    let share = (after.cpu - before.cpu) / measured.as_secs_f64();
    figures.add(&what("idle daemon"), share * 100.0, "% of a core");
    figures.add(
        &what("idle daemon"),
        after.rss as f64 / f64::from(1 << 20),
        "MiB resident",
    );
    figures.add(
        &what("idle daemon"),
        after.peak as f64 / f64::from(1 << 20),
        "MiB resident at most",
    );
    let asked = (requests() - asked) / minutes;
    figures.add(&what("idle daemon"), asked, "requests a minute");
    figures.add(
        &what("idle daemon"),
        asked / tables as f64,
        "requests a minute and table",
    );
    let mut took = Vec::new();
    for round in 0..ROUNDS {
        let table = &fleet.tables[round * 7_919 % fleet.tables.len()];
        took.push(due(&fleet, table, round as i64).await);
    }
    took.sort_by(f64::total_cmp);
    figures.add(
        &what("due until compacted, the median"),
        took[ROUNDS / 2],
        "s",
    );
    figures.add(
        &what("due until compacted, the longest"),
        took[ROUNDS - 1],
        "s",
    );
    figures.check(
        &what("it ends well"),
        daemon.errors().is_empty() && daemon.stop(),
    );
}

/// From the commit that makes `table` due to the version that replaces its fragments.
async fn due(fleet: &Fleet, table: &str, round: i64) -> f64 {
    for n in 0..COMMITS {
        let first = 1_000 + (round * COMMITS + n) * 10;
        fleet
            .commit(vec![append_rows(table, rows(first..first + 10))])
            .await;
    }
    let (began, many) = (Instant::now(), usize::try_from(COMMITS).expect("a few"));
    while fleet.fragments(table).await >= many {
        assert!(
            began.elapsed() < Duration::from_secs(120),
            "{table} is not compacted"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    began.elapsed().as_secs_f64()
}
