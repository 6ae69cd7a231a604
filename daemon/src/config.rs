//! `squire.toml`: what may be written in it ([`ConfigFile`]) and what the daemon and the agent work
//! with ([`Config`]).
//!
//! 1. The text becomes a `ConfigFile`: every field has a default, unknown keys are errors.
//! 2. The file becomes a `Config` by exhaustive destructuring: a field added to one and not to the
//!    other does not compile.
//! 3. Values and combinations that would be unsafe are refused, with file, line and key.
//!
//! A reload parses the whole file again; on any error the caller keeps the `Config` it has.
//!
//! Parts: `units` (durations, sizes, addresses), `policy` (`[policy]` and `[[table]]`), `pattern` (names of many tables), `storage` (where
//! a watched place lies and how it is reached), `executor` (`[executor]`), `file` (the other sections), `brackets` (how sections
//! are written), `windows` (when work may run), `locate` (lines and columns), `show` (every value with its origin).

mod brackets;
mod checks;
mod executor;
mod file;
mod flight;
#[cfg(test)]
mod fuzz_tests;
mod locate;
mod min_free;
pub(crate) mod nested;
mod pattern;
mod policy;
mod secrets;
mod show;
mod storage;
#[cfg(test)]
mod tests;
mod tokens;
use crate::units;
mod windows;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize, Serializer};
use squire_engine::store::Durability;

use crate::formats::{Coercion, InputLimits};
use crate::text_file;

pub(crate) use executor::{ExecutorConfig, ExecutorKind, WhenAway};
use file::Refused;
pub(crate) use file::{ConfigFile, WatchKind};
pub(crate) use flight::FlightConfig;
use locate::Locator;
pub(crate) use min_free::MinFree;
pub(crate) use pattern::TablePattern;
pub(crate) use policy::{DriftPolicy, Policy};
pub(crate) use show::render;
pub(crate) use storage::location_of;
use tokens::{Reading, ScopedToken};
pub(crate) use units::{log_filter, parse_duration, parse_listen, parse_size};
pub(crate) use windows::{Opening, Windows};

/// The file that packages ship and `squire config init` writes: every setting as a comment, with its default.
pub(crate) const SHIPPED: &str = include_str!("../../ops/config/squire.toml");

/// The checked configuration. Serializes to a document that parses to the same, but for secrets,
/// which are masked.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Config {
    /// `[daemon]`
    pub(crate) daemon: DaemonConfig,
    /// `[[token]]`, in the order of the file.
    #[serde(rename = "token", skip_serializing_if = "Vec::is_empty")]
    tokens: Vec<ScopedToken>,
    /// `[[watch]]`, in the order of the file.
    #[serde(rename = "watch", skip_serializing_if = "Vec::is_empty")]
    pub(crate) watches: Vec<Watch>,
    /// `[policy]`; ask [`Config::policy_for`] instead, which knows the overrides.
    pub(crate) policy: Policy,
    /// `[[table]]`
    #[serde(rename = "table", skip_serializing_if = "Tables::is_empty")]
    tables: Tables,
    /// `[budget]`
    pub(crate) budget: Budget,
    /// `[executor]`
    pub(crate) executor: ExecutorConfig,
    /// `[agent]`
    pub(crate) agent: AgentConfig,
}

/// `[[table]]`, resolved: each holds its tables' whole policy.
#[derive(Clone, Debug, Default, PartialEq)]
struct Tables {
    named: BTreeMap<String, Policy>,
    /// In the order of the file.
    patterns: Vec<TablePattern>,
}

