//! What people look at: `status` as a table, `check`, and what else explains a store without changing it.

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::Value;
use squire_tests::{Done, Lake, squire};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

/// Tables t and u, and a commit to t.
pub(crate) fn lake() -> Lake {
    let lake = Lake::with_tables(&["t", "u"]);
    let rows = lake.csv("rows.csv", [(1, "x".to_owned())]);
    lake.run(&["write", &lake.uri, "t", &rows]).ok();
    lake
}

/// Runs `squire` on a terminal of its own, as `script` makes one.
fn on_a_terminal(args: &str, environment: &[(&str, &str)]) -> String {
    let mut command = Command::new("script");
    let line = format!("{} {args}", squire().display());
    command.args(["-qec", &line, "/dev/null"]);
    command.env_remove("NO_COLOR").env("TERM", "xterm");
    for (name, value) in environment {
        command.env(name, value);
    }
    let output = command.stdin(Stdio::null()).output().expect("script");
    Done::from(output).ok().stdout
}

fn row<'a>(shown: &'a str, table: &str) -> Vec<&'a str> {
    let mut lines = shown.lines().map(|l| l.split_whitespace());
    let found = lines.find(|words| words.clone().next() == Some(table));
    found
        .unwrap_or_else(|| panic!("no {table} in: {shown}"))
        .collect()
}

#[test]
fn status_says_what_plan_says() {
    let lake = lake();
    let shown = lake.run(&["status", &lake.uri]).ok().stdout;
    // One fragment is small, and no reason to do anything.
    assert_eq!(row(&shown, "t")[1], "ok", "{shown}");
    assert_eq!(row(&shown, "t").last(), Some(&"nothing"), "{shown}");
    let config = lake.path("squire.toml");
    std::fs::write(&config, "[policy]\nmax_versions = 1\n").expect("written");
    let config = config.to_string_lossy();
    let (uri, file) = (lake.uri.as_str(), config.as_ref());
    let both = |command| [command, uri, "--config", file, "--json"];
    let status = lake.run(&both("status")).ok().json();
    let plan = lake.run(&both("plan")).ok().json();
    for (status, plan) in [0, 1].map(|i| (&status["tables"][i], &plan["tables"][i])) {
        assert_eq!(status["plan"]["operations"], plan["operations"]);
        assert_eq!(status["plan"]["operations"][0]["kind"], "cleanup");
        assert!(status["bytes"].is_u64(), "exact numbers: {status}");
    }
    let shown = lake.run(&both("status")[..4]).ok().stdout;
    assert_eq!(row(&shown, "t")[1], "due", "{shown}");
    assert!(
        shown.contains("cleanup: 2 versions, threshold 1"),
        "{shown}"
    );
}

#[test]
fn problems_come_first() {
    let lake = lake();
    let lost = Path::new(&lake.uri).join("u.lance/_versions");
    std::fs::remove_dir_all(lost).expect("removed");
    let done = lake.run(&["status", &lake.uri]);
    assert_ne!(done.code, Some(0), "{done:?}");
    let at = |text: &str| done.stdout.find(text).unwrap_or_else(|| panic!("{done:?}"));
    assert!(at("u: failed: ") < at("TABLE"), "{done:?}");
    assert!(at("\nu ") < at("\nt "), "{done:?}");
}

#[test]
fn colour_is_for_terminals_that_want_it() {
    let lake = lake();
    let piped = lake.run(&["status", &lake.uri]).ok().stdout;
    assert!(!piped.contains('\u{1b}'), "{piped:?}");
    let args = format!("status {}", lake.uri);
    assert!(on_a_terminal(&args, &[]).contains("\u{1b}[32mok"));
    for spared in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = on_a_terminal(&args, &[spared]);
        assert!(
            plain.contains("ok") && !plain.contains('\u{1b}'),
            "{plain:?}"
        );
    }
    let json = on_a_terminal(&format!("{args} --json"), &[]);
    assert!(serde_json::from_str::<Value>(&json).is_ok(), "{json:?}");
}

/// `squire check`, and what its exit codes are with and without `--nagios`.
pub(crate) fn checked(lake: &Lake, args: &[&str], codes: [i32; 2]) -> Done {
    let monitor = lake.run(&[&["check", "--nagios"], args].concat());
    assert_eq!(monitor.code, Some(codes[1]), "{monitor:?}");
    assert_eq!(monitor.stdout.lines().count(), 1, "{monitor:?}");
    assert_eq!(monitor.stdout.matches('|').count(), 1, "{monitor:?}");
    let done = lake.run(&[&["check"], args].concat());
    assert_eq!(done.code, Some(codes[0]), "{done:?}");
    done
}

