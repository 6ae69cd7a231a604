//! Maintenance, once or by a daemon, and what is asked of one.

use crate::config::{ExecutorKind, parse_duration, parse_size};
use clap::{ArgAction, Args, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// Stores, directories or tables; besides those of the configuration.
    pub(crate) places: Vec<String>,
    /// Address of the HTTP endpoints, or "off".
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Make one pass and end.
    #[arg(long)]
    pub(crate) once: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// A store, a directory of Lance tables, or one table.
    pub(crate) store: String,
    /// Only this table, or a branch of it as `TABLE@BRANCH`; may be repeated.
    #[arg(long = "table", value_name = "TABLE", action = ArgAction::Append)]
    pub(crate) tables: Vec<String>,
}

/// What is planned, and what of it a running daemon holds back.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Where the daemon listens that knows what waits; daemon.listen of the configuration by default.
    #[arg(long, value_name = "ADDR")]
    pub(crate) daemon: Option<SocketAddr>,
}

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// A configuration with the `[policy]` and `[[table]]` sections to play; those of --config by default, or the defaults.
    #[arg(long, value_name = "FILE")]
    pub(crate) policy: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    pub(crate) of: PlanArgs,
    /// Look again after every INTERVAL (2s unless given), until Ctrl-C.
    #[arg(
        long,
        value_name = "INTERVAL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "2s",
        value_parser = parse_duration
    )]
    pub(crate) watch: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Stores, directories or tables; those of the configuration by default.
    pub(crate) locations: Vec<String>,
    /// One line with numbers to plot, and the exit codes of a monitoring plugin.
    #[arg(long)]
    pub(crate) nagios: bool,
}

#[derive(Debug, Args)]
pub(crate) struct OptimizeArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Say what would be done; do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Who executes the rewrites: this process, workers on this machine, or workers of Ray; policy.executor of the configuration by default.
    #[arg(long)]
    pub(crate) executor: Option<ExecutorKind>,
}

#[derive(Debug, Args)]
pub(crate) struct ReindexArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Say what would be done; do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct WorkerArgs {
    /// The file with the task; - for standard input.
    #[arg(long, value_name = "FILE")]
    pub(crate) task: PathBuf,
    /// What it may hold; budget.memory of the configuration by default.
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub(crate) memory: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Also read some rows of every data file, and ask every index.
    #[arg(long)]
    pub(crate) deep: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CleanupArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Print exactly what the real run would remove; remove nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Keep snapshots younger than this; at least 1h.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) retention: Option<Duration>,
    /// And this many of the latest, whatever their age.
    #[arg(long, value_name = "N")]
    pub(crate) min_versions: Option<u64>,
    /// Deletes per second at most.
    #[arg(long, value_name = "N")]
    pub(crate) rate: Option<u64>,
}

/// Which daemon is asked.
#[derive(Debug, Args)]
pub(crate) struct DaemonArg {
    /// Where the daemon listens; daemon.listen of the configuration by default.
    #[arg(long, value_name = "ADDR")]
    pub(crate) daemon: Option<SocketAddr>,
    /// The file with its token; daemon.token_file of the configuration by default.
    #[arg(long, value_name = "FILE")]
    pub(crate) token_file: Option<PathBuf>,
}

/// A kind of maintenance.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum KindArg {
    Compact,
    Reindex,
    Cleanup,
}

/// Which work of which daemon is meant; all of it, as far as nothing is named.
#[derive(Debug, Args)]
pub(crate) struct WorkArgs {
    /// A location, as the daemon watches it.
    pub(crate) store: Option<String>,
    #[arg(long)]
    pub(crate) table: Option<String>,
    #[arg(long)]
    pub(crate) kind: Option<KindArg>,
    #[command(flatten)]
    pub(crate) daemon: DaemonArg,
}

#[derive(Debug, Args)]
pub(crate) struct PauseArgs {
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// Why, for whoever reads the status.
    #[arg(long)]
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    #[command(flatten)]
    pub(crate) work: WorkArgs,
    /// One attempt, by its number in the daemon's /status.
    #[arg(long, value_name = "N")]
    pub(crate) attempt: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    pub(crate) store: String,
    /// Say what would be done with each operation; do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Abort incomplete operations now, without waiting for the grace. Their processes must be dead, or they retry.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
#[group(id = "action", multiple = false)]
pub(crate) struct RepairAction {
    /// Publish the external versions if they preserve content.
    #[arg(long)]
    pub(crate) publish: bool,
    /// Publish the external versions whatever they change; takes one --table and the --head that was reviewed.
    #[arg(long)]
    pub(crate) force: bool,
    /// Restore the pinned version above the external ones; takes the --table.
    #[arg(long)]
    pub(crate) discard: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// A store: what others commit to tables outside of one stands as it is.
    pub(crate) store: String,
    /// Only this table; may be repeated.
    #[arg(long = "table", value_name = "TABLE", action = ArgAction::Append)]
    pub(crate) tables: Vec<String>,
    #[command(flatten)]
    pub(crate) action: RepairAction,
    /// Act only if HEAD is still this version, as an earlier preview showed it.
    #[arg(long, value_name = "VERSION")]
    pub(crate) head: Option<u64>,
}
