//! One run over one store: what its parts share, and how it advances.
//!
//! 1. [`prepare`] makes what is missing and finds out what is committed already.
//! 2. [`advance`] feeds hours until all up to a number are committed, while one-shot writers work
//!    beside; then the cancelled flights up to there are deleted.
//! 3. [`finish`] brings the planes to their final state.

use crate::error::{Context, DemoError, Result, failed};
use crate::progress::Progress;
use crate::site::Site;
use crate::source::Source;
use crate::spool::Spool;
use crate::squire::Squire;
use crate::store::{HourCounts, Reader};
use crate::{feed, writers};
use squire_engine::clock::{Clock, SystemClock};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// What the parts of a run share.
#[derive(Debug)]
pub(crate) struct Run {
    /// The binary.
    pub(crate) squire: Squire,
    /// The rows.
    pub(crate) source: Arc<Source>,
    /// The paths.
    pub(crate) site: Site,
    /// The store, for reading.
    pub(crate) reader: Reader,
    /// The producer's side of the spool.
    pub(crate) spool: Spool,
    /// What happened so far.
    pub(crate) progress: Progress,
    /// The first snapshot that the audit took, to be read again at the end.
    pub(crate) first_seen: OnceLock<HourCounts>,
    /// Whether a daemon maintains the store.
    pub(crate) daemon: bool,
    /// Batches per second at most.
    pub(crate) rate: Option<f64>,
    /// When it began, milliseconds since the epoch: makes batch ids of this run.
    pub(crate) began_ms: u64,
    /// Time.
    pub(crate) clock: SystemClock,
    /// Cancelled on Ctrl-C.
    pub(crate) stop: CancellationToken,
}

impl Run {
    /// Waits, unless interrupted.
    pub(crate) async fn pause(&self, time: Duration) -> Result<()> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(DemoError::Interrupted),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }
}

/// Makes the store and its tables where they are missing, and reads what is committed.
pub(crate) async fn prepare(
    squire: &Squire,
    source: &Arc<Source>,
    site: &Site,
    daemon: bool,
    rate: Option<f64>,
) -> Result<Run> {
    let uri = site.uri();
    let reader = match Reader::open(&uri).await? {
        Some(reader) => reader,
        None => {
            if site.store.try_exists().unwrap_or(false) {
                return failed(format!(
                    "{uri} exists and is no squire store; choose another --store"
                ));
            }
            site.forget()?;
            squire.done(&["init", &uri]).await?;
            let Some(reader) = Reader::open(&uri).await? else {
                return failed(format!("squire init left no store at {uri}"));
            };
            reader
        }
    };
    site.write_config()?;
    let spool = Spool::open(&site.spool)?;
    create_tables(squire, source, &uri, &reader).await?;
    let clock = SystemClock::default();
    let run = Run {
        squire: squire.clone(),
        source: source.clone(),
        site: site.clone(),
        reader,
        spool,
        progress: Progress::new(source.hours.len()),
        first_seen: OnceLock::new(),
        daemon,
        rate,
        began_ms: clock.now_ms(),
        clock,
        stop: squire.stop.clone(),
    };
    find_committed(&run).await?;
    Ok(run)
}

async fn create_tables(squire: &Squire, source: &Source, uri: &str, reader: &Reader) -> Result<()> {
    let (tables, indexes) = reader.catalogue().await?;
    for table in ["flights", "weather", "planes", "airports", "airlines"] {
        if tables.contains(table) {
            continue;
        }
        let like = source.file(table);
        let mut args = vec!["create", uri, table, "--like", &like];
        if table == "planes" {
            args.extend(["--key", "tailnum"]);
        }
        squire.done(&args).await?;
    }
    for (table, column, kind) in [
        ("flights", "carrier", "bitmap"),
        ("planes", "tailnum", "btree"),
    ] {
        if !indexes.contains(table) {
            squire
                .done(&["index", uri, table, column, "--type", kind])
                .await?;
        }
    }
    // The batch ids make these happen once, however often the demo runs.
    for (table, batch) in [("airports", "airports-2013"), ("airlines", "airlines-2013")] {
        let file = source.file(table);
        squire
            .done(&["write", uri, table, &file, "--batch-id", batch])
            .await?;
    }
    Ok(())
}

