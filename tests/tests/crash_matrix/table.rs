//! The matrix as a table, after a run: `make matrix`.

use crate::catalogue::{ELSEWHERE, OPERATIONS};
use crate::{Action, Operation, Row};
use squire_failpoints::{Guard, Seam};
use std::collections::BTreeSet;
use std::io::Write;
use std::path::PathBuf;

/// Where every cell that ended well leaves a line.
fn notes() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("crash_matrix.tsv")
}

fn line(operation: &Operation, action: Action, row: &Row) -> String {
    let (name, action) = (operation.name, action.name());
    format!("{name}\t{action}\t{}\t{}", row.seam, row.nth)
}

/// Notes that a cell ended well.
pub fn note(operation: &Operation, action: Action, row: &Row) {
    note_line(line(operation, action, row));
}

fn guard_line(guard: Guard) -> String {
    format!("guard\t{}", guard.name())
}

/// Notes that the cell of a guard ended well.
pub fn note_guard(guard: Guard) {
    note_line(guard_line(guard));
}

fn note_line(line: String) {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(notes())
        .expect("the notes");
    let line = line + "\n";
    file.write_all(line.as_bytes()).expect("a note");
}

/// Every seam of the catalogue stands in the matrix, or the data says where else.
#[test]
fn every_seam_of_the_catalogue_has_its_place() {
    let rows = OPERATIONS
        .iter()
        .flat_map(|o| o.rows.iter().map(|r| r.seam));
    let out = OPERATIONS
        .iter()
        .flat_map(|o| o.left_out.iter().map(|r| r.seam));
    let elsewhere = ELSEWHERE.iter().map(|(seam, _)| *seam);
    let placed: BTreeSet<&str> = rows.chain(out).chain(elsewhere).collect();
    let all: BTreeSet<&str> = Seam::ALL.iter().map(|s| s.name()).collect();
    assert_eq!(placed, all);
}

/// Prints the table and fails when a cell of the data did not end well since the notes were last removed.
#[test]
#[ignore = "it tells of a run of all cells: make matrix"]
fn matrix_of_the_last_run() {
    let text = std::fs::read_to_string(notes()).expect("a run of the matrix");
    let ended: BTreeSet<&str> = text.lines().collect();
    let mut missing = Vec::new();
    let mut total = (0, 0);
    println!(
        "{:<18} {:>5} {:>6} {:>7} {:>15} {:>16} {:>18} {:>7}",
        "operation",
        "rows",
        "seams",
        "killed",
        "stopped:commit",
        "stopped:resolve",
        "stopped:cleaned up",
        "failed"
    );
    for operation in OPERATIONS {
        let seams: BTreeSet<&str> = operation.rows.iter().map(|r| r.seam).collect();
        let passed = Action::ALL.map(|action| {
            let mut passed = 0;
            for row in operation.rows {
                let line = line(operation, action, row);
                if ended.contains(line.as_str()) {
                    passed += 1;
                } else {
                    missing.push(line);
                }
            }
            total = (total.0 + operation.rows.len(), total.1 + passed);
            passed
        });
        let [killed, commit, resolve, cleaned, failed] = passed;
        println!(
            "{:<18} {:>5} {:>6} {killed:>7} {commit:>15} {resolve:>16} {cleaned:>18} {failed:>7}",
            operation.name,
            operation.rows.len(),
            seams.len()
        );
    }
    for guard in Guard::ALL {
        let line = guard_line(*guard);
        total.0 += 1;
        if ended.contains(line.as_str()) {
            total.1 += 1;
        } else {
            missing.push(line);
        }
        println!("guard {:<16} {}", guard.name(), guard.seen_by());
    }
    for operation in OPERATIONS {
        for out in operation.left_out {
            println!(
                "left out: {} {} #{}: {}",
                operation.name, out.seam, out.nth, out.reason
            );
        }
    }
    for (seam, reason) in ELSEWHERE {
        println!("elsewhere: {seam}: {reason}");
    }
    let seams: BTreeSet<&str> = OPERATIONS
        .iter()
        .flat_map(|o| o.rows.iter().map(|r| r.seam))
        .collect();
    println!(
        "{} cells, {} passed, {} of {} seams reached",
        total.0,
        total.1,
        seams.len(),
        Seam::ALL.len()
    );
    assert!(
        missing.is_empty(),
        "did not end well:\n{}",
        missing.join("\n")
    );
}
