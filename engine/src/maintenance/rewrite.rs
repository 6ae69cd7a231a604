//! One task: its fragments are rewritten, and what was written is read back. Nothing is committed.

use super::tasks::Task;
use crate::error::{Error, ErrorKind, Result};
use crate::oversight::Oversight;
use crate::proof::{Rewrite, Verify};
use crate::store::Store;
use lance::Dataset;
use lance::dataset::optimize::{
    CompactionMode, CompactionOptions, CompactionTask, RewriteResult, TaskData,
};
use lance_table::format::Fragment;

/// Copying pages takes a third of the memory of decoding them, at the same speed, but it keeps the pages as they
/// are: many pages of a few rows stay many and large. Fragments of this size have pages worth keeping.
const COPY_FROM_BYTES: u64 = 16 << 20;

fn least(a: Option<usize>, b: Option<usize>) -> Option<usize> {
    a.into_iter().chain(b).min()
}

fn mode(task: &Task) -> CompactionMode {
    if task.bytes / task.fragments.len().max(1) as u64 >= COPY_FROM_BYTES {
        CompactionMode::TryBinaryCopy
    } else {
        CompactionMode::Reencode
    }
}

/// How often a task is rewritten when its rows are wider than the sample said. The first time says how wide they are.
const WIDTHS_TRIED: usize = 3;

/// What rewrites tasks.
pub(super) struct Rewriter<'a> {
    pub(super) store: &'a Store,
    pub(super) oversight: &'a Oversight,
    pub(super) options: &'a CompactionOptions,
    pub(super) verify: Verify,
}

impl Rewriter<'_> {
    /// Rewrites the fragments of `task` through `head`, which names what is written, and reads the result back. Rows that turn
    /// out to be wider than they were taken to be are rewritten once more, into smaller fragments.
    ///
    /// # Errors
    /// `Unfit` when what was written cannot replace them.
    pub(super) async fn rewrite(&self, head: &Dataset, task: &Task) -> Result<RewriteResult> {
        // Not through what names the files of this run.
        let reader = head.with_object_store(self.store.reading(self.oversight), None);
        let fragments: Vec<Fragment> = head
            .fragments()
            .iter()
            .filter(|f| task.fragments.contains(&f.id))
            .cloned()
            .collect();
        let memory = self.store.memory();
        let batch_rows = least(task.batch_rows(memory.batch()), self.options.batch_size);
        // A table may ask for less.
        let own = self.options.io_buffer_size.unwrap_or(u64::MAX);
        let read_ahead = memory.read_ahead(task.widest_row).min(own);
        let mut target_rows = task.target_rows;
        for _ in 0..WIDTHS_TRIED {
            let rewrite = CompactionTask {
                task: TaskData {
                    fragments: fragments.clone(),
                },
                read_version: head.manifest().version,
                options: CompactionOptions {
                    target_rows_per_fragment: usize::try_from(target_rows).unwrap_or(usize::MAX),
                    batch_size: batch_rows,
                    io_buffer_size: Some(read_ahead),
                    compaction_mode: self.options.compaction_mode.or(Some(mode(task))),
                    ..self.options.clone()
                },
            };
            let result = rewrite.execute(head).await.map_err(unwritable)?;
            let check = Rewrite {
                dataset: &reader,
                old: &fragments,
                new: &result.new_fragments,
                verify: self.verify,
                batch_rows,
                read_ahead,
                oversight: self.oversight,
            };
            let Some(wide) = check.check().await? else {
                return Ok(result);
            };
            // Lance writes up to twice its target.
            target_rows = target_rows.min(wide.fitting_rows).div_ceil(2);
        }
        Err(Error::new(
            ErrorKind::Unfit,
            "its rows are too wide for a default scan",
        ))
    }
}

/// What comes of a rewrite is its own input: what Lance calls invalid there it will not write the next time, either.
fn unwritable(e: lance::Error) -> Error {
    match Error::from(e) {
        e if e.kind() == ErrorKind::InvalidInput => Error::new(
            ErrorKind::Unfit,
            format!("Lance does not write its rows again: {}", e.brief()),
        ),
        e => e,
    }
}
