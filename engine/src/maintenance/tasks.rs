//! Compaction tasks: which fragments are rewritten together. Pure.
//!
//! Lance's own planner picks by rows alone, so tables of wide rows never converge, and a `max_source_*` budget that
//! the first candidate exceeds gives an empty plan (fact 10). Here the row target follows from bytes per row, a
//! budget splits instead of refusing, and a large fragment is not rewritten again and again for a small tail.
//!
//! Bytes are those of decoded rows where somebody looked: encodings hide what a rewrite and later readers hold in
//! memory.

use crate::proof::READER_ROWS;
use serde::{Deserialize, Serialize};
use std::collections::HashSet;

/// One fragment as planning sees it.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct FragmentFacts {
    /// Lance's fragment id.
    pub id: u64,
    /// Rows written.
    pub rows: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Bytes of its data files.
    pub bytes: u64,
    /// Bytes of a row as a reader decodes it, blobs and all; 0 when nobody looked.
    pub row_bytes: u64,
    /// Bytes of the widest that was looked at.
    pub widest_row: u64,
    /// What the 32-bit offsets of its widest column count per row.
    pub row_items: u64,
    /// Which indexes cover it, as positions; a task never mixes coverage, or an index would lose rows.
    pub indexes: Vec<usize>,
    /// The version on which rows were last deleted from it; 0 if none was.
    pub touched: u64,
    /// It must stay as it is.
    pub held: bool,
}

impl FragmentFacts {
    /// Rows that a reader sees.
    pub fn live(&self) -> u64 {
        self.rows.saturating_sub(self.deleted)
    }

    /// Bytes of its data files that rows fill which a reader sees.
    fn live_bytes(&self) -> u64 {
        let of_live =
            u128::from(self.bytes) * u128::from(self.live()) / u128::from(self.rows.max(1));
        u64::try_from(of_live).unwrap_or(self.bytes)
    }

    /// Bytes that a rewrite moves: stored ones, or what they become when they are decoded. A few stored bytes may be
    /// gigabytes of text.
    fn size(&self) -> u64 {
        self.bytes.max(self.rows.saturating_mul(self.row_bytes))
    }

    /// How many such rows a fragment may hold, so that a batch of a default scan, which never spans fragments, fits.
    fn fitting_rows(&self) -> u64 {
        if self.row_items.saturating_mul(READER_ROWS) <= READER_ITEMS {
            return u64::MAX;
        }
        (READER_ITEMS / self.row_items).max(1)
    }
}

/// Half of what 32-bit offsets can count, because widths are estimates.
const READER_ITEMS: u64 = 1 << 30;

/// Rows in a batch when none of them is wide: Lance's default on a local disk.
const BATCH_ROWS: u64 = 8_192;

/// Bounds of one compaction.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskBounds {
    /// Rows that a fragment should have.
    pub target_rows: u64,
    /// Fragments that one task reads at most.
    pub max_fragments: usize,
    /// Bytes that one task reads at most.
    pub max_input_bytes: u64,
    /// Rows that one task reads at most.
    pub max_input_rows: u64,
    /// Bytes that one output fragment should have at most.
    pub max_output_bytes: u64,
    /// The share of deleted rows from which a fragment is rewritten on its own.
    pub max_deleted_ratio: f64,
}

/// One task: adjacent fragments that become one.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The fragments' ids, in table order.
    pub fragments: Vec<u64>,
    /// Bytes that it reads.
    pub bytes: u64,
    /// Bytes that it will write, judged by the rows that are left.
    pub written: u64,
    /// Fragments that it will write.
    pub outputs: u64,
    /// Bytes of the index segments that have to follow, once for each commit.
    pub remapped: u64,
    /// The version on which rows were last deleted from one of its fragments.
    pub touched: u64,
    /// Rows that each new fragment should have.
    pub target_rows: u64,
    /// Bytes of the widest row that was looked at.
    pub widest_row: u64,
}

impl Task {
    /// Bytes of deleted rows that readers need not read over any more.
    pub fn reclaimed(&self) -> u64 {
        self.bytes.saturating_sub(self.written)
    }

