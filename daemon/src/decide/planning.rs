//! Planning: what should happen to one table, and why. Pure.

use crate::config::Policy;
use serde::{Deserialize, Serialize};
use squire_engine::maintenance::tasks::{Task, TaskBounds};
use squire_engine::maintenance::{CompactionLimits, CompactionPlan, TableHealth};

/// Tasks per compaction commit: a lost race costs at most eight rewrites, and an index is remapped once per eight.
const TASKS_PER_COMMIT: usize = 8;

/// A kind of maintenance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OperationKind {
    Cleanup,
    Compact,
    Reindex,
}

impl OperationKind {
    pub(crate) const ALL: [Self; 3] = [Self::Cleanup, Self::Compact, Self::Reindex];

    /// The kind of that name; compaction goes by that of its command, too.
    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            "optimize" => Some(Self::Compact),
            name => Self::ALL.into_iter().find(|kind| kind.as_str() == name),
        }
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cleanup => "cleanup",
            Self::Compact => "compact",
            Self::Reindex => "reindex",
        }
    }
}

/// Something that should happen to a table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct OperationSpec {
    pub(crate) kind: OperationKind,
    pub(crate) reason: String,
    /// How far past its threshold the table is; 1.0 is just there.
    pub(crate) debt: f64,
    /// Bytes that it may write before a cleanup frees what they replace.
    pub(crate) needs: u64,
}

/// The decision about one table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct TablePlan {
    pub(crate) table: String,
    pub(crate) operations: Vec<OperationSpec>,
    /// Why nothing (more) is planned.
    pub(crate) otherwise: String,
    /// Why what is over a threshold of compaction cannot be compacted.
    pub(crate) left_alone: Option<String>,
}

/// The bounds of compaction tasks that a policy sets.
pub(crate) fn bounds(policy: &Policy) -> TaskBounds {
    TaskBounds {
        target_rows: policy.target_rows_per_fragment as u64,
        max_fragments: policy.max_task_fragments,
        max_input_rows: u64::MAX,
        max_input_bytes: policy.max_task_input,
        max_output_bytes: policy.max_task_output,
        max_deleted_ratio: policy.max_deleted_ratio,
    }
}

/// The limits of a compaction run that a policy sets.
pub(crate) fn limits(policy: &Policy) -> CompactionLimits {
    CompactionLimits {
        bounds: bounds(policy),
        tasks_per_commit: TASKS_PER_COMMIT,
        commit_after: policy.commit_after,
        verify: policy.verify,
    }
}

/// Bytes that an attempt is believed to hold at once: what one task reads, or the table for an index build.
pub(crate) fn memory_estimate(kind: OperationKind, table_bytes: u64, policy: &Policy) -> u64 {
    match kind {
        OperationKind::Compact => table_bytes.min(policy.max_task_input),
        OperationKind::Reindex => table_bytes,
        OperationKind::Cleanup => 0,
    }
}

/// Bytes that an attempt of `kind` may write: a compaction what it rewrites, and the indexes that follow once for each
/// commit; a reindex the indexes that it extends, each anew. What an index will take that is not built yet is not known.
pub(crate) fn disk_estimate(
    kind: OperationKind,
    health: &TableHealth,
    rewrites: &CompactionPlan,
) -> u64 {
    match kind {
        OperationKind::Compact => {
            let commits = rewrites.tasks.chunks(TASKS_PER_COMMIT);
            let of = |tasks: &[Task]| {
                let remapped = tasks.iter().map(|task| task.remapped).max();
                tasks.iter().map(|task| task.written).sum::<u64>() + remapped.unwrap_or(0)
            };
            commits.map(of).sum()
        }
        OperationKind::Reindex => {
            let behind = health.indexes.iter().filter(|i| i.unindexed_rows > 0);
            behind.map(|index| index.bytes).sum()
        }
        OperationKind::Cleanup => 0,
    }
}

