//! Taking up a changed configuration.

use super::status::Status;
use crate::config::{Budget, Config, DaemonConfig};
use crate::http::Access;
use crate::systemd;
use crate::watch::{Depth, FileWatch, watch_local};
use serde::Serialize;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Notify;

/// What came of a reload, as the log and `/status` tell it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase", tag = "result")]
pub(crate) enum ReloadOutcome {
    /// The file is in force, but for what needs a restart.
    Applied {
        /// What differs from before, and is in force now.
        applied: Vec<String>,
        /// What differs from what the daemon started with, and stays as it was then.
        needs_restart: Vec<&'static str>,
    },
    /// The file is bad; all stays as it was.
    Refused {
        /// File, line, key, and what to write instead.
        why: String,
    },
}

/// What a reload compares the file with.
#[derive(Debug)]
pub(super) struct Before<'a> {
    pub(super) started_with: &'a Config,
    pub(super) running: &'a Config,
    /// Whom the HTTP server lets in, if there is one.
    pub(super) access: Option<&'a Access>,
}

impl ReloadOutcome {
    /// Reads the file. What it says is to be taken up by the caller; the token is taken up here.
    fn read(path: &Path, before: &Before<'_>) -> (Self, Option<Config>) {
        let refused = |why: String| (Self::Refused { why }, None);
        let new = match Config::load(path) {
            Ok(new) => new,
            Err(error) => return refused(error.to_string()),
        };
        let mut applied = applied(before.running, &new);
        if let Some(access) = before.access {
            match new.take_up_access(access) {
                Ok(true) => applied.push(String::from("the tokens")),
                Ok(false) => {}
                Err(error) => return refused(error.to_string()),
            }
        }
        let needs_restart = needs_restart(before.started_with, &new);
        let outcome = Self::Applied {
            applied,
            needs_restart,
        };
        (outcome, Some(new))
    }

    /// Says what came of it. A bad file keeps the old configuration, sets a metric, and says so.
    fn tell(self, path: &Path, status: &Status) {
        let path = path.display();
        match &self {
            Self::Applied {
                applied,
                needs_restart,
            } => {
                status.metrics.config_reload_failed.set(0);
                let applied = applied.join(", ");
                tracing::info!(%path, applied, "configuration reloaded");
                for setting in needs_restart {
                    tracing::warn!(
                        "{setting} needs a restart: what the daemon started with stays in force"
                    );
                }
            }
            Self::Refused { why } => {
                status.metrics.config_reload_failed.set(1);
                status.error(format!("configuration not reloaded: {why}"));
                tracing::warn!(error = why, "the configuration is bad; the old one stays");
            }
        }
        status.reloaded(self);
    }
}

/// What of `new` differs from what is in force and is taken up.
fn applied(running: &Config, new: &Config) -> Vec<String> {
    let mut applied = Vec::new();
    for watch in &new.watches {
        let uri = &watch.uri;
        match running.watches.iter().find(|w| w.uri == *uri) {
            None => applied.push(format!("watch {uri}: added")),
            Some(before) if before.kind != watch.kind => {
                applied.push(format!("watch {uri}: kind"));
            }
            // Secrets may be among them: that they changed is all that is said.
            Some(before) if before.storage_options != watch.storage_options => {
                applied.push(format!("watch {uri}: storage_options"));
            }
            Some(_) => {}
        }
    }
    let is_kept = |uri: &String| new.watches.iter().any(|w| w.uri == *uri);
    let gone = running.watches.iter().filter(|w| !is_kept(&w.uri));
    applied.extend(gone.map(|w| format!("watch {}: removed", w.uri)));
    let (of, before) = (&new.daemon, &running.daemon);
    let sections = [
        (
            "daemon.scan_interval",
            of.scan_interval == before.scan_interval,
        ),
        (
            "daemon.full_scan_interval",
            of.full_scan_interval == before.full_scan_interval,
        ),
        ("daemon.drain", of.drain == before.drain),
        (
            "daemon.watchdog_progress",
            of.watchdog_progress == before.watchdog_progress,
        ),
        (
            "daemon.claim_expiry",
            of.claim_expiry == before.claim_expiry,
        ),
        ("policy", new.policy == running.policy),
        ("table", new.has_tables_of(running)),
        ("executor", new.executor == running.executor),
        (
            "budget",
            Budget {
                memory: running.budget.memory,
                ..new.budget.clone()
            } == running.budget,
        ),
    ];
    let changed = sections.into_iter().filter(|(_, same)| !same);
    applied.extend(changed.map(|(name, _)| name.to_owned()));
    applied
}

