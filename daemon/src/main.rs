//! `squire`: the daemon, the write agent and the one-shot commands.
//!
//! 1. `cli` parses the command line and prints; every command goes through the same engine functions.
//! 2. `daemon` watches and maintains: discovery, observation, planning, scheduling, execution, report.
//! 3. `agent` takes batches from a spool and commits each exactly once.
//! 4. `config`, `formats`, `http`, `metrics`, `place`, `systemd` serve the two.

mod agent;
mod cli;
mod config;
mod daemon;
mod formats;
mod http;
mod metrics;
mod place;
mod supervisor;
mod systemd;
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
