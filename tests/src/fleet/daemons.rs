//! Real daemons, and what they cost.

use super::lake::Fleet;
use super::until;
use crate::squire;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Enough for a debug build on a busy machine to look at ten thousand tables.
const PATIENCE: Duration = Duration::from_secs(900);

/// Ticks of a second in `/proc/PID/stat`, on every Linux.
const TICKS: f64 = 100.0;

/// A running daemon; killed when dropped.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    port: u16,
    log: PathBuf,
}

/// What a daemon has cost since it was started.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Seconds of a core.
    pub cpu: f64,
    /// Bytes in memory now, and at most.
    pub rss: u64,
    /// The most that were in memory at one time.
    pub peak: u64,
    /// Bytes read and written by system calls.
    pub moved: u64,
}

impl Daemon {
    /// Starts one on `fleet`.
    pub fn start(fleet: &Fleet, name: &str, config: &Path) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = free.local_addr().expect("its address").port();
        drop(free);
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
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .ok()?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        let code = head.split(' ').nth(1)?.parse().ok()?;
        Some((code, body.to_owned()))
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
        let read = |file: &str| {
            let path = format!("/proc/{}/{file}", self.child.id());
            std::fs::read_to_string(path).unwrap_or_default()
        };
        let stat = read("stat");
        let fields: Vec<&str> = stat
            .rsplit(") ")
            .next()
            .unwrap_or_default()
            .split(' ')
            .collect();
        let ticks = |n: usize| {
            fields
                .get(n)
                .and_then(|f| f.parse::<f64>().ok())
                .unwrap_or(0.0)
        };
        let number = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.unwrap_or(0)
        };
        let (status, io) = (read("status"), read("io"));
        Cost {
            cpu: (ticks(11) + ticks(12)) / TICKS,
            rss: number(&status, "VmRSS:") * 1_024,
            peak: number(&status, "VmHWM:") * 1_024,
            moved: number(&io, "rchar:") + number(&io, "wchar:"),
        }
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