/// Decides what `health` needs under `policy`. `rewrites` is what a compaction would do: a table that is over a threshold
/// but has no task that leaves the candidate set is left alone, or it would be rewritten for ever.
pub(crate) fn plan(health: &TableHealth, rewrites: &CompactionPlan, policy: &Policy) -> TablePlan {
    let mut operations = Vec::new();
    let slower = slowed(health, policy);
    let compaction = compaction_due(health, policy, slower.as_ref());
    let stuck = compaction.is_ok() && rewrites.tasks.is_empty();
    let left_alone = rewrites.left_alone.clone().filter(|_| stuck);
    let otherwise = match (&compaction, &left_alone) {
        (_, Some(why)) => why.clone(),
        (Ok(due), None) if stuck => format!("{}, but no task would reduce them", due.reason),
        (Ok(_), None) => String::from("nothing else is over its threshold"),
        (Err(reason), None) => reason.clone(),
    };
    let compaction = compaction.ok().filter(|_| !stuck);
    operations.extend(compaction);
    operations.extend(plan_reindex(health, policy, slower.as_ref()));
    operations.extend(plan_cleanup(health, policy));
    for spec in &mut operations {
        spec.needs = disk_estimate(spec.kind, health, rewrites);
    }
    TablePlan {
        table: health.table.clone(),
        operations,
        otherwise,
        left_alone,
    }
}

/// Below so many bytes of maintenance nobody feels how often they were written.
const SMALL: u64 = 256 << 20;

/// A table waits at most so many times as long for its next compaction or reindex.
const SLOWEST: f64 = 64.0;

/// However slow a table is, so large a share of its rows is past any threshold.
const MOST_OF_ALL: f64 = 0.9;

/// That a table waits longer for its compaction and its reindex.
struct Slower {
    /// How many times the threshold.
    times: f64,
    why: String,
}

/// How many times its thresholds a table waits for.
fn times(slower: Option<&Slower>) -> f64 {
    slower.map_or(1.0, |slower| slower.times)
}

/// A threshold of a share of the rows, for a table that waits so many `times` as long.
fn share(threshold: f64, times: f64) -> f64 {
    (threshold * times).min(threshold.max(MOST_OF_ALL))
}

/// `reason`, and why it took so long.
fn because(reason: String, slower: Option<&Slower>) -> String {
    match slower {
        Some(slower) => format!("{reason}, {}", slower.why),
        None => reason,
    }
}

/// Whether maintenance has lately written more for `health` than `policy` allows for what users wrote.
fn slowed(health: &TableHealth, policy: &Policy) -> Option<Slower> {
    let recent = health.ledger.as_ref()?.recent;
    let ratio = recent.amplification();
    let limit = policy.max_amplification;
    if recent.maintained() < SMALL || ratio <= limit {
        return None;
    }
    let times = (ratio / limit).ceil().min(SLOWEST);
    let why = format!(
        "slowed {times} times: maintenance lately wrote {ratio:.1} bytes for each byte found or written by users, limit {limit} (max_amplification)"
    );
    Some(Slower { times, why })
}

/// The compaction that a threshold asks for, or why none does.
fn compaction_due(
    health: &TableHealth,
    policy: &Policy,
    slower: Option<&Slower>,
) -> Result<OperationSpec, String> {
    let times = times(slower);
    let candidates = health.candidate_fragments;
    let threshold = (policy.min_candidate_fragments as f64 * times) as u64;
    let most_deleted = share(policy.max_deleted_ratio, times);
    let stored = health.rows + health.deleted_rows;
    let deleted = if stored == 0 {
        0.0
    } else {
        health.deleted_rows as f64 / stored as f64
    };
    let (reason, debt) = if candidates >= threshold {
        (
            format!("{candidates} candidate fragments, threshold {threshold}"),
            candidates as f64 / threshold.max(1) as f64,
        )
    } else if health.deleted_rows > 0 && deleted >= most_deleted {
        (
            format!(
                "{:.0} % deleted rows, threshold {:.0} %",
                deleted * 100.0,
                most_deleted * 100.0
            ),
            deleted / most_deleted,
        )
    } else {
        let candidates = format!("{candidates} candidate fragments, threshold {threshold}");
        return Err(because(candidates, slower));
    };
    Ok(OperationSpec {
        kind: OperationKind::Compact,
        reason: because(reason, slower),
        debt,
        needs: 0,
    })
}

