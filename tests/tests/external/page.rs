//! The page in a real browser, and the API as its description tells of it.
//!
//! What they need is not on every machine: `ops/setup.sh --test` fetches it where Debian's packages, npm and PyPI can be
//! reached. Without it these tests say so, and skip.

use crate::metrics::{Served, write_config};
use crate::{cache, eventually, small_commits};
use serde_json::Value;
use squire_tests::{Lake, PATIENCE};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Names that would be markup, or another name, if they were not shown as text.
const HOSTILE: [&str; 3] = [
    "<img src=x onerror=pwned=1>.lance",
    "<b>bold&amp;.lance",
    "\u{202e}ecnal.lance",
];

const TOKEN: &str = "correct-horse";

/// A store whose table is being compacted and does not get on, and a directory of plain tables: one that waits, one that
/// cannot be read, and some with hostile names.
pub(crate) struct Scene {
    pub(crate) lake: Lake,
    pub(crate) daemon: Served,
}

fn copied(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-r").args([from, to]).status();
    assert!(done.expect("cp").success());
}

impl Scene {
    pub(crate) fn new() -> Self {
        Self::with("")
    }

    /// With more settings of `[daemon]`.
    pub(crate) fn with(settings: &str) -> Self {
        let mut lake = Lake::with_tables(&["big", "small"]);
        for fragment in 0..8_i64 {
            let ids = fragment * 1_000..(fragment + 1) * 1_000;
            let noise = |id: i64| format!("{:x}", (id + 1).wrapping_mul(0x1e37_79b9_7f4a_7c15));
            let rows = ids.map(|id| (id, noise(id).repeat(4)));
            let file = lake.csv("rows.csv", rows);
            lake.run(&["write", &lake.uri, "big", &file]).ok();
        }
        small_commits(&lake, &["small"], 0, 7);
        let plain = lake.path("plain");
        std::fs::create_dir(&plain).expect("a directory");
        let of_store = |table: &str| Path::new(&lake.uri).join(table);
        copied(&of_store("big.lance"), &plain.join("also-big.lance"));
        for name in HOSTILE.into_iter().chain(["broken.lance"]) {
            copied(&of_store("small.lance"), &plain.join(name));
        }
        let versions = std::fs::read_dir(plain.join("broken.lance/_versions")).expect("versions");
        for version in versions {
            std::fs::write(version.expect("a version").path(), "nothing").expect("written");
        }
        let (token, log) = (lake.path("token"), lake.path("faults.log"));
        std::fs::write(&token, TOKEN).expect("token");
        let config = format!(
            "[daemon]\n{settings}token_file = \"{}\"\n[[watch]]\nuri = \"{}\"\n[budget]\nmemory = \"1MiB\"\nmax_concurrent = 1\n[policy]\nmin_candidate_fragments = 6\nmax_task_fragments = 2\n",
            token.display(),
            plain.display()
        );
        let config = write_config(&lake, &config);
        let never = lake.path("never");
        let faults = format!(
            "hold=big.lance/data@3:{};log={}",
            never.display(),
            log.display()
        );
        lake.env = vec![("SQUIRE_FAULTS".to_owned(), faults)];
        let daemon = Served::start(&lake, None, &["daemon", &lake.uri, "--config", &config]);
        lake.env.clear();
        eventually("an attempt that stands", PATIENCE, || {
            let held = std::fs::read_to_string(&log).unwrap_or_default();
            held.contains("big.lance").then_some(()).ok_or(held)
        });
        daemon.wait_ready();
        eventually("work that waits, and some that is done", PATIENCE, || {
            let status = daemon.status();
            let done = status["history"].as_array().map_or(0, Vec::len);
            let waits = status["waiting"]["count"].as_u64() >= Some(1);
            (waits && done > 0).then_some(()).ok_or(status.to_string())
        });
        Self { lake, daemon }
    }
}

/// The first of `names` on the PATH.
fn on_path(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let mut all = names
        .iter()
        .flat_map(|name| folders.iter().map(move |f| f.join(name)));
    all.find(|file| file.is_file())
}

fn json_of(what: &str, output: &Output) -> Value {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {stderr}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// The texts of a list in the report.
fn texts<'a>(report: &'a Value, of: &str) -> Vec<&'a str> {
    let list = report[of].as_array().expect(of).iter();
    list.filter_map(Value::as_str).collect()
}

fn any(texts: &[&str], parts: &[&str]) -> bool {
    texts
        .iter()
        .any(|text| parts.iter().all(|part| text.contains(part)))
}

