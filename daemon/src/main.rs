//! `squire`: the daemon, the write agent and the one-shot commands.
//!
//! 1. `cli` parses the command line and prints; every command goes through the same engine functions.
//! 2. `daemon` watches and maintains: `place` is what is known of locations and tables, `decide` what should be done, `run`
//!    one attempt at it.
//! 3. `agent` takes batches from a spool and commits each exactly once.
//!    `flight` takes rows from the network.
//!    `executor` has workers execute what is rewritten.
//! 4. `config`, `formats`, `http`, `metrics`, `systemd`, `exit` and `units` serve them.

mod agent;
mod cli;
mod config;
mod daemon;
mod decide;
mod executor;
mod exit;
mod flight;
mod formats;
#[cfg(test)]
mod fuzz_tests;
mod http;
mod input;
mod memory;
mod metrics;
mod place;
mod run;
mod supervisor;
mod systemd;
mod text_file;
mod units;
mod watch;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
