//! What happens in a cell: one story for each action. All end in [`ends_well`].

use crate::ends::ends_well;
use crate::subject::{Scene, Subject};
use crate::{Action, Fate, Operation, Row, Says, plain, table};
use squire_tests::{Done, armed};
use std::collections::BTreeSet;

/// Plays one cell, and notes it when it ended well.
pub async fn play(operation: &Operation, action: Action, row: &Row) {
    if let Subject::Plain(subject) = operation.subject {
        return plain::play(subject, operation, action, row).await;
    }
    let scene = Scene::new(operation.subject).await;
    match action {
        Action::Killed => killed(&scene, row).await,
        Action::Failed => failed(&scene, row).await,
        Action::StoppedWhileOthersCommit
        | Action::StoppedWhileOthersResolve
        | Action::StoppedUntilCleanedUp => stopped(&scene, row, action).await,
    }
    ends_well(&scene).await;
    table::note(operation, action, row);
}

fn arm(row: &Row, action: &str) -> String {
    armed(row.seam, row.nth, action)
}

/// A cell whose seam was not reached proves nothing.
fn assert_reached(scene: &Scene, row: &Row) {
    let passed = scene.lake.seams_passed();
    let times = passed.iter().filter(|seam| *seam == row.seam).count();
    assert!(
        times >= row.nth,
        "the seam was passed {times} times: {passed:?}"
    );
}

async fn killed(scene: &Scene, row: &Row) {
    let done = scene.start(&arm(row, "kill")).wait();
    assert_eq!(done.code, None, "it was not killed: {done:?}");
    assert_reached(scene, row);
    let left = assert_left(scene, row.killed);
    assert_fate(scene, row.killed).await;
    for op in left {
        let outcome = scene.lake.outcome_of(&op);
        let committed = outcome == "committed";
        if scene.subject.is_write() || row.killed == Fate::Done {
            assert_eq!(committed, row.killed == Fate::Done, "{op} is {outcome}");
        }
    }
}

async fn failed(scene: &Scene, row: &Row) {
    let (says, fate) = row.failed;
    let done = scene.start(&arm(row, "error")).wait();
    assert_reached(scene, row);
    assert_eq!(done.code == Some(0), says == Says::Success, "{done:?}");
    assert!(done.code.is_some_and(|c| c != 101), "{done:?}");
    if scene.subject.is_write() {
        assert_answer(scene, &done);
    }
    assert_left(scene, fate);
    assert_fate(scene, fate).await;
    if scene.subject.is_write() {
        assert_answer(scene, &done);
    }
}

/// The sidecars that it left are those that its fate says.
fn assert_left(scene: &Scene, fate: Fate) -> Vec<String> {
    let left = scene.lake.sidecars();
    let fits = match fate {
        Fate::Nothing => left.is_empty(),
        Fate::Dropped => left.len() == 1,
        Fate::Done => left.len() <= 1,
    };
    assert!(fits, "{fate:?}, and these sidecars: {left:?}");
    left
}

/// Whoever comes next finds what was left, and then it has its effect or has not. What can be run again then succeeds.
async fn assert_fate(scene: &Scene, fate: Fate) {
    let subject = scene.subject;
    if subject.is_repair() {
        scene.lake.daemon_pass("0s").ok();
    } else if matches!(
        subject,
        Subject::Compact | Subject::Carry | Subject::Reindex | Subject::Create
    ) {
        scene.others_recover();
    } else if subject != Subject::Cleanup {
        scene.others_write();
        scene.lake.daemon_pass("0s").ok();
    }
    assert_eq!(scene.has_effect().await, fate == Fate::Done, "the effect");
    scene.repeat();
    scene.others_write_more();
}

