//! The priority of the process: maintenance may take what others leave, and no more.

use squire_engine::error::Error;
use thread_priority::{
    NormalThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

const POLICY: ThreadSchedulePolicy =
    ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Other);

/// Which of the fields behind a thread's name is its niceness.
const NICENESS: usize = 16;

/// The niceness in a line of `/proc/PID/stat`. A name may hold anything, and ends at the last bracket.
fn niceness_in(stat: &str) -> Option<i32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(NICENESS)?.parse().ok()
}

/// What stands for a niceness: one of a hundred steps.
fn priority_of(nice: i32) -> Option<ThreadPriority> {
    let steps = (0..=99_u8).filter_map(|step| ThreadPriorityValue::try_from(step).ok());
    let is_meant = |priority: &ThreadPriority| priority.to_posix(POLICY) == Ok(nice);
    steps.map(ThreadPriority::Crossplatform).find(is_meant)
}

/// Lowers the priority of this thread, and of those that it starts, to `nice`; the kernel takes its priority in reading and
/// writing from there. A process that was started with a lower one stays as it is.
pub(crate) fn step_back(nice: u8) {
    let nice = i32::from(nice);
    let is = std::fs::read_to_string("/proc/thread-self/stat");
    let is = is.ok().and_then(|stat| niceness_in(&stat)).unwrap_or(0);
    if is >= nice {
        return;
    }
    let done = match priority_of(nice) {
        Some(priority) => set_thread_priority_and_policy(thread_native_id(), priority, POLICY)
            .map_err(|e| Error::internal(format!("{e:?}"))),
        None => Err(Error::internal("there is no such priority")),
    };
    if let Err(error) = done {
        tracing::warn!(
            %error, nice,
            "the priority cannot be lowered, so writers may feel maintenance; set it where the process is started (Nice= of a systemd unit), or daemon.nice = 0"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::{niceness_in, priority_of};

    #[test]
    fn a_name_with_brackets_hides_nothing() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 -5 1 0 9 10";
        assert_eq!(niceness_in(stat), Some(-5));
        assert_eq!(niceness_in("7 (a"), None);
    }

    #[test]
    fn every_niceness_that_may_be_set_has_a_priority() {
        assert!((1..=19).all(|nice| priority_of(nice).is_some()));
    }
}
