//! `make run`: Squire's main job on real data, with everything in processes of its own.
//!
//! A year of flights and weather from New York goes hour by hour through a spool into a store, each
//! hour one commit of two tables, by several agents at once. Beside them a daemon maintains the
//! store, one-shot writers upsert planes and delete cancelled flights, and a reader takes
//! snapshots. At the end every row is compared with the source.
//!
//! 1. [`run::prepare`]: what is missing is made; what is committed already is found.
//! 2. [`processes`]: daemon and agents, started again when they die.
//! 3. [`run::advance`]: [`feed`] and [`writers`], until all hours are committed.
//! 4. [`check`], and [`measure`] against a second store that had no daemon.
//!
//! Ctrl-C ends it at any time; the next run continues. Exit codes: 0 all holds, 1 it does not, 2 bad
//! usage, 130 interrupted.

mod audit;
mod check;
mod error;
mod feed;
mod live;
mod measure;
mod processes;
mod progress;
mod run;
mod site;
mod source;
mod spool;
mod squire;
mod status;
mod store;
mod terminal;
mod writers;

use clap::Parser;
use error::{Context, DemoError, Result, failed};
use indicatif::HumanCount;
use live::View;
use measure::Measurement;
use processes::Fleet;
use run::Run;
use site::Site;
use source::Source;
use squire::Squire;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use terminal::{Terminal, complain};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// How long the daemon may take to catch up before a measurement.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// Squire at work: a year of flights and weather, hour by hour, into a store that a daemon maintains.
///
/// Example: squire-demo --squire target/debug/squire --hours all --agents 5
#[derive(Debug, Clone, Parser)]
#[command(version)]
struct Args {
    /// The squire binary; default: beside this one
    #[arg(long, value_name = "PATH")]
    squire: Option<PathBuf>,
    /// The store; what else is needed lies beside it, under the same name with a suffix
    #[arg(long, value_name = "DIR", default_value = "./demo-store")]
    store: PathBuf,
    /// The Parquet files; default: ops/demo/data here, else where this program was built
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// How many hours the store is to hold, or "all" (8,751)
    #[arg(long, value_name = "N", default_value = "1000", value_parser = hours_argument)]
    hours: usize,
    /// Agents that share the spool
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = agents_argument)]
    agents: usize,
    /// Hours fed per second at most; default: as fast as the agents take them
    #[arg(long, value_name = "RATE", value_parser = rate_argument)]
    rate: Option<f64>,
    /// Run without a daemon, and see what becomes of the store
    #[arg(long)]
    no_daemon: bool,
    /// After so many hours the store is compared with one that has no daemon; 0: not at all
    #[arg(long, value_name = "N", default_value_t = 200)]
    compare_hours: usize,
}

fn hours_argument(text: &str) -> Result<usize, String> {
    match text {
        "all" => Ok(usize::MAX),
        _ => text
            .parse()
            .ok()
            .filter(|n| *n > 0)
            .ok_or_else(|| "a number from 1, or all".to_owned()),
    }
}

fn agents_argument(text: &str) -> Result<usize, String> {
    text.parse()
        .ok()
        .filter(|n| (1..=32).contains(n))
        .ok_or_else(|| "a number from 1 to 32".to_owned())
}

fn rate_argument(text: &str) -> Result<f64, String> {
    let rate = text
        .parse()
        .ok()
        .filter(|rate: &f64| rate.is_finite() && *rate > 0.0);
    rate.ok_or_else(|| "a number above 0".to_owned())
}

/// What all runs of this program share.
struct Demo {
    squire: Squire,
    source: Arc<Source>,
    terminal: Terminal,
    agents: usize,
    rate: Option<f64>,
    /// Cancelled by the second Ctrl-C: no more draining.
    kill: CancellationToken,
}

/// What one run over one store showed.
struct Outcome {
    wrong: Vec<String>,
    compared: Option<Measurement>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
    let mut signals = JoinSet::new();
    signals.spawn(listen(stop.clone(), kill.clone()));
    match demo(&args, stop, kill).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(DemoError::Interrupted) => {
            complain("interrupted; run it again to continue");
            ExitCode::from(INTERRUPTED)
        }
        Err(e) => {
            complain(e);
            ExitCode::FAILURE
        }
    }
}

/// The first signal stops, the second does not wait.
async fn listen(stop: CancellationToken, kill: CancellationToken) -> std::io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
        if stop.is_cancelled() {
            kill.cancel();
        }
        stop.cancel();
    }
}

async fn demo(args: &Args, stop: CancellationToken, kill: CancellationToken) -> Result<bool> {
    let terminal = Terminal::detect();
    let squire = Squire {
        binary: squire_binary(args.squire.as_deref())?,
        stop,
    };
    let source = Arc::new(run::blocking(|| {
        Source::load(&data_dir(args.data.as_deref())?)
    })?);
    let demo = Demo {
        squire,
        source,
        terminal,
        agents: args.agents,
        rate: args.rate,
        kill,
    };
    let hours = args.hours.min(demo.source.hours.len());
    let compare = if args.no_daemon {
        0
    } else {
        args.compare_hours.min(hours)
    };
    let site = Site::of(&args.store)?;
    let mut outcome = demo.over(&site, hours, compare, !args.no_daemon).await?;
    if compare > 0 {
        match &outcome.compared {
            Some(with) => {
                let bare = demo.without_daemon(&site.bare()?, compare).await?;
                outcome.wrong.extend(
                    bare.wrong
                        .into_iter()
                        .map(|w| format!("without daemon: {w}")),
                );
                if let Some(without) = bare.compared {
                    demo.terminal.say(format!("\n{}", with.against(&without)));
                }
            }
            None => demo.terminal.say(format!(
                "\nno comparison: the store was past {compare} hours before it was measured there"
            )),
        }
    }
    demo.verdict(&outcome.wrong);
    Ok(outcome.wrong.is_empty())
}

