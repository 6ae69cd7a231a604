//! What may not stop an agent, and how it tells that something does.

use super::*;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::{ffi::OsStrExt, fs::symlink, net::UnixDatagram};
use std::process::Command;

impl Spool {
    /// A configuration under which agents try again soon.
    pub(super) fn config(&self, more: &str) -> String {
        let path = self.lake.path("squire.toml");
        let alone = if self.is_alone {
            "group_batches = 1"
        } else {
            ""
        };
        let text = format!("[agent]\npoll_interval = \"50ms\"\n{alone}\n{more}\n");
        fs::write(&path, text).expect("the configuration");
        path.to_string_lossy().into_owned()
    }

    fn reason(&self, name: &str) -> String {
        let path = self.path("rejected").join(format!("{name}.reason.txt"));
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Has the table drift until an operator decides.
    pub(super) async fn drift(&self, table: &str) {
        let uri = format!("{}/{table}.lance", self.lake.uri);
        let mut foreign = lance::Dataset::open(&uri).await.expect("table");
        let commit = foreign.update_config([("someone", "else")]).await;
        commit.expect("an external commit");
    }
}

pub(super) fn one(content: &str) -> [(&'static str, String); 1] {
    [("", content.to_owned())]
}

/// What panics is caught, and would panic for ever. A panic at a seam stands for the one inside Lance.
#[tokio::test(flavor = "multi_thread")]
async fn an_input_on_which_every_attempt_panics_is_rejected() {
    let mut spool = Spool::alone(&["a"]);
    spool.put("a.0.csv", &one(&csv([0], "x")));
    let config = spool.config("max_attempts = 3");
    let args = ["--until-empty", "--json", "--config", &config];
    let broken = "agent.before_commit=panic(this content)";
    let summary = spool.with_seam(broken, &args).wait().ok().json();
    assert_eq!(summary["rejected"], 1, "{summary}");
    let reason = spool.reason("a.0.csv");
    let told = ["rejected/a.0.csv", "panicked: this content", "max_attempts"];
    for part in told {
        assert!(reason.contains(part), "{reason}");
    }
    // One that passes is no sign against the input.
    spool.put("a.1.csv", &one(&csv([1], "x")));
    let passing = "agent.before_commit=2*panic(this content)";
    let summary = spool.with_seam(passing, &args).wait().ok().json();
    assert_eq!(summary["committed"], 1, "{summary}");
    assert_eq!(spool.lake.ids("a").await, [1]);
}

/// What kills the process cannot be caught; the claim counts who died. A kill at a seam stands for the abort.
#[tokio::test(flavor = "multi_thread")]
async fn crash_an_input_over_which_agents_die_is_rejected() {
    let mut spool = Spool::alone(&["a"]);
    for i in 0..3 {
        spool.put(&format!("a.{i}.csv"), &one(&csv([i], "x")));
    }
    let config = spool.config("max_attempts = 2");
    let args = ["--until-empty", "--json", "--config", &config];
    for seam in ["agent.after_claim", "agent.before_commit"] {
        let failpoints = format!("{seam}=1*return(kill)");
        spool.with_seam(&failpoints, &args).killed();
    }
    // Committed before anybody looks at the suspect again, and the suspect is no failure of the agent.
    let summary = spool.start(&args).wait().ok().json();
    assert_eq!(
        (
            &summary["committed"],
            &summary["rejected"],
            &summary["left"]
        ),
        (&2.into(), &1.into(), &Value::Array(Vec::new())),
        "{summary}"
    );
    let reason = spool.reason("a.0.csv");
    assert!(
        reason.contains("rejected/a.0.csv") && reason.contains("2 agents in a row died"),
        "{reason}"
    );
    assert_eq!(spool.lake.ids("a").await, [1, 2]);
    spool.assert_all_done_but(&["a.0.csv"]);
    // It may be tried again; an agent that was stopped, or had to wait, has not died over it.
    spool.put("a.0.csv", &one(&csv([0], "x")));
    spool.drift("a").await;
    for _ in 0..3 {
        spool.start(&args).wait().failed(1, "drift");
        let doomed = spool.with_seam("resolve.after_load=return(kill)", &args);
        drop(doomed.wait());
    }
    let repair = ["repair", &spool.lake.uri, "--table", "a", "--discard"];
    spool.lake.run(&repair).ok();
    spool.work_off();
    assert_eq!(spool.lake.ids("a").await, [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_input_stays_and_what_must_not_be_opened_is_refused() {
    let mut spool = Spool::new(&["a", "b"]);
    let secret = spool.lake.path("secret.csv");
    fs::write(&secret, csv([666], "secret")).expect("secret");
    let incoming = spool.path("incoming");
    let stays = [
        "a.1.csv.filepart",
        "a.2.csv._COPYING_",
        "a.3.CSV.CRDOWNLOAD",
        "notes.txt",
    ];
    for name in stays {
        fs::write(incoming.join(name), csv([1], "x")).expect("file");
    }
    fs::write(incoming.join(".keep"), "").expect("file");
    fs::create_dir(incoming.join("filling")).expect("directory");
    fs::write(incoming.join("filling/a.csv.part"), "id").expect("file");
    spool.put(
        "good",
        &[
            ("a.csv", csv([1], "good")),
            ("b.csv", csv([1], "good")),
            ("batch.toml", "message = \"good\"\n".to_owned()),
            ("batch.toml~", "message = \"was\"\n".to_owned()),
            ("SHA256SUMS", String::new()),
            ("_SUCCESS", String::new()),
            ("Thumbs.db", String::new()),
            ("a.csv.crc", String::new()),
        ],
    );
    spool.put("linked", &[("a.csv", csv([2], "linked"))]);
    symlink(&secret, incoming.join("linked/b.csv")).expect("link");
    symlink(&secret, incoming.join("a.link.csv")).expect("link");
    let made = Command::new("mkfifo")
        .arg(incoming.join("a.fifo.csv"))
        .status();
    assert!(made.expect("mkfifo").success());
    let odd = std::ffi::OsStr::from_bytes(b"a.\x1b[2J\xff.csv");
    fs::write(incoming.join(odd), "id,value\nx,y\n").expect("file");

    let done = spool.start(&["--until-empty", "--json"]).wait();
    let done = done.failed(1, "still being written");
    let summary = done.json();
    let counts = ["committed", "rejected", "ignored"].map(|key| summary[key].as_u64());
    assert_eq!(counts, [Some(1), Some(4), Some(6)], "{summary}");
    let left = summary["left"].as_array().expect("what is left");
    let left: Vec<&str> = left.iter().filter_map(|l| l["entry"].as_str()).collect();
    assert_eq!(left.len(), 5, "hidden files are nobody's input: {summary}");
    assert!(left.contains(&"filling") && left.contains(&"notes.txt"));
    assert_eq!(spool.lake.ids("a").await, [1]);
    assert_eq!(spool.lake.ids("b").await, [1]);
    for (name, why) in [
        ("linked", "rejected/linked/b.csv is a symbolic link"),
        ("a.link.csv", "rejected/a.link.csv is a symbolic link"),
        (
            "a.fifo.csv",
            "rejected/a.fifo.csv is neither a file nor a directory",
        ),
    ] {
        let reason = spool.reason(name);
        assert!(reason.contains(why), "{reason}");
    }
    let reasons = fs::read_dir(spool.path("rejected")).expect("rejected");
    for path in reasons.map(|e| e.expect("entry").path()) {
        if path.to_string_lossy().ends_with(".reason.txt") {
            let reason = fs::read_to_string(&path).expect("reason");
            let plain = !reason.trim_end().contains(|c: char| c.is_control());
            assert!(plain && !reason.contains("claimed"), "{reason:?}");
        }
    }
    assert!(!done.stderr.contains("\u{1b}[2J"), "{}", done.stderr);
    assert!(done.stderr.contains("a.1.csv.filepart"), "{}", done.stderr);
    let left = spool.names("incoming");
    assert!(stays.iter().all(|name| left.contains(*name)), "{left:?}");
    assert!(left.contains("filling") && left.len() == 5, "{left:?}");
}

/// A producer may open a file again after it was claimed.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grows_while_it_is_read_is_not_committed_in_part() {
    let mut spool = Spool::new(&["a"]);
    spool.put("a.1.csv", &one("id,value\n1,x\n"));
    let args = ["--until-empty", "--config", &spool.config("")];
    // It has read one row by now.
    let mut agent = spool.with_seam("agent.before_commit=1*return(stop)", &args);
    agent.wait_stopped();
    let claim = spool.names("claimed").pop_first().expect("the claim");
    let claimed = spool.path("claimed").join(claim).join("a.1.csv");
    let mut open = fs::File::options()
        .append(true)
        .open(claimed)
        .expect("the producer's file");
    open.write_all(b"2,x\n").expect("write");
    drop(open);
    let done = agent.resume().ok();
    assert!(
        done.stderr.contains("still being written"),
        "{}",
        done.stderr
    );
    assert_eq!(spool.lake.ids("a").await, [1, 2]);
    spool.assert_all_done();
}

/// Between two writes of a slow producer nothing changes, but its file is open.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_a_process_has_open_for_writing_is_not_taken() {
    let mut spool = Spool::new(&["a"]);
    spool.put("a.1.csv", &one("id,value\n1,x\n"));
    spool.put("a.2.csv", &one(&csv([9], "x")));
    let open = fs::File::options()
        .append(true)
        .open(spool.path("incoming/a.1.csv"));
    let mut open = open.expect("the producer's file");
    let mut served = Served::start(&spool, &["--config", &spool.config("")]);
    served.wait_for(
        &spool,
        "/metrics",
        200,
        "squire_agent_waiting{cause=\"unfinished\"} 1",
    );
    spool.wait_for("the other file's commit", |s| {
        s.names("done").contains("a.2.csv")
    });
    assert!(
        spool.names("incoming").contains("a.1.csv"),
        "it is not taken"
    );
    open.write_all(b"2,x\n3,x\n").expect("write");
    drop(open);
    spool.wait_for("its commit", |s| s.names("done").contains("a.1.csv"));
    served.agent.signal(Signal::SIGTERM);
    let done = served.agent.wait().ok();
    assert_eq!(done.stderr.matches(" WARN ").count(), 1, "{}", done.stderr);
    assert_eq!(spool.lake.ids("a").await, [1, 2, 3, 9]);
    spool.assert_all_done();
}

/// Whatever somebody does to one claim, the others go on, and it goes on once it is mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_claim_stops_only_itself() {
    let mut spool = Spool::alone(&["a"]);
    for i in 0..2 {
        spool.put(&format!("a.{i}.csv"), &one(&csv([i], "x")));
    }
    let config = spool.config("");
    let args = ["--until-empty", "--json", "--config", &config];
    spool
        .with_seam("agent.after_claim=1*return(kill)", &args)
        .killed();
    let claim = spool.names("claimed").pop_first().expect("the orphan");
    let lock = spool.path("claimed").join(&claim).join(".lock");
    fs::remove_file(&lock).expect("remove");
    fs::create_dir(&lock).expect("directory");
    let stray = spool.path("claimed/01JD2Q3V5W6X7Y8Z9A0B1C2D3E");
    fs::write(&stray, "").expect("file");
    let done = spool.start(&args).wait().failed(1, &claim);
    let summary = done.json();
    assert_eq!(summary["committed"], 1, "{summary}");
    assert_eq!(summary["left"].as_array().map(Vec::len), Some(2));
    assert_eq!(summary["failed"], Value::Null, "{summary}");
    assert_eq!(done.stderr.matches(" WARN ").count(), 2, "{}", done.stderr);
    fs::remove_dir(&lock).expect("remove");
    fs::remove_file(&stray).expect("remove");
    spool.work_off();
    spool.assert_all_done();
    assert_eq!(spool.lake.ids("a").await, [0, 1]);
}

/// A file stands for `room` that cannot be written to, for root neither.
fn occupy(spool: &Spool, room: &str) -> PathBuf {
    let (is, aside) = (spool.path(room), spool.path(&format!("{room}.aside")));
    fs::rename(&is, &aside).expect("rename");
    fs::write(&is, "").expect("file");
    aside
}

/// Nobody died over it, and it is committed or rejected once.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_moved_on_waits_with_the_true_reason() {
    let mut spool = Spool::alone(&["a", "b"]);
    spool.put("a.1.csv", &one(&csv([1], "x")));
    spool.put("a.bad.csv", &one("id,value\nx,y\n"));
    let config = spool.config("max_attempts = 2");
    let mut served = Served::start(&spool, &["--config", &config]);
    served.wait_for(&spool, "/readyz", 200, "");
    spool.wait_for("both", |s| {
        s.names("incoming").is_empty() && s.names("claimed").is_empty()
    });
    let rooms = ["done", "rejected"].map(|room| (spool.path(room), occupy(&spool, room)));
    spool.put("b.1.csv", &one(&csv([1], "x")));
    spool.put("b.bad.csv", &one("id,value\nx,y\n"));
    served.wait_for(
        &spool,
        "/metrics",
        200,
        "squire_agent_waiting{cause=\"stuck\"} 2",
    );
    // More tries than agents may die.
    let claim = |s: &Spool, entry: &str| {
        let claims = s.names("claimed").into_iter();
        let mut claims = claims.map(|claim| s.path("claimed").join(claim));
        claims
            .find(|claim| claim.join(entry).is_file())
            .expect("the claim")
    };
    let mut tries = BTreeSet::new();
    spool.wait_for("several tries", |s| {
        let record = fs::metadata(claim(s, "b.bad.csv").join(".attempts"));
        tries.extend(record.and_then(|record| record.modified()));
        tries.len() > 4
    });
    for (room, aside) in rooms {
        fs::remove_file(&room).expect("remove");
        fs::rename(&aside, &room).expect("rename");
    }
    spool.wait_for("both", |s| s.names("claimed").is_empty());
    served.wait_for(
        &spool,
        "/metrics",
        200,
        "squire_agent_waiting{cause=\"stuck\"} 0",
    );
    let (_, metrics) = served.get("/metrics").expect("metrics");
    served.agent.signal(Signal::SIGTERM);
    let said = served.agent.wait().ok().stderr;
    assert_eq!(said.matches("batch committed").count(), 2, "{said}");
    assert!(!said.contains("committed before"), "{said}\n{metrics}");
    let reason = spool.reason("b.bad.csv");
    assert!(
        !reason.contains("died") && reason.contains("rejected/b.bad.csv"),
        "{reason}"
    );
    assert_eq!(spool.names("rejected").len(), 6, "no name is left behind");
    spool.assert_all_done_but(&["a.bad.csv", "b.bad.csv"]);
    assert_eq!(spool.lake.ids("b").await, [1]);
}

/// A good batch waits until its table's folder is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_away_rejects_nothing() {
    let mut spool = Spool::new(&["a"]);
    spool.put("a.1.csv", &one(&csv([1], "x")));
    let table = PathBuf::from(format!("{}/a.lance", spool.lake.uri));
    let away = spool.lake.path("away.lance");
    fs::rename(&table, &away).expect("rename");
    let config = spool.config("");
    let args = ["--until-empty", "--json", "--config", &config];
    let summary = spool.start(&args).wait().failed(1, "half deleted").json();
    assert_eq!(summary["rejected"], 0, "{summary}");
    assert_eq!(summary["left"][0]["cause"], "storage", "{summary}");
    fs::rename(&away, &table).expect("rename");
    spool.work_off();
    spool.assert_all_done();
    assert_eq!(spool.lake.ids("a").await, [1]);
}

