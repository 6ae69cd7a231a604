//! The sections of `squire.toml` as written, and their way into the checked [`Config`].

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use squire_engine::store::Durability;
use squire_engine::store::location::check_lasting;

use crate::formats::{Coercion, InputLimits};

use super::checks::{check_budget_and_agent, check_daemon};
use super::executor::ExecutorConfig;
use super::locate::{Locator, label_of};
use super::min_free::{MinFree, min_free_or_off};
use super::nested::clash;
use super::policy::{Policy, PolicySection, TableSection};
use super::tokens::{Reading, TokenSection, check_reading, resolve_tokens};
use super::{
    AgentConfig, Budget, Config, ConfigError, DaemonConfig, FlightConfig, SchemaChange,
    TablePattern, Tables, Watch, bare, secrets, storage,
};
use crate::units;

/// The port of `/metrics`; in the range that Prometheus exporters use.
const DEFAULT_LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 9464);

/// The whole file. Missing sections and fields take their defaults.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct ConfigFile {
    daemon: DaemonSection,
    token: Vec<TokenSection>,
    watch: Vec<WatchSection>,
    policy: PolicySection,
    table: Vec<TableSection>,
    budget: BudgetSection,
    executor: ExecutorConfig,
    agent: AgentSection,
}

/// What a watched place is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum WatchKind {
    /// Look: `_squire/` makes a store, `_versions/` a table, anything else is a directory.
    #[default]
    Auto,
    /// A store with `_squire/`; an error if it is not there.
    Store,
    /// A directory or prefix of plain tables.
    Directory,
    /// One plain table.
    Table,
}

/// `[daemon]` as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DaemonSection {
    #[serde(deserialize_with = "units::listen")]
    listen: Option<SocketAddr>,
    #[serde(deserialize_with = "units::duration")]
    scan_interval: Duration,
    #[serde(deserialize_with = "units::duration")]
    full_scan_interval: Duration,
    #[serde(deserialize_with = "units::duration")]
    drain: Duration,
    #[serde(deserialize_with = "units::duration")]
    watchdog_progress: Duration,
    metrics_tables: usize,
    #[serde(deserialize_with = "units::duration_or_off")]
    claim_expiry: Option<Duration>,
    token_file: Option<PathBuf>,
    reading: Reading,
    #[serde(deserialize_with = "units::duration")]
    grace: Duration,
    durability: Durability,
    nice: u8,
    log: String,
}

impl Default for DaemonSection {
    fn default() -> Self {
        Self {
            listen: Some(DEFAULT_LISTEN),
            scan_interval: Duration::from_secs(60),
            full_scan_interval: Duration::from_secs(600),
            drain: Duration::from_secs(30),
            watchdog_progress: Duration::from_secs(600),
            metrics_tables: 200,
            claim_expiry: Some(Duration::from_secs(60)),
            token_file: None,
            reading: Reading::Open,
            grace: Duration::from_secs(30),
            durability: Durability::Power,
            nice: 10,
            log: "info".to_owned(),
        }
    }
}

/// `[[watch]]` as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WatchSection {
    uri: String,
    #[serde(default)]
    kind: WatchKind,
    #[serde(default)]
    storage_options: BTreeMap<String, String>,
}

/// `[budget]` as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct BudgetSection {
    max_concurrent: usize,
    #[serde(deserialize_with = "units::size")]
    memory: u64,
    #[serde(deserialize_with = "units::size_or_off")]
    bytes_per_second: Option<u64>,
    #[serde(deserialize_with = "min_free_or_off")]
    min_free: Option<MinFree>,
}

impl Default for BudgetSection {
    fn default() -> Self {
        Self {
            max_concurrent: 1,
            memory: 4 << 30,
            bytes_per_second: None,
            min_free: Some(MinFree::Percent(5)),
        }
    }
}

