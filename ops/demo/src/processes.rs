//! The long-running processes: a daemon and some agents. One that ends by itself is started again,
//! so that a kill -9 during the demo is part of it.

use crate::error::{Context, Result, failed};
use crate::progress::Progress;
use crate::site::{Site, free_address};
use crate::squire::{Squire, terminate};
use squire_engine::clock::{Clock, SystemClock};
use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Child;
use tokio_util::sync::CancellationToken;

/// How long they may drain after SIGTERM; above the drain time of the configuration.
const DRAIN: Duration = Duration::from_secs(20);

/// A process that ended sooner than this did not start well.
const SHORT_LIFE: Duration = Duration::from_secs(3);

/// So many bad starts in a row end the demo.
const BAD_STARTS: u32 = 3;

/// How much of a log is shown when its process fails.
const SHOWN_LINES: usize = 15;

#[derive(Debug)]
struct Service {
    name: String,
    args: Vec<String>,
    log: PathBuf,
    child: Child,
    started: Duration,
    bad_starts: u32,
}

/// The processes of one run.
#[derive(Debug)]
pub(crate) struct Fleet {
    squire: Squire,
    clock: SystemClock,
    services: Vec<Service>,
    /// Where the daemon answers, if there is one.
    pub(crate) daemon: Option<SocketAddr>,
    /// Where the agents answer.
    pub(crate) agents: Vec<SocketAddr>,
}

impl Fleet {
    /// Starts a daemon, if wanted, and `agents` agents.
    pub(crate) fn start(squire: &Squire, site: &Site, daemon: bool, agents: usize) -> Result<Self> {
        let clock = SystemClock::default();
        let mut fleet = Self {
            squire: squire.clone(),
            clock,
            services: Vec::new(),
            daemon: None,
            agents: Vec::new(),
        };
        let (store, config) = (site.uri(), site.config.display().to_string());
        if daemon {
            let address = free_address()?;
            fleet.daemon = Some(address);
            let args = [
                "daemon",
                &store,
                "--config",
                &config,
                "--listen",
                &address.to_string(),
            ];
            fleet.launch(site, "daemon".to_owned(), &args)?;
        }
        let spool = site.spool.display().to_string();
        for number in 1..=agents {
            let address = free_address()?;
            fleet.agents.push(address);
            let listen = address.to_string();
            let args = [
                "agent", &store, "--spool", &spool, "--config", &config, "--listen", &listen,
            ];
            fleet.launch(site, format!("agent-{number}"), &args)?;
        }
        Ok(fleet)
    }

    fn launch(&mut self, site: &Site, name: String, args: &[&str]) -> Result<()> {
        let args: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        let log = site.logs.join(format!("{name}.log"));
        let child = spawn(&self.squire, &args, &log)?;
        let started = self.clock.monotonic();
        self.services.push(Service {
            name,
            args,
            log,
            child,
            started,
            bad_starts: 0,
        });
        Ok(())
    }

    /// Starts again what ends; returns only with an error.
    pub(crate) async fn watch(&mut self, progress: &Progress) -> Result<()> {
        loop {
            for service in &mut self.services {
                let ended = service.child.try_wait();
                let ended = ended.context(|| format!("cannot watch {}", service.name))?;
                let Some(status) = ended else { continue };
                let now = self.clock.monotonic();
                let short = now.saturating_sub(service.started) < SHORT_LIFE;
                service.bad_starts = if short { service.bad_starts + 1 } else { 0 };
                if service.bad_starts >= BAD_STARTS {
                    let log = tail(&service.log);
                    return failed(format!(
                        "{} does not start ({status}):\n{log}",
                        service.name
                    ));
                }
                progress.problem(format!(
                    "{} ended ({status}) and was started again",
                    service.name
                ));
                progress.count(|c| c.restarts += 1);
                service.child = spawn(&self.squire, &service.args, &service.log)?;
                service.started = now;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// The ends of all logs.
    pub(crate) fn logs(&self) -> String {
        let logs = self
            .services
            .iter()
            .map(|s| format!("{}:\n{}", s.name, tail(&s.log)));
        logs.collect::<Vec<_>>().join("\n")
    }

    /// SIGTERM to all, SIGKILL to those that have not drained in time or when `now` is cancelled.
    /// Returns what did not end as it should.
    pub(crate) async fn stop(&mut self, now: &CancellationToken) -> Vec<String> {
        for service in &self.services {
            terminate(service.child.id());
        }
        let limit = tokio::time::Instant::now() + DRAIN;
        let mut complaints = Vec::new();
        for service in &mut self.services {
            let status = tokio::select! {
                biased;
                status = service.child.wait() => status.ok(),
                () = now.cancelled() => None,
                () = tokio::time::sleep_until(limit) => None,
            };
            match status {
                Some(status) if status.success() => {}
                Some(status) => complaints.push(format!(
                    "{} ended with {status} after SIGTERM:\n{}",
                    service.name,
                    tail(&service.log)
                )),
                None => {
                    complaints.push(format!("{} was killed before it had drained", service.name));
                    service.child.kill().await.ok();
                }
            }
        }
        complaints
    }
}

fn spawn(squire: &Squire, args: &[String], log: &PathBuf) -> Result<Child> {
    let what = || format!("cannot write {}", log.display());
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .context(what)?;
    let errors = output.try_clone().context(what)?;
    let mut command = squire.command(args);
    command
        .stdout(Stdio::from(output))
        .stderr(Stdio::from(errors));
    command
        .spawn()
        .context(|| format!("cannot start {}", squire.binary.display()))
}

/// The last lines of a log.
fn tail(log: &PathBuf) -> String {
    let text = fs::read_to_string(log).unwrap_or_else(|e| format!("{}: {e}", log.display()));
    let lines: Vec<&str> = text.lines().collect();
    let first = lines.len().saturating_sub(SHOWN_LINES);
    lines[first..]
        .iter()
        .map(|line| format!("  {line}"))
        .collect::<Vec<_>>()
        .join("\n")
}
