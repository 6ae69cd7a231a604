//! Real daemons, and what they cost.

use super::lake::Fleet;
use super::until;
use crate::cost::Cost;
use crate::{loopback, squire};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Enough for a debug build on a busy machine to look at ten thousand tables.
const PATIENCE: Duration = Duration::from_secs(900);

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    port: u16,
    log: PathBuf,
}

impl Daemon {
    /// Starts one on `fleet`.
    pub fn start(fleet: &Fleet, name: &str, config: &Path) -> Self {
        let port = loopback::free_port();
        let log = fleet.path(&format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log);
        let mut command = Command::new(squire());
        command.args([
            "daemon",
            &fleet.uri,
            "--listen",
            &format!("127.0.0.1:{port}"),
        ]);
        command.arg("--config").arg(config);
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = quiet.stderr(file.expect("a log")).spawn();
        Self {
            child: child.expect("a daemon starts"),
            port,
            log,
        }
    }

    /// Waits until every table was looked at.
    pub async fn ready(&self) {
        until("ready", PATIENCE, || {
            self.get("/readyz").filter(|(code, _)| *code == 200)
        })
        .await;
    }

    fn get(&self, path: &str) -> Option<(u16, String)> {
        loopback::ask(self.port, "GET", path, "").ok()
    }

    /// What it says; nothing while it starts.
    pub fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.get("/status")?.1).ok()
    }

    /// The sum of all series of a metric whose labels hold `part`.
    pub fn metric(&self, name: &str, part: &str) -> f64 {
        let (_, text) = self.get("/metrics").unwrap_or_default();
        let of = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(part))
        };
        let values = text.lines().filter(of);
        let values = values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        values.sum()
    }

    /// What it has cost so far.
    pub fn cost(&self) -> Cost {
        Cost::of(&self.child.id().to_string())
    }

    /// Kills it where it stands.
    pub fn kill(mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
    }

    /// Asks it to end, and whether it did so well.
    pub fn stop(mut self) -> bool {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it can be asked");
        self.child.wait().expect("it ends").success()
    }

    /// The lines of its log that ask for a person.
    pub fn errors(&self) -> Vec<String> {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        let of = |line: &&str| line.contains("ERROR") || line.contains("panicked");
        log.lines().filter(of).map(str::to_owned).collect()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The tables of a status.
pub fn tables(status: &Value) -> impl Iterator<Item = &Value> {
    let stores = status["stores"].as_array().into_iter().flatten();
    stores.flat_map(|store| store["tables"].as_array().into_iter().flatten())
}
