//! `executor = "ray"` with real squire processes and the real program that talks to Ray, which finds a module in Ray's place
//! (`stand_in`). What Ray itself does is for `make ray`.

use super::workers::{FRAGMENTS, TASKS, assert_settled, data_files, scene};
use super::{Batch, assert_rows};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use squire_tests::loopback::{ask, free_port};
use squire_tests::{Child, Done, Lake, PATIENCE};
use std::time::Instant;

/// A lake whose commands find `how` in Ray's place. The address of it stands on the command line of all that talks to it.
struct Scene {
    lake: Lake,
    batches: Vec<Batch>,
    before: usize,
}

impl Scene {
    fn new(how: &str) -> Self {
        let (mut lake, batches) = scene();
        let before = data_files(&lake).len();
        let stand_in = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/races/ray/stand_in");
        let dir = lake.path("").to_string_lossy().into_owned();
        for (name, value) in [
            ("PYTHONPATH", stand_in),
            ("PYTHONDONTWRITEBYTECODE", "1"),
            ("STAND_IN", how),
            ("STAND_IN_DIR", &dir),
        ] {
            lake.env.push((name.to_owned(), value.to_owned()));
        }
        let scene = Self {
            lake,
            batches,
            before,
        };
        scene.config("");
        scene
    }

    fn address(&self) -> String {
        self.lake.path("ray").to_string_lossy().into_owned()
    }

    /// Writes the configuration, with `more` of `[executor]`, and gives its path.
    fn config(&self, more: &str) -> String {
        let file = self.lake.path("squire.toml");
        let address = self.address();
        let python = match more.contains("ray_python") {
            true => "",
            false => "ray_python = \"python3\"\n",
        };
        let text = format!(
            "[daemon]\nscan_interval = \"1s\"\ndrain = \"1h\"\n[policy]\nexecutor = \"ray\"\nmin_candidate_fragments = 2\n\
             max_task_fragments = 4\ncooldown = \"1s\"\n[executor]\nworkers = 1\nmemory = \"128MiB\"\nray_address = \"{address}\"\n{python}{more}\n"
        );
        std::fs::write(&file, text).expect("a file");
        file.to_string_lossy().into_owned()
    }

    fn args(&self) -> Vec<String> {
        let config = self.lake.path("squire.toml");
        let config = config.to_string_lossy();
        let args = ["optimize", &self.lake.uri, "--config", &config];
        args.map(str::to_owned).to_vec()
    }

    fn optimize(&self) -> Done {
        self.start().wait()
    }

    fn start(&self) -> Child {
        let args = self.args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.lake.start(&args)
    }

    /// Each worker stands still when it has written.
    fn start_standing(&self) -> Child {
        let args = self.args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.lake
            .with_seam("worker.after_rewrite=1*return(stop)", &args)
    }

    /// Processes whose command line has `text`.
    fn processes(text: &str) -> Vec<i32> {
        let all = std::fs::read_dir("/proc").expect("procfs");
        let ids = all.filter_map(|p| p.ok()?.file_name().to_str()?.parse::<i32>().ok());
        ids.filter(|id| {
            let line = std::fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(text)
        })
        .collect()
    }

    /// What talks to Ray.
    fn programs(&self) -> Vec<i32> {
        Self::processes(&format!("\0{}\0", self.address()))
    }

    /// The workers below those.
    fn workers(&self) -> Vec<i32> {
        let programs = self.programs();
        let stat = |id: &i32| std::fs::read_to_string(format!("/proc/{id}/stat"));
        let mut workers = Self::processes("\0worker\0--json\0--task\0-\0");
        workers.retain(|id| {
            let stat = stat(id).unwrap_or_default();
            let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            let parent = rest.split(' ').nth(1).and_then(|p| p.parse().ok());
            rest.starts_with('T') && parent.is_some_and(|p: i32| programs.contains(&p))
        });
        workers
    }

    fn assert_gone(&self, workers: &[i32]) {
        eventually("all that talks to Ray is gone", || {
            self.programs().is_empty()
        });
        eventually("its workers are gone", || {
            workers
                .iter()
                .all(|id| kill(Pid::from_raw(*id), None).is_err())
        });
    }

    /// What its dead runs left is reclaimed at once.
    fn recover(&self) {
        let recover = ["recover", &self.lake.uri, "--force"];
        self.lake.run(&recover).ok();
    }

    async fn assert_done(&self) {
        assert_settled(&self.lake, &self.batches, TASKS, self.before).await;
        self.assert_gone(&[]);
    }

    async fn assert_untouched(&self) {
        assert_settled(
            &self.lake,
            &self.batches,
            FRAGMENTS as usize,
            self.before - FRAGMENTS as usize,
        )
        .await;
        self.assert_gone(&[]);
    }

    fn wait_joining(&self) {
        eventually("it joins", || {
            self.lake.path("joining").try_exists().is_ok_and(|is| is)
        });
    }
}

fn eventually(what: &str, mut is: impl FnMut() -> bool) {
    let began = Instant::now();
    while !is() {
        assert!(began.elapsed() < PATIENCE, "never: {what}");
        std::thread::yield_now();
    }
}

#[tokio::test]
async fn nodes_execute_what_the_run_commits() {
    let scene = Scene::new("fine");
    let done = scene.optimize().ok();
    assert!(
        done.stderr.contains("ray executes the tasks nodes=1"),
        "{}",
        done.stderr
    );
    assert!(done.stderr.contains("done=3 of=3"), "{}", done.stderr);
    scene.assert_done().await;
}