/// The reindex that an index asks for. One that is not built yet costs nothing for being there, so it waits no longer.
fn plan_reindex(
    health: &TableHealth,
    policy: &Policy,
    slower: Option<&Slower>,
) -> Option<OperationSpec> {
    let worst = |reason: String, debt: f64| {
        Some(OperationSpec {
            kind: OperationKind::Reindex,
            reason,
            debt,
            needs: 0,
        })
    };
    let times = times(slower);
    let most_rows = policy.max_unindexed_rows as f64 * times;
    let most = share(policy.max_unindexed_ratio, times);
    let oldest = policy.max_index_age.as_secs() as f64 * times;
    for index in &health.indexes {
        let rows = index.unindexed_rows;
        if index.missing {
            return worst(
                format!("index {} is declared and not built", index.name),
                1.0,
            );
        }
        // It cannot be extended; that it is tried says so, once.
        if let Some(why) = &index.damaged {
            return worst(format!("index {}: {why}", index.name), 1.0);
        }
        let ratio = rows as f64 / health.rows.max(1) as f64;
        let late = |reason: String, debt: f64| {
            let reason = format!("index {}: {reason}", index.name);
            worst(because(reason, slower), debt)
        };
        if rows as f64 >= most_rows {
            return late(format!("{rows} unindexed rows"), rows as f64 / most_rows);
        }
        if rows > 0 && ratio >= most {
            return late(
                format!("{:.0} % unindexed rows", ratio * 100.0),
                ratio / most,
            );
        }
        if let Some(age) = index.stale_seconds.filter(|age| *age as f64 >= oldest) {
            return late(
                format!("{rows} unindexed rows for {age} s"),
                age as f64 / oldest.max(1.0),
            );
        }
    }
    None
}