/// Such as another file system that was mounted there. Needs the right to mount; does nothing without it.
#[test]
fn an_entry_that_cannot_be_claimed_is_left_with_the_true_reason() {
    let mut spool = Spool::new(&["a"]);
    let (real, incoming) = (spool.lake.path("real"), spool.path("incoming"));
    fs::create_dir(&real).expect("directory");
    let mounted = Command::new("mount")
        .arg("--bind")
        .args([&real, &incoming])
        .output();
    if !mounted.is_ok_and(|done| done.status.success()) {
        return;
    }
    fs::write(incoming.join("a.1.csv"), csv([1], "x")).expect("file");
    let config = spool.config("");
    let args = ["--until-empty", "--json", "--config", &config];
    let done = spool.start(&args).wait();
    let unmounted = Command::new("umount").arg(&incoming).status();
    assert!(unmounted.expect("umount").success());
    let done = done.failed(1, "copy it instead of renaming it");
    assert_eq!(done.stderr.matches(" WARN ").count(), 1, "{}", done.stderr);
    assert_eq!(done.json()["left"][0]["entry"], "a.1.csv");
    spool.put.clear();
    spool.assert_all_done();
}

/// An agent that is asked what it does.
pub(super) struct Served {
    pub(super) agent: Child,
    port: u16,
}

