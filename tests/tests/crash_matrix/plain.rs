//! Runs on plain tables: the stories of [`crate::stories`] where there is no store, no log and no pin. Others write with
//! Lance alone.

use crate::{Action, Fate, Operation, Row, Says, table};
use nix::sys::signal::Signal;
use squire_tests::plain::Plain;
use squire_tests::{Child, Lake, armed, tree};

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainSubject {
    /// A compaction.
    Compact,
    /// A compaction of an indexed table under which others change and delete rows, so that it has to carry.
    Carry,
    /// The extension of an index.
    Reindex,
    /// The removal of what a compaction left that died before it committed.
    Reclaim,
}

/// A watched directory on which it goes wrong.
struct Scene {
    lake: Lake,
    plain: Plain,
    subject: PlainSubject,
}

impl Scene {
    async fn new(subject: PlainSubject) -> Self {
        let lake = Lake::new();
        let mut plain = Plain::new(&lake.path("plain"));
        plain.append(0..3).await;
        if subject == PlainSubject::Reindex {
            plain.index().await;
        }
        plain.append(10..13).await;
        plain.append(20..23).await;
        if subject == PlainSubject::Carry {
            plain.index().await;
        }
        if subject == PlainSubject::Reclaim {
            let seam = "maintain.after_rewrite=1*return(kill)";
            lake.with_seam(seam, &["optimize", &plain.uri]).killed();
        }
        Self {
            lake,
            plain,
            subject,
        }
    }

    fn start(&self, failpoints: &str) -> Child {
        let uri = &self.plain.uri;
        let args: &[&str] = match self.subject {
            PlainSubject::Compact | PlainSubject::Carry => &["optimize", uri],
            PlainSubject::Reindex => &["reindex", uri],
            PlainSubject::Reclaim => &["recover", uri, "--force"],
        };
        self.lake.with_seam(failpoints, args)
    }

    /// Starts what goes wrong. What is to be carried happens on the way.
    async fn begin(&mut self, failpoints: &str) -> Child {
        if self.subject != PlainSubject::Carry {
            return self.start(failpoints);
        }
        let rewritten = armed("maintain.after_rewrite", 1, "stop");
        let mut child = self.start(&format!("{rewritten};{failpoints}"));
        child.wait_stopped();
        self.plain.update(11).await;
        self.plain.delete(21).await;
        child.signal(Signal::SIGCONT);
        child
    }

    async fn others_write(&mut self, first: i64) {
        self.plain.append(first..first + 3).await;
        self.plain.delete(first + 1).await;
    }

    fn others_recover(&self) {
        let args = ["recover", &self.plain.uri, "--force"];
        self.lake.run(&args).ok();
    }

    fn daemon_pass(&self) {
        let args = ["daemon", &self.plain.uri, "--once", "--grace", "0s"];
        self.lake.run(&args).ok();
    }

    fn status(&self) -> serde_json::Value {
        let args = ["status", &self.plain.uri, "--json"];
        self.lake.run(&args).ok().json()
    }

    fn has_effect(&self) -> bool {
        let status = self.status();
        let table = &status["tables"][0];
        match self.subject {
            PlainSubject::Compact => table["fragments"] == 1,
            // And what was changed meanwhile.
            PlainSubject::Carry => table["fragments"] == 2,
            PlainSubject::Reindex => table["indexes"][0]["unindexed_rows"] == 0,
            PlainSubject::Reclaim => status["stranded_bytes"] == 0,
        }
    }

    fn assert_reached(&self, row: &Row) {
        let passed = self.lake.seams_passed();
        let times = passed.iter().filter(|seam| *seam == row.seam).count();
        assert!(times >= row.nth, "passed {times} times: {passed:?}");
    }

    /// The records that it left are those that its fate says; whoever comes next finds them, and then it has its effect or
    /// has not.
    async fn assert_fate(&mut self, fate: Fate) {
        let left = self.status()["sidecars"].as_array().expect("ops").len();
        let fits = match fate {
            Fate::Nothing => left == 0,
            Fate::Dropped => left == 1,
            Fate::Done => left <= 1,
        };
        assert!(fits, "{fate:?}, and {left} records");
        self.others_recover();
        assert_eq!(self.has_effect(), fate == Fate::Done, "the effect");
        self.start("").wait().ok();
        self.others_write(300).await;
    }

