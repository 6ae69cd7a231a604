//! One run from its beginning to its verdict.

use super::check;
use super::observe::{Counts as ReaderCounts, Desk, Observation, Told, ask_on, read_on};
use super::plan::{Mischief, Part, millis, mischief, rng};
use super::processes::{ClockWatch, Processes, judge};
use super::replay::Replay;
use super::report::{CARRIED, Left, Report, alarms};
use super::settle::settle;
use super::spool::Producer;
use super::writer::{NO_STORE, endow};
use super::{TABLES, Violations, commands, maintainer};
use crate::{Lake, squire};
use rand::RngExt;
use squire_engine::store::{Store, StoreOptions};
use std::fs::File;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Writer processes.
pub const WRITERS: u32 = 6;
/// Daemons.
pub const DAEMONS: u32 = 2;
/// Agents on one spool.
pub const AGENTS: u32 = 2;
/// Writers that run one command for each call.
pub const COMMANDERS: u32 = 1;
/// Maintainers that always carry.
pub const MAINTAINERS: u32 = 1;
/// Readers.
const READERS: u32 = 2;

/// The exit code of a command whose storage failed.
const CANNOT_OPEN: i32 = 1;

/// What was asked for.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The seed.
    pub seed: u64,
    /// How long the processes are tormented.
    pub length: Duration,
    /// Where the store is; a temporary directory by default.
    pub store: Option<String>,
    /// Whether everything stays on disk, whatever the verdict.
    pub keep: bool,
}

/// Where a run keeps its things, and whether it is over.
#[derive(Debug)]
pub struct Room {
    /// The seed.
    pub seed: u64,
    /// The store: a path, or a URI.
    pub store: String,
    directory: PathBuf,
    over: AtomicBool,
}

impl Room {
    /// The directory of the history.
    pub fn history(&self) -> PathBuf {
        self.directory.join("history")
    }

    /// A directory for files that nobody needs later.
    pub fn scratch(&self) -> PathBuf {
        self.directory.join("scratch")
    }

    /// The directory of what the processes said.
    pub fn logs(&self) -> PathBuf {
        self.directory.join("logs")
    }

    /// The spool of the agents.
    pub fn spool(&self) -> PathBuf {
        self.directory.join("spool")
    }

    /// Where injected faults are noted.
    pub fn fault_log(&self) -> PathBuf {
        self.directory.join("faults.log")
    }

    /// The directory of the protocol traces.
    pub fn traces(&self) -> PathBuf {
        self.directory.join("traces")
    }

    /// Where a process says what it does.
    pub fn log(&self, name: &str) -> File {
        let path = self.logs().join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(path);
        file.expect("a log can be written")
    }

    /// Whether the run is over.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Gives `command` the environment of a process of this run.
    pub fn equip(&self, command: &mut Command, mischief: &Mischief) {
        command
            .env_remove("FAILPOINTS")
            .env_remove("SQUIRE_FAULTS")
            .env("SQUIRE_RETENTION", "0")
            .env("SQUIRE_TRACE", self.traces())
            .env("SQUIRE_LOG", "warn,squire=info,squire_engine=debug");
        if let Some(seams) = &mischief.seams {
            command.env("FAILPOINTS", seams);
        }
        if let Some(faults) = &mischief.faults {
            command.env("SQUIRE_FAULTS", faults);
        }
        if mischief.through_objects {
            // Local disks cannot list in order, so Lance would believe a hint that may turn backwards (fact 16).
            command.env("LANCE_USE_VERSION_HINT", "0");
        }
    }

    /// A configuration that keeps next to nothing and maintains at the least occasion.
    pub fn config(&self, name: &str, min_versions: u64) -> PathBuf {
        let path = self.directory.join(format!("{name}.toml"));
        let text = format!(
            "[daemon]\nlisten = \"off\"\nscan_interval = \"200ms\"\nfull_scan_interval = \"500ms\"\ngrace = \"400ms\"\n\
             drain = \"1s\"\nwatchdog_progress = \"30s\"\n\
             [policy]\nmin_candidate_fragments = 4\nmax_deleted_ratio = 0.05\nmax_versions = 40\n\
             max_unindexed_rows = 30\nmax_unindexed_ratio = 0.05\nmax_index_age = \"2s\"\n\
             target_rows_per_fragment = 2000\nmax_task_fragments = 4\nretention = \"1h\"\nmin_versions = {min_versions}\n\
             cooldown = \"1s\"\ncooldown_max = \"2s\"\n\
             [policy.cleanup]\nenabled = true\n"
        );
        std::fs::write(&path, text).expect("a configuration");
        path
    }
}

