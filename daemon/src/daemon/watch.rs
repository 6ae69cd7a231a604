//! Wake, don't tell: file events only wake the loop; the pass reads the state again.

use notify::{RecursiveMode, Watcher};
use std::path::Path;
use std::sync::Arc;
use tokio::sync::Notify;

/// Watches of local places; dropping it ends them.
#[derive(Debug)]
pub(crate) struct FileWatch {
    _watcher: Option<notify::RecommendedWatcher>,
}

/// Wakes `wake` when a version of a table below one of `roots` appears. Places that are not local, or that cannot be
/// watched, are left to the periodic scan.
pub(crate) fn watch_local(roots: &[String], wake: Arc<Notify>) -> FileWatch {
    let handler = move |event: notify::Result<notify::Event>| {
        let versions = |path: &std::path::PathBuf| path.parent().is_some_and(|dir| dir.ends_with("_versions"));
        if event.is_ok_and(|e| e.kind.is_create() && e.paths.iter().any(versions)) {
            wake.notify_one();
        }
    };
    let mut watcher = match notify::recommended_watcher(handler) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::info!(%error, "file events are not available; the periodic scan finds changes");
            return FileWatch { _watcher: None };
        }
    };
    for root in roots.iter().filter(|r| !r.contains("://")) {
        if let Err(error) = watcher.watch(Path::new(root), RecursiveMode::Recursive) {
            tracing::info!(root, %error, "this directory cannot be watched; the periodic scan finds changes");
        }
    }
    FileWatch { _watcher: Some(watcher) }
}