fn plan_cleanup(health: &TableHealth, policy: &Policy) -> Option<OperationSpec> {
    let over = health.versions >= policy.max_versions;
    over.then(|| OperationSpec {
        kind: OperationKind::Cleanup,
        reason: format!(
            "{} versions, threshold {}",
            health.versions, policy.max_versions
        ),
        debt: health.versions as f64 / policy.max_versions.max(1) as f64,
        needs: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use squire_engine::maintenance::{Account, Amounts, IndexHealth};

    fn health() -> TableHealth {
        TableHealth {
            table: "t".into(),
            pin: 5,
            head: 5,
            versions: 5,
            fragments: 3,
            candidate_fragments: 3,
            rows: 1_000,
            deleted_rows: 0,
            bytes: 1,
            indexes: Vec::new(),
            ..TableHealth::default()
        }
    }

    fn rewrites(tasks: usize) -> CompactionPlan {
        let task = Task {
            fragments: vec![0, 1],
            bytes: 2,
            target_rows: 2,
            ..Task::default()
        };
        let mut rewrites = CompactionPlan::default();
        rewrites.tasks = vec![task; tasks];
        rewrites
    }

    fn kinds(health: &TableHealth, tasks: usize) -> Vec<OperationKind> {
        plan(health, &rewrites(tasks), &Policy::default())
            .operations
            .iter()
            .map(|o| o.kind)
            .collect()
    }

    #[test]
    fn a_healthy_table_is_left_alone_with_a_reason() {
        let plan = plan(&health(), &rewrites(0), &Policy::default());
        assert!(plan.operations.is_empty());
        assert_eq!(plan.otherwise, "3 candidate fragments, threshold 16");
    }

    #[test]
    fn each_threshold_asks_for_its_operation() {
        let many = TableHealth {
            candidate_fragments: 16,
            ..health()
        };
        assert_eq!(kinds(&many, 1), vec![OperationKind::Compact]);
        let deleted = TableHealth {
            deleted_rows: 200,
            ..health()
        };
        assert_eq!(kinds(&deleted, 1), vec![OperationKind::Compact]);
        let versions = TableHealth {
            versions: 2_000,
            ..health()
        };
        assert_eq!(kinds(&versions, 0), vec![OperationKind::Cleanup]);
        let index = |unindexed_rows, stale_seconds, missing| TableHealth {
            indexes: vec![IndexHealth {
                name: "i".into(),
                unindexed_rows,
                stale_seconds,
                missing,
                damaged: None,
                bytes: 0,
                fingerprint: 0,
            }],
            ..health()
        };
        assert_eq!(
            kinds(&index(100, Some(0), false), 0),
            vec![OperationKind::Reindex]
        );
        assert_eq!(
            kinds(&index(1, Some(3_600), false), 0),
            vec![OperationKind::Reindex]
        );
        assert_eq!(
            kinds(&index(0, None, true), 0),
            vec![OperationKind::Reindex]
        );
        assert_eq!(kinds(&index(1, Some(10), false), 0), vec![]);
        let mut damaged = index(0, None, false);
        damaged.indexes[0].damaged = Some("its file is gone".into());
        let planned = plan(&damaged, &rewrites(0), &Policy::default());
        assert_eq!(planned.operations[0].reason, "index i: its file is gone");
    }

    /// Users wrote a gigabyte; each further one of maintenance counts.
    #[test]
    fn a_table_that_costs_too_much_is_slowed_with_its_reason() {
        let costing = |gigabytes: u64, candidate_fragments| {
            let amounts = Amounts {
                written: 1 << 30,
                rewritten: gigabytes << 29,
                wasted: gigabytes << 29,
                ..Amounts::default()
            };
            let ledger = Account {
                recent: amounts,
                ..Account::default()
            };
            TableHealth {
                candidate_fragments,
                ledger: Some(ledger),
                ..health()
            }
        };
        assert_eq!(kinds(&costing(10, 16), 1), [OperationKind::Compact]);
        assert_eq!(kinds(&costing(25, 16), 1), []);
        let why = plan(&costing(25, 16), &rewrites(1), &Policy::default()).otherwise;
        assert!(
            why.contains("threshold 48")
                && why.contains("slowed 3 times")
                && why.contains("25.0 bytes"),
            "{why}"
        );
        let late = plan(&costing(25, 48), &rewrites(1), &Policy::default());
        assert!(late.operations[0].reason.contains("slowed 3 times"));
        let indexed = |gigabytes, unindexed_rows, missing| {
            let mut health = costing(gigabytes, 3);
            health.indexes = vec![IndexHealth {
                damaged: None,
                name: "i".into(),
                unindexed_rows,
                stale_seconds: Some(3_600),
                missing,
                bytes: 0,
                fingerprint: 0,
            }];
            kinds(&health, 0)
        };
        assert_eq!(indexed(0, 100, false), [OperationKind::Reindex]);
        assert_eq!(indexed(25, 100, false), [], "its reindex waits, too");
        assert_eq!(indexed(25, 400, false), [OperationKind::Reindex]);
        assert_eq!(indexed(25, 0, true), [OperationKind::Reindex]);
        let mut small = costing(25, 16);
        small.ledger.as_mut().expect("a ledger").recent = Amounts {
            written: 1,
            rewritten: 1 << 20,
            ..Amounts::default()
        };
        assert_eq!(kinds(&small, 1), [OperationKind::Compact]);
    }

    #[test]
    fn what_it_writes_is_known_before() {
        let mut large = rewrites(9);
        for task in &mut large.tasks {
            (task.written, task.remapped) = (100, 7);
        }
        let mut health = health();
        health.candidate_fragments = 16;
        health.indexes = [(200, 30), (0, 50)]
            .map(|(unindexed_rows, bytes)| IndexHealth {
                damaged: None,
                name: "i".into(),
                unindexed_rows,
                stale_seconds: None,
                missing: false,
                bytes,
                fingerprint: 0,
            })
            .to_vec();
        let planned = plan(&health, &large, &Policy::default());
        let needs: Vec<_> = planned
            .operations
            .iter()
            .map(|o| (o.kind, o.needs))
            .collect();
        let (compact, reindex) = (OperationKind::Compact, OperationKind::Reindex);
        assert_eq!(needs, [(compact, 9 * 100 + 2 * 7), (reindex, 30)]);
    }

    #[test]
    fn a_plan_that_would_not_converge_is_not_made() {
        let many = TableHealth {
            candidate_fragments: 16,
            ..health()
        };
        assert_eq!(kinds(&many, 0), vec![]);
        let mut held = rewrites(0);
        held.left_alone = Some("index i is broken".into());
        let held = plan(&many, &held, &Policy::default());
        assert_eq!(
            (held.operations.len(), &*held.otherwise),
            (0, "index i is broken")
        );
        assert_eq!(held.left_alone.as_deref(), Some("index i is broken"));
    }
}