/// The daemon process itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct DaemonConfig {
    /// Address of the HTTP server; `None` is off.
    #[serde(serialize_with = "units::show_listen")]
    pub(crate) listen: Option<SocketAddr>,
    /// Time between two rounds over all tables of a location.
    #[serde(serialize_with = "units::show_duration")]
    pub(crate) scan_interval: Duration,
    /// Time between two regular cleanups.
    #[serde(serialize_with = "units::show_duration")]
    pub(crate) full_scan_interval: Duration,
    /// How long running attempts may take to a safe point after a stop signal.
    #[serde(serialize_with = "units::show_duration")]
    pub(crate) drain: Duration,
    /// An attempt without progress for this long is stopped.
    #[serde(serialize_with = "units::show_duration")]
    pub(crate) watchdog_progress: Duration,
    /// Tables beyond which the metrics have one series per store, and none per table.
    pub(crate) metrics_tables: usize,
    /// How long a claim on what this daemon works on holds when it is not renewed; `None`: nothing is claimed.
    #[serde(serialize_with = "units::show_duration_or_off")]
    pub(crate) claim_expiry: Option<Duration>,
    /// File with the bearer token for changing calls; `None` switches them off.
    pub(crate) token_file: Option<PathBuf>,
    /// Who may read `/status` and `/metrics`.
    pub(crate) reading: Reading,
    /// How long someone else's undecided operation is waited for. Decides when to try, never what
    /// is safe.
    #[serde(serialize_with = "units::show_duration")]
    pub(crate) grace: Duration,
    /// What an acknowledged commit outlives, on local disks.
    pub(crate) durability: Durability,
    /// How much the process steps back behind others, as `nice` counts it.
    pub(crate) nice: u8,
    /// Log filter in the syntax of `RUST_LOG`.
    pub(crate) log: String,
}

/// One place to look for tables.
#[derive(Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Watch {
    /// Path or URL of a store, a directory of tables, or a table.
    pub(crate) uri: String,
    /// Which of the three it is.
    pub(crate) kind: WatchKind,
    /// Options for the object store, environment references resolved. May hold secrets.
    #[serde(
        serialize_with = "show_masked",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub(crate) storage_options: BTreeMap<String, String>,
}

/// What all running attempts may use together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Budget {
    /// Heavy attempts at one time.
    pub(crate) max_concurrent: usize,
    /// What the process may hold, in bytes.
    #[serde(serialize_with = "units::show_size")]
    pub(crate) memory: u64,
    /// Bytes read and written by maintenance per second; `None` is unlimited.
    #[serde(serialize_with = "units::show_size_or_off")]
    pub(crate) bytes_per_second: Option<u64>,
    /// Room of a local disk that maintenance leaves free; `None` for no limit.
    #[serde(serialize_with = "min_free::show_min_free")]
    pub(crate) min_free: Option<MinFree>,
}

/// What of a table's columns may change for rows that need it, in one commit with them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SchemaChange {
    /// Nothing: such rows are refused.
    #[default]
    Strict,
    /// Columns are added; they are null in the rows that are there.
    Add,
    /// Columns are added, and widened to a type that holds every value of the one they have.
    Widen,
}

/// The write agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct AgentConfig {
    /// Time between two looks at the spool, behind file notifications.
    #[serde(serialize_with = "units::show_duration")]
    pub(crate) poll_interval: Duration,
    /// Conflicts retried before a batch goes back to the queue.
    pub(crate) conflict_retries: u32,
    /// Agents that may die over a batch while they read it, in a row, before it is rejected.
    pub(crate) max_attempts: u32,
    /// How long storage may leave a commit without an answer before the batch has to wait.
    #[serde(serialize_with = "units::show_duration")]
    pub(crate) attempt_timeout: Duration,
    /// How long the batch in hand may take when the agent is asked to stop.
    #[serde(serialize_with = "units::show_duration")]
    pub(crate) drain: Duration,
    /// Address of the agent's HTTP server; `None` is off.
    #[serde(serialize_with = "units::show_listen")]
    pub(crate) listen: Option<SocketAddr>,
    /// What is taken by Arrow Flight.
    #[serde(flatten)]
    pub(crate) flight: FlightConfig,
    /// What may be changed of the values of an input, where its batch says nothing; of the command line too.
    pub(crate) coerce: Vec<Coercion>,
    /// What may be changed of a table's columns for rows that need it, where their batch says nothing; of the command line too.
    pub(crate) schema: SchemaChange,
    /// How long the files of an entry must have rested before it is taken.
    #[serde(serialize_with = "units::show_duration")]
    pub(crate) settle: Duration,
    /// How long an entry stays in `done/`; `None`: for ever.
    #[serde(serialize_with = "units::show_duration_or_off")]
    pub(crate) done_age: Option<Duration>,
    /// Bytes of `done/` from which on the oldest entries go; `None`: never.
    #[serde(serialize_with = "units::show_size_or_off")]
    pub(crate) done_bytes: Option<u64>,
    /// What one input file may take, of the command line too.
    #[serde(flatten)]
    pub(crate) input: InputLimits,
    /// Batches that are committed together at most.
    pub(crate) group_batches: usize,
    /// Their rows.
    pub(crate) group_rows: usize,
    /// Their bytes, in their files as well as in memory; what has more is streamed.
    #[serde(serialize_with = "units::show_size")]
    pub(crate) group_bytes: u64,
    /// Fragments of a table from which on commits to it rest.
    pub(crate) debt_fragments: u64,
    /// And versions.
    pub(crate) debt_versions: u64,
    /// How long they rest at most.
    #[serde(serialize_with = "units::show_duration")]
    pub(crate) debt_pause: Duration,
}

