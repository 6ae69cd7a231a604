//! What may not stop an agent, and how it tells that something does.

use super::*;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::{ffi::OsStrExt, fs::symlink, net::UnixDatagram};
use std::process::Command;

impl Spool {
    /// A configuration under which agents try again soon.
    fn config(&self, more: &str) -> String {
        let path = self.lake.path("squire.toml");
        let text = format!("[agent]\npoll_interval = \"50ms\"\n{more}\n");
        fs::write(&path, text).expect("the configuration");
        path.to_string_lossy().into_owned()
    }

    fn reason(&self, name: &str) -> String {
        let path = self.path("rejected").join(format!("{name}.reason.txt"));
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    /// Has the table drift until an operator decides.
    async fn drift(&self, table: &str) {
        let uri = format!("{}/{table}.lance", self.lake.uri);
        let mut foreign = lance::Dataset::open(&uri).await.expect("table");
        let commit = foreign.update_config([("someone", "else")]).await;
        commit.expect("an external commit");
    }
}

fn one(content: &str) -> [(&'static str, String); 1] {
    [("", content.to_owned())]
}

/// What kills the process cannot be caught; the claim counts who died. A kill at a seam stands for the abort.
#[tokio::test(flavor = "multi_thread")]
async fn crash_an_input_over_which_agents_die_is_rejected() {
    let mut spool = Spool::new(&["a"]);
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
    fs::create_dir(incoming.join("filling")).expect("directory");
    fs::write(incoming.join("filling/a.csv.part"), "id").expect("file");
    spool.put(
        "good",
        &[
            ("a.csv", csv([1], "good")),
            ("b.csv", csv([1], "good")),
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

    let done = spool.start(&["--until-empty", "--json"]).wait().ok();
    let summary = done.json();
    let counts = ["committed", "rejected", "ignored"].map(|key| summary[key].as_u64());
    assert_eq!(counts, [Some(1), Some(4), Some(5)], "{summary}");
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

/// A writer that keeps its file open keeps it through the claim, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_grows_while_it_is_read_is_not_committed_in_part() {
    let mut spool = Spool::new(&["a"]);
    spool.put("a.1.csv", &one("id,value\n1,x\n"));
    let mut open = fs::File::options()
        .append(true)
        .open(spool.path("incoming/a.1.csv"))
        .expect("the producer's file");
    let args = ["--until-empty", "--config", &spool.config("")];
    // It has read one row by now.
    let mut agent = spool.with_seam("agent.before_commit=1*return(stop)", &args);
    agent.wait_stopped();
    open.write_all(b"2,x\n").expect("write");
    let done = agent.resume().ok();
    assert!(
        done.stderr.contains("still being written"),
        "{}",
        done.stderr
    );
    assert_eq!(spool.lake.ids("a").await, [1, 2]);
    spool.assert_all_done();
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
    let done = done.failed(1, "not on the filesystem of the other spool directories");
    assert_eq!(done.stderr.matches(" WARN ").count(), 1, "{}", done.stderr);
    assert_eq!(done.json()["left"][0]["entry"], "a.1.csv");
    spool.put.clear();
    spool.assert_all_done();
}

/// An agent that is asked what it does.
struct Served {
    agent: Child,
    port: u16,
}

impl Served {
    fn start(spool: &Spool, more: &[&str]) -> Self {
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

    fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: l\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    fn wait_for(&self, spool: &Spool, path: &str, code: u16, text: &str) {
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
