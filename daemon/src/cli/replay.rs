//! `squire replay`: what a policy would have done to the versions that are still there, against what happened.

use super::Context;
use super::args::ReplayArgs;
use super::inspect::moment;
use super::load_config;
use super::results::Results;
use super::table::{Column, Line, Span, Tone, count, lay_out, size};
use crate::config::Config;
use crate::decide::planning::bounds;
use crate::decide::replay::{Figures, Keeping, Replayed, Run, replay as play};
use crate::place::{Place, step};
use serde_json::{Map, json};
use squire_engine::error::Result;
use squire_engine::maintenance::{Past, Target};
use std::process::ExitCode;

/// Runs of one table that people are shown, the latest ones; --json has them all.
const RUNS_TOLD: usize = 20;

const FIGURES: [Column; 3] = [
    Column("", false),
    Column("HAPPENED", true),
    Column("POLICY", true),
];

const RUNS: [Column; 6] = [
    Column("WHEN", false),
    Column("VERSION", true),
    Column("WHO", false),
    Column("WHAT", false),
    Column("EFFECT", false),
    Column("WHY", false),
];

fn instant(at_ms: u64) -> String {
    moment(i64::try_from(at_ms).unwrap_or(i64::MAX))
}

fn plain(text: impl AsRef<str>) -> Span {
    Span::new(Tone::Plain, text)
}

/// How a figure is told.
type Told<'a> = &'a dyn Fn(&Figures) -> String;

/// The figures of both worlds beside each other.
fn figures(replayed: &Replayed) -> Vec<Line> {
    let factor = |f: f64| format!("{f:.2}");
    let written = replayed.bytes_written.max(1) as f64;
    let rows: [(&str, Told<'_>); 9] = [
        ("compactions", &|f| count(f.compactions)),
        ("fragments rewritten", &|f| count(f.fragments_rewritten)),
        ("bytes rewritten", &|f| size(f.bytes_rewritten)),
        ("for each byte of users", &|f| {
            factor(f.bytes_rewritten as f64 / written)
        }),
        ("indexes extended", &|f| count(f.reindexed)),
        ("fragments, mean/most/now", &|f| {
            format!(
                "{:.1}/{}/{}",
                f.fragments_mean, f.fragments_most, f.fragments_now
            )
        }),
        ("bytes read for each of rows", &|f| {
            factor(f.read_amplification)
        }),
        ("unindexed rows, mean", &|f| {
            count(f.unindexed_mean.round() as u64)
        }),
        ("versions now", &|f| count(f.versions_now)),
    ];
    let row = |(name, value): (&str, Told<'_>)| {
        vec![
            plain(name),
            plain(value(&replayed.happened)),
            plain(value(&replayed.policy)),
        ]
    };
    lay_out(&FIGURES, rows.into_iter().map(row).collect())
}

/// What ran when, in both worlds.
fn runs(replayed: &Replayed) -> Vec<Line> {
    let happened = replayed.happened.runs.iter().map(|run| ("happened", run));
    let would = replayed.policy.runs.iter().map(|run| ("policy", run));
    let mut all: Vec<(&str, &Run)> = happened.chain(would).collect();
    all.sort_by_key(|(_, run)| run.at_ms);
    let left_out = all.len().saturating_sub(RUNS_TOLD);
    let shown = all.split_off(left_out);
    if shown.is_empty() {
        return vec![String::from("nothing ran, and the policy would have run nothing").into()];
    }
    let row = |(who, run): (&str, &Run)| {
        let effect = match run.fragments {
            0 => String::new(),
            from => format!("{from} -> {}, {}", run.became, size(run.bytes)),
        };
        let tone = match who {
            "policy" => Tone::Good,
            _ => Tone::Plain,
        };
        vec![
            Span::new(Tone::Faint, instant(run.at_ms)),
            plain(run.version.to_string()),
            Span::new(tone, who),
            plain(run.kind.as_str()),
            plain(effect),
            plain(run.reason.as_deref().unwrap_or_default()),
        ]
    };
    let mut lines = lay_out(&RUNS, shown.into_iter().map(row).collect());
    if left_out > 0 {
        lines.push(format!("and {left_out} earlier ones; --json has them all").into());
    }
    lines
}

/// The policy to play: that of a file of its own, or the one that is in force.
fn config(context: &Context, args: &ReplayArgs) -> Result<Config> {
    match &args.policy {
        Some(file) => load_config(Some(file)),
        None => Ok(context.config.clone()),
    }
}

pub(super) async fn replay(context: &Context, args: ReplayArgs) -> Result<ExitCode> {
    let config = config(context, &args)?.seen_from(&args.target.store);
    let place = context.place(&args.target.store).await?;
    let selection = place.select(&args.target.tables).await?;
    let now_ms = context.options.clock.now_ms();
    let mut results = Results::of(&selection);
    for target in selection {
        let policy = config.policy_for(Place::config_name(&target));
        let bounds = bounds(&policy);
        let past = step("replay", &target, place.store.past(&target, &bounds)).await;
        let past: Past = match past {
            Ok(past) => past,
            Err(e) => {
                results.fail(&target.to_string(), &e, json!({ "replay": null }));
                continue;
            }
        };
        let keeping = Keeping {
            policy: &policy,
            cleanup_every: config.daemon.full_scan_interval,
            managed: place.managed,
        };
        let replayed = play(&past, &keeping, now_ms);
        tell(&mut results, &target, &past, replayed.as_ref());
    }
    Ok(results.finish(context, Map::new()))
}

fn tell(results: &mut Results, target: &Target, past: &Past, replayed: Option<&Replayed>) {
    let older = past.stored.saturating_sub(past.versions.len() as u64);
    let mut lines: Vec<Line> = Vec::new();
    if let Some(replayed) = replayed {
        let apart = match older {
            0 => String::new(),
            n => format!("; {n} older versions that stand apart are left out"),
        };
        let span = format!(
            "{target}: versions {} to {}, from {} to {}{apart}",
            replayed.from_version,
            replayed.to_version,
            instant(replayed.from_ms),
            instant(replayed.until_ms),
        );
        lines.push(span.into());
        lines.extend(figures(replayed));
        lines.extend(runs(replayed));
    }
    let document =
        json!({ "table": target.to_string(), "older_versions": older, "replay": replayed });
    results.add(document, lines);
}
