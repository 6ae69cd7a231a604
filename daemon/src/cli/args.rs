//! The arguments of every command.

use crate::config::{SchemaChange, parse_duration, parse_size};
use crate::formats::{Coercion, Format};
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use squire_engine::ids::{Key, TableName};
use std::ffi::OsString;
use std::net::SocketAddr;
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
    Reindex(OptimizeArgs),
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

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    pub(crate) store: String,
    pub(crate) table: String,
    /// Take the columns of this data file.
    #[arg(
        long,
        required_unless_present = "schema",
        conflicts_with = "schema",
        value_name = "FILE"
    )]
    pub(crate) like: Option<PathBuf>,
    /// Take the columns from this schema file.
    #[arg(long, value_name = "FILE")]
    pub(crate) schema: Option<PathBuf>,
    /// The key, for merge and delete by key: a column, or several with commas between them.
    #[arg(long, value_name = "COLUMN[,COLUMN...]")]
    pub(crate) key: Option<Key>,
    /// Do nothing if there is a table of that name with these columns and this key.
    #[arg(long)]
    pub(crate) if_missing: bool,
}

#[derive(Debug, Args)]
pub(crate) struct IndexArgs {
    pub(crate) store: String,
    pub(crate) table: String,
    pub(crate) column: String,
    /// btree, bitmap, label_list, ngram, zonemap, bloomfilter, inverted, ivf_flat or ivf_pq.
    #[arg(
        long = "type",
        value_name = "TYPE",
        required_unless_present = "withdraw",
        conflicts_with = "withdraw"
    )]
    pub(crate) kind: Option<String>,
    /// Declare it no more, and drop what was built of it.
    #[arg(long)]
    pub(crate) withdraw: bool,
    /// The index's name; COLUMN_idx by default.
    #[arg(long)]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct DropArgs {
    pub(crate) store: String,
    pub(crate) table: String,
    /// Also when versions stand above what the store shows that something else committed: they go with it.
    #[arg(long)]
    pub(crate) discard_drift: bool,
    /// The commit message.
    #[arg(long, default_value = "")]
    pub(crate) message: String,
    /// Check everything, say what would be dropped, and drop nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AlterArgs {
    pub(crate) store: String,
    pub(crate) table: String,
    #[command(subcommand)]
    pub(crate) change: AlterCommand,
}