#[test]
fn check_says_who_has_to_act_over_all_locations() {
    let lake = lake();
    let other = Lake::with_tables(&["v"]);
    let config = lake.path("squire.toml");
    let write = |more: &str| {
        let watch = |uri: &str| format!("[[watch]]\nuri = \"{uri}\"\n");
        let text = format!("{}{}{more}", watch(&lake.uri), watch(&other.uri));
        std::fs::write(&config, text).expect("written");
    };
    let file = config.to_string_lossy().into_owned();
    let all = ["--config", &file];
    write("");
    let fine = checked(&lake, &all, [0, 0]).stdout;
    let locations = fine.lines().filter(|l| l.starts_with("ok "));
    assert_eq!(locations.count(), 2, "{fine}");

    // A name that no location has, and maintenance that is far behind, are warnings.
    write("[[table]]\nname = \"nobody\"\n");
    let strange = checked(&lake, &all, [3, 1]);
    assert!(strange.stdout.contains("[[table]] nobody"), "{strange:?}");
    write("[policy]\nmax_versions = 1\n");
    for i in 0..4 {
        let rows = lake.csv("more.csv", [(i, "y".to_owned())]);
        lake.run(&["write", &lake.uri, "t", &rows]).ok();
    }
    let behind = checked(&lake, &all, [3, 1]);
    assert!(behind.stdout.contains("t: cleanup is behind"), "{behind:?}");
    assert!(
        behind.stdout.starts_with("warning "),
        "the worst is first: {behind:?}"
    );

    // A location that is gone stops no look at the other one.
    write("");
    std::fs::remove_dir_all(&other.uri).expect("removed");
    let gone = checked(&lake, &all, [1, 2]);
    assert!(gone.stdout.starts_with("critical "), "{gone:?}");
    assert!(gone.stdout.contains("\nok "), "{gone:?}");
    let json = lake.run(&["check", "--config", &file, "--json"]);
    assert_eq!(json.json()["locations"][1]["failed"], 1, "{json:?}");

    // Nothing could be asked: a monitor's unknown, and bad usage for a person.
    lake.run(&["check"]).failed(2, "nothing to check");
    for args in [
        &["check", "--nagios"][..],
        &["check", "--nagios", "--config", "/nowhere"],
    ] {
        let unknown = lake.run(args).failed(3, "SQUIRE UNKNOWN - ");
        assert_eq!(unknown.stdout.lines().count(), 1, "{unknown:?}");
    }
}

#[test]
fn check_tells_an_operation_that_was_left_behind() {
    let lake = lake();
    let batch = lake.batch("half", &["t", "u"], 5..7);
    let commit = ["commit", &lake.uri, &batch];
    let dead = lake.with_seam("write.after_commit_table=return(kill)", &commit);
    assert_eq!(dead.wait().code, None);
    let left = checked(&lake, &[&lake.uri, "--grace", "1ms"], [3, 1]);
    assert!(left.stdout.contains("squire recover"), "{left:?}");
    let op = &lake.sidecars()[0];
    let shown = lake.run(&["debug", "sidecar", &lake.uri]).ok().stdout;
    assert!(
        shown.contains(op) && shown.contains("writes t at t.lance"),
        "{shown}"
    );

    // What a power cut leaves of a record is no record.
    let record = Path::new(&lake.uri).join(format!("_squire/recovery/{op}.json"));
    let bytes = std::fs::read(&record).expect("the sidecar");
    std::fs::write(&record, &bytes[..bytes.len() / 2]).expect("torn");
    let torn = lake.run(&["debug", "sidecar", &lake.uri, op]).ok().stdout;
    assert!(torn.contains("torn"), "{torn}");
    std::fs::write(&record, "no record at all").expect("damaged");
    let damaged = lake.run(&["debug", "sidecar", &lake.uri, op]).ok().stdout;
    assert!(damaged.contains("is damaged"), "{damaged}");
}

