//! Compaction tasks: which fragments are rewritten together. Pure.
//!
//! Lance's own planner picks by rows alone, so tables of wide rows never converge, and a `max_source_*` budget that
//! the first candidate exceeds gives an empty plan (fact 10). Here the row target follows from bytes per row, a
//! budget splits instead of refusing, and a large fragment is not rewritten again and again for a small tail.

/// One fragment as planning sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct FragmentFacts {
    /// Lance's fragment id.
    pub id: u64,
    /// Rows written.
    pub rows: u64,
    /// Rows deleted.
    pub deleted: u64,
    /// Bytes of its data files.
    pub bytes: u64,
    /// Which indexes cover it, as positions; a task never mixes coverage, or an index would lose rows.
    pub indexes: Vec<usize>,
}

impl FragmentFacts {
    /// Rows that a reader sees.
    pub fn live(&self) -> u64 {
        self.rows.saturating_sub(self.deleted)
    }
}

/// Bounds of one compaction.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskBounds {
    /// Rows that a fragment should have.
    pub target_rows: u64,
    /// Fragments that one task reads at most.
    pub max_fragments: usize,
    /// Bytes that one task reads at most.
    pub max_input_bytes: u64,
    /// Bytes that one output fragment should have at most.
    pub max_output_bytes: u64,
    /// The share of deleted rows from which a fragment is rewritten on its own.
    pub max_deleted_ratio: f64,
}

/// One task: adjacent fragments that become one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    /// The fragments' ids, in table order.
    pub fragments: Vec<u64>,
    /// Bytes that it reads.
    pub bytes: u64,
}

/// The rows that a fragment of this table should have, by its own bytes per row.
pub fn row_target(fragments: &[FragmentFacts], bounds: &TaskBounds) -> u64 {
    let rows: u64 = fragments.iter().map(|f| f.rows).sum();
    let bytes: u64 = fragments.iter().map(|f| f.bytes).sum();
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
    f.live() < target.div_ceil(2)
}

/// How many fragments are small or hold too many deleted rows.
pub fn candidates(fragments: &[FragmentFacts], bounds: &TaskBounds) -> usize {
    let target = row_target(fragments, bounds);
    fragments
        .iter()
        .filter(|f| is_small(f, target) || needs_rewrite_alone(f, bounds))
        .count()
}

/// Groups `fragments` (in table order) into tasks.
pub fn plan_tasks(fragments: &[FragmentFacts], bounds: &TaskBounds) -> Vec<Task> {
    let target = row_target(fragments, bounds);
    let mut tasks = Vec::new();
    let mut run: Vec<&FragmentFacts> = Vec::new();
    for fragment in fragments {
        let joins = is_small(fragment, target) || needs_rewrite_alone(fragment, bounds);
        if !joins {
            close(&mut run, bounds, &mut tasks);
            continue;
        }
        let rows: u64 = run.iter().map(|f| f.live()).sum();
        let bytes: u64 = run.iter().map(|f| f.bytes).sum();
        let full = run.len() >= bounds.max_fragments
            || bytes + fragment.bytes > bounds.max_input_bytes
            || rows + fragment.live() > target
            || run
                .last()
                .is_some_and(|last| last.indexes != fragment.indexes);
        if full {
            close(&mut run, bounds, &mut tasks);
        }
        run.push(fragment);
    }
    close(&mut run, bounds, &mut tasks);
    tasks
}

/// Ends a run of neighbours: keeps it if rewriting it gains something.
fn close(run: &mut Vec<&FragmentFacts>, bounds: &TaskBounds, tasks: &mut Vec<Task>) {
    let fragments = std::mem::take(run);
    let mut kept: &[&FragmentFacts] = &fragments;
    // A leading fragment larger than everything behind it waits until the tail has grown: each row is then
    // rewritten at most once per doubling, not once per pass.
    while let [first, rest @ ..] = kept {
        let tail: u64 = rest.iter().map(|f| f.live()).sum();
        if rest.is_empty() || needs_rewrite_alone(first, bounds) || first.live() <= tail {
            break;
        }
        kept = rest;
    }
    let worth = kept.len() > 1 || kept.iter().any(|f| needs_rewrite_alone(f, bounds));
    if worth {
        tasks.push(Task {
            fragments: kept.iter().map(|f| f.id).collect(),
            bytes: kept.iter().map(|f| f.bytes).sum(),
        });
    }
}

#[cfg(test)]
#[path = "tasks_tests.rs"]
mod tests;
