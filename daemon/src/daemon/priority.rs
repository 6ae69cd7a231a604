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

/// Which of them is its session.
const SESSION: usize = 3;

/// Where the kernel tells and takes the niceness of a whole session.
const AUTOGROUP: &str = "/proc/self/autogroup";

/// A field in a line of `/proc/PID/stat`. A name may hold anything, and ends at the last bracket.
fn field_in(stat: &str, field: usize) -> Option<i32> {
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(field)?.parse().ok()
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
    step_back_as_session(nice);
    let is = std::fs::read_to_string("/proc/thread-self/stat");
    let is = is
        .ok()
        .and_then(|stat| field_in(&stat, NICENESS))
        .unwrap_or(0);
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

/// Linux shares the cores among sessions first, and a niceness counts within one alone. A process that leads its session, as a
/// service does, lowers that; where a shell does, its other children may be the writers.
fn step_back_as_session(nice: i32) {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else {
        return;
    };
    let leads = field_in(&stat, SESSION).is_some_and(|id| id.unsigned_abs() == std::process::id());
    let told = std::fs::read_to_string(AUTOGROUP).ok();
    let Some(is) = told.as_deref().and_then(niceness_of_session) else {
        return;
    };
    if !leads || is >= nice {
        return;
    }
    if let Err(error) = std::fs::write(AUTOGROUP, nice.to_string()) {
        tracing::warn!(%error, nice, "the priority of this session cannot be lowered, so writers in others may feel maintenance");
    }
}

/// The niceness in what the kernel tells of a session: `/autogroup-12 nice 0`.
fn niceness_of_session(told: &str) -> Option<i32> {
    let (_, nice) = told.trim_end().rsplit_once(" nice ")?;
    nice.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{NICENESS, SESSION, field_in, niceness_of_session, priority_of};

    #[test]
    fn a_name_with_brackets_hides_nothing() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194304 1 2 3 4 5 6 7 8 20 -5 1 0 9 10";
        assert_eq!(field_in(stat, NICENESS), Some(-5));
        assert_eq!(field_in(stat, SESSION), Some(7));
        assert_eq!(field_in("7 (a", NICENESS), None);
        assert_eq!(niceness_of_session("/autogroup-12 nice -3\n"), Some(-3));
        assert_eq!(niceness_of_session(""), None);
    }

    #[test]
    fn every_niceness_that_may_be_set_has_a_priority() {
        assert!((1..=19).all(|nice| priority_of(nice).is_some()));
    }
}