/// How a process with this mischief reaches the store.
pub fn store_uri(store: &str, mischief: &Mischief) -> String {
    if mischief.through_objects && !store.contains("://") {
        format!("file-object-store://{store}")
    } else {
        store.to_owned()
    }
}

/// Runs it.
pub async fn run(settings: &Settings) -> Report {
    // Two runs of one seed may go on at once on one machine.
    let name = format!("squire-chaos-{}-{}", settings.seed, std::process::id());
    let directory = std::env::temp_dir().join(name);
    let store = settings.store.clone().unwrap_or_else(|| {
        let path = directory.join("lake");
        path.to_string_lossy().into_owned()
    });
    let room = Arc::new(Room {
        seed: settings.seed,
        store,
        directory,
        over: AtomicBool::new(false),
    });
    for made in [room.history(), room.scratch(), room.logs(), room.traces()] {
        std::fs::create_dir_all(made).expect("a directory");
    }
    println!("chaos: seed {}, {}", room.seed, room.directory.display());
    let violations = Violations::default();
    make_store(&room).await;
    let started = Instant::now();
    let processes = Arc::new(Processes::default());
    let lived = torment(settings, &room, &processes, &violations).await;
    let tormented = started.elapsed();
    println!(
        "chaos: {} s over, looking at what is left",
        tormented.as_secs()
    );
    let readers = lived.readers.clone();
    let (replay, verdict) = settle(&room, lived, &violations).await;
    let events = crate::trace::read(&room.traces());
    println!("chaos: {} protocol events", events.len());
    let store = Store::open(&room.store, StoreOptions::default())
        .await
        .expect("the store opens");
    for found in crate::trace::violations(&store, &events).await {
        violations.add(found);
    }
    // A run in which nothing happened proves nothing.
    let (commits, least) = (replay.commits.len() as u64, settings.length.as_secs() / 2);
    if !violations.any() && (commits < least || replay.compared < least) {
        violations.add(format!(
            "only {commits} commits and {} snapshots in {} s",
            replay.compared,
            tormented.as_secs()
        ));
    }
    alarms(&room)
        .into_iter()
        .for_each(|alarm| violations.add(alarm));
    let left = Left {
        room: &room,
        replay: &replay,
        processes: &processes,
        readers: &readers,
    };
    let mut report = Report::new(settings, tormented, left, verdict, violations.all());
    let carried = report.maintenance.get(CARRIED).copied().unwrap_or(0);
    if report.violations.is_empty() && carried < settings.length.as_secs() / 60 {
        let few = format!("only {carried} rewrites were carried");
        report.violations.push(few);
    }
    if report.violations.is_empty() && !settings.keep {
        std::fs::remove_dir_all(&room.directory).expect("the run's directory");
    } else {
        println!("chaos: everything is kept in {}", room.directory.display());
    }
    report
}

async fn make_store(room: &Room) {
    let lake = Lake::existing(&room.store);
    lake.run(&["init", &lake.uri]).ok();
    lake.create_tables(&TABLES);
    for table in ["kv", "log_a", "bin"] {
        lake.run(&["index", &lake.uri, table, "id", "--type", "btree"])
            .ok();
    }
    endow(&room.store, &room.history())
        .await
        .expect("first money");
}

/// What the part in which everything happens at once leaves.
pub struct Lived {
    /// The log as far as it was followed.
    pub replay: Replay,
    /// Answers about operations.
    pub told: Vec<Told>,
    /// What readers counted.
    pub readers: Arc<ReaderCounts>,
    /// Who waits for batches in the spool.
    pub producer: Producer,
}