/// A column within others is named by its path: address.city.
#[derive(Debug, Subcommand)]
pub(crate) enum AlterCommand {
    /// Add a column that is null in every row.
    ///
    /// Example: squire alter ./lake planes add owner utf8
    Add(AlterTypeArgs),
    /// Take a column away; snapshots from before still show it.
    ///
    /// Example: squire alter ./lake planes drop owner
    Drop {
        column: String,
        #[command(flatten)]
        commit: CommitFlags,
    },
    /// Give a column another name.
    ///
    /// Example: squire alter ./lake planes rename owner operator
    Rename {
        column: String,
        /// The new name, without the path to it.
        name: String,
        #[command(flatten)]
        commit: CommitFlags,
    },
    /// Give a column a type that holds every value of the one it has. The column is written anew, and compared.
    ///
    /// Example: squire alter ./lake planes widen seats int64
    Widen(AlterTypeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct AlterTypeArgs {
    pub(crate) column: String,
    /// A type as in a schema file: `int64`, `utf8`, `decimal128<18,2>`, `list<int32>`, `struct<lat:float64,lon:float64>`, ...
    #[arg(value_name = "TYPE")]
    pub(crate) data_type: String,
    #[command(flatten)]
    pub(crate) commit: CommitFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum WriteMode {
    /// Add the rows
    Append,
    /// Replace the rows of the same key, and add the others. Every column of the table has to be given, by each file and each object of
    /// NDJSON, or have a --default: what is to be null is written as null
    Merge,
    /// Add the rows whose key the table does not have
    Insert,
    /// Replace the rows of the same key, as merge does, and pass over the others
    Update,
    /// Replace all rows
    Overwrite,
    /// Replace the rows that --where selects by these, each of which it has to select
    Replace,
}

#[derive(Debug, Args)]
pub(crate) struct CommitFlags {
    /// An id that makes this batch committed at most once, whoever sends it.
    #[arg(long)]
    pub(crate) batch_id: Option<String>,
    /// The commit message.
    #[arg(long, default_value = "")]
    pub(crate) message: String,
    /// How many conflicts are retried from a fresh snapshot.
    #[arg(long, default_value_t = 100)]
    pub(crate) retries: u32,
    /// Commit only if TABLE is what it was in the snapshot at manifest version M, as `squire snapshot --json` prints it; otherwise
    /// exit code 2. Maintenance does not change a table. May be repeated.
    #[arg(long, value_name = "TABLE@M", value_parser = parse_requirement, action = ArgAction::Append)]
    pub(crate) require: Vec<(TableName, u64)>,
    /// Read and check everything, say what would be committed, and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl CommitFlags {
    /// What is done with what was read, in a word.
    pub(crate) fn doing(&self) -> &'static str {
        match self.dry_run {
            true => "checking",
            false => "committing",
        }
    }
}

/// A table and the manifest version of a snapshot, of `TABLE@M`.
fn parse_requirement(text: &str) -> Result<(TableName, u64), String> {
    let (table, snapshot) = text.split_once('@').unwrap_or((text, ""));
    let table = TableName::new(table).map_err(|e| e.to_string())?;
    let no_version = |_| "write TABLE@M, M a manifest version".to_owned();
    Ok((table, snapshot.parse().map_err(no_version)?))
}

#[derive(Debug, Args)]
pub(crate) struct WriteArgs {
    pub(crate) store: String,
    pub(crate) table: String,
    /// Files in Parquet, Arrow IPC, CSV or NDJSON, each also compressed (gzip, zstd, bzip2); directories of them; patterns in quotes
    /// ('in/*.csv.gz'); - for standard input. Those of a directory or a pattern are read in the order of their names.
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// The format of every FILE, whatever its name says.
    #[arg(long, value_enum)]
    pub(crate) format: Option<Format>,
    /// What COLUMN of the table is called in the files; may be repeated.
    #[arg(long = "column", value_name = "COLUMN=NAME", action = ArgAction::Append)]
    pub(crate) columns: Vec<String>,
    /// What stands in COLUMN where a file, or an object of NDJSON, does not have it; may be repeated.
    #[arg(long = "default", value_name = "COLUMN=VALUE", action = ArgAction::Append)]
    pub(crate) defaults: Vec<String>,
    /// What may be changed of values, and is then reported; without it every value is stored exactly, or the file refused.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub(crate) coerce: Vec<Coercion>,
    /// What of the table's columns may change for rows that need it, in the same commit: add columns, or also widen them. Only what
    /// has to be is changed, and told. For append, merge, insert and update.
    #[arg(long, value_enum, value_name = "CHANGE")]
    pub(crate) schema_change: Option<SchemaChange>,
    #[arg(long, value_enum, default_value_t = WriteMode::Append)]
    pub(crate) mode: WriteMode,
    /// The key of a merge, an insert or an update, when the table declares none: a column, or several with commas between them.
    #[arg(long, value_name = "COLUMN[,COLUMN...]")]
    pub(crate) key: Option<Key>,
    /// The slice that --mode replace replaces: a SQL predicate, as for `squire delete`.
    #[arg(
        long = "where",
        value_name = "PREDICATE",
        required_if_eq("mode", "replace")
    )]
    pub(crate) predicate: Option<String>,
    /// Let --mode overwrite empty the table, and --mode replace the slice, when the files have no rows.
    #[arg(long)]
    pub(crate) allow_empty: bool,
    #[command(flatten)]
    pub(crate) commit: CommitFlags,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum StreamFormat {
    /// One JSON object a line; empty lines are no rows.
    Ndjson,
    /// An Arrow IPC stream.
    Arrow,
}

#[derive(Debug, Args)]
pub(crate) struct IngestArgs {
    pub(crate) store: String,
    pub(crate) table: String,
    /// Whose rows these are: one name for each stream of rows. The store keeps its offset.
    #[arg(long, value_name = "NAME")]
    pub(crate) producer: String,
    #[arg(long, value_enum, default_value_t = StreamFormat::Ndjson)]
    pub(crate) format: StreamFormat,
    /// The offset of the first row on standard input.
    #[arg(long, default_value_t = 0, value_name = "OFFSET")]
    pub(crate) from: u64,
    /// Commit when so many rows have come.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) rows: u64,
    /// Commit when so many bytes have come.
    #[arg(long, default_value = "16MiB", value_parser = parse_size, value_name = "SIZE")]
    pub(crate) bytes: u64,
    /// Commit when a row has waited so long.
    #[arg(long, default_value = "1s", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) age: Duration,
    /// What of the table's columns may change for rows that need it, as for `squire write`.
    #[arg(long, value_enum, value_name = "CHANGE")]
    pub(crate) schema_change: Option<SchemaChange>,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    pub(crate) store: String,
    pub(crate) table: String,
    /// A SQL predicate over the table's columns: `name` for a column, 'text' for text; true for every row.
    #[arg(long = "where", value_name = "PREDICATE")]
    pub(crate) predicate: String,
    #[command(flatten)]
    pub(crate) commit: CommitFlags,
}

#[derive(Debug, Args)]
pub(crate) struct CommitArgs {
    pub(crate) store: String,
    /// A directory with one file per table and an optional batch.toml.
    pub(crate) batch: PathBuf,
    #[command(flatten)]
    pub(crate) commit: CommitFlags,
}

#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    pub(crate) store: String,
    /// The spool directory; made when missing.
    #[arg(long, value_name = "DIR")]
    pub(crate) spool: PathBuf,
    /// Address of /metrics and /healthz, or "off".
    #[arg(long, value_name = "ADDR")]
    pub(crate) listen: Option<String>,
    /// Address of the Arrow Flight server, which takes rows from ADBC and pyarrow, or "off".
    #[arg(long, value_name = "ADDR")]
    pub(crate) flight: Option<String>,
    /// End when the spool is empty, with a summary: exit code 0, or 1 when something was left or storage fails. Rejecting a batch is no
    /// failure.
    #[arg(long)]
    pub(crate) until_empty: bool,
}

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
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    #[command(flatten)]
    pub(crate) action: RepairAction,
    /// Act only if HEAD is still this version, as an earlier preview showed it.
    #[arg(long, value_name = "VERSION")]
    pub(crate) head: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct LogArgs {
    /// A store; for history a directory of Lance tables or one table, too.
    pub(crate) store: String,
    /// How many entries.
    #[arg(long, default_value_t = 20)]
    pub(crate) limit: usize,
}