/// Why a configuration was refused. Its text names file, line and key, and what to write instead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file could not be read.
    #[error("{origin}: cannot read the configuration: {source}")]
    Read {
        /// The file.
        origin: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The text was refused.
    #[error("{origin}{}: {}{reason}", .place.map(|(line, column)| format!(":{line}:{column}")).unwrap_or_default(), with_colon(.key))]
    Invalid {
        /// The file, as given by the caller.
        origin: String,
        /// Line and column, counted from 1; `None` if the file says nothing about it.
        place: Option<(usize, usize)>,
        /// For example `[policy] retention`; empty for a syntax error.
        key: String,
        /// What is wrong and what to write instead.
        reason: String,
    },
}

fn with_colon(key: &str) -> String {
    if key.is_empty() {
        String::new()
    } else {
        format!("{key}: ")
    }
}

/// What the parser says of Rust's types, and what is meant.
const WORDS: [(&str, &str); 8] = [
    ("unknown field", "unknown key"),
    ("missing field", "missing key"),
    ("expected usize", "expected a whole number from 0 up"),
    ("expected u64", "expected a whole number from 0 up"),
    ("expected u32", "expected a whole number from 0 up"),
    ("expected f64", "expected a number"),
    ("expected a boolean", "expected true or false"),
    ("expected string or table", "expected a string"),
];

/// What the parser says, in our words, with the key or value that was probably meant.
fn suggesting(message: &str) -> String {
    let in_words = |said: String, (rust, meant): (&str, &str)| said.replacen(rust, meant, 1);
    let message = WORDS
        .into_iter()
        .fold(message.to_owned(), in_words)
        .trim_end()
        .replace('\n', "; ");
    let mut quoted = message.split('`').skip(1).step_by(2);
    let unknown = quoted.next().filter(|_| message.starts_with("unknown"));
    let likely = unknown.and_then(|unknown| {
        let near = quoted.map(|known| (strsim::damerau_levenshtein(unknown, known), known));
        near.min()
            .filter(|(distance, _)| *distance <= unknown.len().div_ceil(3))
    });
    match likely {
        Some((_, known)) => format!("{message}; did you mean `{known}`?"),
        None => message,
    }
}

/// A table's name without the `.lance` of its folder: both name the same table.
fn bare(table: &str) -> &str {
    table.strip_suffix(".lance").unwrap_or(table)
}

