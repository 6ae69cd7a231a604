//! Wake, don't tell: file events only wake a loop; the loop reads the state again.

pub(crate) use notify::RecursiveMode as Depth;
use notify::{Config, RecommendedWatcher, Watcher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::Notify;

/// Running watches of local directories; dropping it ends them.
#[derive(Debug)]
pub(crate) struct FileWatch {
    _watcher: Option<RecommendedWatcher>,
}

/// Wakes `wake` when a path that `wanted` accepts appears in one of `roots`, or below it. Places that are not local, or that
/// cannot be watched, are left to the caller's periodic scan.
pub(crate) fn watch_local(
    roots: &[PathBuf],
    depth: Depth,
    wanted: impl Fn(&Path) -> bool + Send + 'static,
    wake: Arc<Notify>,
) -> FileWatch {
    let handler = move |event: notify::Result<notify::Event>| {
        let appeared = |e: &notify::Event| e.kind.is_create() || e.kind.is_modify();
        if event.is_ok_and(|e| appeared(&e) && e.paths.iter().any(|p| wanted(p))) {
            wake.notify_one();
        }
    };
    // Discovery passes links over: one to the root of the machine would have every directory of it watched.
    let config = Config::default().with_follow_symlinks(false);
    let mut watcher = match RecommendedWatcher::new(handler, config) {
        Ok(watcher) => watcher,
        Err(error) => {
            tracing::info!(%error, "file events are not available; the periodic scan finds changes");
            return FileWatch { _watcher: None };
        }
    };
    for root in roots {
        if let Err(error) = watcher.watch(root, depth) {
            let root = root.display();
            tracing::info!(%root, %error, "this directory cannot be watched; the periodic scan finds changes");
        }
    }
    FileWatch {
        _watcher: Some(watcher),
    }
}
