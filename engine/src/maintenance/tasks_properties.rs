//! What holds of every plan, on tables and bounds made at random. A failure names the seed of its table.

use super::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const TABLES: u64 = 3_000;

fn random_bounds(random: &mut StdRng) -> TaskBounds {
    TaskBounds {
        target_rows: random.random_range(1..5_000),
        max_fragments: random.random_range(1..40),
        max_input_bytes: 1 << random.random_range(10..40),
        max_input_rows: match random.random_bool(0.8) {
            true => u64::MAX,
            false => random.random_range(1..5_000),
        },
        max_output_bytes: 1 << random.random_range(10..40),
        max_deleted_ratio: random.random_range(0.01..1.0),
    }
}

fn random_table(random: &mut StdRng) -> Vec<FragmentFacts> {
    let (most_rows, row_bytes) = (
        1 << random.random_range(0..13),
        random.random_range(1..2_000),
    );
    let (deletes, covered) = (random.random_bool(0.5), random.random_bool(0.5));
    let fragments = random.random_range(0..120);
    let fragment = |id| {
        let rows: u64 = random.random_range(1..=most_rows);
        let is_touched = deletes && random.random_bool(0.3);
        FragmentFacts {
            id,
            rows,
            deleted: if is_touched {
                random.random_range(0..rows)
            } else {
                0
            },
            bytes: rows * row_bytes,
            row_bytes: row_bytes * 2,
            widest_row: row_bytes * 3,
            row_items: row_bytes,
            indexes: if covered && random.random_bool(0.9) {
                vec![0]
            } else {
                vec![]
            },
            touched: if is_touched {
                random.random_range(1..1_000)
            } else {
                0
            },
            held: random.random_bool(0.02),
        }
    };
    (0..fragments).map(fragment).collect()
}

/// The table after `tasks`: Lance spreads the rows of each over its outputs, where the first of the fragments stood.
fn rewritten(table: &[FragmentFacts], tasks: &[Task]) -> Vec<FragmentFacts> {
    let mut next = table.iter().map(|f| f.id).max().unwrap_or(0);
    let mut after = Vec::new();
    for fragment in table {
        let task = tasks.iter().find(|t| t.fragments.contains(&fragment.id));
        let Some(task) = task else {
            after.push(fragment.clone());
            continue;
        };
        if task.fragments[0] != fragment.id {
            continue;
        }
        let of_task = table.iter().filter(|f| task.fragments.contains(&f.id));
        let live: u64 = of_task.map(FragmentFacts::live).sum();
        for output in 0..task.outputs {
            next += 1;
            let rows = (live + output) / task.outputs;
            after.push(FragmentFacts {
                id: next,
                rows,
                deleted: 0,
                bytes: rows * (fragment.bytes / fragment.rows),
                touched: 0,
                ..fragment.clone()
            });
        }
    }
    after
}

fn of<'a>(table: &'a [FragmentFacts], task: &Task) -> Vec<&'a FragmentFacts> {
    table
        .iter()
        .filter(|f| task.fragments.contains(&f.id))
        .collect()
}

fn for_each(check: impl Fn(u64, Vec<FragmentFacts>, TaskBounds)) {
    for seed in 0..TABLES {
        let mut random = StdRng::seed_from_u64(seed);
        let bounds = random_bounds(&mut random);
        check(seed, random_table(&mut random), bounds);
    }
}

#[test]
fn every_task_is_bounded_uniform_and_worth_it() {
    for_each(|seed, table, bounds| {
        let tasks = plan_tasks(&table, &bounds);
        let mut seen = HashSet::new();
        for task in &tasks {
            let fragments = of(&table, task);
            let rows: u64 = fragments.iter().map(|f| f.live()).sum();
            let size: u64 = fragments.iter().map(|f| f.size()).sum();
            let alone = fragments.len() == 1;
            assert!(
                fragments.len() <= bounds.max_fragments.max(1),
                "seed {seed}"
            );
            assert!(alone || size <= bounds.max_input_bytes, "seed {seed}");
            assert!(alone || rows <= bounds.max_input_rows, "seed {seed}");
            assert!(
                fragments.iter().all(|f| !f.held && seen.insert(f.id)),
                "seed {seed}"
            );
            assert!(
                fragments.windows(2).all(|f| f[0].indexes == f[1].indexes),
                "seed {seed}"
            );
            assert!(
                fragments.windows(2).all(|f| f[0].id + 1 == f[1].id),
                "seed {seed}"
            );
            assert!(
                task.merged() > 0 || task.reclaimed() > 0 || alone,
                "seed {seed}: {task:?}"
            );
            assert!(task.written <= task.bytes, "seed {seed}");
        }
        assert!(tasks.is_sorted_by_key(|task| task.touched), "seed {seed}");
        let left = left(&table, &tasks, &bounds);
        let all = seen.len() as u64 + left.iter().map(|l| l.fragments).sum::<u64>();
        assert_eq!(all, table.len() as u64, "seed {seed}");
    });
}

/// A plan's own output gives no plan.
#[test]
fn planning_its_own_output_yields_nothing() {
    for_each(|seed, table, bounds| {
        let bounds = TaskBounds {
            max_fragments: usize::MAX,
            max_input_bytes: u64::MAX,
            max_input_rows: u64::MAX,
            ..bounds
        };
        let after = rewritten(&table, &plan_tasks(&table, &bounds));
        let again = plan_tasks(&after, &bounds);
        assert!(again.is_empty(), "seed {seed}: {again:?}");
    });
}

/// Where what a task may take ends it, a few plans more are needed.
#[test]
fn planning_comes_to_an_end() {
    for_each(|seed, mut table, bounds| {
        for pass in 0.. {
            let tasks = plan_tasks(&table, &bounds);
            if tasks.is_empty() {
                break;
            }
            assert!(
                pass < 16,
                "seed {seed}: {} fragments, {tasks:?}",
                table.len()
            );
            table = rewritten(&table, &tasks);
        }
    });
}

/// A fragment is read again only where at least as many rows join it, or enough of its own are deleted.
#[test]
fn nothing_is_rewritten_for_a_small_tail() {
    for_each(|seed, mut table, bounds| {
        // As often as it takes, and a planner that does not come to an end fails elsewhere.
        for _ in 0..16 {
            table = rewritten(&table, &plan_tasks(&table, &bounds));
        }
        let fragment = FragmentFacts {
            id: 1_000_000,
            rows: 1,
            bytes: 1,
            ..FragmentFacts::default()
        };
        table.push(fragment);
        for task in plan_tasks(&table, &bounds) {
            let fragments = of(&table, &task);
            let all: u64 = fragments.iter().map(|f| f.live()).sum();
            let settled =
                |f: &&FragmentFacts| 2 * f.live() <= all || needs_rewrite_alone(f, &bounds);
            assert!(fragments.iter().all(settled), "seed {seed}: {fragments:?}");
        }
    });
}

#[test]
fn bytes_bound_what_is_written_into_one_fragment() {
    for_each(|seed, table, bounds| {
        for task in plan_tasks(&table, &bounds) {
            let fragments = of(&table, &task);
            let live: u64 = fragments.iter().map(|f| f.live()).sum();
            let widest = fragments.iter().map(|f| f.row_bytes).max().unwrap_or(0);
            let fits = u128::from(live / task.outputs.max(1)) * u128::from(widest)
                <= 2 * u128::from(bounds.max_output_bytes.max(widest));
            assert!(fits || fragments.len() == 1, "seed {seed}: {task:?}");
        }
    });
}
