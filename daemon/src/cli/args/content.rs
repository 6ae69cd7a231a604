//! Commands that change what tables hold, or which there are.

use crate::config::{SchemaChange, parse_duration, parse_size};
use crate::formats::{Coercion, Format};
use clap::{ArgAction, Args, Subcommand, ValueEnum};
use squire_engine::ids::{Key, TableName};
use std::path::PathBuf;
use std::time::Duration;

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