#[derive(Debug, Args)]
pub(crate) struct OpArgs {
    pub(crate) store: String,
    /// The operation.
    pub(crate) ulid: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DebugCommand {
    /// The recovery records of operations that have no end yet: all, or one.
    ///
    /// Example: squire debug sidecar ./lake 01JD2Q3V5W6X7Y8Z9A0B1C2D3E
    Sidecar {
        store: String,
        /// Only this operation.
        ulid: Option<String>,
    },
    /// What maintenance runs have written and not settled yet: the files that each names in its journal.
    ///
    /// Example: squire debug journal ./lake
    Journal {
        /// A store, a directory of Lance tables, or one table.
        store: String,
        /// Only this run.
        ulid: Option<String>,
    },
    /// Everything that one version of the manifest holds.
    ///
    /// Example: squire debug manifest ./lake --at 12
    Manifest(SnapshotArgs),
}

#[derive(Debug, Args)]
pub(crate) struct BugreportArgs {
    /// Locations whose health is told; those of the configuration by default.
    pub(crate) locations: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Where to write the pages.
    pub(crate) directory: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    pub(crate) store: String,
    /// An older manifest version.
    #[arg(long, value_name = "M", conflicts_with = "name")]
    pub(crate) at: Option<u64>,
    /// What `squire keep` holds under this name.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct KeepArgs {
    pub(crate) store: String,
    /// Letters, digits, `_`, `-` and `.`, at most 64.
    pub(crate) name: String,
    /// An older manifest version; the latest by default.
    #[arg(long, value_name = "M")]
    pub(crate) at: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct UnkeepArgs {
    pub(crate) store: String,
    /// The name that it was kept under.
    pub(crate) name: String,
}

#[derive(Debug, Args)]
pub(crate) struct LeaseArgs {
    pub(crate) store: String,
    /// How long the lease holds without a renewal; it is renewed while the command runs.
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", default_value = "1h")]
    pub(crate) ttl: Duration,
    /// An older manifest version; the latest by default.
    #[arg(long, value_name = "M", conflicts_with = "name")]
    pub(crate) at: Option<u64>,
    /// What `squire keep` holds under this name.
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Say whether a configuration is valid; an error names line, column and key.
    ///
    /// With --probe, opens what it names too: exit code 78 when the file is fine and a location, a credential or a variable is not.
    ///
    /// Example: squire config check squire.toml
    Check(ConfigCheckArgs),
    /// Print every setting with its value and where it comes from.
    ///
    /// Example: squire config show squire.toml
    Show(ConfigArgs),
    /// Write a file with every setting and its default as comments; a file that is there stays as it is.
    ///
    /// Example: squire config init squire.toml
    Init(ConfigInitArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ConfigCheckArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Open each location with its credentials.
    #[arg(long)]
    pub(crate) probe: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigInitArgs {
    /// Where to write it.
    pub(crate) file: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// The file; that of --config by default, and without either the built-in defaults.
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum SpoolCommand {
    /// Count what is incoming, claimed, waiting, done and rejected, with ages and causes.
    ///
    /// Example: squire spool status /var/spool/squire
    Status {
        /// The directory that an agent has as --spool.
        dir: PathBuf,
    },
    /// Move rejected entries back to incoming, where the next agent takes them.
    ///
    /// Example: squire spool retry /var/spool/squire orders.17.csv
    Retry(SpoolRetryArgs),
    /// Say where an entry is, why, and what to do.
    ///
    /// Example: squire spool explain /var/spool/squire orders.17.csv
    Explain(SpoolExplainArgs),
}

#[derive(Debug, Args)]
pub(crate) struct SpoolRetryArgs {
    /// The directory that an agent has as --spool.
    pub(crate) dir: PathBuf,
    /// Entries, as they are named in rejected/.
    #[arg(
        value_name = "NAME",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    pub(crate) names: Vec<OsString>,
    /// Everything that is rejected.
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SpoolExplainArgs {
    /// The directory that an agent has as --spool.
    pub(crate) dir: PathBuf,
    /// The entry.
    pub(crate) name: OsString,
}
