//! The commands, and what all of them take. The arguments of each stand with those of their kind: `content`, `upkeep`, `agent`, `asking`.

mod agent;
mod asking;
mod content;
mod upkeep;

pub(crate) use agent::{AgentArgs, SpoolCommand, SpoolExplainArgs, SpoolRetryArgs};
pub(crate) use asking::{
    BugreportArgs, CompletionsArgs, ConfigArgs, ConfigCommand, ConfigInitArgs, DebugCommand,
    KeepArgs, LeaseArgs, LogArgs, ManArgs, OpArgs, SnapshotArgs, UnkeepArgs,
};
pub(crate) use content::{
    AlterArgs, AlterCommand, AlterTypeArgs, CommitArgs, CommitFlags, CreateArgs, DeleteArgs,
    DropArgs, IndexArgs, IngestArgs, StreamFormat, WriteArgs, WriteMode,
};
pub(crate) use upkeep::{
    CancelArgs, CheckArgs, CleanupArgs, DaemonArg, DaemonArgs, KindArg, OptimizeArgs, PauseArgs,
    PlanArgs, RecoverArgs, ReindexArgs, RepairArgs, ReplayArgs, StatusArgs, VerifyArgs, WorkArgs,
    WorkerArgs,
};

use crate::config::parse_duration;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Keeps Lance tables sharp: atomic commits over several tables, and a daemon that maintains them.
#[derive(Debug, Parser)]
#[command(name = "squire", version, propagate_version = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Common {
    /// Print one JSON document, errors included.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// The configuration file (storage options, policy).
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// How long an undecided operation of another process is left alone.
    #[arg(long, global = true, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) grace: Option<Duration>,
    /// Who commits, for the commit log.
    #[arg(long, global = true)]
    pub(crate) actor: Option<String>,
    /// Log level: error, warn, info, debug, trace.
    #[arg(long, global = true, value_name = "LEVEL")]
    pub(crate) log: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a store.
    ///
    /// Example: squire init ./lake
    Init { store: String },
    /// Make an empty table.
    ///
    /// With --if-missing a table that is there already is fine, if its columns and its key are the same; otherwise the difference is
    /// told, exit code 2.
    ///
    /// Example: squire create ./lake flights --like flights.parquet --key id
    Create(CreateArgs),
    /// Declare an index; maintenance builds it and keeps it up.
    ///
    /// Example: squire index ./lake planes tailnum --type btree
    Index(IndexArgs),
    /// Write files to one table in one commit.
    ///
    /// append adds the rows. merge replaces the rows whose key the table has and adds the others; insert adds these alone, update
    /// replaces those alone. overwrite replaces all rows, replace those that --where selects, by rows that it selects too.
    ///
    /// Example: squire write ./lake planes planes.csv --mode merge --key tailnum
    Write(WriteArgs),
    /// Append a stream from standard input to one table, committed piece by piece, each row once.
    ///
    /// Prints one JSON document a line: first {"resume":N}, the offset up to which the producer's rows are committed, then
    /// {"offset":N,"op":"..."} after each commit. Offsets count rows. Whoever starts again sends the same rows again, all of them or (--from)
    /// those from an offset on, and what is committed is passed over. SIGTERM and the end of the input commit what has come. A row that the
    /// table does not take ends it with exit code 2, and nothing behind the last acknowledgement is committed.
    ///
    /// Example: tail -F app.ndjson | squire ingest ./lake events --producer app-1
    Ingest(IngestArgs),
    /// Delete rows by a SQL predicate.
    ///
    /// Example: squire delete ./lake flights --where "dep_time IS NULL"
    Delete(DeleteArgs),
    /// Change one column of a table: add, drop, rename or widen it.
    ///
    /// No row is written anew but for a widened column. Writers that read the older columns are retried, or refused with the column.
    ///
    /// Example: squire alter ./lake planes add owner utf8
    #[command(subcommand_value_name = "CHANGE", subcommand_help_heading = "Changes")]
    Alter(AlterArgs),
    /// Drop a table: the store shows it no more.
    ///
    /// Snapshots from before show it until the retention has passed; then its files go with cleanup. A table that is created again under
    /// its name is another one, in another folder.
    ///
    /// Example: squire drop ./lake planes
    Drop(DropArgs),
    /// Commit a batch directory: several tables, one commit.
    ///
    /// Example: squire commit ./lake ./batch-2013-01-01 --batch-id 2013-01-01
    Commit(CommitArgs),
    /// Commit batches from a spool directory, each exactly once, until stopped.
    ///
    /// Example: squire agent ./lake --spool /var/spool/squire
    Agent(AgentArgs),
    /// Watch and maintain stores and directories, until stopped.
    ///
    /// Example: squire daemon ./lake --listen 127.0.0.1:9464
    Daemon(DaemonArgs),
    /// Have the running daemon begin nothing more of a store, a table or a kind of work, until it is resumed.
    ///
    /// Without a store, table and kind: of anything. Recovery and observation go on.
    ///
    /// Example: squire pause --table flights --kind compact --reason "audit until Friday" --config squire.toml
    Pause(PauseArgs),
    /// End every pause of what is named; without a store, table and kind every pause there is.
    ///
    /// Example: squire resume --table flights --config squire.toml
    Resume(WorkArgs),
    /// Stop attempts of the running daemon at their next safe point; what they have finished is kept.
    ///
    /// Example: squire cancel --attempt 7 --config squire.toml
    Cancel(CancelArgs),
    /// Have the running daemon stop what it does, begin nothing any more, and say what it hands back.
    ///
    /// Example: squire drain --config squire.toml
    Drain(DaemonArg),
    /// Say what the daemon would do now, and why; do nothing.
    ///
    /// Example: squire plan ./lake
    Plan(PlanArgs),
    /// Compact tables now.
    ///
    /// Example: squire optimize ./lake --table flights
    Optimize(OptimizeArgs),
    /// Extend and build indexes now.
    ///
    /// Example: squire reindex ./lake
    Reindex(ReindexArgs),
    /// Execute one task of a compaction, and end; whoever runs the compaction commits what comes of it.
    ///
    /// An executor starts it (see `executor` in the configuration), on this machine or any other that reaches the storage, with the same
    /// release of squire. The task may be followed, on a line of its own, by a JSON object of storage options; without one they come from
    /// --config and the environment. Prints one JSON document a line: {"progress":...} while it moves, then what came of the task. A task
    /// has one result, however often it is executed; all other files are reclaimed by the run. Ends with 3 and lands nothing when the run
    /// has ended, or was taken for dead.
    ///
    /// Example: squire worker --task task.json
    Worker(WorkerArgs),
    /// Remove versions that nothing needs.
    ///
    /// Example: squire cleanup ./lake --retention 7d --dry-run
    Cleanup(CleanupArgs),
    /// Prove that whatever a version refers to is there and has its size; change nothing.
    ///
    /// Ends with 1 when something is missing or torn, and names it with what to do.
    ///
    /// Example: squire verify ./lake --table flights
    Verify(VerifyArgs),
    /// Complete or abort operations that their processes left behind.
    ///
    /// Example: squire recover ./lake
    Recover(RecoverArgs),
    /// Show external commits above a pin, and publish or discard them.
    ///
    /// Example: squire repair ./lake --table flights --discard
    Repair(RepairArgs),
    /// Show the health of every table.
    ///
    /// Example: squire status ./lake --json
    Status(StatusArgs),
    /// Say of every location whether somebody has to act: 0 no, 3 soon, 1 now.
    ///
    /// Looks at each location of the configuration, or at those named: whether it opens with its credentials, the health of every
    /// table, drift, operations without an end, maintenance that is behind, room on the disk. Changes nothing. Exit codes: 0 all is
    /// well, 3 warnings, 1 something failed; with --nagios 0, 1, 2, and 3 for unknown.
    ///
    /// Example: squire check --config squire.toml
    Check(CheckArgs),
    /// Show the commit log, newest first.
    ///
    /// Example: squire log ./lake --limit 20
    Log(LogArgs),
    /// Show what maintenance did, newest first: when, by whom, to what effect, and why.
    ///
    /// Of a store it is read from the commit log, which outlives the versions; reasons and effects are noted by the daemon, the latest
    /// 1,000, and are all there is of plain tables. A run that found nothing to do leaves no trace.
    ///
    /// Example: squire history ./lake --limit 20
    History(LogArgs),
    /// Say what a policy would have done to the versions that are still there, against what happened.
    ///
    /// What users wrote is played again, version by version, and the policy decides as the daemon would; manifests alone are read, and
    /// nothing is changed. Rows are counted by stored bytes, and failures, pauses and other tables are left out.
    ///
    /// Example: squire replay ./lake --policy new.toml
    Replay(ReplayArgs),
    /// Say what became of an operation.
    ///
    /// Example: squire op ./lake 01JD2Q3V5W6X7Y8Z9A0B1C2D3E
    Op(OpArgs),
    /// Show a consistent snapshot: the version of every table, for any Lance client.
    ///
    /// Example: squire snapshot ./lake --json
    Snapshot(SnapshotArgs),
    /// Hold a snapshot under a name: cleanup spares it until it is let go.
    ///
    /// Example: squire keep ./lake before-migration
    Keep(KeepArgs),
    /// Let a kept snapshot go.
    ///
    /// Example: squire unkeep ./lake before-migration
    Unkeep(UnkeepArgs),
    /// Hold a snapshot while a command runs.
    ///
    /// The command finds the snapshot in its environment: SQUIRE_LEASE_STORE, SQUIRE_LEASE_MANIFEST_VERSION, SQUIRE_LEASE_ID. Its
    /// exit code is passed on, and signals are passed to it.
    ///
    /// Example: squire lease ./lake --ttl 1h -- python report.py
    Lease(LeaseArgs),
    /// Check a configuration file, show what it comes to, or write one with every default.
    ///
    /// Example: squire config check squire.toml
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Look at a spool, and have rejected batches tried again.
    ///
    /// Example: squire spool status /var/spool/squire
    #[command(subcommand)]
    Spool(SpoolCommand),
    /// Print the records of a store, decoded and explained, torn ones too.
    ///
    /// Example: squire debug sidecar ./lake
    #[command(subcommand)]
    Debug(DebugCommand),
    /// Print what a bug report needs: versions, configuration, health, last errors; no data, no credentials.
    ///
    /// Example: squire bugreport --config squire.toml > report.txt
    Bugreport(BugreportArgs),
    /// Print completions for a shell.
    ///
    /// Example: squire completions bash > /etc/bash_completion.d/squire
    Completions(CompletionsArgs),
    /// Write a man page for every command.
    ///
    /// Example: squire man ./man
    Man(ManArgs),
    /// List every failpoint: where it stands and what is durable there.
    ///
    /// Example: squire seams
    Seams,
}
