//! What lies in `done/` long enough, or is more than it may hold, is removed. Off unless it is asked for: a producer may look
//! there for what became of its files.

use super::spool::Spool;
use crate::config::AgentConfig;
use crate::input::shown;
use std::time::{Duration, SystemTime};

/// Time between two looks: one reads all of `done/`.
const INTERVAL: Duration = Duration::from_secs(60);

/// When to look next.
#[derive(Debug, Default)]
pub(super) struct Retention(Option<Duration>);

impl Retention {
    /// Looks through `done/` if it is time. `now` is the clock by which agents wait, `clock` the one by which files are dated.
    pub(super) fn look(
        &mut self,
        spool: &Spool,
        config: &AgentConfig,
        now: Duration,
        clock: SystemTime,
    ) {
        let nothing = config.done_age.is_none() && config.done_bytes.is_none();
        if nothing || self.0.is_some_and(|next| now < next) {
            return;
        }
        self.0 = Some(now + INTERVAL);
        match spool.trim_done(config.done_age, config.done_bytes, clock) {
            Ok(removed) if removed.entries > 0 => {
                let (entries, bytes) = (removed.entries, removed.bytes);
                tracing::info!(entries, bytes, "removed from done");
            }
            Ok(_) => {}
            Err(error) => {
                let error = shown(error.to_string());
                tracing::warn!(error, "done cannot be trimmed; it is tried again");
            }
        }
    }
}