/// What opens a page in a browser and tells of it; `None`, and a word about it, where there is no browser.
fn browser() -> Option<impl Fn(&Served, &str, &str) -> Value> {
    let names = [
        "chromium-headless-shell",
        "chromium",
        "chromium-browser",
        "google-chrome",
    ];
    let browser = std::env::var_os("SQUIRE_BROWSER")
        .map(PathBuf::from)
        .or_else(|| on_path(&names));
    let packages = cache().join("page");
    let (Some(browser), Some(node), true) = (
        browser,
        on_path(&["node"]),
        packages.join("node_modules/playwright-core").is_dir(),
    ) else {
        eprintln!(
            "SKIPPED: no browser, no node, or not their packages; `ops/setup.sh --test` fetches them where it can"
        );
        return None;
    };
    Some(move |served: &Served, screenshots: &str, token: &str| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/page/page.mjs");
        let output = Command::new(&node)
            .arg(script)
            .arg(&browser)
            .args([&served.url("/"), screenshots, token])
            .current_dir(&packages)
            .output()
            .expect("node starts");
        let report = json_of("page.mjs", &output);
        for look in ["light", "dark", "narrow"] {
            let look = &report["looks"][look];
            let none = serde_json::json!([]);
            assert_eq!(look["violations"], none, "axe-core: {look:#}");
            assert_eq!(look["overflow"], 0, "it is as wide as the screen");
        }
        let requests = texts(&report, "requests");
        let known = |r: &&str| r.contains(&served.url("/")) || r.starts_with("GET data:");
        assert!(requests.iter().all(known), "{requests:?}");
        report
    })
}

#[test]
fn the_page_of_an_agent_tells_of_its_spool() {
    let Some(open) = browser() else { return };
    let lake = Lake::with_tables(&["small"]);
    let spool = lake.path("spool").to_string_lossy().into_owned();
    let agent = Served::start(&lake, None, &["agent", &lake.uri, "--spool", &spool]);
    agent.wait_ready();
    let report = open(&agent, "-", TOKEN);
    let state = report["state"].as_str().expect("a state");
    assert_eq!(state, "at work: 0 problems, 0 batches to commit");
    assert!(report["spool"].as_str().expect("a text").contains(&spool));
    assert!(texts(&report, "console").is_empty(), "{report}");
    agent.stop();
}

#[test]
fn the_page_works_in_a_browser_for_everyone() {
    let Some(open) = browser() else { return };
    let Scene { lake, daemon } = Scene::new();
    let screenshots = std::env::var("SQUIRE_SCREENSHOTS").unwrap_or_else(|_| "-".to_owned());
    let report = open(&daemon, &screenshots, TOKEN);
    let looks = &report["looks"];
    assert_ne!(looks["light"]["background"], looks["dark"]["background"]);
    // The wrong token is refused, which a browser tells as an error.
    let console = texts(&report, "console");
    assert!(
        console.iter().all(|said| said.contains("401")),
        "{console:?}"
    );
    let tables = texts(&report, "tables");
    assert!(any(&tables, &["broken.lance", "unreadable"]), "{tables:#?}");
    assert!(any(&tables, &["small", "healthy"]), "{tables:#?}");
    let written = &daemon.status()["stores"][0]["tables"][0]["ledger"]["total"];
    assert!(written["found"].as_u64() > Some(0), "{written}");
    assert!(any(&tables, &["big", "iB + "]), "{tables:#?}");
    assert!(any(
        &texts(&report, "problems"),
        &["broken.lance", "unreadable"]
    ));
    assert!(any(
        &texts(&report, "running"),
        &["compact", "big", "candidate fragments", "%"]
    ));
    assert!(any(
        &texts(&report, "waiting"),
        &["compact", "big", "permits"]
    ));
    assert!(!texts(&report, "history").is_empty());
    assert!(
        report["title"]
            .as_str()
            .expect("a title")
            .contains("squire")
    );

    // What a name holds is text.
    assert_eq!(
        (&report["injected"], &report["dialogs"]),
        (&0.into(), &0.into())
    );
    assert_eq!(report["pwned"], "undefined");
    let shown = daemon.status().to_string();
    assert!(
        shown.contains("onerror"),
        "the page was told the names: {shown}"
    );

    // Keys alone reach everything, and see where they are.
    let focused = report["focused"].as_array().expect("focused");
    for wanted in ["Cancel compact", "find", "busy", "API"] {
        let is = |f: &&Value| f["name"].as_str().is_some_and(|name| name.contains(wanted));
        let node = focused
            .iter()
            .find(is)
            .unwrap_or_else(|| panic!("{wanted}: {focused:?}"));
        assert_ne!(node["outline"], "none", "{node}");
    }
    assert_eq!(report["filtered"], 0);
    assert_eq!(report["kept"], "find zzz-nothing", "the focus stays");

    assert!(
        report["refused"]
            .as_str()
            .expect("an answer")
            .contains("wrong token")
    );
    assert!(
        report["cancelled"]
            .as_str()
            .expect("an answer")
            .contains("Asked to stop")
    );
    assert!(
        !report["kept_token"].to_string().contains(TOKEN),
        "it is kept nowhere"
    );
    eventually("the attempt is cancelled", PATIENCE, || {
        let history = daemon.status()["history"].to_string();
        history.contains("cancelled").then_some(()).ok_or(history)
    });
    daemon.stop();
    lake.run(&["verify", &lake.uri]).ok();
}

