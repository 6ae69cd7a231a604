use super::*;

fn bounds() -> TaskBounds {
    TaskBounds {
        target_rows: 1_000,
        max_fragments: 32,
        max_input_rows: u64::MAX,
        max_input_bytes: 1 << 30,
        max_output_bytes: 1 << 29,
        max_deleted_ratio: 0.1,
    }
}

fn fragments(rows: &[u64]) -> Vec<FragmentFacts> {
    rows.iter()
        .enumerate()
        .map(|(id, rows)| FragmentFacts {
            id: id as u64,
            rows: *rows,
            bytes: rows * 100,
            ..FragmentFacts::default()
        })
        .collect()
}

fn ids(tasks: &[Task]) -> Vec<Vec<u64>> {
    tasks.iter().map(|t| t.fragments.clone()).collect()
}

#[test]
fn small_neighbours_are_merged_and_full_fragments_are_left() {
    let tasks = plan_tasks(&fragments(&[10, 10, 900, 10, 10]), &bounds());
    assert_eq!(ids(&tasks), vec![vec![0, 1], vec![3, 4]]);
}

#[test]
fn a_large_head_waits_for_its_tail() {
    assert_eq!(
        ids(&plan_tasks(&fragments(&[400, 10, 10]), &bounds())),
        vec![vec![1, 2]]
    );
    assert_eq!(
        ids(&plan_tasks(&fragments(&[100, 60, 60]), &bounds())),
        vec![vec![0, 1, 2]]
    );
    assert!(plan_tasks(&fragments(&[400, 10]), &bounds()).is_empty());
}

#[test]
fn a_large_fragment_waits_wherever_it_stands() {
    assert_eq!(
        ids(&plan_tasks(&fragments(&[10, 10, 400, 10, 10]), &bounds())),
        vec![vec![0, 1], vec![3, 4]]
    );
    assert_eq!(
        ids(&plan_tasks(&fragments(&[10, 10, 400]), &bounds())),
        vec![vec![0, 1]]
    );
    assert_eq!(
        ids(&plan_tasks(&fragments(&[200, 200, 400]), &bounds())),
        vec![vec![0, 1, 2]]
    );
}

/// A writer appends beside every pass, and its fragments land before those of the rewrite: whatever was there when the
/// pass was planned.
#[test]
fn rows_are_rewritten_once_per_doubling_beside_a_writer() {
    let bounds = TaskBounds {
        target_rows: 1 << 20,
        ..bounds()
    };
    let mut table: Vec<u64> = vec![500; 400];
    let (mut rewritten, mut appended) = (0_u64, 0_u64);
    for _ in 0..200 {
        let facts = fragments(&table);
        let tasks = plan_tasks(&facts, &bounds);
        let gone: Vec<u64> = tasks.iter().flat_map(|t| t.fragments.clone()).collect();
        let new = tasks.iter().map(|task| {
            let rows = task.fragments.iter().map(|id| table[*id as usize]);
            rows.sum::<u64>()
        });
        let new: Vec<u64> = new.collect();
        rewritten += new.iter().sum::<u64>();
        let stay = facts.iter().filter(|f| !gone.contains(&f.id));
        let mut next: Vec<u64> = stay.map(|f| f.rows).collect();
        next.extend([100; 20]);
        appended += 20 * 100;
        next.extend(new);
        table = next;
    }
    let all = 400 * 500 + appended;
    assert!(
        rewritten < 8 * all,
        "{rewritten} rows were rewritten of {all}"
    );
    assert!(table.len() < 60, "{} fragments", table.len());
}

#[test]
fn a_task_keeps_within_its_bounds_instead_of_giving_up() {
    let mut b = bounds();
    b.max_fragments = 2;
    assert_eq!(
        ids(&plan_tasks(&fragments(&[1, 1, 1, 1, 1]), &b)),
        vec![vec![0, 1], vec![2, 3]]
    );
    b.max_fragments = 32;
    b.max_input_bytes = 250;
    assert_eq!(
        ids(&plan_tasks(&fragments(&[1, 1, 1, 1]), &b)),
        vec![vec![0, 1], vec![2, 3]]
    );
}

#[test]
fn wide_rows_lower_the_row_target() {
    let mut wide = fragments(&[10, 10, 10, 10]);
    for f in &mut wide {
        f.bytes = 1 << 28;
    }
    // Half a gigabyte of output is 20 of these rows: a fragment of 10 is half of it and is left.
    assert_eq!(row_target(&wide, &bounds()), 20);
    assert!(plan_tasks(&wide, &bounds()).is_empty());
}

#[test]
fn many_deleted_rows_are_reason_enough() {
    let mut f = fragments(&[900, 900]);
    f[1].deleted = 90;
    assert_eq!(ids(&plan_tasks(&f, &bounds())), vec![vec![1]]);
}

#[test]
fn coverage_by_indexes_is_never_mixed() {
    let mut f = fragments(&[10, 10, 10, 10]);
    f[0].indexes = vec![0];
    f[1].indexes = vec![0];
    assert_eq!(
        ids(&plan_tasks(&f, &bounds())),
        vec![vec![0, 1], vec![2, 3]]
    );
}

