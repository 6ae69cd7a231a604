//! Workers on the nodes of a Ray cluster, which a small program in Python starts (`ops/ray/driver.py`).
//!
//! An attempt at a table has one such `program`, which ends with it. What it says of a worker's end is believed as far as it says
//! that the worker is gone. A task travels without the options of its storage: nodes have credentials of their own.

mod program;

use super::{Local, bounds, is_progress, last_words};
use crate::config::{ExecutorConfig, WhenAway};
use crate::units::format_size;
use async_trait::async_trait;
use program::Program;
use serde_json::{Value, json};
use squire_engine::clock::Clock;
use squire_engine::maintenance::{Ended, Executor, Handed, WorkerBounds};
use squire_engine::store::Store;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Has Ray start workers.
#[derive(Debug)]
pub(super) struct Ray {
    config: ExecutorConfig,
    clock: Arc<dyn Clock>,
    /// Instead, where Ray is away and that is wanted.
    local: Option<Local>,
    program: Mutex<Option<Arc<Program>>>,
    /// Why there is no Ray: this attempt does not look for it again.
    away: Mutex<Option<String>>,
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ray {
    pub(super) fn new(config: &ExecutorConfig, store: &Store) -> Self {
        let is_local = config.ray_away == WhenAway::Local;
        Self {
            config: config.clone(),
            clock: store.options().clock.clone(),
            local: is_local.then(|| Local::new(config, store)),
            program: Mutex::default(),
            away: Mutex::default(),
        }
    }

    /// The program, started if it is not at work.
    fn program(&self) -> io::Result<Arc<Program>> {
        let mut program = lock(&self.program);
        if let Some(at_work) = program.as_ref().filter(|p| !p.is_ended()) {
            return Ok(at_work.clone());
        }
        let started = Arc::new(Program::start(&self.config)?);
        *program = Some(started.clone());
        Ok(started)
    }

    /// The program, once it has joined Ray; or why it has not.
    async fn joined(&self, handed: &Handed) -> Result<Arc<Program>, Ended> {
        if let Some(why) = &*lock(&self.away) {
            return Err(Ended::Away(why.clone()));
        }
        let ExecutorConfig {
            ray_python,
            ray_address,
            ray_join,
            ..
        } = &self.config;
        let why = match self.program() {
            Ok(program) => tokio::select! {
                biased;
                // Nothing is at work that a drain could wait for.
                () = handed.oversight.cancelled() => return Err(Ended::Stopped),
                () = handed.stopped() => return Err(Ended::Stopped),
                joined = program.joined() => match joined {
                    Ok(nodes) => {
                        handed.oversight.has_nodes(nodes);
                        return Ok(program);
                    }
                    Err(why) => why,
                },
                () = self.clock.sleep(*ray_join) => {
                    program.kill();
                    let most = ray_join.as_secs_f64();
                    format!("no Ray at {ray_address}: it did not answer within {most} s (executor.ray_join)")
                }
            },
            Err(e) => format!("{ray_python} (executor.ray_python) cannot be started: {e}"),
        };
        let mut away = lock(&self.away);
        if away.is_none() {
            tracing::info!(why, local = self.local.is_some(), "ray is away");
        }
        Err(Ended::Away(away.get_or_insert(why).clone()))
    }

    fn command(&self) -> io::Result<Vec<String>> {
        let mut command = self.config.ray_worker.clone();
        if command.is_empty() {
            command.push(std::env::current_exe()?.to_string_lossy().into_owned());
        }
        let memory = format_size(self.config.memory);
        let args = ["worker", "--json", "--task", "-", "--memory", &memory];
        command.extend(args.map(str::to_owned));
        Ok(command)
    }

    /// What the program is told to have the task executed.
    fn asked(&self, handed: &Handed) -> io::Result<String> {
        let envelope = handed.envelope.to_bytes().map_err(io::Error::other)?;
        let line = json!({
            "attempt": handed.envelope.attempt().to_string(),
            "command": self.command()?,
            "task": String::from_utf8(envelope).map_err(io::Error::other)?,
            "memory": handed.envelope.memory(),
        });
        Ok(line.to_string())
    }

    async fn on_ray(&self, handed: &Handed) -> Ended {
        let program = match self.joined(handed).await {
            Ok(program) => program,
            Err(ended) => return ended,
        };
        let line = match self.asked(handed) {
            Ok(line) => line,
            Err(e) => return Ended::Away(format!("the task cannot be handed to Ray: {e}")),
        };
        let attempt = handed.envelope.attempt().to_string();
        let mut said = program.submit(&attempt, line);
        let (mut words, mut asked, mut at_work) = (String::new(), false, None);
        loop {
            let message = tokio::select! {
                biased;
                () = handed.stopped(), if !asked => {
                    asked = true;
                    program.say(json!({ "cancel": attempt }).to_string());
                    continue;
                }
                message = said.recv() => message,
            };
            let Some(message) = message else {
                return Ended::Lost("the program that talks to Ray ended".to_owned());
            };
            if message["node"].is_string() {
                at_work = Some(handed.oversight.at_work());
                continue;
            }
            match message["line"].as_str() {
                Some(line) if is_progress(line) => handed.oversight.step(),
                Some(line) => {
                    words += line;
                    words.push('\n');
                }
                None => {
                    drop(at_work);
                    return ended(&message, &words);
                }
            }
        }
    }
}

/// What the program says of a worker's end.
fn ended(message: &Value, words: &str) -> Ended {
    let text = |name: &str| message[name].as_str().map(str::to_owned);
    if let Some(code) = message["exited"].as_i64() {
        Ended::Exited(i32::try_from(code).unwrap_or(1), last_words(words))
    } else if let Some(why) = text("died") {
        Ended::Died(why)
    } else if message["stopped"] == true {
        Ended::Stopped
    } else {
        Ended::Lost(text("lost").unwrap_or_default())
    }
}

#[async_trait]
impl Executor for Ray {
    fn bounds(&self) -> WorkerBounds {
        bounds(&self.config)
    }

    async fn run(&self, handed: &Handed) -> Ended {
        let ended = self.on_ray(handed).await;
        if !matches!(ended, Ended::Away(_)) {
            return ended;
        }
        super::count_away();
        match &self.local {
            Some(local) => local.run(handed).await,
            None => ended,
        }
    }
}