#[test]
fn the_page_shows_what_a_token_may_see() {
    let Some(open) = browser() else { return };
    let scene = Closed::new();
    let report = open(&scene.daemon, "-", "of-plain");
    let console = texts(&report, "console");
    assert!(
        console.iter().all(|said| said.contains("401")),
        "{console:?}"
    );
    let locked = report["locked"].as_str().expect("a text");
    for hidden in ["mine", "theirs", "plain"] {
        assert!(!locked.contains(hidden), "{locked}");
    }
    let tables = texts(&report, "tables");
    assert!(any(&tables, &["mine"]), "{tables:#?}");
    assert!(!any(&tables, &["theirs"]), "{tables:#?}");
    let scope = report["scope"].as_str().expect("a text");
    assert!(scope.contains("plain alone"), "{scope}");
    scene.daemon.stop();
}

/// A store with the table `theirs` and a directory with the tables `mine` and `other`, of which nobody reads without a token.
struct Closed {
    lake: Lake,
    daemon: Served,
    plain: String,
}

impl Closed {
    fn new() -> Self {
        let lake = Lake::with_tables(&["theirs"]);
        small_commits(&lake, &["theirs"], 0, 2);
        let plain = lake.path("plain");
        std::fs::create_dir(&plain).expect("a directory");
        let theirs = Path::new(&lake.uri).join("theirs.lance");
        for name in ["mine.lance", "other.lance"] {
            copied(&theirs, &plain.join(name));
        }
        let token = |text: &str| {
            let file = lake.path(text).display().to_string();
            std::fs::write(&file, text).expect("token");
            file
        };
        let plain = plain.display().to_string();
        let config = format!(
            "[daemon]\nreading = \"token\"\ntoken_file = {whole:?}\n[[token]]\nfile = {of_plain:?}\nlocation = {plain:?}\n[[token]]\nfile = {of_mine:?}\nlocation = {plain:?}\ntable = \"mine\"\n[[watch]]\nuri = {store:?}\n[[watch]]\nuri = {plain:?}\n",
            whole = token("whole"),
            of_plain = token("of-plain"),
            of_mine = token("of-mine"),
            store = lake.uri,
        );
        let config = write_config(&lake, &config);
        let daemon = Served::start(&lake, None, &["daemon", "--config", &config]);
        daemon.wait_ready();
        Self {
            lake,
            daemon,
            plain,
        }
    }

    fn asked(&self, method: &str, path: &str, token: &str) -> (u16, String) {
        let header = format!("Authorization: Bearer {token}\r\n");
        self.daemon.request(method, path, &header)
    }
}

