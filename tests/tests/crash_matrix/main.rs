//! The crash matrix: every operation, at every time that it passes a seam, killed, stopped or made to fail, as a process
//! of its own.
//!
//! * [`crash_matrix`] is the data: for each operation the seams that it passes and what must come of it there. Each
//!   cell is a test, `crash_matrix::<operation>::<action>::<seam>_<nth>`.
//! * [`catalogue`] lists the operations, and the seams that are armed elsewhere.
//! * [`subject`] says what each operation is: what stands before it, its command, what it does to the rows.
//! * [`stories`] is what happens in a cell, one story for each action; [`plain`] the same for runs on plain tables.
//! * [`ends`] is how every cell ends: the invariants that can be seen from outside, rows that are the committed
//!   operations in order at every version, a second daemon pass that does nothing, a reader that still reads.
//! * [`guards`] has one cell more for each guard of the protocol, and shows that without the guard it is red.
//! * [`table`] prints the matrix after a run and fails when a cell is missing: `make matrix`.
//!
//! The data is complete or a test is red: `passes_its_seams` runs each operation with all its seams logged and compares.

mod catalogue;
#[path = "matrix.rs"]
mod crash_matrix;
mod ends;
mod guards;
mod plain;
mod stories;
mod subject;
mod table;

use subject::Subject;

/// What becomes of an operation that ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It left no sidecar and no effect.
    Nothing,
    /// It left a sidecar, which others clear away, and has no effect.
    Dropped,
    /// It has its effect: it stood already, or others complete it.
    Done,
}

/// What an operation says that met an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    /// It found its way: exit 0.
    Success,
    /// It reports the failure.
    Failure,
}

/// One time that an operation passes a seam.
#[derive(Debug, Clone, Copy)]
struct Row {
    seam: &'static str,
    nth: usize,
    /// What becomes of it when it is killed there.
    killed: Fate,
    /// What it says when the step fails there once, and what becomes of it then.
    failed: (Says, Fate),
}

/// A time that an operation passes a seam and that has no cells.
#[derive(Debug, Clone, Copy)]
struct LeftOut {
    seam: &'static str,
    nth: usize,
    reason: &'static str,
}

/// The part of the matrix of one operation.
#[derive(Debug, Clone, Copy)]
struct Operation {
    name: &'static str,
    subject: Subject,
    rows: &'static [Row],
    left_out: &'static [LeftOut],
}

/// How an operation goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// SIGKILL; then another process and the daemon go on.
    Killed,
    /// SIGSTOP; others write to the same tables, recover and maintain; SIGCONT.
    StoppedWhileOthersCommit,
    /// SIGSTOP; others only recover, so that its slots are still free; SIGCONT.
    StoppedWhileOthersResolve,
    /// SIGSTOP; others go on until even what it stands on is cleaned up; SIGCONT.
    StoppedUntilCleanedUp,
    /// The step fails, once. Before the effect or, at a seam behind one, after it.
    Failed,
}

impl Action {
    const ALL: [Self; 5] = [
        Self::Killed,
        Self::StoppedWhileOthersCommit,
        Self::StoppedWhileOthersResolve,
        Self::StoppedUntilCleanedUp,
        Self::Failed,
    ];

    /// The name of its module.
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::StoppedWhileOthersCommit => "stopped_while_others_commit",
            Self::StoppedWhileOthersResolve => "stopped_while_others_resolve",
            Self::StoppedUntilCleanedUp => "stopped_until_cleaned_up",
            Self::Failed => "failed",
        }
    }
}
