//! `make fleet`: figures of daemons over many tables; see `squire_tests::fleet`.

use clap::{Parser, Subcommand};
use squire_tests::fleet::{Figures, backlog, idle, mixed};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Measures daemons over many tables, both sides of each ratio in one run.
#[derive(Debug, Parser)]
#[command(name = "squire-fleet")]
struct Cli {
    #[command(subcommand)]
    what: What,
    /// Write the figures here, as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One daemon and two on the same backlog; one of two is killed.
    Backlog {
        #[arg(long, default_value_t = 60)]
        tables: usize,
        /// Of each table.
        #[arg(long, default_value_t = 24)]
        fragments: i64,
        /// Of each fragment.
        #[arg(long, default_value_t = 500)]
        rows: i64,
        /// Of each side; they alternate.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
    },
    /// A daemon with nothing to do, and how soon it begins what becomes due.
    Idle {
        #[arg(long, default_value_t = 1_000)]
        tables: usize,
        /// How long it is measured.
        #[arg(long, default_value_t = 180)]
        seconds: u64,
    },
    /// Writers and two daemons, one of which is killed again and again.
    Mixed {
        #[arg(long, default_value_t = 200)]
        tables: usize,
        #[arg(long, default_value_t = 60.0)]
        minutes: f64,
        /// Seconds between two kills.
        #[arg(long, default_value_t = 150)]
        kill_every: u64,
        #[arg(long, default_value_t = 4)]
        writers: usize,
        /// What is written where and when; a fresh one by default, which is printed.
        #[arg(long)]
        seed: Option<u64>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut figures = Figures::default();
    match cli.what {
        What::Backlog {
            tables,
            fragments,
            rows,
            rounds,
        } => {
            let backlog = backlog::Backlog {
                tables,
                fragments,
                rows,
                rounds,
            };
            backlog::run(backlog, &mut figures).await;
        }
        What::Idle { tables, seconds } => idle::run(tables, seconds, &mut figures).await,
        What::Mixed {
            tables,
            minutes,
            kill_every,
            writers,
            seed,
        } => {
            let mixed = mixed::Mixed {
                tables,
                minutes,
                kill_every: Duration::from_secs(kill_every),
                seed: seed.unwrap_or_else(rand::random),
                writers,
            };
            mixed::run(mixed, &mut figures).await;
        }
    }
    if let Some(path) = cli.json {
        let text = serde_json::to_string_pretty(&figures.rows).expect("JSON");
        std::fs::write(path, text).expect("the file can be written");
    }
    match figures.wrong.is_empty() {
        true => ExitCode::SUCCESS,
        false => {
            println!("not as it should be: {}", figures.wrong.join("; "));
            ExitCode::FAILURE
        }
    }
}