#[test]
fn history_tells_maintenance_from_commits() {
    let lake = lake();
    for i in 0..3 {
        let rows = lake.csv("more.csv", [(i, "y".to_owned())]);
        lake.run(&["write", &lake.uri, "t", &rows]).ok();
    }
    let none = lake.run(&["history", &lake.uri]).ok().stdout;
    assert!(none.contains("no maintenance"), "{none}");
    lake.run(&["optimize", &lake.uri, "--actor", "night-shift"])
        .ok();
    let shown = lake.run(&["history", &lake.uri]).ok().stdout;
    assert!(
        shown.contains("maintenance") && shown.contains("night-shift"),
        "{shown}"
    );
    assert!(!shown.contains("logical"), "{shown}");
    let json = lake
        .run(&["history", &lake.uri, "--limit", "1", "--json"])
        .ok();
    assert_eq!(json.json()["entries"].as_array().map(Vec::len), Some(1));
}

/// Runs of the daemon say why, and to what effect, on stores and on plain tables, whoever asks later.
#[test]
fn history_says_why_the_daemon_ran_and_what_came_of_it() {
    let lake = lake();
    for i in 0..20 {
        let rows = lake.csv("more.csv", [(i, "y".to_owned())]);
        lake.run(&["write", &lake.uri, "t", &rows]).ok();
    }
    let plain = crate::cli::plain_directory(&lake);
    let record = Path::new(&plain).join(".squire/history.json");
    let none = lake.run(&["history", &plain]).ok().stdout;
    assert!(none.contains("no run of a daemon"), "{none}");
    let single = format!("{plain}/t.lance");
    for uri in [lake.uri.as_str(), &plain] {
        lake.run(&["daemon", uri, "--once"]).ok();
        let shown = lake.run(&["history", uri]).ok().stdout;
        assert!(
            shown.contains("21 fragments -> 1, ") && shown.contains("21 candidate fragments"),
            "{shown}"
        );
        let json = lake.run(&["history", uri, "--json"]).ok().json();
        assert_eq!(json["runs"][0]["kind"], "compact", "{json:#}");
        assert_eq!(json["runs"][0]["fragments_removed"], 21, "{json:#}");
        // A pass that finds nothing to do is none.
        lake.run(&["daemon", uri, "--once"]).ok();
        let again = lake.run(&["history", uri, "--json"]).ok().json();
        assert_eq!(again["runs"], json["runs"]);
    }
    let of_table = lake.run(&["history", &single]).ok().stdout;
    assert!(of_table.contains("t.lance"), "{of_table}");

    // It is bounded, and what cannot be read is named and stays.
    let text = std::fs::read_to_string(&record).expect("the record");
    let mut full: Value = serde_json::from_str(&text).expect("a record");
    let run = full["runs"][0].clone();
    full["runs"] = vec![run; squire_engine::maintenance::MOST_RUNS].into();
    full["runs"][0]["reason"] = "the oldest".into();
    std::fs::write(&record, full.to_string()).expect("written");
    let store = tokio::runtime::Runtime::new().expect("a runtime");
    let noted = store.block_on(async {
        let options = squire_engine::store::StoreOptions::default();
        let store = squire_engine::store::Store::connect(&plain, options).await?;
        let run = squire_engine::maintenance::NotedRun::default();
        store.note_run(run).await?;
        store.noted_runs().await
    });
    let noted = noted.expect("runs");
    assert_eq!(noted.len(), squire_engine::maintenance::MOST_RUNS);
    assert!(noted.iter().all(|run| run.reason != "the oldest"));
    for (text, told) in [
        ("torn", "is damaged"),
        ("{\"format\":9,\"runs\":[]}", "upgrade squire"),
    ] {
        std::fs::write(&record, text).expect("written");
        lake.run(&["history", &plain]).failed(1, told);
        lake.run(&["daemon", &plain, "--once"]).ok();
        assert_eq!(std::fs::read_to_string(&record).expect("there"), text);
    }
    std::fs::remove_file(&record).expect("removed");
    mkfifo(&record, Mode::S_IRUSR | Mode::S_IWUSR).expect("a pipe");
    lake.run(&["history", &plain]).failed(1, "no regular file");
}

#[test]
fn debug_manifest_shows_pins_of_then() {
    let lake = lake();
    let now = lake.run(&["debug", "manifest", &lake.uri]).ok().stdout;
    assert!(
        now.contains("table t at t.lance: readers see version 2"),
        "{now}"
    );
    let then = ["debug", "manifest", &lake.uri, "--at", "3"];
    let then = lake.run(&then).ok().stdout;
    assert!(
        then.contains("table t at t.lance: readers see version 1"),
        "{then}"
    );
}

