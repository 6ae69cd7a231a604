//! Where everything of one store lies: the store itself, and beside it what the demo needs.

use crate::error::{Context, Result, failed};
use std::fs::{self, File, TryLockError};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

/// The daemon's configuration: the defaults, with looks often enough for a demo and the shortest
/// retention that Squire allows. One batch a commit, so that an hour is a commit of its own.
const CONFIG: &str = r#"# Written by squire-demo at each start.
[daemon]
scan_interval = "1s"
full_scan_interval = "5s"
drain = "10s"
grace = "10s"

[policy]
retention = "1h"

[agent]
poll_interval = "200ms"
"#;

/// The paths of one store.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    /// The store.
    pub(crate) store: PathBuf,
    /// The agents' spool.
    pub(crate) spool: PathBuf,
    /// What daemon and agents print.
    pub(crate) logs: PathBuf,
    /// Their configuration.
    pub(crate) config: PathBuf,
    /// The measurement for the comparison, kept for later runs.
    pub(crate) record: PathBuf,
    lock: PathBuf,
}

impl Site {
    /// The paths beside `store`.
    pub(crate) fn of(store: &Path) -> Result<Self> {
        let Some(name) = store.file_name() else {
            return failed(format!(
                "{} names no directory for a store",
                store.display()
            ));
        };
        let parent = store.parent().filter(|p| !p.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        fs::create_dir_all(parent).context(|| format!("cannot create {}", parent.display()))?;
        let parent = parent
            .canonicalize()
            .context(|| format!("cannot find {}", parent.display()))?;
        let beside = |suffix: &str| {
            let mut name = name.to_owned();
            name.push(suffix);
            parent.join(name)
        };
        Ok(Self {
            store: beside(""),
            spool: beside(".spool"),
            logs: beside(".logs"),
            config: beside(".toml"),
            record: beside(".compare.json"),
            lock: beside(".lock"),
        })
    }

    /// The store for the comparison.
    pub(crate) fn bare(&self) -> Result<Self> {
        let mut store = self.store.clone().into_os_string();
        store.push(".bare");
        Self::of(Path::new(&store))
    }

    /// The store's path as an argument.
    pub(crate) fn uri(&self) -> String {
        self.store.display().to_string()
    }

    /// Keeps a second demo away from this store for as long as the file is held.
    pub(crate) fn lock(&self) -> Result<File> {
        let what = || format!("cannot lock {}", self.lock.display());
        let file = File::create(&self.lock).context(what)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(TryLockError::WouldBlock) => {
                failed(format!("another squire-demo uses {}", self.store.display()))
            }
            Err(TryLockError::Error(e)) => Err(e).context(what),
        }
    }

    /// Writes the configuration and makes the directory of the logs.
    pub(crate) fn write_config(&self) -> Result<()> {
        fs::create_dir_all(&self.logs)
            .and_then(|()| fs::write(&self.config, CONFIG))
            .context(|| format!("cannot write {}", self.config.display()))
    }

    /// Removes what belongs to a store that is no longer there.
    pub(crate) fn forget(&self) -> Result<()> {
        for path in [&self.store, &self.spool, &self.logs] {
            absent_is_fine(fs::remove_dir_all(path))
                .context(|| format!("cannot remove {}", path.display()))?;
        }
        absent_is_fine(fs::remove_file(&self.record))
            .context(|| format!("cannot remove {}", self.record.display()))
    }
}

/// Something that is gone already needs no removal.
pub(crate) fn absent_is_fine(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// A local address that nobody listens on now.
pub(crate) fn free_address() -> Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .context(|| "no free local port".to_owned())
}
