//! Workers as child processes of this one.
//!
//! Each has a limit of its own for what it may map, so that a rewrite which needs more ends one worker and nothing else. It is
//! given its task and the options of the storage through a pipe: what it works with is in no file and on no command line.

use super::{bounds, is_progress, last_words};
use crate::config::ExecutorConfig;
use crate::units::format_size;
use async_trait::async_trait;
use squire_engine::maintenance::{Ended, Envelope, Executor, Handed, WorkerBounds};
use squire_engine::store::{Memory, Store};
use std::collections::HashMap;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

/// What a worker maps besides what it holds: stacks, code that was written to, what the allocator keeps.
const ALLOWANCE: u64 = 512 << 20;

/// Sets the limit of what is mapped, in KiB, and becomes what follows.
const LIMITED: &str = r#"ulimit -d "$1" && shift && exec "$@""#;

/// Starts workers here.
#[derive(Debug)]
pub(super) struct Local {
    config: ExecutorConfig,
    /// May hold secrets.
    storage_options: Secret,
}

struct Secret(HashMap<String, String>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Local {
    /// Of workers that reach `store` as this process does.
    pub(super) fn new(config: &ExecutorConfig, store: &Store) -> Self {
        Self {
            config: config.clone(),
            storage_options: Secret(store.options().storage_options.clone()),
        }
    }

    fn command(&self) -> io::Result<Command> {
        let memory = self.config.memory;
        let mut command = Command::new("sh");
        command
            .args(["-c", LIMITED, "sh"])
            .arg(((memory + ALLOWANCE) >> 10).to_string())
            .arg(std::env::current_exe()?)
            .args(["worker", "--json", "--task", "-", "--memory"])
            .arg(format_size(memory))
            // What this process was started with bounds this process.
            .envs(Memory::new(memory, 1).environment())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        Ok(command)
    }

    async fn start(&self, envelope: &Envelope) -> io::Result<Child> {
        let mut input = envelope.to_bytes().map_err(io::Error::other)?;
        input.push(b'\n');
        input.extend(serde_json::to_vec(&self.storage_options.0)?);
        let mut child = self.command()?.spawn()?;
        if let Some(mut pipe) = child.stdin.take() {
            // One that ended without reading it all has its reasons, and tells them.
            drop(pipe.write_all(&input).await);
        }
        Ok(child)
    }
}

/// Reads what the worker says until it ends.
async fn heard(child: &mut Child, handed: &Handed) -> io::Result<(ExitStatus, String)> {
    let mut said = String::new();
    if let Some(out) = child.stdout.take() {
        let mut lines = BufReader::new(out).lines();
        while let Some(line) = lines.next_line().await? {
            if is_progress(&line) {
                handed.oversight.step();
            } else {
                said += &line;
                said.push('\n');
            }
        }
    }
    Ok((child.wait().await?, said))
}

#[async_trait]
impl Executor for Local {
    fn bounds(&self) -> WorkerBounds {
        bounds(&self.config)
    }

    async fn run(&self, handed: &Handed) -> Ended {
        let mut child = match self.start(&handed.envelope).await {
            Ok(child) => child,
            Err(e) => return Ended::Away(format!("no worker can be started: {e}")),
        };
        let _at_work = handed.oversight.at_work();
        let heard = tokio::select! {
            biased;
            () = handed.stopped() => None,
            heard = heard(&mut child, handed) => Some(heard),
        };
        match heard {
            Some(Ok((status, said))) => match (status.code(), status.signal()) {
                (Some(code), _) => Ended::Exited(code, last_words(&said)),
                (None, signal) => Ended::Died(format!(
                    "signal {} ended it; it may hold {} MiB (executor.memory)",
                    signal.unwrap_or(0),
                    self.config.memory >> 20
                )),
            },
            Some(Err(e)) => match child.kill().await {
                Ok(()) => Ended::Died(format!("it could not be listened to: {e}")),
                Err(e) => Ended::Lost(e.to_string()),
            },
            None => match child.kill().await {
                Ok(()) => Ended::Stopped,
                Err(e) => Ended::Lost(e.to_string()),
            },
        }
    }
}