async fn find_committed(run: &Run) -> Result<()> {
    let counts = run.reader.hours(None).await?;
    for (index, hour) in run.source.hours.iter().enumerate() {
        if counts.rows_of(hour.start_ms) != (0, 0) {
            run.progress.mark(index);
        }
    }
    // An hour whose flights were all cancelled and deleted, and that has no weather, is fed again;
    // its batch id makes that a no-op.
    run.spool.take_done().map(drop)
}

/// The first hour that the store must reach: all that is committed or on its way.
pub(crate) fn reached(run: &Run) -> Result<usize> {
    let waiting = run.spool.outstanding()?;
    let waiting = waiting
        .iter()
        .filter_map(|name| run.source.index_of(name))
        .max();
    Ok(run.progress.reach().max(waiting.map_or(0, |last| last + 1)))
}

/// Commits every hour below `hours`, with the one-shot writers beside.
pub(crate) async fn advance(run: &Run, hours: usize) -> Result<()> {
    let fed = CancellationToken::new();
    // A command that is dropped is killed, so the writers are always let come to their end.
    let mut writing = std::pin::pin!(writers::beside(run, &fed));
    let feeding = tokio::select! {
        biased;
        feeding = feed::feed(run, hours) => feeding,
        written = &mut writing => return written.and_then(|()| failed("the writers ended early")),
    };
    fed.cancel();
    let written = writing.await;
    feeding.and(written)?;
    writers::delete_cancelled(run, hours).await
}

/// Brings the planes to their final state.
pub(crate) async fn finish(run: &Run) -> Result<()> {
    writers::write_all_planes(run).await
}

/// Waits until the daemon has nothing left to do, at most `patience`.
pub(crate) async fn settle(run: &Run, patience: Duration) -> Result<()> {
    if !run.daemon {
        return Ok(());
    }
    let began = run.clock.monotonic();
    loop {
        run.pause(Duration::from_secs(2)).await?;
        let status = run.squire.done(&["status", &run.site.uri()]).await?;
        let tables = status.get("tables").and_then(|t| t.as_array());
        let Some(tables) = tables else {
            return failed("squire status --json lists no tables");
        };
        let busy = tables.iter().any(|t| {
            t.get("candidate_fragments")
                .and_then(serde_json::Value::as_u64)
                .unwrap_or(0)
                >= 16
        });
        if !busy || run.clock.monotonic().saturating_sub(began) > patience {
            return Ok(());
        }
    }
}

/// A part that goes on for as long as the work does. An interruption ends the work first, so that
/// its command can come to an end.
pub(crate) async fn beside_the_work<T>(part: impl Future<Output = Result<()>>) -> Result<T> {
    match part.await {
        Err(DemoError::Interrupted) => std::future::pending().await,
        Err(e) => Err(e),
        Ok(()) => failed("a part of the demo ended early"),
    }
}

/// Runs file work without holding up the other parts.
pub(crate) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    tokio::task::block_in_place(work)
}

/// What is undecided or drifted when nobody works any more, after one recovery.
pub(crate) async fn recover_leftovers(run: &Run) -> Result<Vec<String>> {
    let left = leftovers(run).await?;
    if left.is_empty() {
        return Ok(left);
    }
    // Someone killed a process in this run or the last. Nobody works now, so nothing is waited for.
    run.squire
        .done(&["recover", &run.site.uri(), "--force"])
        .await?;
    leftovers(run).await
}

async fn leftovers(run: &Run) -> Result<Vec<String>> {
    let status = run.squire.done(&["status", &run.site.uri()]).await?;
    let sidecars = status.get("sidecars").and_then(|s| s.as_array());
    let mut left: Vec<String> = sidecars
        .into_iter()
        .flatten()
        .map(|s| format!("operation {s} is undecided"))
        .collect();
    for table in status
        .get("tables")
        .and_then(|t| t.as_array())
        .into_iter()
        .flatten()
    {
        let name = table.get("table").and_then(|t| t.as_str()).unwrap_or("?");
        if table.get("drift").is_some_and(|drift| !drift.is_null()) {
            left.push(format!("table {name} has drifted"));
        }
        if table.get("pin") != table.get("head") {
            left.push(format!(
                "the newest version of table {name} is not the visible one"
            ));
        }
    }
    Ok(left)
}

/// Reads a text file that may not be there.
pub(crate) fn read_optional(path: &std::path::Path) -> Result<Option<String>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).context(|| format!("cannot read {}", path.display())),
    }
}