/// `[agent]` as written.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct AgentSection {
    #[serde(deserialize_with = "units::duration")]
    poll_interval: Duration,
    conflict_retries: u32,
    max_attempts: u32,
    #[serde(deserialize_with = "units::duration")]
    attempt_timeout: Duration,
    #[serde(deserialize_with = "units::duration")]
    drain: Duration,
    #[serde(deserialize_with = "units::listen")]
    listen: Option<SocketAddr>,
    #[serde(deserialize_with = "units::listen")]
    flight: Option<SocketAddr>,
    flight_token_file: Option<PathBuf>,
    flight_tls_cert: Option<PathBuf>,
    flight_tls_key: Option<PathBuf>,
    flight_streams: usize,
    #[serde(deserialize_with = "units::size")]
    flight_message_bytes: u64,
    #[serde(deserialize_with = "units::size")]
    flight_bytes: u64,
    #[serde(deserialize_with = "units::duration")]
    flight_idle: Duration,
    flight_transactions: usize,
    #[serde(deserialize_with = "units::duration")]
    flight_transaction_age: Duration,
    coerce: Vec<Coercion>,
    schema: SchemaChange,
    #[serde(deserialize_with = "units::duration")]
    settle: Duration,
    #[serde(deserialize_with = "units::duration_or_off")]
    done_age: Option<Duration>,
    #[serde(deserialize_with = "units::size_or_off")]
    done_bytes: Option<u64>,
    #[serde(deserialize_with = "units::size")]
    max_input_bytes: u64,
    #[serde(deserialize_with = "units::size")]
    max_decoded_bytes: u64,
    max_rows: u64,
    max_columns: usize,
    max_nesting: usize,
    group_batches: usize,
    group_rows: usize,
    #[serde(deserialize_with = "units::size")]
    group_bytes: u64,
    debt_fragments: u64,
    debt_versions: u64,
    #[serde(deserialize_with = "units::duration")]
    debt_pause: Duration,
}

impl Default for AgentSection {
    fn default() -> Self {
        let InputLimits {
            max_input_bytes,
            max_decoded_bytes,
            max_rows,
            max_columns,
            max_nesting,
        } = InputLimits::default();
        Self {
            max_input_bytes,
            max_decoded_bytes,
            max_rows,
            max_columns,
            max_nesting,
            group_batches: 256,
            group_rows: 1_000_000,
            group_bytes: 64 << 20,
            debt_fragments: 5_000,
            debt_versions: 50_000,
            debt_pause: Duration::from_secs(1),
            poll_interval: Duration::from_secs(1),
            conflict_retries: 100,
            max_attempts: 5,
            attempt_timeout: Duration::from_secs(1_800),
            drain: Duration::from_secs(30),
            listen: None,
            flight: None,
            flight_token_file: None,
            flight_tls_cert: None,
            flight_tls_key: None,
            flight_streams: 8,
            flight_message_bytes: 64 << 20,
            flight_bytes: 16 << 30,
            flight_idle: Duration::from_secs(60),
            flight_transactions: 256,
            flight_transaction_age: Duration::from_secs(600),
            coerce: Vec::new(),
            schema: SchemaChange::Strict,
            settle: Duration::ZERO,
            done_age: None,
            done_bytes: None,
        }
    }
}

/// A value or a combination that is refused.
#[derive(Debug)]
pub(super) struct Refused {
    /// Dotted path of the key, for example `policy.retention` or `table.0.retention`.
    pub(super) path: String,
    /// A second key that takes part; its line is shown when the file does not have the first.
    pub(super) also_set_at: Option<String>,
    /// What is wrong and what to write instead.
    pub(super) reason: String,
}

impl Refused {
    pub(super) fn at(path: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            path: path.into(),
            also_set_at: None,
            reason: reason.into(),
        }
    }

    /// The same with its line: of the key, of the second one, or of the section that lacks it.
    pub(super) fn located(self, locator: &Locator<'_>, origin: &str) -> ConfigError {
        let path_of_line = self
            .also_set_at
            .as_deref()
            .filter(|_| locator.at_path(&self.path).is_none());
        let (parent, _) = self.path.rsplit_once('.').unwrap_or_default();
        let place = locator
            .at_path(path_of_line.unwrap_or(&self.path))
            .or_else(|| locator.at_path(parent));
        ConfigError::Invalid {
            origin: origin.to_owned(),
            place: place.map(|place| (place.line, place.column)),
            key: label_of(&self.path),
            reason: self.reason,
        }
    }
}

