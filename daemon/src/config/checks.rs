//! Values of `[daemon]`, `[budget]` and `[agent]` with which nothing could be done.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::file::Refused;
use super::flight::check_flight;
use super::{AgentConfig, Budget, DaemonConfig};
use crate::formats::check_coercions;
use crate::units;

/// Nesting beyond this could end the process: whoever walks a type or a value needs some kilobytes of stack per level.
const MAX_NESTING: usize = 200;

/// The shortest time between two looks of the daemon: each costs requests to the storage, for every table.
const MIN_SCAN_INTERVAL: Duration = Duration::from_millis(100);

/// The shortest time between two looks of the agent at its spool, which is a local directory.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The shortest time that storage is waited for. Less ends every attempt before its answer.
const MIN_WAIT: Duration = Duration::from_secs(1);

/// The longest time that input may have to rest before it is taken: beyond it somebody meant something else.
const MAX_SETTLE: Duration = Duration::from_secs(3_600);

/// The least priority that a process of the usual kind may have.
const MAX_NICE: u8 = 19;

pub(super) fn check_daemon(daemon: &DaemonConfig) -> Result<(), Refused> {
    check_least(
        "daemon.scan_interval",
        daemon.scan_interval,
        MIN_SCAN_INTERVAL,
        "30s",
    )?;
    check_least(
        "daemon.watchdog_progress",
        daemon.watchdog_progress,
        MIN_WAIT,
        "10m",
    )?;
    if let Some(expiry) = daemon.claim_expiry {
        check_least("daemon.claim_expiry", expiry, MIN_WAIT, "60s")?;
    }
    if daemon.grace.is_zero() {
        return Err(Refused::at(
            "daemon.grace",
            "must not be zero; use a duration such as \"30s\"",
        ));
    }
    if daemon.full_scan_interval < daemon.scan_interval {
        let scan = units::format_duration(daemon.scan_interval);
        return Err(Refused {
            path: "daemon.full_scan_interval".to_owned(),
            also_set_at: Some("daemon.scan_interval".to_owned()),
            reason: format!("is under scan_interval = {scan}; make it at least as long"),
        });
    }
    if daemon.nice > MAX_NICE {
        let why = format!(
            "{} is above {MAX_NICE}; use 0 to 19, 10 as a rule",
            daemon.nice
        );
        return Err(Refused::at("daemon.nice", why));
    }
    if let Err(why) = units::log_filter(&daemon.log) {
        return Err(Refused::at("daemon.log", why));
    }
    match &daemon.token_file {
        Some(file) => check_token_file(file).map_err(|why| Refused::at("daemon.token_file", why)),
        None => Ok(()),
    }
}

/// Whether it can be read is the daemon's to find out: others use the same file for their storage options.
pub(super) fn check_token_file(file: &Path) -> Result<(), String> {
    match std::fs::metadata(file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(format!(
            "{} does not exist; put a token there, or leave it out",
            file.display()
        )),
        _ => Ok(()),
    }
}

fn check_least(path: &str, value: Duration, least: Duration, usual: &str) -> Result<(), Refused> {
    if value >= least {
        return Ok(());
    }
    let (value, least) = (units::format_duration(value), units::format_duration(least));
    let why = format!("{value} is under {least}; use a duration such as \"{usual}\"");
    Err(Refused::at(path, why))
}

pub(super) fn check_budget_and_agent(budget: &Budget, agent: &AgentConfig) -> Result<(), Refused> {
    let (poll, attempt) = (agent.poll_interval, agent.attempt_timeout);
    check_least("agent.poll_interval", poll, MIN_POLL_INTERVAL, "1s")?;
    check_least("agent.attempt_timeout", attempt, MIN_WAIT, "30min")?;
    let no_input = "0 rejects every input; leave it out for the default";
    let wrong = [
        (
            budget.max_concurrent == 0,
            "budget.max_concurrent",
            "0 stops all maintenance; use 1 or more",
        ),
        (
            budget.memory == 0,
            "budget.memory",
            "0 stops all maintenance; use a size such as \"4GiB\"",
        ),
        (
            budget.bytes_per_second == Some(0),
            "budget.bytes_per_second",
            "0 stops all maintenance; use \"off\" for no limit",
        ),
        (
            agent.input.max_input_bytes == 0,
            "agent.max_input_bytes",
            no_input,
        ),
        (
            agent.input.max_decoded_bytes == 0,
            "agent.max_decoded_bytes",
            no_input,
        ),
        (agent.input.max_rows == 0, "agent.max_rows", no_input),
        (agent.input.max_columns == 0, "agent.max_columns", no_input),
        (
            agent.input.max_nesting > MAX_NESTING,
            "agent.max_nesting",
            "is more than a stack can hold; use 200 or less",
        ),
        (
            agent.settle > MAX_SETTLE,
            "agent.settle",
            "is longer than an hour; use a few seconds, or let producers rename finished files into incoming",
        ),
        (
            check_coercions(&agent.coerce).is_err(),
            "agent.coerce",
            "dates-dmy and dates-mdy exclude each other; keep one",
        ),
        (
            agent.max_attempts == 0,
            "agent.max_attempts",
            "0 rejects every batch that an agent was stopped over; use 1 or more",
        ),
        (
            agent.group_batches == 0,
            "agent.group_batches",
            "0 commits nothing; use 1 to commit each batch alone",
        ),
    ];
    match wrong.into_iter().find(|(is_wrong, ..)| *is_wrong) {
        Some((_, path, reason)) => Err(Refused::at(path, reason)),
        None => check_flight(&agent.flight),
    }
}
