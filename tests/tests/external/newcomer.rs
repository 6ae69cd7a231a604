//! The README's first five minutes, as it has them, by a user who has nothing yet: the package, a directory of LanceDB.

use super::package::{Root, built, is_root, is_there};
use super::{eventually, python};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use squire_tests::{Done, PATIENCE, loopback};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Whom nothing belongs to.
const NOBODY: u32 = 65_534;

/// A table in twenty pieces, as LanceDB writes them.
const WRITE: &str = r#"
import lancedb, sys
db = lancedb.connect(sys.argv[1])
rows = lambda n: [{"id": 10 * n + i, "note": f"note {i}"} for i in range(10)]
table = db.create_table("notes", rows(0))
for n in range(1, 20):
    table.add(rows(n))
"#;

/// The lines of shell in the section, without what they say of themselves.
fn lines() -> Vec<String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = fs::read_to_string(path).expect("README.md");
    let section = readme
        .split("\n## ")
        .find(|s| s.starts_with("The first five minutes"));
    let blocks = section.expect("a section").split("```sh\n").skip(1);
    let blocks = blocks.map(|block| block.split("```").next().expect("its end"));
    let lines = blocks.flat_map(str::lines);
    lines
        .map(|line| {
            line.split(" #")
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        })
        .collect()
}

/// An account of its own, with what the package brought.
struct Account {
    root: Root,
    home: tempfile::TempDir,
    port: u16,
}

impl Account {
    /// A line of the README, on a port of its own.
    fn shell(&self, line: &str) -> Command {
        let address = format!("127.0.0.1:{}", self.port);
        let line = match line.strip_prefix("squire daemon ") {
            Some(rest) => format!("exec squire daemon {rest} --listen {address}"),
            None => line.replace("127.0.0.1:9464", &address),
        };
        let mut shell = Command::new("sh");
        shell.args(["-ec", &line]).current_dir(self.home.path());
        let path = format!("{}:/usr/bin:/bin", self.root.path("usr/bin").display());
        shell
            .env_clear()
            .env("HOME", self.home.path())
            .env("PATH", path);
        shell.uid(NOBODY).gid(NOBODY);
        shell
    }

    fn says(&self, line: &str) -> Done {
        Done::from(self.shell(line).output().expect("sh"))
    }
}

/// Killed, if nobody has stopped it before.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("its own");
}

#[test]
fn the_first_five_minutes_go_as_the_readme_has_them() {
    let lines = lines();
    let [install, daemon, looks @ ..] = lines.as_slice() else {
        panic!("{lines:?}");
    };
    assert!(
        install.starts_with("sudo dpkg --install squire_"),
        "{install}"
    );
    assert_eq!(daemon, "squire daemon ./db", "without any configuration");
    if !is_there("dpkg-deb") || !is_there("curl") || !is_root() {
        return;
    }
    let made = tempfile::tempdir().expect("a folder");
    let account = Account {
        root: Root::new(),
        home: tempfile::tempdir().expect("a folder"),
        port: loopback::free_port(),
    };
    let package = built(made.path(), "0.1.0");
    account
        .root
        .dpkg(&["--install", &package.to_string_lossy()])
        .ok();
    open_to_all(&account.root.path("."));
    let db = account.home.path().join("db");
    let mut lancedb = Command::new(python());
    let written = lancedb.args(["-c", WRITE]).arg(&db).output();
    Done::from(written.expect("python")).ok();
    let owner = format!("{NOBODY}:{NOBODY}");
    let mut chown = Command::new("chown");
    let owned = chown.args(["-R", &owner]).arg(account.home.path()).status();
    assert!(owned.expect("chown").success());

    let mut started = account.shell(daemon);
    let log = fs::File::create(made.path().join("log")).expect("a log");
    started.stdout(Stdio::null()).stderr(log);
    let mut daemon = Daemon(started.spawn().expect("the daemon"));
    // What it has done is told wherever one looks; each line answers what the README says of it.
    let history = |said: &Done| said.stdout.contains("20 fragments -> 1");
    eventually("the compaction is told", PATIENCE, || {
        let said = account.says("squire history ./db");
        history(&said).then_some(()).ok_or(format!("{said:?}"))
    });
    let answers = [
        "notes",
        "nothing",
        "20 fragments -> 1",
        "ok",
        "whole",
        "notes",
    ];
    assert_eq!(looks.len(), answers.len(), "{looks:?}");
    for (look, answer) in looks.iter().zip(answers) {
        let said = account.says(look).ok();
        assert!(said.stdout.contains(answer), "{look}: {said:?}");
    }
    let (code, page) = loopback::ask(account.port, "GET", "/", "").expect("the page");
    assert!(code == 200 && page.contains("<title>squire</title>"));

    // Ctrl-C is a clean end, and the rows are there.
    let pid = i32::try_from(daemon.0.id()).expect("a pid");
    kill(Pid::from_raw(pid), Signal::SIGINT).expect("it runs");
    let said = || fs::read_to_string(made.path().join("log")).unwrap_or_default();
    assert!(daemon.0.wait().expect("its end").success(), "{}", said());
    assert!(said().contains("watching"), "{}", said());
    let count =
        "import lancedb, sys; print(lancedb.connect(sys.argv[1]).open_table('notes').count_rows())";
    let counted = Command::new(python()).args(["-c", count]).arg(&db).output();
    assert_eq!(
        Done::from(counted.expect("python")).ok().stdout.trim(),
        "200"
    );
}