    /// Rows in a batch of at most `most` bytes, where a default batch would be more.
    pub(crate) fn batch_rows(&self, most: u64) -> Option<usize> {
        if self.widest_row.saturating_mul(BATCH_ROWS) <= most {
            return None;
        }
        usize::try_from((most / self.widest_row).max(1)).ok()
    }

    /// By how many fragments the table becomes shorter.
    pub fn merged(&self) -> u64 {
        (self.fragments.len() as u64).saturating_sub(self.outputs)
    }
}

/// Fragments that no task rewrites, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Left {
    /// Why.
    pub why: &'static str,
    /// How many.
    pub fragments: u64,
    /// Bytes of their data files.
    pub bytes: u64,
}

const HELD: &str = "covered by an index that cannot follow a rewrite";
const LARGE: &str = "large enough, with few deleted rows";
const WAITS: &str = "larger than their neighbours together, which have to grow first";
const ALONE: &str = "small, without a neighbour to be merged with";

/// What `tasks` leave of `fragments`, by reason. In the order in which it is asked: what is held may be small as well.
pub fn left(fragments: &[FragmentFacts], tasks: &[Task], bounds: &TaskBounds) -> Vec<Left> {
    let target = row_target(fragments, bounds);
    let rewritten: HashSet<u64> = tasks.iter().flat_map(|t| &t.fragments).copied().collect();
    let near = |at: Option<usize>| {
        let fragment = at.and_then(|at| fragments.get(at));
        fragment.is_some_and(|f| is_candidate(f, target, bounds))
    };
    let mut left: Vec<Left> = Vec::new();
    for (at, fragment) in fragments.iter().enumerate() {
        let why = match fragment {
            f if rewritten.contains(&f.id) => continue,
            f if f.held => HELD,
            f if !is_candidate(f, target, bounds) => LARGE,
            _ if near(at.checked_sub(1)) || near(Some(at + 1)) => WAITS,
            _ => ALONE,
        };
        let at = left.iter().position(|l| l.why == why).unwrap_or_else(|| {
            left.push(Left {
                why,
                fragments: 0,
                bytes: 0,
            });
            left.len() - 1
        });
        left[at].fragments += 1;
        left[at].bytes += fragment.bytes;
    }
    left
}

/// The rows that a fragment of this table should have, by its own bytes per row.
pub fn row_target(fragments: &[FragmentFacts], bounds: &TaskBounds) -> u64 {
    let rows: u64 = fragments.iter().map(|f| f.rows).sum();
    let bytes: u64 = fragments.iter().map(FragmentFacts::size).sum();
    if rows == 0 || bytes == 0 {
        return bounds.target_rows;
    }
    let by_bytes = u128::from(bounds.max_output_bytes) * u128::from(rows) / u128::from(bytes);
    bounds
        .target_rows
        .min(u64::try_from(by_bytes).unwrap_or(u64::MAX))
        .max(1)
}

fn needs_rewrite_alone(f: &FragmentFacts, bounds: &TaskBounds) -> bool {
    f.deleted > 0 && f.deleted as f64 >= f.rows as f64 * bounds.max_deleted_ratio
}

/// Whether a fragment is small enough to be merged with its neighbours: under half of the target, so that merging two
/// candidates can never give one again and again.
fn is_small(f: &FragmentFacts, target: u64) -> bool {
    f.live() < target.min(f.fitting_rows()).div_ceil(2)
}

/// Whether a rewrite would improve it.
fn is_candidate(f: &FragmentFacts, target: u64, bounds: &TaskBounds) -> bool {
    !f.held && (is_small(f, target) || needs_rewrite_alone(f, bounds))
}

/// How many fragments are small or hold too many deleted rows.
pub fn candidates(fragments: &[FragmentFacts], bounds: &TaskBounds) -> usize {
    let target = row_target(fragments, bounds);
    fragments
        .iter()
        .filter(|f| is_candidate(f, target, bounds))
        .count()
}

