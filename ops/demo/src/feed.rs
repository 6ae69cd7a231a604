//! Feeds the spool hour by hour, and sees the hours come back acknowledged.

use crate::error::{Result, failed};
use crate::run::{Run, blocking};
use squire_engine::clock::Clock;
use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// Hours that wait in `incoming/` at most: enough that no agent idles, few enough that the agents
/// list the directory quickly.
const MOST_WAITING: usize = 200;

/// Hours prepared before looking at the spool again.
const AT_ONCE: usize = 20;

/// Between two looks at the spool.
const LOOK: Duration = Duration::from_millis(50);

/// Nothing acknowledged for so long ends the demo. Above the grace that a killed writer's operation
/// is given, several times over.
const STALLED: Duration = Duration::from_secs(180);

/// Commits every hour below `hours` that is not committed yet.
pub(crate) async fn feed(run: &Run, hours: usize) -> Result<()> {
    let waiting: BTreeSet<String> = run.spool.outstanding()?.into_iter().collect();
    let mut rest: VecDeque<usize> = (0..hours)
        .filter(|i| !run.progress.is_committed(*i))
        .filter(|i| !waiting.contains(&run.source.hours[*i].name))
        .collect();
    let refused_before: BTreeSet<String> = run.spool.rejected()?.into_iter().collect();
    let began = run.clock.monotonic();
    let (mut fed, mut last) = (0_usize, began);
    while run.progress.prefix() < hours {
        let now = run.clock.monotonic();
        let acknowledged = blocking(|| take_done(run))?;
        if acknowledged > 0 {
            last = now;
        }
        let refused = run.spool.rejected()?;
        if let Some(name) = refused.iter().find(|name| !refused_before.contains(*name)) {
            return failed(format!(
                "an agent refused a batch: {}",
                run.spool.reason(name)
            ));
        }
        if now.saturating_sub(last) > STALLED {
            return failed(format!("no hour was committed for {} s", STALLED.as_secs()));
        }
        let room = MOST_WAITING.saturating_sub(run.spool.depth()?).min(AT_ONCE);
        let due = allowed(run.rate, now.saturating_sub(began)).saturating_sub(fed);
        for _ in 0..room.min(due) {
            let Some(next) = rest.pop_front() else { break };
            blocking(|| run.spool.put(&run.source, &run.source.hours[next]))?;
            fed += 1;
            run.progress.count(|c| c.fed += 1);
        }
        run.pause(LOOK).await?;
    }
    Ok(())
}

/// How many hours may be fed in `time`.
fn allowed(rate: Option<f64>, time: Duration) -> usize {
    let Some(rate) = rate else { return usize::MAX };
    // A cast from float saturates.
    (rate * time.as_secs_f64()).ceil().max(1.0) as usize
}

fn take_done(run: &Run) -> Result<usize> {
    let done = run.spool.take_done()?;
    for name in &done {
        if let Some(hour) = run.source.index_of(name) {
            run.progress.mark(hour);
        }
    }
    run.progress.count(|c| c.acknowledged += done.len());
    Ok(done.len())
}
