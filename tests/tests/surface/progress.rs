//! What a terminal is shown while a command works.

use crate::ingest::eventually;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use squire_tests::{Lake, squire};
use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A command on a terminal of its own.
struct Terminal {
    child: Child,
    shown: String,
}

impl Terminal {
    /// Runs `squire` with `args`, a line of shell, as `script` makes a terminal for it.
    fn run(args: &str, faults: &str) -> Self {
        let mut command = Command::new("script");
        let line = format!("{} {args}", squire().display());
        command.args(["-qefc", &line, "/dev/null"]);
        command
            .env("TERM", "xterm")
            .env("SQUIRE_DURABILITY", "process")
            .env("SQUIRE_FAULTS", faults);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        Self {
            child: child.expect("script"),
            shown: String::new(),
        }
    }

    /// Reads until it has shown all of the texts, and then has `go` done; and to its end.
    fn until(&mut self, texts: &[&str], go: impl FnOnce()) {
        let (mut some, mut go) = ([0; 256], Some(go));
        loop {
            let out = self.child.stdout.as_mut().expect("piped");
            let length = out.read(&mut some).expect("a terminal");
            self.shown += &String::from_utf8_lossy(&some[..length]);
            if texts.iter().all(|text| self.shown.contains(text))
                && let Some(go) = go.take()
            {
                go();
            }
            if length == 0 {
                break;
            }
        }
        assert!(go.is_none(), "it never showed {texts:?}: {:?}", self.shown);
        let ended = self.child.wait().expect("ended");
        assert!(ended.success(), "{}", self.shown);
    }

    /// The answer, before which what was drawn is taken away.
    fn answer(&self) -> &str {
        let answer = self.shown.rsplit("\u{1b}[K").next().expect("the end");
        assert!(!answer.contains('%'), "{:?}", self.shown);
        answer
    }
}

fn touch(path: &Path) {
    fs::write(path, "").expect("written");
}

/// Tables t and u, a file whose presence lets go what is held, and a configuration.
fn lake(config: &str) -> (Lake, PathBuf, String) {
    let lake = Lake::with_tables(&["t", "u"]);
    let rows = lake.csv("rows.csv", [(1, "x".to_owned())]);
    lake.run(&["write", &lake.uri, "t", &rows]).ok();
    let (go, path) = (lake.path("go"), lake.path("squire.toml"));
    fs::write(&path, config).expect("written");
    (lake, go, path.display().to_string())
}

#[test]
fn a_terminal_is_shown_how_far_a_run_is() {
    let (lake, go, config) = lake("[policy]\nmax_task_fragments = 8\n");
    for i in 0..20 {
        let rows = lake.csv("more.csv", [(i, "y".to_owned())]);
        lake.run(&["write", &lake.uri, "t", &rows]).ok();
    }
    // The second file that is written waits until somebody has read how far it is.
    let mut terminal = Terminal::run(
        &format!("optimize {} --table t --config {config}", lake.uri),
        &format!("hold=t.lance/data@2:{}", go.display()),
    );
    terminal.until(&["compacting t: ", " of "], || touch(&go));
    assert!(terminal.shown.contains(" %, "), "{:?}", terminal.shown);
    assert!(terminal.answer().contains("fragments became"));
}

#[test]
fn a_terminal_is_shown_how_much_of_its_input_a_write_has_staged() {
    // What takes more than this is read again and again: to be looked at, to be written, and to be compared with what was written. Then
    // the commit waits until somebody has read how far it is.
    let (lake, go, config) = lake("[agent]\ngroup_bytes = \"64KiB\"\n");
    let rows = lake.csv("rows.csv", (0..20_000).map(|id| (id, format!("{id:>40}"))));
    let write = format!("write {} t {rows} --config {config}", lake.uri);
    let faults = format!("hold=t.lance/_versions@1:{}", go.display());
    let mut terminal = Terminal::run(&write, &faults);
    let all = fs::metadata(&rows).expect("a file").len();
    let told = format!(
        "%, {0:.0} KiB of {0:.0} KiB, 20,000 rows",
        all as f64 / 1024.0
    );
    terminal.until(&["checking t: 100 ", &told], || touch(&go));
    let answer = terminal.answer();
    assert!(answer.contains("20000 inserted"), "{answer}");

    // Whoever does not look at a terminal, or asks for a document, gets the answer alone.
    let piped = lake.run(&["write", &lake.uri, "t", &rows]).ok();
    assert!(!piped.stderr.contains('\r'), "{}", piped.stderr);
    fs::remove_file(&go).expect("held again");
    let (held, seen) = (go.display(), lake.path("held.log"));
    let faults = format!("hold=t.lance/_versions@1:{held};log={}", seen.display());
    let mut terminal = Terminal::run(&format!("{write} --json"), &faults);
    eventually("the write is held", || seen.is_file());
    // Other commands take longer than a line to be drawn.
    for _ in 0..3 {
        lake.run(&["status", &lake.uri]).ok();
    }
    touch(&go);
    terminal.until(&["\"outcome\""], || ());
    assert!(!terminal.shown.contains('\u{1b}'), "{:?}", terminal.shown);
}

#[test]
fn a_terminal_is_shown_how_far_a_commit_of_several_tables_is() {
    let (lake, go, config) = lake("[agent]\ngroup_bytes = \"64KiB\"\n");
    let batch = lake.path("batch");
    fs::create_dir(&batch).expect("a batch");
    let mut all = 0;
    for (table, count) in [("t", 20_000), ("u", 30_000)] {
        let rows = lake.csv("rows.csv", (0..count).map(|id| (id, format!("{id:>40}"))));
        let file = batch.join(format!("{table}.1.csv"));
        fs::rename(rows, &file).expect("moved");
        all += fs::metadata(&file).expect("a file").len();
    }
    let commit = format!("commit {} {} --config {config}", lake.uri, batch.display());
    let faults = format!("hold=t.lance/_versions@1:{}", go.display());
    let mut terminal = Terminal::run(&commit, &faults);
    let told = format!(
        "%, {0:.1} MiB of {0:.1} MiB, 50,000 rows",
        all as f64 / 1024.0 / 1024.0
    );
    terminal.until(&["checking 2 tables: 100 ", &told], || touch(&go));
    let answer = terminal.answer();
    assert!(answer.contains("20000 inserted") && answer.contains("30000 inserted"));
}

#[test]
fn a_terminal_is_shown_what_comes_through_a_pipe() {
    let (lake, _, config) = lake("");
    let pipe = lake.path("pipe");
    mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
    let from = format!("- --format csv --config {config} < {}", pipe.display());
    for mode in ["append", "merge --key id"] {
        let write = format!("write {} t --mode {mode} {from}", lake.uri);
        let mut terminal = Terminal::run(&write, "");
        let mut producer = OpenOptions::new()
            .write(true)
            .open(&pipe)
            .expect("a reader");
        writeln!(producer, "id,value\n7,seven").expect("a reader");
        // Nobody knows how much it will be, and so not how long it takes.
        terminal.until(&["reading for t: 17 B, ", " B/s"], || drop(producer));
        assert!(!terminal.shown.contains(" of ") && !terminal.shown.contains("left"));
        assert!(
            terminal.answer().contains("committed"),
            "{}",
            terminal.shown
        );
    }
}
