//! Taking up a changed configuration.

use super::status::Status;
use crate::config::{Config, ConfigError, DaemonConfig};
use crate::systemd;
use crate::watch::{FileWatch, watch_local};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Notify;

/// What came of a reload.
#[derive(Debug)]
pub(super) enum Reloaded {
    /// The new configuration is in force, but for these settings of `[daemon]`, which need a restart.
    Applied(Box<Config>, Vec<&'static str>),
    /// The old one stays.
    Refused(ConfigError),
}

impl Reloaded {
    pub(super) fn read(path: &Path, started_with: &DaemonConfig) -> Self {
        match Config::load(path) {
            Ok(new) => {
                let left = needs_restart(started_with, &new.daemon);
                Self::Applied(Box::new(new), left)
            }
            Err(error) => Self::Refused(error),
        }
    }

    /// Says what came of it. A bad file keeps the old configuration, sets a metric, and says so.
    pub(super) fn tell(self, path: &Path, status: &Status) -> Option<Config> {
        match self {
            Self::Applied(config, left) => {
                status.metrics.config_reload_failed.set(0);
                tracing::info!(path = %path.display(), "configuration reloaded");
                for setting in left {
                    tracing::warn!(
                        "daemon.{setting} needs a restart: what the daemon started with stays in force"
                    );
                }
                Some(*config)
            }
            Self::Refused(error) => {
                status.metrics.config_reload_failed.set(1);
                status.error(format!("configuration not reloaded: {error}"));
                tracing::warn!(%error, "the configuration is bad; the old one stays");
                None
            }
        }
    }
}

/// The settings that differ from those the daemon started with and that it cannot take up while it runs: they are part
/// of its socket, its log and its open stores.
fn needs_restart(started_with: &DaemonConfig, now: &DaemonConfig) -> Vec<&'static str> {
    let DaemonConfig {
        listen,
        token_file,
        grace,
        durability,
        nice,
        log,
        // Each turn of the loop reads these.
        scan_interval: _,
        full_scan_interval: _,
        drain: _,
        watchdog_progress: _,
    } = now;
    let settings = [
        ("listen", *listen == started_with.listen),
        ("token_file", *token_file == started_with.token_file),
        ("grace", *grace == started_with.grace),
        ("durability", *durability == started_with.durability),
        ("nice", *nice == started_with.nice),
        ("log", *log == started_with.log),
    ];
    let changed = settings.into_iter().filter(|(_, same)| !same);
    changed.map(|(name, _)| name).collect()
}

/// Reads the configuration again, between the words that systemd wants to hear.
pub(super) fn reload(path: &Path, started_with: &DaemonConfig, status: &Status) -> Option<Config> {
    systemd::reloading();
    let config = Reloaded::read(path, started_with).tell(path, status);
    systemd::ready();
    config
}

/// Asks for a reload when the configuration file is written or replaced. Its directory is watched, since editors replace
/// files.
pub(super) fn watch_config(
    path: Option<&Path>,
    status: &Arc<Status>,
    wake: Arc<Notify>,
) -> Option<FileWatch> {
    let path = std::path::absolute(path?).ok()?;
    let directory = path.parent()?.to_path_buf();
    let status = status.clone();
    let edited = move |changed: &Path| {
        let edited = changed == path;
        if edited {
            status.ask_reload();
        }
        edited
    };
    Some(watch_local(&[directory], edited, wake))
}

#[cfg(test)]
mod tests {
    use super::needs_restart;
    use crate::config::Config;

    #[test]
    fn what_a_reload_cannot_take_up_is_named() {
        let of = |text: &str| Config::parse(text, "squire.toml").unwrap().daemon;
        let started_with = of("[daemon]\nlog = \"warn\"\n");
        assert!(needs_restart(&started_with, &started_with).is_empty());
        let taken_up = of(
            "[daemon]\nlog = \"warn\"\nscan_interval = \"5s\"\ndrain = \"5s\"\nwatchdog_progress = \"5s\"\n",
        );
        assert!(needs_restart(&started_with, &taken_up).is_empty());
        let changed = of("[daemon]\nlisten = \"off\"\ngrace = \"5s\"\n");
        assert_eq!(
            needs_restart(&started_with, &changed),
            ["listen", "grace", "log"]
        );
    }
}