/// The settings that differ from those the daemon started with and that it cannot take up while it runs: they are part
/// of its socket, its log, its open stores and its environment.
fn needs_restart(started_with: &Config, now: &Config) -> Vec<&'static str> {
    let memory = now.budget.memory == started_with.budget.memory;
    let (started_with, now) = (&started_with.daemon, &now.daemon);
    let DaemonConfig {
        listen,
        grace,
        durability,
        nice,
        log,
        // Each turn of the loop reads these.
        scan_interval: _,
        full_scan_interval: _,
        drain: _,
        watchdog_progress: _,
        metrics_tables: _,
        claim_expiry: _,
        // Whom the server lets in is taken up beside them.
        token_file: _,
        reading: _,
    } = now;
    let settings = [
        ("daemon.listen", *listen == started_with.listen),
        ("daemon.grace", *grace == started_with.grace),
        ("daemon.durability", *durability == started_with.durability),
        ("daemon.nice", *nice == started_with.nice),
        ("daemon.log", *log == started_with.log),
        ("budget.memory", memory),
    ];
    let changed = settings.into_iter().filter(|(_, same)| !same);
    changed.map(|(name, _)| name).collect()
}

/// Reads the configuration again, between the words that systemd wants to hear.
pub(super) fn reload(path: &Path, before: &Before<'_>, status: &Status) -> Option<Config> {
    systemd::reloading();
    let (outcome, config) = ReloadOutcome::read(path, before);
    outcome.tell(path, status);
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
    // What lies deeper is not asked for: the folder of credentials is root's alone.
    let depth = Depth::NonRecursive;
    Some(watch_local(&[directory], depth, edited, wake))
}

#[cfg(test)]
mod tests {
    use super::{Before, ReloadOutcome, applied, needs_restart};
    use crate::config::Config;
    use crate::http::Scope;
    use std::path::Path;

    fn of(text: &str) -> Config {
        Config::parse(text, "squire.toml").unwrap()
    }

    #[test]
    fn what_a_reload_cannot_take_up_is_named() {
        let started_with = of("[daemon]\nlog = \"warn\"\n");
        assert!(needs_restart(&started_with, &started_with).is_empty());
        let taken_up = of(
            "[daemon]\nlog = \"warn\"\nscan_interval = \"5s\"\ndrain = \"5s\"\nwatchdog_progress = \"5s\"\n[budget]\nmax_concurrent = 3\n",
        );
        assert!(needs_restart(&started_with, &taken_up).is_empty());
        let changed = of(
            "[daemon]\nlisten = \"off\"\ngrace = \"5s\"\ntoken_file = \"/etc/hostname\"\ndurability = \"process\"\n[budget]\nmemory = \"1GiB\"\n",
        );
        assert_eq!(
            needs_restart(&started_with, &changed),
            [
                "daemon.listen",
                "daemon.grace",
                "daemon.durability",
                "daemon.log",
                "budget.memory",
            ]
        );
    }

    #[test]
    fn what_a_reload_takes_up_is_named() {
        let before = of(
            "[[watch]]\nuri = \"s3://b/a\"\n[watch.storage_options]\nsecret_access_key = \"one\"\n[[watch]]\nuri = \"/lake/b\"\n[[watch]]\nuri = \"/lake/c\"\n",
        );
        assert_eq!(applied(&before, &before), [""; 0]);
        let after = of(
            "[daemon]\nscan_interval = \"5s\"\n[[watch]]\nuri = \"s3://b/a\"\n[watch.storage_options]\nsecret_access_key = \"two\"\n[[watch]]\nuri = \"/lake/b\"\nkind = \"store\"\n[[watch]]\nuri = \"/lake/d\"\n[policy]\nmax_versions = 5\n[[table]]\nname = \"t\"\n[budget]\nmax_concurrent = 2\n",
        );
        let applied = applied(&before, &after);
        assert_eq!(
            applied,
            [
                "watch s3://b/a: storage_options",
                "watch /lake/b: kind",
                "watch /lake/d: added",
                "watch /lake/c: removed",
                "daemon.scan_interval",
                "policy",
                "table",
                "budget",
            ]
        );
        assert!(!applied.concat().contains("two"));
    }

    #[test]
    fn another_token_is_taken_up_and_a_bad_one_refuses_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (file, config) = (dir.path().join("token"), dir.path().join("squire.toml"));
        std::fs::write(&file, "one\n").unwrap();
        std::fs::write(&config, format!("[daemon]\ntoken_file = {file:?}\n")).unwrap();
        let running = Config::load(&config).unwrap();
        let access = running.access().unwrap();
        let served = access.clone();
        let read = |path: &Path| {
            let before = Before {
                started_with: &running,
                running: &running,
                access: Some(&access),
            };
            ReloadOutcome::read(path, &before)
        };
        let applied = |what: &[&str]| ReloadOutcome::Applied {
            applied: what.iter().map(|s| (*s).to_owned()).collect(),
            needs_restart: Vec::new(),
        };
        assert_eq!(read(&config).0, applied(&[]));
        std::fs::write(&file, "two\n").unwrap();
        assert_eq!(read(&config).0, applied(&["the tokens"]));
        let scopes = || ["one", "two"].map(|token| served.scope_of(token));
        assert_eq!(scopes(), [None, Some(Scope::All)]);
        std::fs::write(&file, "\n").unwrap();
        let (outcome, config) = read(&config);
        assert!(matches!(outcome, ReloadOutcome::Refused { .. }) && config.is_none());
        assert_eq!(scopes(), [None, Some(Scope::All)]);
    }
}
