//! Tasks of a compaction that real `squire worker` processes execute, killed, stopped, repeated and late, under writers.
//!
//! The run is the test's own process, and its executor starts the workers as the test wants them. What always holds: one
//! result for each task, every row once, and in the end no file that nobody refers to.

use super::{Batch, assert_rows};
use async_trait::async_trait;
use squire_engine::commit::CommitRequest;
use squire_engine::error::{ErrorKind, Result};
use squire_engine::maintenance::tasks::TaskBounds;
use squire_engine::maintenance::{
    CompactionLimits, Ended, Executor, Handed, MaintenanceReport, Oversight, Target, Verify,
    WorkerBounds,
};
use squire_tests::{Child, Done, Lake, bounds};
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const ONE: &[&str] = &["a"];

/// Fragments of the table, and of a task.
pub(super) const FRAGMENTS: i64 = 12;
const OF_TASK: usize = 4;
pub(super) const TASKS: usize = 3;

pub(super) fn scene() -> (Lake, Vec<Batch>) {
    let lake = Lake::with_tables(ONE);
    let batch = |n: i64| Batch::new(format!("b{n}"), ONE, n * 10..n * 10 + 3);
    let batches: Vec<Batch> = (0..FRAGMENTS).map(batch).collect();
    for batch in &batches {
        batch.commit(&lake).ok();
    }
    (lake, batches)
}

/// An attempt at a task, for the test to make.
struct Attempt<'a> {
    lake: &'a Lake,
    /// How many were made before it.
    nth: usize,
    /// The file with the envelope, which stays.
    file: String,
}

impl Attempt<'_> {
    fn args(&self) -> [&str; 4] {
        ["worker", "--json", "--task", &self.file]
    }

    fn run(&self) -> Done {
        self.lake.run(&self.args())
    }

    fn armed(&self, seam: &str) -> Child {
        self.lake.with_seam(seam, &self.args())
    }

    /// A worker that does what it should.
    fn fine(&self) -> Ended {
        let done = self.run();
        Ended::Exited(done.code.expect("it ended"), done.stdout)
    }

    /// One that is killed at `seam`.
    fn killed_at(&self, seam: &str) -> Ended {
        self.armed(&format!("{seam}=return(kill)")).killed();
        Ended::Died("it was killed".to_owned())
    }

    /// One that stands at `seam`.
    fn stopped_at(&self, seam: &str) -> Child {
        let mut worker = self.armed(&format!("{seam}=1*return(stop)"));
        worker.wait_stopped();
        worker
    }
}

/// Makes attempts as the test says.
struct Scripted<'a, F> {
    lake: &'a Lake,
    how: F,
    begun: AtomicUsize,
}

impl<F> Debug for Scripted<'_, F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("scripted")
    }
}

impl<'a, F: Fn(&Attempt<'_>) -> Ended + Send + Sync> Scripted<'a, F> {
    fn new(lake: &'a Lake, how: F) -> Self {
        let begun = AtomicUsize::new(0);
        Self { lake, how, begun }
    }

    fn begun(&self) -> usize {
        self.begun.load(Ordering::Relaxed)
    }

    async fn compact(&self) -> Result<MaintenanceReport> {
        let limits = CompactionLimits {
            bounds: TaskBounds {
                max_fragments: OF_TASK,
                ..bounds()
            },
            tasks_per_commit: 1,
            commit_after: Duration::from_secs(60),
            verify: Verify::Full,
        };
        let target = Target::Pinned("a".parse().expect("a name"));
        let store = self.lake.store().await;
        let unwatched = Oversight::default();
        let done = store.compact_elsewhere(&target, &limits, self, &unwatched);
        done.await
    }
}

