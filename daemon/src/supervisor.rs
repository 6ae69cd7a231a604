//! The one place that spawns tasks: each has a name, and how it ended is never lost.

use std::future::Future;
use tokio::task::JoinSet;

/// Running background tasks.
#[derive(Debug, Default)]
pub(crate) struct Supervisor {
    tasks: JoinSet<&'static str>,
}

impl Supervisor {
    /// Starts `task`; it reports its own failures and never returns an error upward.
    pub(crate) fn start(
        &mut self,
        name: &'static str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        self.tasks.spawn(async move {
            task.await;
            name
        });
    }

    /// Waits until one task ends; names it, or says that it panicked.
    pub(crate) async fn next_ended(&mut self) -> Option<Result<&'static str, String>> {
        let ended = self.tasks.join_next().await?;
        Some(ended.map_err(|e| e.to_string()))
    }

    /// Waits for all tasks, which were cancelled before, and logs those that panicked.
    pub(crate) async fn drain(&mut self) {
        while let Some(ended) = self.next_ended().await {
            Self::tell(ended);
        }
    }

    /// Logs how a task ended.
    pub(crate) fn tell(ended: Result<&'static str, String>) {
        match ended {
            Ok(name) => tracing::debug!(task = name, "task ended"),
            Err(error) => tracing::error!(error, "a task panicked"),
        }
    }
}
