//! The program that talks to Ray: a child process that is asked and answers in lines of JSON.
//!
//! It ends when its standard input does, so that it outlives neither the attempt nor this process, however that ends.

use super::lock;
use crate::config::ExecutorConfig;
use serde_json::Value;
use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::Builder;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

const PROGRAM: &str = include_str!("../../../../ops/ray/driver.py");

/// What the program has come to.
///
/// ```text
///   Joining ──> Joined ──> Ended
///      └──────────────────────^
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Joining,
    /// A Ray of so many nodes.
    Joined(u64),
    /// Why it has not joined, if it has said so.
    Ended(Option<String>),
}

/// The program at work.
#[derive(Debug)]
pub(super) struct Program {
    child: Arc<Mutex<Child>>,
    /// Lines for it; their end is the program's.
    to: mpsc::Sender<String>,
    state: watch::Receiver<State>,
    attempts: Arc<Attempts>,
}

/// Who waits for what is said of an attempt; `None` once nothing more will be said.
type Attempts = Mutex<Option<HashMap<String, UnboundedSender<Value>>>>;

impl Program {
    /// Starts it. It joins Ray by itself.
    ///
    /// # Errors
    /// When there is no such program, or nothing can be started.
    pub(super) fn start(config: &ExecutorConfig) -> io::Result<Self> {
        let mut child = Command::new(&config.ray_python)
            .args(["-c", PROGRAM, &config.ray_address])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A terminal's Ctrl-C is for squire, which then says what is to be stopped.
            .process_group(0)
            .spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let child = Arc::new(Mutex::new(child));
        let (to, lines) = mpsc::channel();
        let (tells, state) = watch::channel(State::Joining);
        let attempts = Arc::new(Mutex::new(Some(HashMap::new())));
        let program = Self {
            child: child.clone(),
            to,
            state,
            attempts: attempts.clone(),
        };
        // A pipe that is full holds up nobody but this thread.
        let writing = move || write(stdin, lines);
        Builder::new().name("to ray".to_owned()).spawn(writing)?;
        let reading = move || {
            let away = listen(stdout, &tells, &attempts);
            end(&child);
            *lock(&attempts) = None;
            tells.send_replace(State::Ended(away));
        };
        Builder::new().name("from ray".to_owned()).spawn(reading)?;
        Ok(program)
    }

    pub(super) fn is_ended(&self) -> bool {
        matches!(*self.state.borrow(), State::Ended(_))
    }

    /// Waits until it has joined Ray, and returns how many nodes that has.
    ///
    /// # Errors
    /// Why it has not.
    pub(super) async fn joined(&self) -> Result<u64, String> {
        let mut state = self.state.clone();
        let state = state.wait_for(|state| *state != State::Joining).await;
        match state.as_deref() {
            Ok(State::Joined(nodes)) => Ok(*nodes),
            Ok(State::Ended(Some(why))) => Err(why.clone()),
            Ok(State::Ended(None) | State::Joining) | Err(_) => {
                Err("the program that talks to Ray ended before it had joined it".to_owned())
            }
        }
    }

    /// Says `line`, which begins an attempt, and gives what is said of that.
    pub(super) fn submit(&self, attempt: &str, line: String) -> UnboundedReceiver<Value> {
        let (says, said) = unbounded_channel();
        if let Some(attempts) = &mut *lock(&self.attempts) {
            attempts.insert(attempt.to_owned(), says);
        }
        self.say(line);
        said
    }

    /// One that has ended meanwhile is heard of.
    pub(super) fn say(&self, line: String) {
        self.to.send(line).ok();
    }

    /// Ends it at once, before it has joined Ray.
    pub(super) fn kill(&self) {
        lock(&self.child).kill().ok();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // One that has joined stops what it is at; see `to`.
        if *self.state.borrow() == State::Joining {
            self.kill();
        }
    }
}

fn write(stdin: Option<ChildStdin>, lines: mpsc::Receiver<String>) {
    let Some(mut pipe) = stdin else { return };
    for line in lines {
        if writeln!(pipe, "{line}")
            .and_then(|()| pipe.flush())
            .is_err()
        {
            return;
        }
    }
}

/// Passes on what the program says, until it says nothing more. Returns why there is no Ray, if it said so.
fn listen(
    stdout: Option<ChildStdout>,
    tells: &watch::Sender<State>,
    attempts: &Attempts,
) -> Option<String> {
    let lines = stdout.map(|out| BufReader::new(out).lines());
    for line in lines.into_iter().flatten().map_while(Result::ok) {
        let Ok(message) = serde_json::from_str::<Value>(&line) else {
            continue;
        };
        if let Some(nodes) = message["ready"]["nodes"].as_u64() {
            tracing::info!(nodes, "ray executes the tasks");
            tells.send_replace(State::Joined(nodes));
        } else if let Some(why) = message["away"].as_str() {
            return Some(why.to_owned());
        } else if let Some(attempt) = message["attempt"].as_str() {
            let says = lock(attempts).as_ref()?.get(attempt).cloned();
            // Who does not listen any more has heard enough.
            drop(says.map(|says| says.send(message)));
        }
    }
    None
}

/// What says nothing more is of no use, even if it goes on.
fn end(child: &Mutex<Child>) {
    let mut child = lock(child);
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        tracing::debug!(%error, "how the program that talks to ray ended is not known");
    }
}
