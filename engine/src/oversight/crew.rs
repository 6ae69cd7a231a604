//! The tasks of a run that workers execute, counted.

use super::Oversight;
use std::sync::PoisonError;

/// Tasks of a run that others execute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Crew {
    /// All that were planned so far; 0 where the run executes its tasks itself.
    pub tasks: usize,
    /// Those with which a worker is at work.
    pub at_work: usize,
    /// Those that came back, whatever came of them.
    pub done: usize,
    /// Machines that the executor has, if it knows.
    pub nodes: Option<u64>,
}

impl Crew {
    /// Those that wait for a worker, here or with the executor.
    pub fn queued(&self) -> usize {
        self.tasks.saturating_sub(self.at_work + self.done)
    }
}

/// A worker at work, until this is dropped.
#[derive(Debug)]
pub struct AtWork(Oversight);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.crew_changes(|crew| crew.at_work -= 1);
    }
}

impl Oversight {
    /// The tasks that others execute.
    pub fn crew(&self) -> Crew {
        *self.crew.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An executor has a worker at work, until what this returns is dropped.
    pub fn at_work(&self) -> AtWork {
        self.crew_changes(|crew| crew.at_work += 1);
        AtWork(self.clone())
    }

    /// An executor has so many machines.
    pub fn has_nodes(&self, nodes: u64) {
        self.crew_changes(|crew| crew.nodes = Some(nodes));
    }

    /// So many tasks are to be handed out; what an earlier plan had left is not waited for any more.
    pub(crate) fn lends(&self, tasks: usize) {
        self.crew_changes(|crew| crew.tasks = crew.done + tasks);
    }

    /// One of them is back.
    pub(crate) fn is_back(&self) {
        self.crew_changes(|crew| crew.done += 1);
    }

    fn crew_changes(&self, how: impl FnOnce(&mut Crew)) {
        how(&mut self.crew.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::Oversight;

    #[test]
    fn each_task_is_counted_once() {
        let oversight = Oversight::default();
        oversight.lends(5);
        let worker = oversight.at_work();
        oversight.is_back();
        assert_eq!(
            (oversight.crew().queued(), oversight.crew().at_work),
            (3, 1)
        );
        drop(worker);
        oversight.is_back();
        assert_eq!((oversight.crew().queued(), oversight.crew().done), (3, 2));
        // Planned afresh, after a conflict.
        oversight.lends(2);
        assert_eq!((oversight.crew().queued(), oversight.crew().tasks), (2, 4));
    }
}