/// 24 fragments of a hundred rows of a megabyte, stored in a few kilobytes.
#[test]
fn a_few_stored_bytes_count_as_what_they_become() {
    let mut hidden = fragments(&[100; 24]);
    for f in &mut hidden {
        (f.bytes, f.row_bytes, f.row_items) = (5_000, 1_000_000, 1_000_000);
        f.widest_row = 2_000_000;
    }
    let mut b = TaskBounds {
        target_rows: 1 << 20,
        max_input_rows: u64::MAX,
        max_input_bytes: 2 << 30,
        max_output_bytes: 1 << 30,
        ..bounds()
    };
    let sizes =
        |tasks: &[Task]| -> Vec<usize> { tasks.iter().map(|t| t.fragments.len()).collect() };
    let tasks = plan_tasks(&hidden, &b);
    assert_eq!(sizes(&tasks), [10, 10, 4]);
    assert!(
        tasks
            .iter()
            .all(|t| t.batch_rows(64 << 20) == Some(33) && t.batch_rows(1) == Some(1))
    );
    // However much a fragment may hold, its first batch must fit.
    b.max_output_bytes = 1 << 40;
    b.max_input_bytes = 1 << 40;
    assert_eq!(sizes(&plan_tasks(&hidden, &b)), [10, 10, 4]);
    // The plan's own output gives no plan.
    let mut done = fragments(&[1_000, 1_000, 400]);
    for f in &mut done {
        (f.bytes, f.row_bytes, f.row_items) = (50_000, 1_000_000, 1_000_000);
    }
    assert!(plan_tasks(&done, &b).is_empty());
}

#[test]
fn wide_fragments_among_narrow_ones_keep_their_own_measure() {
    let mut mixed = fragments(&[100; 64]);
    for f in &mut mixed[32..] {
        (f.row_bytes, f.row_items) = (1_000_000, 1_000_000);
    }
    let b = TaskBounds {
        target_rows: 1 << 20,
        max_fragments: 64,
        max_input_rows: u64::MAX,
        max_input_bytes: 1 << 40,
        max_output_bytes: 1 << 40,
        ..bounds()
    };
    let wide = |task: &Task| task.fragments.iter().filter(|id| **id >= 32).count();
    assert!(plan_tasks(&mixed, &b).iter().all(|t| wide(t) <= 10));
}

#[test]
fn a_fragment_that_is_rewritten_for_its_deletions_is_split_where_it_would_not_fit() {
    let mut f = fragments(&[4_000]);
    (f[0].deleted, f[0].row_items) = (1_000, 1 << 20);
    let b = TaskBounds {
        target_rows: 1 << 20,
        ..bounds()
    };
    // A thousand of these rows fit, and Lance writes up to twice its target.
    assert_eq!(plan_tasks(&f, &b)[0].target_rows, 512);
}

#[test]
fn what_is_held_is_left_and_separates() {
    let mut f = fragments(&[10, 10, 10, 10, 10]);
    f[2].held = true;
    assert_eq!(
        ids(&plan_tasks(&f, &bounds())),
        vec![vec![0, 1], vec![3, 4]]
    );
}

/// Every row is rewritten O(log n) times when a tail of one-row fragments keeps arriving.
#[test]
fn amplification_is_bounded() {
    let b = TaskBounds {
        target_rows: 1 << 20,
        ..bounds()
    };
    let mut table: Vec<u64> = Vec::new();
    let mut rewritten = 0;
    for arrived in 1..=4_096_u64 {
        table.push(1);
        if arrived.is_multiple_of(16) {
            for task in plan_tasks(&fragments(&table), &b).into_iter().rev() {
                let rows: u64 = task.fragments.iter().map(|i| table[*i as usize]).sum();
                rewritten += rows;
                let first = task.fragments[0] as usize;
                table.splice(first..first + task.fragments.len(), [rows]);
            }
        }
    }
    assert!(
        rewritten <= 4_096 * 13,
        "{rewritten} rows rewritten for 4096"
    );
    assert!(table.len() < 32, "{} fragments left", table.len());
}

#[test]
fn a_batch_is_bounded_in_tasks_and_in_bytes() {
    let of = |bytes: &[u64]| -> Vec<Task> {
        let task = |bytes: &u64| Task {
            fragments: vec![*bytes],
            bytes: *bytes,
            target_rows: 1,
            ..Task::default()
        };
        bytes.iter().map(task).collect()
    };
    let most = bounds().max_input_bytes;
    let sizes = |bytes: &[u64], at_most: usize| -> Vec<usize> {
        let mut tasks = of(bytes);
        let mut sizes = Vec::new();
        while !tasks.is_empty() {
            sizes.push(fitting(&tasks, &bounds(), at_most));
            tasks.drain(..fitting(&tasks, &bounds(), at_most));
        }
        sizes
    };
    assert_eq!(sizes(&[], 8), [0; 0]);
    assert_eq!(sizes(&[1; 20], 8), [8, 8, 4]);
    assert_eq!(sizes(&[most / 2, most / 2, 1], 8), [2, 1]);
    assert_eq!(sizes(&[1, most, u64::MAX, u64::MAX, 1], 8), [1, 1, 1, 1, 1]);
    assert_eq!(sizes(&[1, 1], 0), [1, 1]);
}