impl ConfigFile {
    /// Resolves overrides and environment references, and checks everything.
    pub(super) fn into_config(
        self,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Config, Refused> {
        let Self {
            daemon,
            token,
            watch,
            policy,
            table,
            budget,
            executor,
            agent,
        } = self;
        let mut daemon = daemon.into_config();
        if let Some(written) = daemon.token_file.take() {
            let file = secrets::file(written, environment);
            daemon.token_file = Some(file.map_err(|why| Refused::at("daemon.token_file", why))?);
        }
        let mut agent = agent;
        let files = [
            ("agent.flight_token_file", &mut agent.flight_token_file),
            ("agent.flight_tls_cert", &mut agent.flight_tls_cert),
            ("agent.flight_tls_key", &mut agent.flight_tls_key),
        ];
        for (path, written) in files {
            if let Some(file) = written.take() {
                let file = secrets::file(file, environment);
                *written = Some(file.map_err(|why| Refused::at(path, why))?);
            }
        }
        check_daemon(&daemon)?;
        let policy = policy.over(&Policy::default());
        check_policy(&policy, &daemon, "policy", None)?;
        let tables = resolve_tables(table, &policy, &daemon)?;
        let watches = resolve_watches(watch, environment)?;
        let tokens = resolve_tokens(token, &watches, environment)?;
        check_reading(
            daemon.reading,
            daemon.token_file.is_some() || !tokens.is_empty(),
        )?;
        let (budget, agent) = (budget.into_config(), agent.into_config());
        check_budget_and_agent(&budget, &agent)?;
        Ok(Config {
            daemon,
            tokens,
            watches,
            policy,
            tables,
            budget,
            executor: executor.checked()?,
            agent,
        })
    }
}

impl DaemonSection {
    pub(super) fn into_config(self) -> DaemonConfig {
        let Self {
            listen,
            scan_interval,
            full_scan_interval,
            drain,
            watchdog_progress,
            metrics_tables,
            claim_expiry,
            token_file,
            reading,
            grace,
            durability,
            nice,
            log,
        } = self;
        DaemonConfig {
            listen,
            scan_interval,
            full_scan_interval,
            drain,
            watchdog_progress,
            metrics_tables,
            claim_expiry,
            token_file,
            reading,
            grace,
            durability,
            nice,
            log,
        }
    }
}

impl BudgetSection {
    pub(super) fn into_config(self) -> Budget {
        let Self {
            max_concurrent,
            memory,
            bytes_per_second,
            min_free,
        } = self;
        Budget {
            max_concurrent,
            memory,
            bytes_per_second,
            min_free,
        }
    }
}

impl AgentSection {
    /// What is about Arrow Flight, taken out of it.
    fn flight(&mut self) -> FlightConfig {
        FlightConfig {
            listen: self.flight,
            token_file: self.flight_token_file.take(),
            tls_cert: self.flight_tls_cert.take(),
            tls_key: self.flight_tls_key.take(),
            streams: self.flight_streams,
            message_bytes: self.flight_message_bytes,
            bytes: self.flight_bytes,
            idle: self.flight_idle,
            transactions: self.flight_transactions,
            transaction_age: self.flight_transaction_age,
        }
    }