#[test]
fn a_token_of_one_location_sees_and_changes_nothing_else() {
    let scene = Closed::new();
    let (store, plain) = (&scene.lake.uri, &scene.plain);
    for path in ["/status", "/metrics"] {
        assert_eq!(scene.daemon.get(path).0, 401, "{path}");
        assert_eq!(scene.asked("GET", path, "guess").0, 401, "{path}");
        assert_eq!(scene.asked("GET", path, "whole").0, 200, "{path}");
    }
    for token in ["of-plain", "of-mine"] {
        let (code, status) = scene.asked("GET", "/status", token);
        assert_eq!(code, 200);
        assert!(status.contains("mine.lance"), "{status}");
        assert!(
            !status.contains("theirs") && !status.contains(store),
            "{status}"
        );
        assert_eq!(status.contains("other"), token == "of-plain", "{status}");
        let (code, metrics) = scene.asked("GET", "/metrics", token);
        assert!(code == 403 && !metrics.contains("theirs"), "{metrics}");
        // What is there and what is not are answered alike.
        let foreign = [store.as_str(), "/nowhere"].map(|store| {
            let path = format!("/api/v1/pause?store={store}");
            scene.asked("POST", &path, token)
        });
        assert_eq!(foreign[0], foreign[1]);
        assert_eq!(foreign[0].0, 404);
        assert_eq!(scene.asked("POST", "/api/v1/drain", token).0, 403);
        // What names nothing is about its own.
        assert_eq!(scene.asked("POST", "/api/v1/pause", token).0, 200);
    }
    let (_, status) = scene.asked("GET", "/status", "whole");
    let status: Value = serde_json::from_str(&status).expect("JSON");
    assert_eq!(status["paused"], false, "all of it is not");
    let pauses = status["pauses"].as_array().expect("pauses");
    let of = |pause: &Value| (pause["store"].clone(), pause["table"].clone());
    let plain: Value = plain.as_str().into();
    let paused: Vec<_> = pauses.iter().map(of).collect();
    assert_eq!(
        paused,
        [(plain.clone(), Value::Null), (plain, "mine".into())]
    );
    // The tools show the token that the configuration names, and say so where they have none.
    let (lake, at) = (&scene.lake, scene.daemon.address());
    let config = lake.path("squire.toml").display().to_string();
    let status = ["status", &scene.plain, "--daemon", &at];
    let shown = lake
        .run(&[&status[..], &["--config", &config]].concat())
        .ok();
    assert!(!shown.stdout.contains("is not known"), "{shown:?}");
    let shown = lake.run(&status).ok();
    assert!(
        shown
            .stdout
            .contains("it answers 401: missing or wrong token"),
        "{shown:?}"
    );
    lake.run(&["resume", "--daemon", &at, "--config", &config])
        .ok();
    let mine = lake.path("of-mine").display().to_string();
    let drain = lake.run(&["drain", "--daemon", &at, "--token-file", &mine]);
    assert!(
        drain.code == Some(2) && drain.stderr.contains("more than what this token is for"),
        "{drain:?}"
    );
    scene.daemon.stop();
}

#[test]
fn the_api_is_what_its_description_says() {
    let schemathesis = cache().join("api/bin/schemathesis");
    if !schemathesis.is_file() {
        eprintln!("SKIPPED: no schemathesis; `ops/setup.sh --test` fetches it where it can");
        return;
    }
    let Scene { lake, daemon } = Scene::new();
    let before = daemon.status()["stores"].clone();
    let asked = |args: &[&str]| run_schemathesis(&schemathesis, &lake, &daemon, args);
    // Reading, as nobody in particular: nothing has changed.
    asked(&["--include-method", "GET"]);
    let after = daemon.status()["stores"].clone();
    let rows = |stores: &Value| stores[0]["tables"].as_array().map(Vec::len);
    assert_eq!(rows(&before), rows(&after));
    let header = format!("Authorization: Bearer {TOKEN}");
    // A query and a body that name different tables are each valid, and refused together.
    let apart = ["--exclude-checks", "positive_data_acceptance"];
    asked(
        &[
            &["--include-method", "POST", "--header", &header],
            &apart[..],
        ]
        .concat(),
    );
    daemon.stop();

    // With the token of one table, and as nobody, where reading needs one.
    let scene = Closed::new();
    let asked = |args: &[&str]| run_schemathesis(&schemathesis, &scene.lake, &scene.daemon, args);
    asked(&[&["--include-method", "GET"], &apart[..]].concat());
    let header = "Authorization: Bearer of-mine";
    asked(&[&["--header", header], &apart[..]].concat());
    let (_, status) = scene.asked("GET", "/status", "whole");
    assert!(status.contains("\"paused\":false"), "{status}");
    scene.daemon.stop();
}

fn run_schemathesis(schemathesis: &Path, lake: &Lake, daemon: &Served, args: &[&str]) {
    let output = Command::new(schemathesis)
        .args([
            "run",
            &daemon.url("/api/v1/openapi.json"),
            "--url",
            &daemon.url(""),
        ])
        .args(["--seed", "1", "--max-examples", "30", "--workers", "2"])
        .args(["--no-color", "--generation-database", "none"])
        .args(args)
        .env("PYTHONIOENCODING", "utf-8")
        .current_dir(lake.path("."))
        .output()
        .expect("schemathesis starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
}