async fn stopped(scene: &Scene, row: &Row, action: Action) {
    let lake = &scene.lake;
    let mut child = scene.start(&arm(row, "stop"));
    child.wait_stopped();
    assert_reached(scene, row);
    let resolve_only = action == Action::StoppedWhileOthersResolve;
    if !resolve_only {
        scene.others_write();
    }
    scene.others_recover();
    lake.daemon_pass("0s").ok();
    if !resolve_only {
        lake.run(&["optimize", &lake.uri]).ok();
        scene.others_write_more();
    }
    if action == Action::StoppedUntilCleanedUp {
        lake.clean_up();
        assert!(
            scene.reader.is_expired(lake).await,
            "what it stands on is still there"
        );
    }
    let left = lake.sidecars();
    assert!(left.is_empty(), "what stopped stands in the way: {left:?}");

    let done = child.resume();
    if scene.subject.is_write() {
        assert_answer(scene, &done);
        // Others may have made the same table; any other write goes on.
        if scene.subject != Subject::Create || resolve_only || done.code == Some(0) {
            let attempts = done.ok().json()["attempts"].as_u64().expect("attempts");
            // Completed by others it says so. Aborted by others, or met by them, it tries again as a new operation.
            let alone = row.killed == Fate::Nothing && resolve_only;
            assert_eq!(
                attempts == 1,
                row.killed == Fate::Done || alone,
                "{attempts} attempts"
            );
        }
    } else {
        // It does what is left, finds that others were faster or took it for dead (75; a daemon's pass has then failed),
        // or, when what it looked at was cleaned up, gives up.
        let given_up = done.stderr.contains("took this run for dead");
        let gives_up = action == Action::StoppedUntilCleanedUp || given_up;
        assert!(
            matches!(done.code, Some(0 | 75)) || (gives_up && done.code == Some(1)),
            "{done:?}"
        );
        scene.repeat();
    }
}

/// A commit with these failpoints ends with an answer that agrees with the rows, now and after recovery.
pub async fn fails_for_good(subject: Subject, failpoints: &str) {
    let scene = Scene::new(subject).await;
    let done = scene.start(failpoints).wait();
    assert_answer(&scene, &done);
    scene.others_write();
    scene.lake.daemon_pass("0s").ok();
    assert_answer(&scene, &done);
    if let Some(op) = Scene::op_in(&done) {
        assert_ne!(
            scene.lake.outcome_of(&op),
            "undecided",
            "a daemon pass decides"
        );
    }
    ends_well(&scene).await;
}

/// What the writer was told agrees with the log, with `squire op`, and through [`ends_well`] with the rows.
fn assert_answer(scene: &Scene, done: &Done) {
    let published = scene.published();
    let op = Scene::op_in(done);
    let said = op.as_deref().map(|op| scene.lake.outcome_of(op));
    match done.code {
        Some(0) => {
            assert_eq!(done.json()["outcome"], "committed");
            assert_eq!(said.as_deref(), Some("committed"), "{done:?}");
            assert!(published, "acknowledged and not in the log: {done:?}");
        }
        // Nothing of it is or ever will be visible.
        Some(1 | 3) => {
            assert!(!published, "refused and yet published: {done:?}");
            assert_ne!(said.as_deref(), Some("committed"), "{done:?}");
        }
        // Unknown: `squire op` says. Without a name it is a conflict.
        Some(75) => assert_eq!(said.as_deref() == Some("committed"), published, "{done:?}"),
        _ => panic!("neither done nor failed: {done:?}"),
    }
}

/// The operation passes the seams of its rows, each as often as there are rows, and no other.
pub async fn passes_its_seams(operation: &Operation) {
    let passed = match operation.subject {
        Subject::Plain(subject) => plain::seams_passed(subject).await,
        subject => {
            let scene = Scene::new(subject).await;
            scene.start("").wait().ok();
            scene.lake.seams_passed()
        }
    };
    let listed = |seam: &str| {
        let rows = operation
            .rows
            .iter()
            .filter(|r| r.seam == seam)
            .map(|r| r.nth);
        let out = operation
            .left_out
            .iter()
            .filter(|r| r.seam == seam)
            .map(|r| r.nth);
        rows.chain(out).collect::<BTreeSet<usize>>()
    };
    let seams: BTreeSet<&str> = passed
        .iter()
        .map(String::as_str)
        .chain(operation.rows.iter().map(|r| r.seam))
        .collect();
    for seam in seams {
        let times = passed.iter().filter(|p| *p == seam).count();
        assert_eq!(
            listed(seam),
            (1..=times).collect(),
            "{}: {seam} is passed {times} times",
            operation.name
        );
    }
}
