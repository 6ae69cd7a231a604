//! The write agent and its spool.

use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

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
