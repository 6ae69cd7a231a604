//! What the process may hold, as the configuration says it.
//!
//! A part of it is set by the environment alone, and read when a process starts. A process that maintains tables therefore
//! starts itself once more, with that in its environment, before it does anything: same arguments, same id. What the
//! environment says already stays.

use crate::config::Budget;
use crate::decide::board::LIGHT_AT_ONCE;
use squire_engine::store::Memory;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Holds the id of the process that was started once more.
const BOUNDED: &str = "SQUIRE_BOUNDED";

/// What a process with this budget may hold.
pub(crate) fn of(budget: &Budget) -> Memory {
    Memory::new(budget.memory, attempts(budget))
}

/// Attempts at one time that read what is large.
pub(crate) fn attempts(budget: &Budget) -> usize {
    budget.max_concurrent.max(1) + LIGHT_AT_ONCE
}

/// Starts this process once more, bounded by `memory`; returns in the process that was.
///
/// # Errors
/// Those of the system: it goes on without.
pub(crate) fn bound(memory: &Memory) -> io::Result<()> {
    let id = std::process::id().to_string();
    if std::env::var(BOUNDED).is_ok_and(|bounded| bounded == id) {
        return Ok(());
    }
    let mut arguments = std::env::args_os();
    let mut again = Command::new(std::env::current_exe()?);
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    again.args(arguments).env(BOUNDED, id);
    let unset = |(name, _): &(&str, String)| std::env::var_os(name).is_none();
    again.envs(memory.environment().into_iter().filter(unset));
    Err(again.exec())
}
