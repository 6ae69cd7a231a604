//! One-shot calls of the `squire` binary.

use crate::error::{Context, DemoError, Result, failed};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

/// How long a command may go on after an interruption. Most need milliseconds; one that is killed
/// leaves an operation that others only touch after its grace.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// How often a command is run that keeps ending with 75. Each run makes many attempts of its own.
const REPEATS: u32 = 20;

/// Before the second run; longer before each further one.
const BACK_OFF: Duration = Duration::from_millis(100);

/// The exit code for: repeat it.
const TRY_AGAIN: i32 = 75;

/// The binary.
#[derive(Debug, Clone)]
pub(crate) struct Squire {
    /// Its path.
    pub(crate) binary: PathBuf,
    /// Cancelled on Ctrl-C.
    pub(crate) stop: CancellationToken,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Exit code 0, with the document of `--json`.
    Done(Value),
    /// Exit code 75, with why: conflict or unknown, repeat it with the same batch id.
    TryAgain(String),
}

impl Squire {
    /// A command of its own process group, so that Ctrl-C reaches the demo alone.
    pub(crate) fn command(&self, args: &[String]) -> Command {
        let mut command = Command::new(&self.binary);
        command
            .args(args)
            .stdin(Stdio::null())
            .process_group(0)
            .kill_on_drop(true);
        command
    }

    /// Runs `squire ARGS --json`.
    pub(crate) async fn run(&self, args: &[&str]) -> Result<Answer> {
        if self.stop.is_cancelled() {
            return Err(DemoError::Interrupted);
        }
        let shown = format!("squire {}", args.join(" "));
        let mut all: Vec<String> = args.iter().map(|a| (*a).to_owned()).collect();
        all.push("--json".to_owned());
        let mut command = self.command(&all);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = command
            .spawn()
            .context(|| format!("cannot start {}", self.binary.display()))?;
        let pid = child.id();
        let mut ended = std::pin::pin!(child.wait_with_output());
        let output = tokio::select! {
            biased;
            output = &mut ended => output,
            () = self.stop.cancelled() => {
                terminate(pid);
                let last = tokio::time::timeout(LAST_WORDS, ended).await;
                return Err(last.map_or_else(
                    |_| DemoError::Failed(format!("{shown} did not end after SIGTERM")),
                    |_| DemoError::Interrupted,
                ));
            }
        };
        let output = output.context(|| format!("{shown} failed"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let document = serde_json::from_str(text.trim()).unwrap_or(Value::Null);
        let why = || {
            let message = document.pointer("/error/message").and_then(Value::as_str);
            let said = String::from_utf8_lossy(&output.stderr);
            message.map_or_else(|| said.trim().to_owned(), str::to_owned)
        };
        match output.status.code() {
            Some(0) => Ok(Answer::Done(document)),
            Some(TRY_AGAIN) => Ok(Answer::TryAgain(why())),
            _ => failed(format!("{shown}: {}: {}", output.status, why())),
        }
    }

    /// Runs a command until it is not told to try again.
    pub(crate) async fn done(&self, args: &[&str]) -> Result<Value> {
        self.repeat(args, |_| ()).await
    }

    /// The same, telling `note` why it is tried again.
    pub(crate) async fn repeat(&self, args: &[&str], note: impl Fn(&str)) -> Result<Value> {
        for round in 1..REPEATS {
            match self.run(args).await? {
                Answer::Done(document) => return Ok(document),
                Answer::TryAgain(why) => note(&why),
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Err(DemoError::Interrupted),
                () = tokio::time::sleep(BACK_OFF * round) => {}
            }
        }
        match self.run(args).await? {
            Answer::Done(document) => Ok(document),
            Answer::TryAgain(why) => {
                failed(format!("squire {}: {why}, {REPEATS} times", args.join(" ")))
            }
        }
    }
}

/// Asks a process to end; one that has ended already needs no asking.
pub(crate) fn terminate(pid: Option<u32>) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok());
    if let Some(pid) = pid {
        kill(Pid::from_raw(pid), Signal::SIGTERM).ok();
    }
}