/// The part in which everything happens at once.
async fn torment(
    settings: &Settings,
    room: &Arc<Room>,
    processes: &Arc<Processes>,
    violations: &Violations,
) -> Lived {
    let store = Store::open(&room.store, StoreOptions::default())
        .await
        .expect("the store opens");
    let mut replay = Replay::new(store.clone(), &room.history(), violations.clone());
    let (snapshots, mut observed) = mpsc::channel::<Observation>(8);
    let counts = Arc::new(ReaderCounts::default());
    let desk = Desk {
        room: room.clone(),
        snapshots,
        violations: violations.clone(),
        counts: counts.clone(),
    };
    let mut readers = Vec::new();
    for reader in 0..READERS {
        let store = Store::open(&room.store, StoreOptions::default()).await;
        let name = format!("reader {reader}");
        readers.push(tokio::spawn(read_on(
            desk.clone(),
            store.expect("the store opens"),
            name,
        )));
    }
    let asker = tokio::spawn(ask_on(desk, store));
    let keepers = keep_all(room, processes, violations);
    let producer = {
        let (room, violations) = (room.clone(), violations.clone());
        std::thread::spawn(move || Producer::new(&room).run(&room, &violations))
    };
    let deadline = Instant::now() + settings.length;
    let mut clock = ClockWatch::default();
    while Instant::now() < deadline && !violations.any() {
        clock.look();
        check::answers(&mut replay, violations);
        match tokio::time::timeout(Duration::from_millis(200), observed.recv()).await {
            Ok(Some(observation)) => replay.compare(observation).await,
            Ok(None) => break,
            Err(_) => drop(replay.fetch().await),
        }
    }
    room.over.store(true, Ordering::Relaxed);
    while keepers.iter().any(|k| !k.is_finished()) {
        processes.kill_all();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for keeper in keepers {
        if keeper.join().is_err() {
            violations.add("a thread of the run itself panicked");
        }
    }
    while let Some(observation) = observed.recv().await {
        replay.compare(observation).await;
    }
    for reader in readers {
        reader.await.expect("a reader ends");
    }
    replay.clock_jumped = clock.jumped;
    Lived {
        replay,
        told: asker.await.expect("the asker ends"),
        readers: counts,
        producer: producer.join().expect("the producer ends"),
    }
}

fn keep_all(
    room: &Arc<Room>,
    processes: &Arc<Processes>,
    violations: &Violations,
) -> Vec<std::thread::JoinHandle<()>> {
    let mut keepers = Vec::new();
    let mut start = |work: Box<dyn FnOnce(&Room, &Processes, &Violations) + Send>| {
        let (room, processes, violations) = (room.clone(), processes.clone(), violations.clone());
        keepers.push(std::thread::spawn(move || {
            work(&room, &processes, &violations)
        }));
    };
    for number in 0..WRITERS {
        start(Box::new(move |r, p, v| keep(r, Part::Writer, number, p, v)));
    }
    for number in 0..AGENTS {
        start(Box::new(move |r, p, v| keep(r, Part::Agent, number, p, v)));
    }
    for number in 0..DAEMONS {
        start(Box::new(move |r, p, v| keep(r, Part::Daemon, number, p, v)));
    }
    for number in 0..COMMANDERS {
        start(Box::new(move |r, p, v| commands::run(r, number, p, v)));
    }
    for number in 0..MAINTAINERS {
        start(Box::new(move |r, p, v| maintainer::run(r, number, p, v)));
    }
    start(Box::new(|room, processes, _| {
        processes.torment(room.seed, &|| room.is_over());
    }));
    keepers
}

/// Starts a process again whenever it ends.
fn keep(room: &Room, part: Part, number: u32, processes: &Processes, violations: &Violations) {
    let mut rng = rng(room.seed, &format!("{part:?} {number}"));
    // The first keeps next to nothing, so that a paused writer wakes to freed version numbers.
    let kept = if number == 0 { 1..4 } else { 5..40 };
    let config = room.config(&format!("d{number}"), rng.random_range(kept));
    let mut incarnation = 0;
    while !room.is_over() {
        let mischief = mischief(&mut rng, part, &room.fault_log());
        let uri = store_uri(&room.store, &mischief);
        let (name, mut command) = match part {
            Part::Writer => (
                format!("w{number}"),
                writer_command(room, &uri, number, incarnation),
            ),
            Part::Agent => {
                let mut command = Command::new(squire());
                command.args(["agent", &uri, "--grace", "400ms", "--spool"]);
                command.arg(room.spool());
                (format!("a{number}"), command)
            }
            Part::Daemon => {
                let mut command = Command::new(squire());
                command.args(["daemon", &uri, "--actor", &format!("d{number}")]);
                command.arg("--config").arg(&config);
                (format!("d{number}"), command)
            }
        };
        room.equip(&mut command, &mischief);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(room.log(&name));
        let id = processes.start(&name, &mut command);
        let ended = processes.wait(id);
        judge(&name, ended, &[NO_STORE, CANNOT_OPEN], violations);
        incarnation += 1;
        std::thread::sleep(millis(&mut rng, 0..200));
    }
}

fn writer_command(room: &Room, uri: &str, number: u32, incarnation: u32) -> Command {
    let own = std::env::current_exe().expect("this program has a path");
    let mut command = Command::new(own);
    command
        .args(["writer", "--uri", uri])
        .args(["--number", &number.to_string()])
        .args(["--incarnation", &incarnation.to_string()])
        .args(["--seed", &room.seed.to_string()])
        .arg("--history")
        .arg(room.history());
    command
}
