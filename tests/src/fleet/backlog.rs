//! One daemon and two on the same backlog, and what a killed one's work waits for.

use super::daemons::{Daemon, tables};
use super::lake::Fleet;
use super::{Figures, until};
use std::time::{Duration, Instant};

/// How long a backlog may take.
const PATIENCE: Duration = Duration::from_secs(1_800);

/// How large it is.
#[derive(Debug, Clone, Copy)]
pub struct Backlog {
    /// Tables.
    pub tables: usize,
    /// Fragments of each.
    pub fragments: i64,
    /// Rows of each fragment.
    pub rows: i64,
    /// How often each side is measured; they alternate.
    pub rounds: usize,
}

/// What one side took.
#[derive(Debug, Clone, Copy, Default)]
struct Took {
    seconds: f64,
    removed: f64,
    rewritten: u64,
    wasted: u64,
    conflicts: f64,
}

/// Runs it, and says what it came to.
pub async fn run(backlog: Backlog, figures: &mut Figures) {
    let fleet = Fleet::of(backlog.tables).await;
    fleet.fill(backlog.fragments, backlog.rows).await;
    for (budget, text) in [
        ("as fast as it goes", ""),
        ("512 KiB/s a daemon", "bytes_per_second = \"512KiB\"\n"),
    ] {
        let config =
            format!("[daemon]\nscan_interval = \"5s\"\n[budget]\nmax_concurrent = 2\n{text}");
        let mut sides = [Vec::new(), Vec::new()];
        for _ in 0..backlog.rounds {
            for (side, took) in sides.iter_mut().enumerate() {
                took.push(empty(&fleet, side + 1, &config).await);
            }
        }
        let [one, two] = sides.map(median);
        let what = |side: &str| format!("{side} on {} tables, {budget}", backlog.tables);
        figures.add(&what("one daemon"), one.seconds, "s until empty");
        figures.add(&what("two daemons"), two.seconds, "s until empty");
        figures.add(&what("one / two"), one.seconds / two.seconds, "x");
        let all = backlog.tables as f64 * backlog.fragments as f64;
        for (side, took) in [("one daemon", one), ("two daemons", two)] {
            figures.add(
                &what(side),
                took.removed / all,
                "fragments replaced of each",
            );
            figures.add(&what(side), took.conflicts, "commits lost");
        }
        let twice = |of: Took| (of.rewritten + of.wasted) as f64;
        figures.add(
            &what("two / one"),
            twice(two) / twice(one),
            "x bytes written",
        );
    }
    killed(&fleet, figures).await;
}

fn median(mut took: Vec<Took>) -> Took {
    took.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    took[took.len() / 2]
}

/// How long so many daemons take to compact every table.
async fn empty(fleet: &Fleet, daemons: usize, config: &str) -> Took {
    let fleet = fleet.copy().await;
    let config = fleet.config(config);
    let began = Instant::now();
    let name = |n: usize| format!("daemon-{n}");
    let daemons: Vec<Daemon> = (0..daemons)
        .map(|n| Daemon::start(&fleet, &name(n), &config))
        .collect();
    until("an empty backlog", PATIENCE, || {
        let status = daemons[0].status()?;
        let one = tables(&status).filter(|t| t["fragments"] == 1).count();
        (one == fleet.tables.len()).then_some(())
    })
    .await;
    let seconds = began.elapsed().as_secs_f64();
    // The last report follows the last commit.
    until("daemons at rest", PATIENCE, || {
        let idle = |d: &Daemon| {
            d.status()
                .is_some_and(|s| s["attempts"].as_array().is_some_and(Vec::is_empty))
        };
        daemons.iter().all(idle).then_some(())
    })
    .await;
    let sum = |of: &dyn Fn(&Daemon) -> f64| daemons.iter().map(of).sum();
    let removed = sum(&|d| d.metric("squire_fragments_removed_total", ""));
    let conflicts = sum(&|d| d.metric("squire_maintenance_retries_total", ""));
    daemons.into_iter().for_each(|daemon| {
        daemon.stop();
    });
    let (rewritten, wasted) = fleet.rewritten();
    Took {
        seconds,
        removed,
        rewritten,
        wasted,
        conflicts,
    }
}

/// How long a claim holds in [`killed`].
const EXPIRY: Duration = Duration::from_secs(5);

/// Two daemons are at work; one is killed, and the other takes its tables over.
async fn killed(fleet: &Fleet, figures: &mut Figures) {
    let fleet = fleet.copy().await;
    let config = fleet.config(
        "[daemon]\nscan_interval = \"60s\"\nclaim_expiry = \"5s\"\ngrace = \"5s\"\n[budget]\nmax_concurrent = 16\nbytes_per_second = \"64KiB\"\n",
    );
    let first = Daemon::start(&fleet, "first", &config);
    let held = until("attempts of the first", PATIENCE, || {
        let status = first.status()?;
        let attempts = status["attempts"].as_array()?.clone();
        let compactions = attempts.iter().filter(|a| a["kind"] == "compact");
        let tables: Vec<String> = compactions
            .filter_map(|a| Some(a["table"].as_str()?.to_owned()))
            .collect();
        (tables.len() >= 4).then_some(tables)
    })
    .await;
    let second = Daemon::start(&fleet, "second", &config);
    second.ready().await;
    first.kill();
    let began = Instant::now();
    let mut left = held.clone();
    let mut last = 0.0;
    until("the work of the killed one", PATIENCE, || {
        let status = second.status()?;
        let works = |table: &String| {
            let attempts = status["attempts"].as_array().into_iter().flatten();
            let mut attempts =
                attempts.filter(|a| a["table"] == **table && a["steps"].as_u64() > Some(0));
            attempts.next().is_some()
                || tables(&status).any(|t| t["table"] == **table && t["fragments"] == 1)
        };
        // A claim that is still another's ends in a moment.
        let before = left.len();
        left.retain(|table| !works(table));
        if left.len() < before {
            last = began.elapsed().as_secs_f64();
        }
        left.is_empty().then_some(())
    })
    .await;
    let what = format!(
        "one of two is killed over {} tables, claims hold 5 s",
        held.len()
    );
    figures.add(&what, last, "s until the other works on all");
    figures.check(
        "its work moved within two expiries",
        last <= 2.0 * EXPIRY.as_secs_f64(),
    );
    second.stop();
}
