//! What is looked up, held, checked or generated.

use crate::config::parse_duration;
use clap::{Args, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

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
