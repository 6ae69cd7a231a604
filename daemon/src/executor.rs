//! Who executes the tasks of a compaction besides the process that commits them.
//!
//! An executor starts a worker for each attempt at a task and says how it ended. What comes of the task stands on storage; see
//! `maintenance::elsewhere` of the engine.

mod local;
mod ray;

use crate::config::{ExecutorConfig, ExecutorKind};
use local::Local;
use ray::Ray;
use squire_engine::error::Result;
use squire_engine::maintenance::{
    CompactionLimits, MaintenanceReport, Oversight, Target, WorkerBounds,
};
use squire_engine::store::Store;
use std::sync::atomic::{AtomicU64, Ordering};

/// Tasks for which Ray was away, of this process.
static AWAY: AtomicU64 = AtomicU64::new(0);

fn count_away() {
    AWAY.fetch_add(1, Ordering::Relaxed);
}

/// For how many tasks Ray was away so far.
pub(crate) fn away() -> u64 {
    AWAY.load(Ordering::Relaxed)
}

/// Compacts `target` of `store`, its tasks executed by whom `by` names.
///
/// # Errors
/// Those of the compaction, and of the workers.
pub(crate) async fn compact(
    store: &Store,
    target: &Target,
    limits: &CompactionLimits,
    by: (ExecutorKind, &ExecutorConfig),
    oversight: &Oversight,
) -> Result<MaintenanceReport> {
    match by {
        (ExecutorKind::Inline, _) => store.compact(target, limits, oversight).await,
        (ExecutorKind::Local, config) => {
            let local = Local::new(config, store);
            store
                .compact_elsewhere(target, limits, &local, oversight)
                .await
        }
        (ExecutorKind::Ray, config) => {
            let ray = Ray::new(config, store);
            store
                .compact_elsewhere(target, limits, &ray, oversight)
                .await
        }
    }
}

fn bounds(config: &ExecutorConfig) -> WorkerBounds {
    WorkerBounds {
        at_once: config.workers,
        bytes_at_once: config.bytes_in_flight,
        memory: config.memory,
    }
}

/// What a line of a worker says: that it moves, or something else.
fn is_progress(line: &str) -> bool {
    line.starts_with(r#"{"progress":"#)
}

/// What a worker said of its end, in a sentence if it was one of its errors.
fn last_words(said: &str) -> String {
    let document: Option<serde_json::Value> = serde_json::from_str(said).ok();
    let message = document
        .as_ref()
        .and_then(|d| d["error"]["message"].as_str());
    message.unwrap_or(said).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{is_progress, last_words};

    #[test]
    fn a_worker_is_understood() {
        assert!(is_progress(r#"{"progress":{"steps":7}}"#));
        assert!(!is_progress(r#"{"outcome":"rewritten"}"#));
        let failed =
            "{\n  \"error\": { \"kind\": \"Refused\", \"message\": \"run X has ended\" }\n}\n";
        assert_eq!(last_words(failed), "run X has ended");
        assert_eq!(last_words("Segmentation fault\n"), "Segmentation fault");
    }
}