/// Whatever is in Ray's place: the run ends, says why, and has changed nothing; or workers here execute the tasks.
#[tokio::test]
async fn a_ray_that_is_away_holds_nothing_up() {
    let silent = "it did not answer within 0.2 s (executor.ray_join)";
    let python = "ray_python = \"/nowhere/python\"";
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/races/ray/stand_in/mute.sh"
    );
    let mute = format!("ray_python = \"{script}\"\nray_join = \"200ms\"");
    for (how, more, told) in [
        ("away", "", "ConnectionError: nobody listens"),
        ("absent", "", "No module named 'ray'"),
        ("ends", "", "ended before it had joined"),
        ("hangs", "ray_join = \"200ms\"", silent),
        ("deaf", "ray_join = \"200ms\"", silent),
        (
            "fine",
            python,
            "/nowhere/python (executor.ray_python) cannot be started",
        ),
        // It is no Python, and neither says nor reads anything.
        ("fine", &mute, silent),
    ] {
        let scene = Scene::new(how);
        scene.config(more);
        scene.optimize().failed(1, told);
        scene.assert_untouched().await;
        scene.config(&format!("{more}\nray_away = \"local\""));
        scene.optimize().ok();
        scene.assert_done().await;
    }
}

/// A stop, of a command and of the daemon, and the death of the command: while Ray is joined, and may never answer.
#[tokio::test]
async fn what_joins_ends_with_squire() {
    for how in ["hangs", "deaf"] {
        for signal in [Signal::SIGINT, Signal::SIGKILL] {
            let scene = Scene::new(how);
            scene.config("ray_join = \"1h\"");
            let mut run = scene.start();
            scene.wait_joining();
            run.signal(signal);
            let done = run.wait();
            if signal == Signal::SIGINT {
                done.failed(1, "cancelled");
            }
            scene.assert_gone(&[]);
            scene.recover();
            scene.assert_untouched().await;
        }
        let scene = Scene::new(how);
        let config = scene.config("ray_join = \"1h\"");
        let mut daemon = scene.lake.start(&[
            "daemon",
            &scene.lake.uri,
            "--listen",
            "off",
            "--config",
            &config,
        ]);
        scene.wait_joining();
        daemon.signal(Signal::SIGTERM);
        daemon.wait().ok();
        scene.assert_untouched().await;
    }
}

/// A stop, and the death of the command or of the program, while a worker is at work.
#[tokio::test]
async fn what_is_at_work_ends_with_squire() {
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        let scene = Scene::new("fine");
        let mut run = scene.start_standing();
        eventually("a worker stands", || !scene.workers().is_empty());
        let workers = scene.workers();
        run.signal(signal);
        let done = run.wait();
        if signal == Signal::SIGINT {
            done.failed(1, "cancelled");
        }
        scene.assert_gone(&workers);
        scene.recover();
        scene.assert_untouched().await;
    }
}

/// Whichever of its two processes is killed: the other one dies with it, and so does the worker.
#[tokio::test]
async fn a_worker_goes_with_what_talks_to_ray() {
    for nth in [0, 1] {
        let scene = Scene::new("fine");
        let run = scene.start_standing();
        eventually("a worker stands", || !scene.workers().is_empty());
        let (workers, mut programs) = (scene.workers(), scene.programs());
        programs.sort_unstable();
        let struck = *programs.get(nth).expect("two processes");
        kill(Pid::from_raw(struck), Signal::SIGKILL).expect("a signal");
        eventually("all of it is gone", || {
            let gone = |id: &i32| kill(Pid::from_raw(*id), None).is_err();
            programs.iter().chain(&workers).all(gone)
        });
        // Others take their place.
        eventually("another one stands", || !scene.workers().is_empty());
        run.kill();
        scene.assert_gone(&[]);
        scene.recover();
        scene.assert_untouched().await;
    }
}

/// Nobody knows then what became of the worker: another one executes the task, and what the first wrote is reclaimed when it
/// has fallen silent.
#[tokio::test]
async fn a_worker_that_is_lost_is_replaced() {
    for how in ["dies", "loses"] {
        let scene = Scene::new(how);
        scene.optimize().ok();
        assert_rows(&scene.lake, &scene.batches.iter().collect::<Vec<_>>()).await;
        assert_eq!(scene.lake.table_status("a", "fragments"), TASKS);
        assert_eq!(
            scene.lake.sidecars().len(),
            1,
            "{how}: the record of the run stays"
        );
        scene.assert_gone(&[]);
        scene.recover();
        scene.assert_done().await;
    }
}

/// The daemon counts it, tries again, and executes the tasks once Ray is there.
#[tokio::test]
async fn work_waits_for_ray_in_the_daemon() {
    let scene = Scene::new("away");
    let config = scene.config("");
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let mut daemon = scene.lake.start(&[
        "daemon",
        &scene.lake.uri,
        "--listen",
        &listen,
        "--config",
        &config,
    ]);
    let away = || -> Option<u64> {
        let (_, body) = ask(port, "GET", "/metrics", "").ok()?;
        let line = body
            .lines()
            .find_map(|l| l.strip_prefix("squire_executor_away_total "))?;
        line.parse().ok()
    };
    eventually("it was away twice", || {
        away().is_some_and(|times| times >= 2)
    });
    assert_eq!(
        scene.lake.table_status("a", "fragments"),
        FRAGMENTS as usize
    );
    std::fs::write(scene.lake.path("there"), "").expect("a file");
    eventually("it is done", || {
        scene.lake.table_status("a", "fragments") == TASKS
    });
    daemon.signal(Signal::SIGTERM);
    let done = daemon.wait().ok();
    assert!(done.stderr.contains("nobody listens"), "{}", done.stderr);
    scene.assert_done().await;
}
