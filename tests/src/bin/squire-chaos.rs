//! `make chaos`: several processes on one store, killed, paused and lied to; see `squire_tests::chaos`.

use clap::{Args, Parser, Subcommand};
use squire_tests::chaos::run::{Settings, run};
use squire_tests::chaos::{now_us, writer};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

/// Torments several processes on one store and checks every answer and every snapshot.
#[derive(Debug, Parser)]
#[command(name = "squire-chaos", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    run: RunArgs,
    #[command(subcommand)]
    part: Option<PartArgs>,
}

#[derive(Debug, Args)]
struct RunArgs {
    /// What is tried, and which seams, faults and signals meet it. A fresh one by default; it is printed.
    #[arg(long)]
    seed: Option<u64>,
    /// How long.
    #[arg(long, default_value_t = 10.0)]
    minutes: f64,
    /// Where the store is made; a temporary directory by default.
    #[arg(long)]
    store: Option<String>,
    /// Keep everything, whatever the verdict. A run with a violation is always kept.
    #[arg(long)]
    keep: bool,
    /// Write the numbers here, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum PartArgs {
    /// A writer process of a run.
    #[command(hide = true)]
    Writer {
        #[arg(long)]
        uri: String,
        #[arg(long)]
        number: u32,
        #[arg(long)]
        incarnation: u32,
        #[arg(long)]
        seed: u64,
        #[arg(long)]
        history: PathBuf,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match cli.part {
        None => torment(cli.run).await,
        Some(PartArgs::Writer {
            uri,
            number,
            incarnation,
            seed,
            history,
        }) => {
            let identity = writer::Identity {
                uri,
                number,
                incarnation,
                seed,
                history,
            };
            write(&identity).await
        }
    }
}

async fn write(identity: &writer::Identity) -> ExitCode {
    tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::try_from_env("SQUIRE_LOG").unwrap_or_default())
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    let _armed = squire_failpoints::arm_from_env().expect("seams that exist");
    match writer::run(identity).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::from(u8::try_from(writer::NO_STORE).expect("a small number"))
        }
    }
}

async fn torment(args: RunArgs) -> ExitCode {
    if !squire_failpoints::ENABLED {
        panic!("built without seams; use --features squire-tests/failpoints");
    }
    let settings = Settings {
        seed: args.seed.unwrap_or_else(|| now_us() % 1_000_000_000),
        length: Duration::from_secs_f64(args.minutes * 60.0),
        store: args.store,
        keep: args.keep,
    };
    let report = run(&settings).await;
    for line in report.lines() {
        println!("{line}");
    }
    if let Some(path) = args.json {
        let document = serde_json::to_string_pretty(&report).expect("JSON");
        std::fs::write(&path, document).expect("the document can be written");
    }
    if report.violations.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("seed {}:", report.seed);
    for violation in &report.violations {
        println!("  {violation}");
    }
    ExitCode::FAILURE
}