/// Groups `fragments` (in table order) into tasks, the coldest first: what writers delete from now is most likely what they
/// delete from next, and the later that is rewritten, the less of it is rewritten for nothing.
pub fn plan_tasks(fragments: &[FragmentFacts], bounds: &TaskBounds) -> Vec<Task> {
    let target = row_target(fragments, bounds);
    let mut tasks = Vec::new();
    let mut run: Vec<&FragmentFacts> = Vec::new();
    for fragment in fragments {
        if !is_candidate(fragment, target, bounds) {
            close(&mut run, bounds, target, &mut tasks);
            continue;
        }
        let rows: u64 = run.iter().map(|f| f.live()).sum();
        let size: u64 = run.iter().map(|f| f.size()).sum();
        let most = fitting_rows(&run).min(fragment.fitting_rows()).min(target);
        let full = run.len() >= bounds.max_fragments
            || size + fragment.size() > bounds.max_input_bytes
            || rows + fragment.live() > most.min(bounds.max_input_rows)
            || run
                .last()
                .is_some_and(|last| last.indexes != fragment.indexes);
        if full {
            close(&mut run, bounds, target, &mut tasks);
        }
        run.push(fragment);
    }
    close(&mut run, bounds, target, &mut tasks);
    tasks.sort_by_key(|task| task.touched);
    tasks
}

/// How many of `tasks` are committed together: at most `most` of them, and no more bytes than one task may read, so that what
/// is finished does not wait long for what is not, and a lost commit has little to lose.
pub fn fitting(tasks: &[Task], bounds: &TaskBounds, most: usize) -> usize {
    let mut bytes = 0_u64;
    let fits = |task: &&Task| {
        bytes = bytes.saturating_add(task.bytes);
        bytes <= bounds.max_input_bytes
    };
    let fitting = tasks.iter().take(most.max(1)).take_while(fits).count();
    fitting.max(1).min(tasks.len())
}

fn fitting_rows(run: &[&FragmentFacts]) -> u64 {
    let fitting = run.iter().map(|f| f.fitting_rows());
    fitting.min().unwrap_or(u64::MAX)
}

/// Ends a run of neighbours.
fn close(run: &mut Vec<&FragmentFacts>, bounds: &TaskBounds, target: u64, tasks: &mut Vec<Task>) {
    settle(&std::mem::take(run), bounds, target, tasks);
}

/// Makes a task of a run of neighbours, if rewriting it gains something.
fn settle(kept: &[&FragmentFacts], bounds: &TaskBounds, target: u64, tasks: &mut Vec<Task>) {
    // A fragment larger than all others together waits until they have grown: each row is then rewritten at most once
    // per doubling, not once per pass. It stands first, or, where writers appended under its own rewrite, behind them.
    let all: u64 = kept.iter().map(|f| f.live()).sum();
    let waits = |f: &&FragmentFacts| 2 * f.live() > all && !needs_rewrite_alone(f, bounds);
    if kept.len() > 1
        && let Some(large) = kept.iter().position(waits)
    {
        settle(&kept[..large], bounds, target, tasks);
        settle(&kept[large + 1..], bounds, target, tasks);
        return;
    }
    let worth = kept.len() > 1 || kept.iter().any(|f| needs_rewrite_alone(f, bounds));
    if worth {
        let fitting = fitting_rows(kept);
        let live: u64 = kept.iter().map(|f| f.live()).sum();
        // Lance spreads the rest over its outputs: one has less than twice its target.
        let target_rows = match live > fitting {
            true => target.min(fitting.div_ceil(2)),
            false => target,
        };
        tasks.push(Task {
            fragments: kept.iter().map(|f| f.id).collect(),
            bytes: kept.iter().map(|f| f.bytes).sum(),
            written: kept.iter().map(|f| f.live_bytes()).sum(),
            outputs: (live / target_rows.max(1)).max(u64::from(live > 0)),
            remapped: 0,
            touched: kept.iter().map(|f| f.touched).max().unwrap_or(0),
            target_rows,
            widest_row: kept.iter().map(|f| f.widest_row).max().unwrap_or(0),
        });
    }
}

#[cfg(test)]
#[path = "tasks_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "tasks_properties.rs"]
mod properties;