#[test]
fn a_bug_report_holds_no_secret() {
    let lake = lake();
    let (config, token) = (lake.path("squire.toml"), lake.path("token"));
    std::fs::write(&token, "token-s3cret\n").expect("written");
    let text = format!(
        "[daemon]\nlisten = \"off\"\ntoken_file = \"{}\"\n[[watch]]\nuri = \"{}\"\n[[watch]]\nuri = \"/nowhere/option-s3cret/environment-s3cret/token-s3cret\"\n[watch.storage_options]\nsecret_access_key = \"option-s3cret\"\n",
        token.display(),
        lake.uri
    );
    std::fs::write(&config, text).expect("written");
    for more in [&[][..], &["--json"]] {
        let mut command = Command::new(squire());
        command
            .args(["bugreport", "--config"])
            .arg(&config)
            .args(more);
        command.env("MY_SECRET_KEY", "environment-s3cret");
        let report = Done::from(command.output().expect("squire")).ok();
        assert!(!report.stdout.contains("s3cret"), "{report:?}");
        assert!(!report.stdout.contains("rows.csv"), "{report:?}");
        for told in [
            env!("CARGO_PKG_VERSION"),
            &lake.uri,
            "retention",
            "critical",
        ] {
            assert!(report.stdout.contains(told), "no {told}: {report:?}");
        }
    }
}

#[test]
fn completions_and_pages_name_every_command() {
    let lake = Lake::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = lake.run(&["completions", shell]).ok().stdout;
        assert!(script.contains("bugreport"), "{shell}");
    }
    let bash = lake.path("squire.bash");
    let script = lake.run(&["completions", "bash"]).ok().stdout;
    std::fs::write(&bash, script).expect("written");
    let parsed = Command::new("bash").arg("-n").arg(&bash).status();
    assert!(parsed.expect("bash").success());
    let pages = lake.path("man");
    lake.run(&["man", &pages.to_string_lossy()]).ok();
    for page in ["squire.1", "squire-status.1", "squire-config-check.1"] {
        let text = std::fs::read_to_string(pages.join(page)).expect(page);
        assert!(text.starts_with(".ie") || text.contains(".TH"), "{text}");
    }
}

#[test]
fn watch_looks_again_until_it_is_interrupted() {
    let lake = lake();
    let mut command = Command::new(squire());
    command.args(["status", &lake.uri, "--watch=200ms"]);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("squire");
    let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let tables = lines
        .map_while(Result::ok)
        .filter(|l| l.starts_with("TABLE"));
    assert_eq!(tables.take(2).count(), 2, "it looks once only");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it runs");
    assert_eq!(child.wait().expect("ended").code(), Some(0));

    // What cannot be opened at first is an error, and a reader that went away ends it.
    let nowhere = lake.path("nowhere").to_string_lossy().into_owned();
    lake.run(&["status", &nowhere, "--watch"])
        .failed(1, "nowhere");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(squire());
    command
        .args(["status", &lake.uri, "--watch=200ms"])
        .stdout(writer);
    assert_eq!(command.status().expect("squire").code(), Some(0));
}

#[test]
fn debug_journal_names_what_a_dead_run_left() {
    let lake = lake();
    for i in 0..20 {
        let rows = lake.csv("more.csv", [(i, "y".to_owned())]);
        lake.run(&["write", &lake.uri, "t", &rows]).ok();
    }
    let journal = ["debug", "journal", &lake.uri];
    let none = lake.run(&journal).ok().stdout;
    assert!(none.contains("no journal stands"), "{none}");
    let optimize = ["optimize", &lake.uri, "--table", "t"];
    let dead = lake.with_seam("maintain.after_rewrite=return(kill)", &optimize);
    assert_eq!(dead.wait().code, None);
    let shown = lake.run(&journal).ok().stdout;
    assert!(
        shown.contains("on t.lance from version") && shown.contains("data/"),
        "{shown}"
    );
    assert!(shown.contains("its sidecar stands"), "{shown}");
    let json = lake.run(&[&journal[..], &["--json"]].concat()).ok().json();
    let run = &json["journals"][0];
    let status = lake.run(&["status", &lake.uri, "--json"]).ok().json();
    let files = run["files"].as_array().expect("files").iter();
    let bytes: u64 = files.filter_map(|file| file[1].as_u64()).sum();
    assert_eq!(status["stranded_bytes"], bytes);
    let op = run["op"].as_str().expect("an operation");
    let one = lake.run(&["debug", "journal", &lake.uri, op]).ok().stdout;
    assert!(one.contains(op), "{one}");
    lake.run(&["recover", &lake.uri, "--force"]).ok();
    let none = lake.run(&journal).ok().stdout;
    assert!(none.contains("no journal stands"), "{none}");
}