impl Demo {
    /// The same work without a daemon, up to `hours`, in a store that may be left from before.
    async fn without_daemon(&self, site: &Site, hours: usize) -> Result<Outcome> {
        self.terminal
            .say(format!("\nfor comparison: {hours} hours without a daemon"));
        let run = run::prepare(&self.squire, &self.source, site, false, None).await?;
        if run::reached(&run)? > hours {
            drop(run);
            site.forget()?;
        }
        self.over(site, hours, hours, false).await
    }

    /// Brings the store at `site` to `hours` hours, measures it after `compare` hours, checks it.
    async fn over(
        &self,
        site: &Site,
        hours: usize,
        compare: usize,
        daemon: bool,
    ) -> Result<Outcome> {
        let _lock = site.lock()?;
        let run = run::prepare(&self.squire, &self.source, site, daemon, self.rate).await?;
        let (found, reached) = (run.progress.committed(), run::reached(&run)?);
        let hours = hours.max(reached);
        self.terminal.say(format!(
            "{}: {} of {} hours are committed; {} agents{}",
            site.uri(),
            HumanCount(found as u64),
            HumanCount(hours as u64),
            self.agents,
            if daemon {
                " and a daemon"
            } else {
                ", no daemon"
            }
        ));
        let mut fleet = Fleet::start(&self.squire, site, daemon, self.agents)?;
        let mut view = View::new(&self.terminal, hours, fleet.daemon, &fleet.agents);
        let worked = tokio::select! {
            biased;
            worked = work(&run, hours, compare.max(1), compare >= reached && compare > 0) => worked,
            failed = run::beside_the_work(audit::audit(&run)) => failed,
            failed = run::beside_the_work(fleet.watch(&run.progress)) => failed,
            failed = run::beside_the_work(view.follow(&run)) => failed,
        };
        view.close();
        let complaints = fleet.stop(&self.kill).await;
        let compared = match worked {
            Ok(compared) => compared,
            Err(DemoError::Interrupted) => return Err(DemoError::Interrupted),
            Err(DemoError::Failed(what)) => return failed(format!("{what}\n{}", fleet.logs())),
        };
        self.terminal
            .say(format!("\ncheck of {} hours", HumanCount(hours as u64)));
        let checking = check::check(&run, hours, &self.terminal);
        let mut wrong = tokio::select! {
            biased;
            () = run.stop.cancelled() => return Err(DemoError::Interrupted),
            wrong = checking => wrong?,
        };
        wrong.extend(complaints);
        let counts = run.progress.counts();
        self.terminal.say(format!(
            "  {} hours fed now, {} upserts, {} deletes, {} retries, {} restarts",
            counts.fed,
            counts.upserts,
            counts.deletes,
            counts.lost_attempts + counts.repeats as u64,
            counts.restarts
        ));
        self.terminal.say(measure::measure(&run).await?.describe());
        Ok(Outcome {
            wrong,
            compared: compared.or(recorded(&run, compare)?),
        })
    }

    fn verdict(&self, wrong: &[String]) {
        if wrong.is_empty() {
            self.terminal.say("\nall of it holds");
            return;
        }
        self.terminal.say("\nthis does not hold:");
        for what in wrong {
            self.terminal.say(format!("  {what}"));
        }
    }
}

/// Everything between the start of the processes and their end. With `measured`, the store is
/// measured when it holds exactly `compare` hours.
async fn work(
    run: &Run,
    hours: usize,
    compare: usize,
    measured: bool,
) -> Result<Option<Measurement>> {
    let mut compared = None;
    if measured {
        run::advance(run, compare).await?;
        run::settle(run, PATIENCE).await?;
        let measurement = measure::measure(run).await?;
        let record = measurement.to_json().to_string();
        std::fs::write(&run.site.record, record)
            .context(|| format!("cannot write {}", run.site.record.display()))?;
        compared = Some(measurement);
    }
    run::advance(run, hours).await?;
    run::finish(run).await?;
    run::settle(run, PATIENCE).await?;
    Ok(compared)
}

/// What an earlier run measured after `hours` hours.
fn recorded(run: &Run, hours: usize) -> Result<Option<Measurement>> {
    let record = run::read_optional(&run.site.record)?;
    let record = record.and_then(|text| serde_json::from_str(&text).ok());
    Ok(record
        .and_then(|r| Measurement::from_json(&r))
        .filter(|m| m.hours == hours))
}

fn squire_binary(given: Option<&Path>) -> Result<PathBuf> {
    let path = match given {
        Some(path) => path.to_path_buf(),
        None => std::env::current_exe()
            .context(|| "cannot find this program".to_owned())?
            .with_file_name("squire"),
    };
    path.canonicalize()
        .context(|| format!("no squire binary at {}", path.display()))
}

fn data_dir(given: Option<&Path>) -> Result<PathBuf> {
    let built = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let candidates = match given {
        Some(dir) => vec![dir.to_path_buf()],
        None => vec![PathBuf::from("ops/demo/data"), built],
    };
    let found = candidates
        .iter()
        .find(|d| d.join("flights.parquet").is_file());
    match found {
        Some(dir) => dir
            .canonicalize()
            .context(|| format!("cannot find {}", dir.display())),
        None => failed(format!("no flights.parquet in {}", candidates[0].display())),
    }
}