impl Config {
    /// Reads and checks a file.
    pub(crate) fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::parse(&Self::read(path)?, &path.display().to_string())
    }

    /// The text of a file.
    pub(crate) fn read(path: &Path) -> Result<String, ConfigError> {
        text_file::read(path).map_err(|source| ConfigError::Read {
            origin: path.display().to_string(),
            source,
        })
    }

    /// Checks a text; `origin` is what errors call it. `env:NAME` values are read from the
    /// environment of this process.
    pub(crate) fn parse(text: &str, origin: &str) -> Result<Self, ConfigError> {
        Self::parse_with(text, origin, &|name| std::env::var(name).ok())
    }

    /// [`Config::parse`] with the environment given.
    pub(crate) fn parse_with(
        text: &str,
        origin: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConfigError> {
        let locator = Locator::new(text);
        let refuse = |refused: Refused| refused.located(&locator, origin);
        brackets::check(text).map_err(refuse)?;
        let file: ConfigFile = toml::from_str(text).map_err(|error| {
            let place = error.span().map(|span| locator.at_offset(span.start));
            let reason = suggesting(error.message());
            let (place, key) = place.map_or((None, String::new()), |place| {
                (Some((place.line, place.column)), place.key)
            });
            ConfigError::Invalid {
                origin: origin.to_owned(),
                place,
                key,
                reason,
            }
        })?;
        file.into_config(environment).map_err(refuse)
    }

    /// The names and patterns in `[[table]]` that none of `known` has, the tables of all locations.
    pub(crate) fn unknown_tables(&self, known: &[String]) -> Vec<String> {
        let Tables { named, patterns } = &self.tables;
        let is_known = |name: &&String| known.iter().any(|table| bare(table) == *name);
        let names = named.keys().filter(|name| !is_known(name)).cloned();
        let in_vain = |p: &&TablePattern| !known.iter().any(|table| p.matches(table));
        let patterns = patterns.iter().filter(in_vain);
        names.chain(patterns.map(|p| p.name().to_owned())).collect()
    }

    /// How many tables and patterns have settings of their own.
    pub(crate) fn table_sections(&self) -> usize {
        self.tables.named.len() + self.tables.patterns.len()
    }

    /// The policies of `[[table]]`, by name without `.lance`.
    pub(crate) fn table_policies(&self) -> impl Iterator<Item = (&str, &Policy)> {
        let named = self.tables.named.iter();
        named.map(|(name, of)| (name.as_str(), of))
    }

    /// The policies of `[[table]]` for many tables; of those that match, the first counts.
    pub(crate) fn table_patterns(&self) -> &[TablePattern] {
        &self.tables.patterns
    }

    /// Whether both say the same of every table.
    pub(crate) fn has_tables_of(&self, other: &Self) -> bool {
        self.tables == other.tables
    }

    /// The same, with each table by the names that the location at `uri` has for it, too: for commands, which name any.
    pub(crate) fn seen_from(&self, uri: &str) -> Self {
        let tables = match self.tables.is_empty() {
            true => Tables::default(),
            false => nested::named_from(uri, &self.watches, &self.tables),
        };
        Self {
            tables,
            ..self.clone()
        }
    }

    /// The policy of a table, overrides applied.
    pub(crate) fn policy_for(&self, table: &str) -> Policy {
        let Tables { named, patterns } = &self.tables;
        let pattern = || patterns.iter().find(|p| p.matches(table));
        let of_table = named.get(bare(table));
        let of_table = of_table.or_else(|| pattern().map(TablePattern::policy));
        let mut policy = of_table.unwrap_or(&self.policy).clone();
        // A task that holds more than the budget would never fit.
        policy.max_task_input = policy.max_task_input.min(self.budget.memory);
        policy
    }
}

impl Default for DaemonConfig {
    fn default() -> Self {
        file::DaemonSection::default().into_config()
    }
}

impl Default for Budget {
    fn default() -> Self {
        file::BudgetSection::default().into_config()
    }
}

impl Default for AgentConfig {
    fn default() -> Self {
        file::AgentSection::default().into_config()
    }
}

/// Written by hand so that a log line or a panic message cannot carry credentials.
impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            uri,
            kind,
            storage_options,
        } = self;
        let names: Vec<&String> = storage_options.keys().collect();
        f.debug_struct("Watch")
            .field("uri", uri)
            .field("kind", kind)
            .field("storage_options", &names)
            .finish()
    }
}

fn show_masked<S: Serializer>(
    options: &BTreeMap<String, String>,
    ser: S,
) -> Result<S::Ok, S::Error> {
    ser.collect_map(options.keys().map(|name| (name, "***")))
}

impl Tables {
    fn is_empty(&self) -> bool {
        self.named.is_empty() && self.patterns.is_empty()
    }
}

impl Serialize for Tables {
    fn serialize<S: Serializer>(&self, ser: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Named<'a> {
            name: &'a str,
            #[serde(flatten)]
            policy: &'a Policy,
        }
        let named = self
            .named
            .iter()
            .map(|(name, policy)| Named { name, policy });
        let patterns = self.patterns.iter().map(|pattern| Named {
            name: pattern.name(),
            policy: pattern.policy(),
        });
        ser.collect_seq(named.chain(patterns))
    }
}
