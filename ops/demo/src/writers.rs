//! The one-shot writers: each change is a `squire` process of its own, beside agents and daemon.
//!
//! Planes come in slices, each first as a draft (without the year of manufacture), then as it is;
//! at the end all of them as they are. So the check sees whether an upsert was lost.

use crate::error::{Context, Result};
use crate::run::Run;
use crate::spool::write_parquet;
use arrow::array::{RecordBatch, new_null_array};
use serde_json::Value;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Committed hours between two slices of planes.
const UPSERT_EVERY: usize = 25;

/// Planes in a slice.
const SLICE: usize = 100;

/// Committed hours between two deletes of cancelled flights.
const DELETE_EVERY: usize = 100;

/// What a draft of a plane leaves out.
const DRAFT_COLUMN: &str = "year";

/// Upserts and deletes as the hours advance, until `fed` is cancelled.
pub(crate) async fn beside(run: &Run, fed: &CancellationToken) -> Result<()> {
    let mut next_upsert = run.progress.committed() + UPSERT_EVERY;
    let mut next_delete = run.progress.prefix() + DELETE_EVERY;
    while !fed.is_cancelled() {
        if run.progress.committed() >= next_upsert {
            next_upsert += UPSERT_EVERY;
            upsert_slice(run).await?;
        }
        let prefix = run.progress.prefix();
        if prefix >= next_delete {
            next_delete = prefix + DELETE_EVERY;
            delete_cancelled(run, prefix).await?;
        }
        tokio::select! {
            biased;
            () = fed.cancelled() => {}
            paused = run.pause(Duration::from_millis(100)) => paused?,
        }
    }
    Ok(())
}

/// Deletes the cancelled flights of the first `hours` hours.
pub(crate) async fn delete_cancelled(run: &Run, hours: usize) -> Result<()> {
    let predicate = run.source.cancelled_before(hours)?;
    let uri = run.site.uri();
    repeat(run, &["delete", &uri, "flights", "--where", &predicate]).await?;
    run.progress.count(|c| c.deletes += 1);
    Ok(())
}

/// Upserts every plane as it is.
pub(crate) async fn write_all_planes(run: &Run) -> Result<()> {
    let file = run.source.file("planes");
    merge_planes(run, &file, &format!("planes-{}-final", run.began_ms)).await
}

async fn upsert_slice(run: &Run) -> Result<()> {
    let number = run.progress.counts().upserts;
    let planes = &run.source.planes;
    let slices = planes.num_rows().div_ceil(SLICE).max(1);
    let first = (number / 2 % slices) * SLICE;
    let rows = planes.slice(first, SLICE.min(planes.num_rows() - first));
    let rows = if number.is_multiple_of(2) {
        draft_of(&rows)?
    } else {
        rows
    };
    let path = run.site.spool.join("planes.parquet");
    write_parquet(&path, &rows)?;
    merge_planes(
        run,
        &path.display().to_string(),
        &format!("planes-{}-{number}", run.began_ms),
    )
    .await
}

fn draft_of(rows: &RecordBatch) -> Result<RecordBatch> {
    let schema = rows.schema();
    let left_out = schema
        .index_of(DRAFT_COLUMN)
        .context(|| "planes".to_owned())?;
    let mut columns = rows.columns().to_vec();
    columns[left_out] = new_null_array(columns[left_out].data_type(), rows.num_rows());
    RecordBatch::try_new(schema, columns).context(|| "cannot draft planes".to_owned())
}

async fn merge_planes(run: &Run, file: &str, batch: &str) -> Result<()> {
    let uri = run.site.uri();
    let mut args = vec![
        "write", &uri, "planes", file, "--mode", "merge", "--key", "tailnum",
    ];
    args.extend(["--batch-id", batch, "--actor", "squire-demo"]);
    repeat(run, &args).await?;
    run.progress.count(|c| c.upserts += 1);
    Ok(())
}

/// Runs a command until it is done, and counts what that took.
async fn repeat(run: &Run, args: &[&str]) -> Result<()> {
    let lost = |why: &str| {
        run.progress.count(|c| c.repeats += 1);
        run.progress.problem(format!(
            "squire {} {}, tried again: {why}",
            args[0], args[2]
        ));
    };
    let document = run.squire.repeat(args, lost).await?;
    let attempts = document
        .get("attempts")
        .and_then(Value::as_u64)
        .unwrap_or(1);
    run.progress
        .count(|c| c.lost_attempts += attempts.saturating_sub(1));
    Ok(())
}