    pub(super) fn into_config(mut self) -> AgentConfig {
        let flight = self.flight();
        let Self {
            poll_interval,
            conflict_retries,
            max_attempts,
            attempt_timeout,
            drain,
            listen,
            coerce,
            schema,
            settle,
            done_age,
            done_bytes,
            max_input_bytes,
            max_decoded_bytes,
            max_rows,
            max_columns,
            max_nesting,
            group_batches,
            group_rows,
            group_bytes,
            debt_fragments,
            debt_versions,
            debt_pause,
            ..
        } = self;
        AgentConfig {
            poll_interval,
            conflict_retries,
            max_attempts,
            attempt_timeout,
            drain,
            listen,
            flight,
            coerce,
            schema,
            settle,
            done_age,
            done_bytes,
            input: InputLimits {
                max_input_bytes,
                max_decoded_bytes,
                max_rows,
                max_columns,
                max_nesting,
            },
            group_batches,
            group_rows,
            group_bytes,
            debt_fragments,
            debt_versions,
            debt_pause,
        }
    }
}

fn resolve_tables(
    sections: Vec<TableSection>,
    base: &Policy,
    daemon: &DaemonConfig,
) -> Result<Tables, Refused> {
    let Tables {
        mut named,
        mut patterns,
    } = Tables::default();
    for (index, section) in sections.into_iter().enumerate() {
        let (name, overrides) = section.into_parts();
        let path = format!("table.{index}");
        if name.is_empty() {
            return Err(Refused::at(
                format!("{path}.name"),
                "is empty; name the table that these settings are for",
            ));
        }
        let policy = overrides.over(base);
        check_policy(&policy, daemon, &path, Some("policy"))?;
        let at_name = |why: String| Refused::at(format!("{path}.name"), why);
        let of_that_name = |p: &TablePattern| p.name() == bare(&name);
        if named.contains_key(bare(&name)) || patterns.iter().any(of_that_name) {
            return Err(at_name(format!(
                "\"{name}\" has a section already; merge the two"
            )));
        }
        match TablePattern::of(&name, &policy).map_err(at_name)? {
            Some(pattern) => patterns.push(pattern),
            None => drop(named.insert(bare(&name).to_owned(), policy)),
        }
    }
    Ok(Tables { named, patterns })
}

fn resolve_watches(
    sections: Vec<WatchSection>,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Vec<Watch>, Refused> {
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let (mut watches, mut places) = (Vec::new(), Vec::new());
    // Following links asks the disk, which may hang: not for a place that is alone.
    let alone = sections.len() < 2;
    for (
        index,
        WatchSection {
            uri,
            kind,
            storage_options,
        },
    ) in sections.into_iter().enumerate()
    {
        let path = format!("watch.{index}");
        let at = |key: &str, why: String| Refused::at(format!("{path}.{key}"), why);
        let located = match alone {
            true => storage::written(&uri),
            false => storage::location_of(&uri),
        };
        let location = located.map_err(|why| at("uri", why))?;
        check_lasting(&location).map_err(|e| at("uri", e.to_string()))?;
        if let Some(first) = seen.insert(location.clone(), uri.clone()) {
            let why = format!("\"{uri}\" is watched already, as \"{first}\"; remove one");
            return Err(at("uri", why));
        }
        let mut resolved = BTreeMap::new();
        for (option, value) in storage_options {
            if let Some(meant) = storage::meant_by(&option) {
                let why = format!("unknown storage option; did you mean `{meant}`?");
                return Err(at(&format!("storage_options.{option}"), why));
            }
            let value = secrets::value(value, environment)
                .map_err(|why| at(&format!("storage_options.{option}"), why))?;
            resolved.insert(option, value);
        }
        storage::check_options(&location, &resolved, environment)
            .map_err(|why| at("storage_options", why))?;
        places.push(location);
        watches.push(Watch {
            uri,
            kind,
            storage_options: resolved,
        });
    }
    match clash(&watches, &places) {
        Some((index, why)) => Err(Refused::at(format!("watch.{index}.uri"), why)),
        None => Ok(watches),
    }
}

/// The checks of one policy, the file's (`section` is `policy`) or a table's (`table.N`, with
/// `inherited_from` the former).
fn check_policy(
    policy: &Policy,
    daemon: &DaemonConfig,
    section: &str,
    inherited_from: Option<&str>,
) -> Result<(), Refused> {
    if let Some((key, reason)) = policy.out_of_range() {
        let also_set_at = inherited_from.map(|other| format!("{other}.{key}"));
        return Err(Refused {
            path: format!("{section}.{key}"),
            also_set_at,
            reason,
        });
    }
    // An attempt that is alive may be silent for `watchdog_progress`, and a stopping one for
    // `drain`, while it uses the versions it began with.
    for (name, longest) in [
        ("watchdog_progress", daemon.watchdog_progress),
        ("drain", daemon.drain),
    ] {
        if policy.retention < longest {
            let (kept, longest) = (
                units::format_duration(policy.retention),
                units::format_duration(longest),
            );
            return Err(Refused {
                path: format!("{section}.retention"),
                also_set_at: Some(format!("daemon.{name}")),
                reason: format!(
                    "{kept} is under [daemon] {name} = {longest}, so cleanup could delete under a \
                     running attempt; use a longer one such as \"7d\""
                ),
            });
        }
    }
    Ok(())
}
