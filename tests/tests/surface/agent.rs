//! Agents over a spool: several share it, any of them may die, stop or drain at any point, and each batch is
//! committed exactly once.
//!
//! What is committed is read twice: from the rows, where a second append would show, and from the commit log, where
//! every batch carries its own name as its message.

mod groups;
mod held;
mod producers;
mod trouble;
mod waits;

use nix::sys::signal::Signal;
use squire_tests::{Child, Lake, PATIENCE, tree};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A store with a spool beside it.
struct Spool {
    lake: Lake,
    dir: String,
    /// Every entry that was put, by name.
    put: BTreeSet<String>,
    /// Agents commit each batch alone.
    is_alone: bool,
}

impl Spool {
    /// A spool whose agents commit each batch alone, so that a test can tell which one passes a seam.
    fn alone(tables: &[&str]) -> Self {
        let mut spool = Self::new(tables);
        spool.is_alone = true;
        let config = "[agent]\ngroup_batches = 1\n";
        fs::write(spool.lake.path("alone.toml"), config).expect("the configuration");
        spool
    }

    fn new(tables: &[&str]) -> Self {
        let lake = Lake::with_tables(tables);
        let dir = lake.path("spool");
        fs::create_dir_all(dir.join("incoming")).expect("spool");
        Self {
            dir: dir.to_string_lossy().into_owned(),
            lake,
            put: BTreeSet::new(),
            is_alone: false,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(&self.dir).join(name)
    }

    /// Puts an entry as a producer must: whole, by rename.
    fn put(&mut self, name: &str, files: &[(&str, String)]) {
        let staging = self.lake.path("staging").join(name);
        match files {
            [("", content)] => {
                fs::create_dir_all(staging.parent().expect("parent")).expect("directory");
                fs::write(&staging, content).expect("file");
            }
            files => {
                fs::create_dir_all(&staging).expect("directory");
                for (file, content) in files {
                    fs::write(staging.join(file), content).expect("file");
                }
            }
        }
        fs::rename(&staging, self.path("incoming").join(name)).expect("rename");
        self.put.insert(name.to_owned());
    }

    /// Puts a batch directory that appends `ids` to both tables.
    fn put_pair(&mut self, name: &str, tables: [&str; 2], ids: std::ops::Range<i64>) {
        let files = tables.map(|table| (format!("{table}.csv"), csv(ids.clone(), name)));
        let files: Vec<(&str, String)> = files
            .iter()
            .map(|(file, content)| (file.as_str(), content.clone()))
            .collect();
        self.put(name, &files);
    }

    fn args(&self, more: &[&str]) -> Vec<String> {
        let mut args = vec!["agent", &self.lake.uri, "--spool", &self.dir];
        args.extend(["--listen", "off"]);
        args.extend(more);
        let alone = self.lake.path("alone.toml");
        let alone = alone.to_string_lossy();
        if self.is_alone && !more.contains(&"--config") {
            args.extend(["--config", &alone]);
        }
        args.into_iter().map(str::to_owned).collect()
    }

    fn start(&self, more: &[&str]) -> Child {
        let args = self.args(more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.lake.start(&args)
    }

    fn with_seam(&self, failpoints: &str, more: &[&str]) -> Child {
        let args = self.args(more);
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        self.lake.with_seam(failpoints, &args)
    }

    /// Works the spool off with one agent.
    fn work_off(&self) {
        self.start(&["--until-empty", "--grace", "1s"]).wait().ok();
    }

    fn names(&self, room: &str) -> BTreeSet<String> {
        let Ok(entries) = fs::read_dir(self.path(room)) else {
            return BTreeSet::new();
        };
        entries
            .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with('.'))
            .collect()
    }

    fn wait_for(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(
                Instant::now() < deadline,
                "{what} did not come about: {:#?}",
                tree(Path::new(&self.dir))
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What is in `done`. An agent that was killed between its reservation of a name there and the move leaves the name empty, and
    /// the entry goes beside it.
    fn settled(&self) -> BTreeSet<String> {
        let names = self.names("done").into_iter();
        let of = |name: String| match name.split_once('~') {
            Some((reserved, _)) => {
                let path = self.path("done").join(reserved);
                let is_empty = fs::read_dir(&path).map_or_else(
                    |_| fs::metadata(&path).is_ok_and(|file| file.len() == 0),
                    |mut entries| entries.next().is_none(),
                );
                if is_empty { reserved.to_owned() } else { name }
            }
            None => name,
        };
        names.map(of).collect()
    }

    /// Every entry but `not` is in `done`, nothing else is anywhere, and the commit log has each exactly once.
    fn assert_all_done_but(&self, not: &[&str]) {
        let done: BTreeSet<String> = self
            .put
            .iter()
            .filter(|name| !not.contains(&name.as_str()))
            .cloned()
            .collect();
        assert_eq!(self.names("incoming"), BTreeSet::new(), "incoming");
        assert_eq!(self.names("claimed"), BTreeSet::new(), "claimed");
        assert_eq!(self.settled(), done, "done");
        let mut committed: BTreeMap<String, usize> = BTreeMap::new();
        for entry in self.lake.log() {
            let members = entry["members"].as_array().cloned();
            for batch in members.unwrap_or_else(|| vec![entry.clone()]) {
                let message = batch["message"].as_str().expect("message").to_owned();
                if entry["kind"] == "logical" && self.put.contains(&message) {
                    *committed.entry(message).or_default() += 1;
                }
            }
        }
        let once: BTreeMap<String, usize> = done.into_iter().map(|name| (name, 1)).collect();
        assert_eq!(committed, once, "each exactly once in the commit log");
    }

    fn assert_all_done(&self) {
        self.assert_all_done_but(&[]);
        assert_eq!(self.names("rejected"), BTreeSet::new(), "rejected");
    }

    /// Nothing is left that a daemon pass does not remove.
    fn assert_at_rest(&self) {
        self.lake.daemon_pass("0s").ok();
        self.lake.assert_at_rest();
    }
}

fn csv(ids: impl IntoIterator<Item = i64>, value: &str) -> String {
    let rows: String = ids
        .into_iter()
        .map(|id| format!("{id},{value}\n"))
        .collect();
    format!("id,value\n{rows}")
}

fn ndjson(ids: impl IntoIterator<Item = i64>, value: &str) -> String {
    ids.into_iter()
        .map(|id| format!("{{\"id\":{id},\"value\":\"{value}\"}}\n"))
        .collect()
}

/// Sixty batches of two tables and twenty single files: appends, merges and deletes by key.
fn fill_mixed(spool: &mut Spool) -> BTreeMap<&'static str, BTreeSet<i64>> {
    let mut rows: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
    // Rows that batches replace or delete.
    let seed = spool
        .lake
        .csv("seed.csv", (0..60).map(|id| (id, "seed".into())));
    for table in ["b", "c"] {
        spool
            .lake
            .run(&["write", &spool.lake.uri, table, &seed])
            .ok();
        rows.insert(table, (0..60).collect());
    }
    let a = rows.entry("a").or_default();
    for i in 0..60_i64 {
        a.extend(i * 10..i * 10 + 5);
    }
    for i in 0..60_i64 {
        let name = format!("batch-{i:02}");
        let appended = ("a.csv", csv(i * 10..i * 10 + 5, &name));
        match i % 3 {
            0 => {
                let ids = 1_000 + i * 10..1_000 + i * 10 + 3;
                rows.get_mut("b").expect("b").extend(ids.clone());
                spool.put(&name, &[appended, ("b.x.ndjson", ndjson(ids, &name))]);
            }
            1 => {
                // One row that stands and one that does not.
                rows.get_mut("b").expect("b").insert(5_000 + i);
                let merged = ("b.m.csv", csv([i, 5_000 + i], &name));
                let settings = "[tables.b]\nmode = \"merge\"\nkey = \"id\"\n".to_owned();
                spool.put(&name, &[appended, merged, ("batch.toml", settings)]);
            }
            _ => {
                rows.get_mut("c").expect("c").remove(&i);
                let deleted = ("c.d.csv", format!("id\n{i}\n"));
                let settings = "[tables.c]\nmode = \"delete\"\n".to_owned();
                spool.put(&name, &[appended, deleted, ("batch.toml", settings)]);
            }
        }
    }
    for i in 0..20_i64 {
        let ids = 10_000 + i * 10..10_000 + i * 10 + 4;
        rows.get_mut("a").expect("a").extend(ids.clone());
        if i % 2 == 0 {
            spool.put(&format!("a.{i}.csv"), &[("", csv(ids, "single"))]);
        } else {
            spool.put(&format!("a.{i}.jsonl"), &[("", ndjson(ids, "single"))]);
        }
    }
    rows
}

async fn assert_rows(spool: &Spool, rows: &BTreeMap<&str, BTreeSet<i64>>) {
    for (table, ids) in rows {
        let ids: Vec<i64> = ids.iter().copied().collect();
        assert_eq!(spool.lake.ids(table).await, ids, "table {table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_share_a_spool() {
    let mut spool = Spool::new(&["a", "b", "c"]);
    let rows = fill_mixed(&mut spool);
    let agents: Vec<Child> = (0..3).map(|_| spool.start(&["--until-empty"])).collect();
    for agent in agents {
        agent.wait().ok();
    }
    assert_rows(&spool, &rows).await;
    // A merge replaced what stood there.
    let b: BTreeMap<i64, String> = spool.lake.rows("b").await.into_iter().collect();
    for i in (1..60_i64).step_by(3) {
        assert_eq!(b[&i], format!("batch-{i:02}"));
    }
    spool.assert_all_done();
    spool.assert_at_rest();
}

/// Whatever is killed when: agents get SIGKILL from outside, at no particular point, until the spool is worked off.
#[tokio::test(flavor = "multi_thread")]
async fn crash_agents_at_random_until_the_spool_is_empty() {
    let mut spool = Spool::new(&["a", "b", "c"]);
    let rows = fill_mixed(&mut spool);
    let start = |spool: &Spool| spool.start(&["--until-empty", "--grace", "1s"]);
    let mut agents: Vec<Child> = (0..3).map(|_| start(&spool)).collect();
    let deadline = Instant::now() + Duration::from_secs(150);
    let mut kills = 0_u64;
    while spool.names("done").len() < spool.put.len() && kills < 40 {
        assert!(Instant::now() < deadline, "only {kills} kills in 150 s");
        std::thread::sleep(Duration::from_millis(130 + 37 * (kills % 9)));
        let victim = agents.remove(0);
        victim.kill();
        kills += 1;
        agents.push(start(&spool));
    }
    for agent in agents {
        agent.wait().ok();
    }
    spool.work_off();
    assert!(kills >= 3, "nothing was killed");
    assert_rows(&spool, &rows).await;
    spool.assert_all_done();
    spool.assert_at_rest();
}

/// An agent is killed at `seam` over its second batch; another one finishes.
async fn killed_at(seam: &str) {
    let mut spool = Spool::alone(&["a", "b"]);
    let mut ids: Vec<i64> = Vec::new();
    for i in 0..4_i64 {
        let range = i * 10..i * 10 + 3;
        ids.extend(range.clone());
        spool.put_pair(&format!("batch-{i}"), ["a", "b"], range);
    }
    spool.put(
        "batch-m",
        &[
            ("a.csv", csv([100], "batch-m")),
            ("b.csv", csv([0, 100], "batch-m")),
            ("batch.toml", "[tables.b]\nmode = \"merge\"\n".to_owned()),
        ],
    );
    ids.push(100);
    let doomed = spool.with_seam(seam, &["--until-empty"]).wait();
    assert_eq!(doomed.code, None, "{seam} was not reached: {doomed:?}");
    assert_eq!(spool.names("rejected"), BTreeSet::new(), "{seam}");
    spool.work_off();
    for table in ["a", "b"] {
        assert_eq!(spool.lake.ids(table).await, ids, "{seam}: table {table}");
    }
    spool.assert_all_done();
    spool.assert_at_rest();
}

macro_rules! crash_agent_at {
    ($($name:ident: $seam:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            killed_at($seam).await;
        }
    )*};
}

crash_agent_at! {
    crash_agent_after_claim: "agent.after_claim=1*off->return(kill)";
    crash_agent_before_commit: "agent.before_commit=1*off->return(kill)";
    crash_agent_after_stage: "write.after_stage=1*off->return(kill)";
    crash_agent_after_sidecar: "sidecar.after_put=1*off->return(kill)";
    crash_agent_before_the_first_tables_put: "commit.before_put=return(kill)";
    crash_agent_after_the_first_tables_put: "commit.after_put=return(kill)";
    crash_agent_after_the_second_tables_put: "commit.after_put=1*off->return(kill)";
    crash_agent_after_the_manifests_put: "commit.after_put=2*off->return(kill)";
    crash_agent_between_tables: "write.after_commit_table=2*off->return(kill)";
    crash_agent_after_phase_b: "write.after_phase_b=1*off->return(kill)";
    crash_agent_before_publish: "publish.before_commit=1*off->return(kill)";
    crash_agent_after_publish: "publish.after_commit=1*off->return(kill)";
    crash_agent_before_the_sidecar_goes: "sidecar.before_delete=1*off->return(kill)";
    crash_agent_after_commit: "agent.after_commit=1*off->return(kill)";
}

/// The one that resumes a dead agent's claim dies as well, at each step of what it does.
#[tokio::test(flavor = "multi_thread")]
async fn crash_agents_that_resume_the_claims_of_dead_ones() {
    let mut spool = Spool::new(&["a", "b"]);
    spool.put_pair("batch-0", ["a", "b"], 0..3);
    let seams = [
        "write.after_commit_table=return(kill)",
        "resolve.after_load=return(kill)",
        "resolve.before_decide=return(kill)",
        "resolve.after_decide=return(kill)",
        "resolve.before_undo=return(kill)",
        "resolve.after_undo=return(kill)",
        "resolve.before_settle=return(kill)",
        "resolve.after_settle=return(kill)",
        "agent.before_commit=return(kill)",
        "agent.after_count=return(kill)",
        "write.after_phase_b=return(kill)",
        "resolve.before_forward=return(kill)",
        "publish.after_commit=return(kill)",
        "agent.before_commit=return(kill)",
    ];
    for (at, seam) in seams.iter().enumerate() {
        let doomed = spool.with_seam(seam, &["--until-empty"]).wait();
        // The publish makes it final: whoever comes after finds it committed and finishes.
        let expected = if at + 1 == seams.len() { Some(0) } else { None };
        assert_eq!(doomed.code, expected, "{seam}: {doomed:?}");
    }
    spool.work_off();
    for table in ["a", "b"] {
        assert_eq!(spool.lake.ids(table).await, [0, 1, 2], "table {table}");
    }
    spool.assert_all_done();
    spool.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_agent_finishes_the_batch_in_hand() {
    for seam in [
        "agent.after_claim",
        "agent.before_commit",
        "write.after_phase_b",
        "agent.after_commit",
    ] {
        let mut spool = Spool::alone(&["a", "b"]);
        for i in 0..4_i64 {
            spool.put_pair(&format!("batch-{i}"), ["a", "b"], i * 10..i * 10 + 3);
        }
        let mut agent = spool.with_seam(&format!("{seam}=1*off->1*return(stop)"), &[]);
        agent.wait_stopped();
        agent.signal(Signal::SIGTERM);
        let ended = agent.resume();
        assert_eq!(ended.code, Some(0), "{seam}: {ended:?}");
        assert_eq!(spool.names("done").len(), 2, "{seam}: done");
        assert_eq!(spool.names("incoming").len(), 2, "{seam}: incoming");
        assert_eq!(spool.names("claimed"), BTreeSet::new(), "{seam}: claimed");
        assert_eq!(spool.lake.ids("a").await.len(), 6, "{seam}");
        spool.work_off();
        spool.assert_all_done();
        spool.assert_at_rest();
    }
}

#[test]
fn an_idle_agent_stops_at_once() {
    let spool = Spool::new(&["a"]);
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut agent = spool.start(&[]);
        spool.wait_for("the spool's directories", |s| s.path("rejected").is_dir());
        std::thread::sleep(Duration::from_millis(300));
        let sent = Instant::now();
        agent.signal(signal);
        agent.wait().ok();
        assert!(sent.elapsed() < Duration::from_secs(5), "{signal}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_entries_are_rejected_with_a_reason_and_good_ones_go_on() {
    let mut spool = Spool::new(&["a", "b"]);
    let single = |content: &str| vec![("", content.to_owned())];
    let rows = csv([1], "x");
    let bad: Vec<(&str, Vec<(&str, String)>, Vec<&str>)> = vec![
        ("none.1.csv", single(&rows), vec!["none", "a, b"]),
        (
            "a.type.csv",
            single("id,value\nx,y\n"),
            vec!["a.type.csv:2", "Int64"],
        ),
        (
            "a.column.csv",
            single("id,other\n1,y\n"),
            vec!["a.column.csv", "`other`"],
        ),
        (
            "a.null.csv",
            single("id,value\n,y\n"),
            vec!["a.null.csv", "`id`"],
        ),
        ("a.cut.parquet", single("PAR1....."), vec!["a.cut.parquet"]),
        ("9.csv", single(&rows), vec!["9.csv", "table name"]),
        (
            "empty",
            vec![(".keep", String::new())],
            vec!["empty", "no data file"],
        ),
        (
            "half",
            vec![
                ("a.csv", csv([900], "half")),
                ("b.csv", "id,value\nx,y\n".into()),
            ],
            vec!["half/b.csv:2"],
        ),
        (
            "toml",
            vec![
                ("a.csv", csv([901], "toml")),
                ("batch.toml", "foo = 1\n".into()),
            ],
            vec!["batch.toml:1", "foo"],
        ),
        (
            "twice",
            vec![
                ("a.csv", csv([902], "twice")),
                ("b.csv", csv([7, 7], "twice")),
                ("batch.toml", "[tables.b]\nmode = \"merge\"\n".into()),
            ],
            vec!["table b", "id = 7"],
        ),
        (
            "where",
            vec![
                ("a.csv", csv([903], "where")),
                (
                    "batch.toml",
                    "[tables.b]\nmode = \"delete\"\nwhere = \"zz = 1\"\n".into(),
                ),
            ],
            vec!["table b", "zz"],
        ),
    ];
    let mut good = Vec::new();
    for (i, (name, files, _)) in bad.iter().enumerate() {
        let id = i64::try_from(i).expect("small") * 10;
        good.push(id);
        // Sorted before and after it.
        spool.put_pair(&format!("{name}-good"), ["a", "b"], id..id + 1);
        spool.put(name, files);
    }
    for unfinished in [".hidden.csv", "a.copying.csv.tmp", "a.rows.txt"] {
        fs::write(spool.path("incoming").join(unfinished), &rows).expect("file");
    }
    let agents: Vec<Child> = (0..2).map(|_| spool.start(&["--until-empty"])).collect();
    for agent in agents {
        // Two of the three that stay are left over: nobody takes a hidden file for input.
        let done = agent.wait();
        assert_eq!(done.code, Some(1), "{done:?}");
        assert!(done.stdout.contains("left 2, no input 3"), "{done:?}");
    }
    for (name, _, texts) in &bad {
        assert!(
            spool.path("rejected").join(name).exists(),
            "{name} is not there"
        );
        let reason = spool.path("rejected").join(format!("{name}.reason.txt"));
        let reason = fs::read_to_string(&reason).unwrap_or_else(|e| panic!("{name}: {e}"));
        for text in texts {
            assert!(
                reason.contains(text),
                "{name}: {text:?} is not in: {reason}"
            );
        }
        assert!(
            reason.contains(name),
            "the reason does not name {name}: {reason}"
        );
    }
    for unfinished in [".hidden.csv", "a.copying.csv.tmp", "a.rows.txt"] {
        let path = spool.path("incoming").join(unfinished);
        assert!(path.exists(), "{unfinished} was taken");
        fs::remove_file(path).expect("remove");
    }
    for table in ["a", "b"] {
        assert_eq!(spool.lake.ids(table).await, good, "table {table}");
    }
    let names: Vec<&str> = bad.iter().map(|(name, ..)| *name).collect();
    spool.assert_all_done_but(&names);

    // A second bad entry of one name does not overwrite the first.
    spool.put("a.type.csv", &single("id,value\nz,y\n"));
    spool.work_off();
    let again = spool.names("rejected");
    let again: Vec<_> = again
        .iter()
        .filter(|n| n.starts_with("a.type.csv"))
        .collect();
    assert_eq!(again.len(), 6, "two entries, two reasons each: {again:?}");
    spool.assert_at_rest();
}

/// Something that cannot even be opened is one more bad entry, not the end of all work.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_cannot_be_opened_does_not_stop_the_others() {
    let mut spool = Spool::new(&["a"]);
    let link = spool.path("incoming").join("a.0-link.csv");
    std::os::unix::fs::symlink("/nowhere/at/all.csv", link).expect("link");
    spool.put("a.1.csv", &[("", csv([1], "good"))]);
    let mut agent = spool.start(&[]);
    spool.wait_for("the good entry's commit", |s| {
        s.names("done").contains("a.1.csv")
    });
    agent.signal(Signal::SIGTERM);
    agent.wait().ok();
    assert_eq!(spool.lake.ids("a").await, [1]);
}

/// A table that an external writer touched waits for an operator; batches of other tables do not wait with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_must_wait_does_not_stop_the_others() {
    let mut spool = Spool::new(&["a", "b"]);
    let uri = format!("{}/a.lance", spool.lake.uri);
    let mut foreign = lance::Dataset::open(&uri).await.expect("table");
    foreign
        .update_config([("someone", "else")])
        .await
        .expect("an external commit");
    spool.put("a.0.csv", &[("", csv([1], "drifted"))]);
    spool.put("b.1.csv", &[("", csv([1], "good"))]);
    let mut agent = spool.start(&["--grace", "0s"]);
    spool.wait_for("the other table's commit", |s| {
        s.names("done").contains("b.1.csv")
    });
    assert!(
        !spool.names("rejected").contains("a.0.csv"),
        "it is not bad"
    );
    // The operator decides, and the batch follows without anyone touching it.
    let repair = ["repair", &spool.lake.uri, "--table", "a", "--discard"];
    spool.lake.run(&repair).ok();
    spool.wait_for("the repaired table's commit", |s| {
        s.names("done").contains("a.0.csv")
    });
    agent.signal(Signal::SIGTERM);
    agent.wait().ok();
    spool.assert_all_done();
    assert_eq!(spool.lake.ids("a").await, [1]);
    spool.assert_at_rest();
}

/// A stopped agent keeps its claim for as long as it lives, whatever the clock says; others go on with the rest.
#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_agent_keeps_its_claim() {
    for seam in [
        "agent.after_claim",
        "agent.before_commit",
        "write.after_stage",
        "sidecar.after_put",
        "write.after_commit_table",
        "write.after_phase_b",
        "publish.before_commit",
        "publish.after_commit",
        "agent.after_commit",
    ] {
        let mut spool = Spool::alone(&["a", "b"]);
        let mut ids: Vec<i64> = Vec::new();
        for i in 0..4_i64 {
            ids.extend(i * 10..i * 10 + 3);
            spool.put_pair(&format!("batch-{i}"), ["a", "b"], i * 10..i * 10 + 3);
        }
        let failpoints = format!("{seam}=1*return(stop)");
        let mut stopped = spool.with_seam(&failpoints, &["--until-empty", "--grace", "0s"]);
        stopped.wait_stopped();
        assert_eq!(spool.names("claimed").len(), 1, "{seam}");
        let other = spool.start(&["--until-empty", "--grace", "200ms"]).wait();
        assert_eq!(other.code, Some(0), "{seam}: {other:?}");
        assert_eq!(
            spool.names("claimed").len(),
            1,
            "{seam}: the claim was stolen"
        );
        assert_eq!(spool.names("done").len(), 3, "{seam}: the rest goes on");
        stopped.resume().ok();
        for table in ["a", "b"] {
            assert_eq!(spool.lake.ids(table).await, ids, "{seam}: table {table}");
        }
        spool.assert_all_done();
        spool.assert_at_rest();
    }
}

/// One batch id, whoever sends it and under whatever name.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_id_counts_once() {
    let mut spool = Spool::new(&["a", "b"]);
    for i in 0..6_i64 {
        let name = format!("batch-{i}");
        let settings = "batch_id = \"nightly\"\nmessage = \"nightly load\"\n";
        spool.put(
            &name,
            &[
                ("a.csv", csv([1, 2], "same")),
                ("b.csv", csv([1, 2], "same")),
                ("batch.toml", settings.to_owned()),
            ],
        );
    }
    let agents: Vec<Child> = (0..3).map(|_| spool.start(&["--until-empty"])).collect();
    for agent in agents {
        agent.wait().ok();
    }
    assert_eq!(spool.names("done").len(), 6);
    assert_eq!(spool.names("rejected"), BTreeSet::new());
    for table in ["a", "b"] {
        assert_eq!(spool.lake.ids(table).await, [1, 2], "table {table}");
    }
    spool.assert_at_rest();
}

/// The store is gone for a while, as when a disk is not mounted, and comes back as it was.
async fn away_at(seam: &str) {
    let mut spool = Spool::alone(&["a", "b"]);
    for i in 0..3_i64 {
        spool.put_pair(&format!("batch-{i}"), ["a", "b"], i * 10..i * 10 + 3);
    }
    let failpoints = format!("{seam}=1*off->1*return(stop)");
    let mut agent = spool.with_seam(&failpoints, &["--grace", "1s"]);
    agent.wait_stopped();
    let away = spool.lake.path("away");
    fs::rename(&spool.lake.uri, &away).expect("rename");
    agent.signal(Signal::SIGCONT);
    std::thread::sleep(Duration::from_secs(2));
    let rejected = spool.names("rejected");
    assert_eq!(
        rejected,
        BTreeSet::new(),
        "{seam}: a batch is not bad because the store is away"
    );
    // What was written meanwhile is hidden by what is mounted over it.
    if Path::new(&spool.lake.uri).exists() {
        fs::remove_dir_all(&spool.lake.uri).expect("remove");
    }
    fs::rename(&away, &spool.lake.uri).expect("rename");
    spool.wait_for("every batch", |s| s.names("done").len() == s.put.len());
    agent.signal(Signal::SIGTERM);
    agent.wait().ok();
    spool.assert_all_done();
    assert_eq!(spool.lake.ids("a").await.len(), 9, "{seam}");
    spool.assert_at_rest();
}

macro_rules! store_away_at {
    ($($name:ident: $seam:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            away_at($seam).await;
        }
    )*};
}

store_away_at! {
    crash_store_away_after_claim: "agent.after_claim";
    crash_store_away_before_commit: "agent.before_commit";
    crash_store_away_after_stage: "write.after_stage";
    crash_store_away_after_sidecar: "sidecar.after_put";
    crash_store_away_after_phase_b: "write.after_phase_b";
    crash_store_away_after_publish: "publish.after_commit";
}

/// The spool is looked at again and again, so entries that come later are taken too.
#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_agent_takes_what_comes() {
    let mut spool = Spool::new(&["a", "b"]);
    let mut agent = spool.start(&[]);
    for i in 0..3_i64 {
        spool.put_pair(&format!("batch-{i}"), ["a", "b"], i * 10..i * 10 + 3);
        spool.wait_for("the batch", |s| {
            s.names("done").contains(&format!("batch-{i}"))
        });
    }
    agent.signal(Signal::SIGTERM);
    agent.wait().ok();
    spool.assert_all_done();
    spool.assert_at_rest();
}