#[async_trait]
impl<F: Fn(&Attempt<'_>) -> Ended + Send + Sync> Executor for Scripted<'_, F> {
    fn bounds(&self) -> WorkerBounds {
        WorkerBounds {
            at_once: 1,
            bytes_at_once: u64::MAX,
            memory: 256 << 20,
        }
    }

    async fn run(&self, handed: &Handed) -> Ended {
        let nth = self.begun.fetch_add(1, Ordering::Relaxed);
        let file = self.lake.path(&format!("task-{nth}.json"));
        let bytes = handed.envelope.to_bytes().expect("an envelope");
        std::fs::write(&file, bytes).expect("a file");
        (self.how)(&Attempt {
            lake: self.lake,
            nth,
            file: file.to_string_lossy().into_owned(),
        })
    }
}

pub(super) fn data_files(lake: &Lake) -> BTreeSet<PathBuf> {
    squire_tests::tree(&lake.path("lake/a.lance/data"))
}

fn stranded(lake: &Lake) -> u64 {
    lake.status()["stranded_bytes"].as_u64().expect("bytes")
}

/// Every row once, so many fragments, and nothing left of anybody's work: `before` are the files of the fragments that were.
pub(super) async fn assert_settled(
    lake: &Lake,
    batches: &[Batch],
    fragments: usize,
    before: usize,
) {
    assert_rows(lake, &batches.iter().collect::<Vec<_>>()).await;
    assert_eq!(lake.table_status("a", "fragments"), fragments);
    assert_eq!(stranded(lake), 0);
    assert_eq!(data_files(lake).len(), before + fragments);
    lake.assert_at_rest();
}

#[tokio::test]
async fn workers_execute_what_the_run_commits() {
    let (lake, batches) = scene();
    let before = data_files(&lake).len();
    let executor = Scripted::new(&lake, |attempt: &Attempt<'_>| attempt.fine());
    let report = executor.compact().await.expect("a compaction");
    assert_eq!(executor.begun(), TASKS);
    assert_eq!(report.fragments_removed, FRAGMENTS as u64);
    assert_settled(&lake, &batches, TASKS, before).await;
}

/// Before its first byte, with all files and no result: another one executes the task, and what the first wrote goes. With a
/// result that says so, nobody has to.
#[tokio::test]
async fn a_worker_that_is_killed_loses_its_own_work_alone() {
    let seams = [
        ("maintain.after_journal", 2),
        ("worker.after_rewrite", 2),
        ("worker.after_result", 1),
    ];
    for (seam, workers) in seams {
        let (lake, batches) = scene();
        let before = data_files(&lake).len();
        let executor = Scripted::new(&lake, |attempt| match attempt.nth % workers {
            0 => attempt.killed_at(seam),
            _ => attempt.fine(),
        });
        let report = executor.compact().await.expect("a compaction");
        assert_eq!(executor.begun(), TASKS * workers, "{seam}");
        assert_eq!(report.unfit, [] as [String; 0], "{seam}");
        assert_settled(&lake, &batches, TASKS, before).await;
    }
}

/// The same attempt by two processes, one of which stands still while the other is through; and once more by a third.
#[tokio::test]
async fn a_task_that_is_executed_often_has_one_result() {
    let (lake, batches) = scene();
    let before = data_files(&lake).len();
    let executor = Scripted::new(&lake, |attempt| {
        let slow = attempt.stopped_at("worker.after_rewrite");
        let first = attempt.run().ok().json();
        assert_eq!(first["outcome"], "rewritten");
        let second = slow.resume().ok().json();
        assert_eq!(second["outcome"], "done before");
        assert_eq!(second["attempt"], first["attempt"]);
        let third = attempt.run().ok().json();
        assert_eq!(third["outcome"], "done before");
        Ended::Exited(0, String::new())
    });
    let report = executor.compact().await.expect("a compaction");
    assert!(
        report.reclaimed_bytes > 0,
        "what the second wrote: {report:?}"
    );
    assert_settled(&lake, &batches, TASKS, before).await;
}

/// It was stopped, its run was taken for dead and what it wrote was reclaimed; then it goes on.
#[tokio::test]
async fn a_worker_that_wakes_when_its_run_is_over_lands_nothing() {
    for seam in ["maintain.after_journal", "worker.after_rewrite"] {
        let (lake, batches) = scene();
        let before = data_files(&lake);
        let woken = std::sync::Mutex::new(None);
        let executor = Scripted::new(&lake, |attempt| {
            *woken.lock().expect("a lock") = Some(attempt.stopped_at(seam));
            lake.run(&["recover", &lake.uri, "--force"]).ok();
            Ended::Died("as far as anybody knows".to_owned())
        });
        let lost = executor.compact().await.expect_err("no run any more");
        assert_eq!(lost.kind(), ErrorKind::Conflict, "{lost}");
        assert_eq!(data_files(&lake), before, "{seam}");
        let worker = woken.lock().expect("a lock").take().expect("a worker");
        let told = "others took it for dead; nothing of this task lands";
        worker.resume().failed(3, told);
        lake.run(&["recover", &lake.uri, "--force"]).ok();
        assert_eq!(data_files(&lake), before, "{seam}");
        assert_settled(&lake, &batches, FRAGMENTS as usize, 0).await;
    }
}

#[tokio::test]
async fn a_worker_that_comes_late_writes_nothing() {
    let (lake, batches) = scene();
    let before = data_files(&lake).len();
    Scripted::new(&lake, |attempt: &Attempt<'_>| attempt.fine())
        .compact()
        .await
        .expect("a compaction");
    let after = data_files(&lake);
    for nth in 0..TASKS {
        let file = lake.path(&format!("task-{nth}.json"));
        let late = lake.run(&["worker", "--task", &file.to_string_lossy()]);
        late.failed(3, "has ended");
    }
    assert_eq!(data_files(&lake), after);
    assert_settled(&lake, &batches, TASKS, before).await;
}

/// What is deleted while a worker is at work is deleted in what it wrote, whatever was committed in between.
#[tokio::test]
async fn what_others_delete_meanwhile_is_carried() {
    let (lake, _) = scene();
    let executor = Scripted::new(&lake, |attempt| {
        let worker = attempt.stopped_at("worker.after_rewrite");
        // A row of the first task, of the second and of the third, while the first, the second, the third is at work.
        let row = format!("id = {}", attempt.nth * 40 + 1);
        lake.run(&["delete", &lake.uri, "a", "--where", &row, "--grace", "0s"])
            .ok();
        let done = worker.resume();
        Ended::Exited(done.code.expect("it ended"), done.stdout)
    });
    let report = executor.compact().await.expect("a compaction");
    assert!(report.carried > 0, "{report:?}");
    let gone = [1, 41, 81];
    let left = (0..FRAGMENTS).flat_map(|n| n * 10..n * 10 + 3);
    let left: Vec<i64> = left.filter(|id| !gone.contains(id)).collect();
    assert_eq!(lake.ids("a").await, left);
    assert_eq!(stranded(&lake), 0);
    lake.assert_at_rest();
}

/// Each commit takes the index with it, while the tasks after it are of the version before.
#[tokio::test]
async fn indexes_follow_what_workers_rewrite() {
    let (lake, batches) = scene();
    let index = ["index", &lake.uri, "a", "id", "--type", "btree"];
    lake.run(&index).ok();
    lake.run(&["reindex", &lake.uri]).ok();
    let executor = Scripted::new(&lake, |attempt: &Attempt<'_>| attempt.fine());
    let report = executor.compact().await.expect("a compaction");
    assert_eq!((executor.begun(), report.conflicts), (TASKS, 0));
    assert_eq!(lake.table_status("a", "fragments"), TASKS);
    assert_rows(&lake, &batches.iter().collect::<Vec<_>>()).await;
    lake.run(&["verify", &lake.uri, "--deep"]).ok();
    assert_eq!(stranded(&lake), 0);
    lake.assert_at_rest();
}

/// It takes every worker with it, and not the others, nor the run.
#[tokio::test]
async fn a_task_that_kills_its_workers_stays_undone_and_is_told() {
    let (lake, batches) = scene();
    let before = data_files(&lake).len();
    let executor = Scripted::new(&lake, |attempt| match attempt.nth {
        0..3 => attempt.killed_at("worker.after_rewrite"),
        _ => attempt.fine(),
    });
    let report = executor.compact().await.expect("the others");
    assert_eq!(executor.begun(), 3 + TASKS - 1);
    let [unfit] = report.unfit.as_slice() else {
        panic!("one task: {report:?}");
    };
    assert!(
        unfit.contains("3 workers died over it: it was killed"),
        "{unfit}"
    );
    assert_rows(&lake, &batches.iter().collect::<Vec<_>>()).await;
    assert_eq!(lake.table_status("a", "fragments"), OF_TASK + TASKS - 1);
    assert_eq!(stranded(&lake), 0);
    assert_eq!(data_files(&lake).len(), before + TASKS - 1);
    lake.assert_at_rest();
}

/// Nobody knows whether it is at work: its names outlive the run, until it has fallen silent.
#[tokio::test]
async fn what_a_lost_worker_writes_is_reclaimed_when_it_is_silent() {
    let (lake, batches) = scene();
    let lost = std::sync::Mutex::new(None);
    let executor = Scripted::new(&lake, |attempt| match attempt.nth {
        0 => {
            *lost.lock().expect("a lock") = Some(attempt.stopped_at("worker.after_rewrite"));
            Ended::Lost("its node does not answer".to_owned())
        }
        _ => attempt.fine(),
    });
    executor.compact().await.expect("a compaction");
    assert_eq!(lake.table_status("a", "fragments"), TASKS);
    assert_eq!(lake.sidecars().len(), 1, "the record of the run stays");
    let files = data_files(&lake);
    lost.lock()
        .expect("a lock")
        .take()
        .expect("a worker")
        .kill();
    lake.run(&["recover", &lake.uri, "--force"]).ok();
    assert_eq!(
        data_files(&lake).len(),
        files.len() - 1,
        "what it wrote is gone"
    );
    assert_rows(&lake, &batches.iter().collect::<Vec<_>>()).await;
    assert_eq!(stranded(&lake), 0);
    lake.assert_at_rest();
}

#[tokio::test]
async fn a_task_of_another_table_or_release_is_refused() {
    let (lake, batches) = scene();
    let before = data_files(&lake);
    let executor = Scripted::new(&lake, |attempt| {
        let whole = std::fs::read_to_string(&attempt.file).expect("a file");
        let changed = |from: &str, to: &str| {
            let mut task: serde_json::Value = serde_json::from_str(&whole).expect("JSON");
            task[from] = serde_json::json!(to);
            std::fs::write(&attempt.file, task.to_string()).expect("a file");
            attempt.run()
        };
        changed("transaction", "01234567").failed(3, "another table stands there");
        changed("e_tag", "another").failed(3, "another table stands there");
        changed("lance", "13.0.0").failed(3, "run the same release of squire");
        changed("location", "s3://KEY:hunter2@b/lake").failed(2, "carries a login");
        std::fs::write(&attempt.file, &whole[..whole.len() / 2]).expect("a file");
        attempt.run().failed(2, "it is cut off");
        Ended::Exited(3, "as it should".to_owned())
    });
    let refused = executor.compact().await.expect_err("no result");
    assert_eq!(refused.kind(), ErrorKind::Refused, "{refused}");
    assert_eq!(data_files(&lake), before);
    assert_settled(&lake, &batches, FRAGMENTS as usize, 0).await;
}

/// `--executor local`, and the same by the configuration, through the daemon.
#[tokio::test]
async fn the_command_and_the_daemon_have_workers() {
    let config = "[policy]\nexecutor = \"local\"\nmin_candidate_fragments = 2\nmax_task_fragments = 4\n[executor]\nmemory = \"128MiB\"\n";
    for by_daemon in [false, true] {
        let (mut lake, batches) = scene();
        let before = data_files(&lake).len();
        let (file, seams) = (lake.path("squire.toml"), lake.path("seams"));
        std::fs::write(&file, config).expect("a file");
        let file = file.to_string_lossy().into_owned();
        lake.env.push((
            "SQUIRE_SEAMS_LOG".to_owned(),
            seams.to_string_lossy().into_owned(),
        ));
        let uri = lake.uri.clone();
        let args = match by_daemon {
            true => vec![
                "daemon", &uri, "--once", "--listen", "off", "--config", &file,
            ],
            false => vec!["optimize", &uri, "--executor", "local"],
        };
        lake.run(&args).ok();
        let passed = std::fs::read_to_string(&seams).expect("seams");
        let workers = passed.lines().filter(|seam| *seam == "worker.after_result");
        let tasks = if by_daemon { TASKS } else { 1 };
        assert_eq!(workers.count(), tasks);
        lake.env.clear();
        assert_settled(&lake, &batches, tasks, before).await;
    }
}

/// Each worker of `squire optimize --executor local` has its limit, and can be killed without harm to anybody else.
#[tokio::test]
async fn a_local_worker_has_a_limit_and_dies_alone() {
    let (lake, batches) = scene();
    let before = data_files(&lake).len();
    let file = lake.path("squire.toml");
    std::fs::write(&file, "[executor]\nmemory = \"128MiB\"\n").expect("a file");
    let file = file.to_string_lossy();
    let args = [
        "optimize",
        &lake.uri,
        "--executor",
        "local",
        "--config",
        &file,
    ];
    let mut run = lake.with_seam("worker.after_rewrite=1*return(stop)", &args);
    let of_run = run.pid();
    for _ in 0..3 {
        let worker = stopped_child(of_run);
        let limits = std::fs::read_to_string(format!("/proc/{worker}/limits")).expect("procfs");
        let data = limits
            .lines()
            .find(|l| l.starts_with("Max data size"))
            .expect("a limit");
        let most = (128 + 512) << 20;
        assert!(data.contains(&format!(" {most} ")), "{data}");
        let worker = nix::unistd::Pid::from_raw(worker);
        nix::sys::signal::kill(worker, nix::sys::signal::Signal::SIGKILL).expect("a signal");
    }
    run.wait()
        .failed(3, "3 workers died over it: signal 9 ended it");
    assert_settled(
        &lake,
        &batches,
        FRAGMENTS as usize,
        before - FRAGMENTS as usize,
    )
    .await;
}

/// Rows that no worker of this memory can hold: it is told which table they are of, the daemon goes on, and others are maintained.
#[tokio::test]
async fn a_worker_that_runs_out_of_memory_stops_nobody_else() {
    let (lake, batches) = scene();
    lake.create_tables(&["b"]);
    for id in 0..2 {
        let wide = vec![(id, "x".repeat(150 << 20))];
        let store = lake.store().await;
        let write = squire_tests::append_rows("b", wide);
        let request = CommitRequest::new(vec![write]);
        store.commit(&request).await.expect("a commit");
    }
    let file = lake.path("squire.toml");
    let config = "[policy]\nexecutor = \"local\"\nmin_candidate_fragments = 2\n[executor]\nmemory = \"64MiB\"\nworkers = 1\n";
    std::fs::write(&file, config).expect("a file");
    let file = file.to_string_lossy();
    let pass = [
        "daemon", &lake.uri, "--once", "--listen", "off", "--config", &file,
    ];
    let done = lake.run(&pass);
    for told in [
        "memory allocation of",
        "3 workers died over it: signal 6 ended it; it may hold 64 MiB (executor.memory)",
        "target=\"b\"",
    ] {
        assert!(done.stderr.contains(told), "{told}: {}", done.stderr);
    }
    assert_eq!(lake.table_status("b", "fragments"), 2);
    assert_eq!(lake.table_status("a", "fragments"), 1);
    let rows = batches.iter().flat_map(|batch| batch.ids.clone());
    assert_eq!(lake.ids("a").await, rows.collect::<Vec<_>>());
    assert_eq!(lake.ids("b").await, [0, 1]);
    assert_eq!(stranded(&lake), 0);
    lake.assert_at_rest();
}

/// The child of `parent` that stands still, once there is one.
fn stopped_child(parent: u32) -> i32 {
    let began = std::time::Instant::now();
    loop {
        let processes = std::fs::read_dir("/proc").expect("procfs");
        let ids = processes.filter_map(|p| p.ok()?.file_name().to_str()?.parse::<i32>().ok());
        for id in ids {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            if rest.starts_with(&format!("T {parent} ")) {
                return id;
            }
        }
        assert!(
            began.elapsed() < squire_tests::PATIENCE,
            "no worker stands still"
        );
        std::thread::yield_now();
    }
}