    async fn stopped(&mut self, row: &Row, action: Action) {
        let mut child = self.begin(&armed(row.seam, row.nth, "stop")).await;
        child.wait_stopped();
        self.assert_reached(row);
        let resolve_only = action == Action::StoppedWhileOthersResolve;
        if !resolve_only {
            self.others_write(100).await;
        }
        self.others_recover();
        self.daemon_pass();
        if !resolve_only {
            self.lake.run(&["optimize", &self.plain.uri]).ok();
            self.others_write(200).await;
        }
        if action == Action::StoppedUntilCleanedUp {
            self.plain.clean_up().await;
        }
        assert_eq!(self.status()["sidecars"], serde_json::json!([]));
        let done = child.resume();
        let given_up = done.stderr.contains("took this run for dead");
        let gives_up = action == Action::StoppedUntilCleanedUp || given_up;
        assert!(
            matches!(done.code, Some(0 | 75)) || (gives_up && done.code == Some(1)),
            "{done:?}"
        );
        self.start("").wait().ok();
    }

    /// After a pass nothing is left of any run, and all rows are there.
    async fn ends_well(&self, action: Action) {
        self.daemon_pass();
        let status = self.status();
        assert_eq!(status["sidecars"], serde_json::json!([]));
        assert_eq!(status["stranded_bytes"], 0);
        let after = tree(std::path::Path::new(&self.plain.uri));
        // The ledger and the history are no records of a run: they say what all of them did.
        let lasting = [
            ".squire",
            ".squire/ledger.json",
            ".squire/history.json",
            ".squire/unfit.json",
        ];
        let lasting = lasting.map(std::path::Path::new);
        let of_runs = |path: &&std::path::PathBuf| {
            path.starts_with(".squire") && !lasting.contains(&path.as_path())
        };
        assert_eq!(after.iter().find(of_runs), None, "records are left");
        self.daemon_pass();
        let second = tree(std::path::Path::new(&self.plain.uri));
        assert_eq!(second, after, "a second pass found something to do");
        self.plain.assert_whole().await;
        // What is gone cannot say what it referred to: such files are Lance's seven-day rule's.
        if action != Action::StoppedUntilCleanedUp {
            let left = self.plain.unreferenced().await;
            assert!(left.is_empty(), "files that nothing refers to: {left:?}");
        }
    }
}

/// Plays one cell, and notes it when it ended well.
pub async fn play(subject: PlainSubject, operation: &Operation, action: Action, row: &Row) {
    let mut scene = Scene::new(subject).await;
    match action {
        Action::Killed => {
            let child = scene.begin(&armed(row.seam, row.nth, "kill")).await;
            let done = child.wait();
            assert_eq!(done.code, None, "it was not killed: {done:?}");
            scene.assert_reached(row);
            scene.assert_fate(row.killed).await;
        }
        Action::Failed => {
            let (says, fate) = row.failed;
            let child = scene.begin(&armed(row.seam, row.nth, "error")).await;
            let done = child.wait();
            scene.assert_reached(row);
            assert_eq!(done.code == Some(0), says == Says::Success, "{done:?}");
            assert!(done.code.is_some_and(|c| c != 101), "{done:?}");
            scene.assert_fate(fate).await;
        }
        Action::StoppedWhileOthersCommit
        | Action::StoppedWhileOthersResolve
        | Action::StoppedUntilCleanedUp => scene.stopped(row, action).await,
    }
    scene.ends_well(action).await;
    table::note(operation, action, row);
}

/// The seams that it passes when nothing goes wrong.
pub async fn seams_passed(subject: PlainSubject) -> Vec<String> {
    let mut scene = Scene::new(subject).await;
    scene.begin("").await.wait().ok();
    scene.lake.seams_passed()
}
