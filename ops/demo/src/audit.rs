//! A reader beside the writers: takes snapshots and looks whether every hour in them is whole.

use crate::error::{DemoError, Result};
use crate::run::Run;
use crate::source::Hour;
use crate::store::HourCounts;
use squire_engine::clock::Clock;
use std::time::Duration;

/// What readers saw wrong is told so many times; more only fills the screen.
const SHOWN_UNSOUND: usize = 20;

/// The retention in the configuration: snapshots so young must stay readable.
const KEPT: Duration = Duration::from_secs(3600);

/// Between two snapshots.
const EVERY: Duration = Duration::from_secs(2);

/// Audits until interrupted.
pub(crate) async fn audit(run: &Run) -> Result<()> {
    loop {
        run.pause(EVERY).await?;
        if let Err(DemoError::Failed(what)) = once(run).await {
            note(run, vec![format!("a snapshot could not be read: {what}")]);
        }
    }
}

/// Audits one snapshot.
pub(crate) async fn once(run: &Run) -> Result<()> {
    let counts = run.reader.hours(None).await?;
    let torn: Vec<String> = run
        .source
        .hours
        .iter()
        .filter_map(|hour| torn(hour, &counts))
        .map(|what| format!("manifest version {}: {what}", counts.manifest_version))
        .collect();
    if torn.is_empty() {
        run.progress.count(|c| c.whole_snapshots += 1);
    }
    note(run, torn);
    // Only the first one is kept.
    run.first_seen.set(counts).ok();
    Ok(())
}

/// Reads the first snapshot of this run again; what differs now, in words.
pub(crate) async fn read_first_again(run: &Run) -> Result<Option<String>> {
    let Some(first) = run.first_seen.get() else {
        return Ok(None);
    };
    if Duration::from_millis(run.clock.now_ms().saturating_sub(run.began_ms)) > KEPT {
        return Ok(None);
    }
    let version = first.manifest_version;
    Ok(match run.reader.hours(Some(version)).await {
        Ok(again) if again == *first => None,
        Ok(_) => Some(format!("snapshot {version} shows other rows than it did")),
        Err(DemoError::Interrupted) => return Err(DemoError::Interrupted),
        Err(e) => Some(format!(
            "snapshot {version} of this run can no longer be read: {e}"
        )),
    })
}

fn note(run: &Run, unsound: Vec<String>) {
    if let Some(last) = unsound.last() {
        run.progress.problem(last.clone());
    }
    run.progress.count(|c| {
        let room = SHOWN_UNSOUND.saturating_sub(c.unsound.len());
        c.unsound.extend(unsound.into_iter().take(room));
    });
}

/// An hour is absent, or all of it is there; its cancelled flights are there together, or deleted.
fn torn(hour: &Hour, counts: &HourCounts) -> Option<String> {
    let (flights, weather) = counts.rows_of(hour.start_ms);
    let all = hour.flights.len();
    let whole =
        weather == hour.weather.len() && (flights == all || flights == all - hour.cancelled);
    if whole || (flights, weather) == (0, 0) {
        return None;
    }
    Some(format!(
        "{} shows {flights} of {all} flights ({} cancelled) and {weather} of {} weather rows",
        hour.name,
        hour.cancelled,
        hour.weather.len()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(flights: usize, weather: usize) -> Option<String> {
        let name = "hour-1970010100".to_owned();
        let hour = Hour {
            start_ms: 0,
            name,
            flights: 10..15,
            weather: 0..3,
            cancelled: 2,
        };
        let mut counts = HourCounts::default();
        counts.rows.insert(0, (flights, weather));
        torn(&hour, &counts)
    }

    #[test]
    fn an_hour_is_whole_absent_or_torn() {
        for (flights, weather) in [(5, 3), (3, 3), (0, 0)] {
            assert_eq!(seen(flights, weather), None);
        }
        for (flights, weather) in [(5, 0), (0, 3), (4, 3), (5, 2), (10, 6)] {
            assert!(seen(flights, weather).is_some(), "{flights} {weather}");
        }
    }
}