impl Served {
    pub(super) fn start(spool: &Spool, more: &[&str]) -> Self {
        let free = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = free.local_addr().expect("address").port();
        drop(free);
        let listen = format!("127.0.0.1:{port}");
        let args = [
            &[
                "agent",
                &spool.lake.uri,
                "--spool",
                &spool.dir,
                "--listen",
                &listen,
            ],
            more,
        ];
        let agent = spool.lake.start(&args.concat());
        Self { agent, port }
    }

    pub(super) fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    pub(super) fn wait_for(&self, spool: &Spool, path: &str, code: u16, text: &str) {
        spool.wait_for(&format!("{path}: {code} {text}"), |_| {
            let answer = self.get(path);
            answer.is_some_and(|(is, body)| is == code && body.contains(text))
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_says_what_waits_and_that_its_spool_is_gone() {
    let mut spool = Spool::new(&["a", "b"]);
    spool.drift("a").await;
    spool.put("a.1.csv", &one(&csv([1], "drifted")));
    let mut served = Served::start(&spool, &["--config", &spool.config("")]);
    served.wait_for(
        &spool,
        "/metrics",
        200,
        "squire_agent_waiting{cause=\"drift\"} 1",
    );
    served.wait_for(&spool, "/readyz", 200, "");
    served.wait_for(&spool, "/status", 200, "a.1.csv");
    // What waits holds nothing open, and what comes goes on.
    let open = fs::read_dir(format!("/proc/{}/fd", served.agent.pid())).expect("procfs");
    let locks = open.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    assert_eq!(locks.filter(|to| to.ends_with(".lock")).count(), 0);
    spool.put("b.1.csv", &one(&csv([1], "x")));
    spool.wait_for("the other table's commit", |s| {
        s.names("done").contains("b.1.csv")
    });
    served.agent.signal(Signal::SIGHUP);
    let away = spool.lake.path("away");
    fs::rename(&spool.dir, &away).expect("rename");
    served.wait_for(&spool, "/readyz", 503, "");
    served.wait_for(&spool, "/status", 200, "cannot list");
    fs::rename(&away, &spool.dir).expect("rename");
    served.wait_for(&spool, "/readyz", 200, "");
    served.agent.signal(Signal::SIGTERM);
    let said = served.agent.wait().ok().stderr;
    for line in [
        "agent started",
        "batch committed",
        "tables=\"b@2\"",
        "does not reload",
    ] {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    // An attempt that met the absent spool waits for another cause.
    assert_eq!(said.matches("cause=\"drift\"").count(), 1, "{said}");
}

/// For producers that cannot rename: what was written to a moment ago is left to rest.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_is_taken_when_it_has_rested_as_long_as_it_shall() {
    let mut spool = Spool::new(&["a"]);
    spool.put("a.1.csv", &one(&csv([1], "x")));
    let patient = spool.config("settle = \"1h\"");
    let mut served = Served::start(&spool, &["--config", &patient]);
    served.wait_for(&spool, "/status", 200, "agent.settle has it rest");
    assert!(spool.names("incoming").contains("a.1.csv"));
    served.agent.signal(Signal::SIGTERM);
    let said = served.agent.wait().ok().stderr;
    assert!(!said.contains(" WARN "), "every new file settles: {said}");
    let config = spool.config("settle = \"1s\"");
    let args = ["--until-empty", "--config", &config];
    spool.start(&args).wait().ok();
    assert_eq!(spool.lake.ids("a").await, [1]);
    spool.assert_all_done();
}

/// Storage that does not answer keeps neither a stop waiting nor, afterwards, the batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_storage_hangs_ends_within_the_drain_time() {
    let mut spool = Spool::new(&["a"]);
    spool.put("a.1.csv", &one(&csv([1], "x")));
    let (log, never) = (spool.lake.path("faults"), spool.lake.path("never"));
    let faults = format!("hold=recovery/:{};log={}", never.display(), log.display());
    spool.lake.env.push(("SQUIRE_FAULTS".into(), faults));
    let mut agent = spool.start(&["--config", &spool.config("drain = \"200ms\"")]);
    spool.wait_for("a put that hangs", |s| {
        let faults = fs::read_to_string(s.lake.path("faults"));
        faults.is_ok_and(|held| held.contains("recovery"))
    });
    agent.signal(Signal::SIGTERM);
    let done = agent.wait().ok();
    assert!(
        done.stderr.contains("the drain time is over"),
        "{}",
        done.stderr
    );
    let claim = spool.names("claimed").pop_first().expect("the claim stays");
    let count = fs::read_to_string(spool.path("claimed").join(claim).join(".attempts"));
    assert_eq!(count.expect("the record").trim(), "0", "a stop is no death");
    spool.lake.env.clear();
    spool.work_off();
    spool.assert_all_done();
    assert_eq!(spool.lake.ids("a").await, [1]);
}

/// A request that storage takes and never answers is seen by those who look at the agent; once storage answers, it goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn storage_that_hangs_is_told_and_forgotten_when_it_answers() {
    let mut spool = Spool::new(&["a"]);
    let (log, answers) = (spool.lake.path("faults"), spool.lake.path("answers"));
    let faults = format!("hold=recovery/:{};log={}", answers.display(), log.display());
    spool.lake.env.push(("SQUIRE_FAULTS".into(), faults));
    let config = spool.config("attempt_timeout = \"1s\"");
    let mut served = Served::start(&spool, &["--config", &config]);
    served.wait_for(&spool, "/readyz", 200, "");
    spool.put("a.1.csv", &one(&csv([1], "x")));
    served.wait_for(&spool, "/readyz", 503, "");
    served.wait_for(&spool, "/status", 200, "no answer in 1 s");
    served.wait_for(&spool, "/metrics", 200, "squire_agent_consecutive_failures");
    fs::write(&answers, "").expect("storage answers");
    spool.wait_for("the commit", |s| s.names("done").contains("a.1.csv"));
    served.wait_for(&spool, "/readyz", 200, "");
    served.agent.signal(Signal::SIGTERM);
    served.agent.wait().ok();
    assert_eq!(spool.lake.ids("a").await, [1]);
    spool.assert_all_done();
}

/// READY=1 comes after the claims of an earlier run were resumed.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_is_ready_when_claims_were_resumed() {
    let mut spool = Spool::new(&["a"]);
    spool.put("a.1.csv", &one(&csv([1], "x")));
    spool
        .with_seam("agent.after_claim=return(kill)", &[])
        .killed();
    let path = spool.lake.path("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let notify = path.to_string_lossy().into_owned();
    spool.lake.env.push(("NOTIFY_SOCKET".into(), notify));
    let mut agent = spool.start(&[]);
    let mut word = [0; 64];
    let length = socket.recv(&mut word).expect("a word");
    assert_eq!(&word[..length], b"READY=1\n");
    spool.assert_all_done();
    agent.signal(Signal::SIGTERM);
    agent.wait().ok();
}
