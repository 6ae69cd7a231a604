//! Input as producers write it: compressed, from a pipe, in directories, under other names, a little wrong; and what an operator
//! asks a spool.

use super::*;
use serde_json::{Value, json};
use squire_tests::Done;
use std::process::Command;

impl Spool {
    /// A record beside a rejected entry.
    fn record(&self, name: &str) -> Value {
        let path = self.path("rejected").join(format!("{name}.reason.json"));
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
        serde_json::from_str(&text).expect("JSON")
    }

    fn ask(&self, what: &str, more: &[&str]) -> Done {
        self.lake
            .run(&[&["spool", what, &self.dir], more, &["--json"]].concat())
    }
}

/// A file, packed by the tool that producers use.
fn gzipped(lake: &Lake, name: &str, text: &str) -> String {
    let path = lake.path(name);
    fs::create_dir_all(path.parent().expect("parent")).expect("directory");
    fs::write(&path, text).expect("file");
    let packed = Command::new("gzip").arg("-f").arg(&path).status();
    assert!(packed.expect("gzip runs").success());
    format!("{}.gz", path.to_string_lossy())
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn compressed_files_are_committed_or_rejected_with_a_record() {
    let spool = Spool::new(&["a"]);
    let lake = &spool.lake;
    let put = |name: &str, from: &str| {
        fs::rename(from, spool.path("incoming").join(name)).expect("rename");
    };
    put("a.1.csv.gz", &gzipped(lake, "1.csv", &csv([1, 2], "x")));
    // Two members are one input.
    let (first, second) = (
        gzipped(lake, "2.csv", &csv([3], "x")),
        gzipped(lake, "3.csv", "4,x\n"),
    );
    let members = [fs::read(&first), fs::read(&second)].map(|part| part.expect("file"));
    fs::write(&first, members.concat()).expect("file");
    put("a.2.csv.gz", &first);
    let cut = gzipped(lake, "cut.csv", &csv(5..2_000, "x"));
    let bytes = fs::read(&cut).expect("file");
    fs::write(&cut, &bytes[..bytes.len() / 2]).expect("file");
    put("a.cut.csv.gz", &cut);
    let wrong = gzipped(lake, "wrong.csv", "id,value\n5,x\ny,x\n");
    put("a.wrong.csv.gz", &wrong);
    let bomb = csv([6], &"x".repeat(3 << 20));
    put("a.bomb.csv.gz", &gzipped(lake, "bomb.csv", &bomb));
    let config = lake.path("squire.toml");
    fs::write(&config, "[agent]\nmax_decoded_bytes = \"1MiB\"\n").expect("configuration");
    spool
        .start(&["--until-empty", "--config", &text(&config)])
        .wait()
        .ok();
    assert_eq!(lake.ids("a").await, [1, 2, 3, 4]);
    let record = spool.record("a.cut.csv.gz");
    assert_eq!(
        (&record["cause"], &record["table"]),
        (&json!("damaged"), &json!("a"))
    );
    assert!(
        record["reason"]
            .as_str()
            .is_some_and(|r| r.contains("is cut off")),
        "{record}"
    );
    let record = spool.record("a.bomb.csv.gz");
    assert_eq!(record["cause"], "limit");
    let reason = record["reason"].as_str().expect("text");
    assert!(reason.contains("max_decoded_bytes = 1MiB"), "{reason}");
    let record = spool.record("a.wrong.csv.gz");
    for (field, value) in [
        ("cause", json!("value")),
        ("entry", json!("a.wrong.csv.gz")),
        ("file", json!("a.wrong.csv.gz")),
        ("line", json!(3)),
        ("column", json!("id")),
        ("attempts", json!(1)),
        ("format_version", json!(1)),
    ] {
        assert_eq!(record[field], value, "{field}: {record}");
    }
    assert_eq!(
        record["operation"].as_str().map(str::len),
        Some(26),
        "{record}"
    );
    assert!(
        record["time_ms"].as_u64().is_some_and(|ms| ms > 0),
        "{record}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_directories_and_patterns_are_files() {
    let lake = Lake::with_tables(&["t"]);
    let write = ["write", &lake.uri, "t"];
    let feed = |more: &[&str], input: &[u8]| lake.feed(&[&write[..], more].concat(), input);
    feed(&["-"], b"{\"id\":1}\n").ok();
    feed(&["-", "--format", "csv"], csv([2], "x").as_bytes()).ok();
    let packed = gzipped(&lake, "3.csv", &csv([3], "x"));
    feed(&["-", "--format", "csv"], &fs::read(packed).expect("file")).ok();
    feed(&["-"], csv([9], "x").as_bytes()).failed(2, "--format");
    feed(&["-", "--format", "csv"], b"id\nx\n").failed(2, "standard input:2");
    feed(&["-", "-"], b"").failed(2, "name - once");
    feed(&["-"], b"").failed(2, "is empty");

    let dir = lake.path("in");
    for (name, id) in [("b.csv", 11), ("a.csv", 10), ("c.csv.part", 99)] {
        lake.csv(&format!("in/{name}"), [(id, name.to_owned())]);
    }
    fs::write(dir.join("_SUCCESS"), "").expect("file");
    fs::write(dir.join("notes.txt"), "x").expect("file");
    gzipped(&lake, "in/d.csv", &csv([12], "d"));
    let done = lake
        .run(&[&write[..], &[&text(&dir), "--json"]].concat())
        .ok()
        .json();
    let skipped: Vec<_> = done["skipped"].as_array().expect("list").iter().collect();
    let whys: Vec<_> = skipped
        .iter()
        .map(|s| s["why"].as_str().expect("text"))
        .collect();
    assert_eq!(whys, ["no data", "unfinished", "no known format"], "{done}");
    for id in [20, 21] {
        lake.csv(&format!("more/p.{id}.csv"), [(id, "p".to_owned())]);
    }
    let pattern = text(&lake.path("more/p.*.csv"));
    lake.run(&[&write[..], &[&pattern]].concat()).ok();
    assert_eq!(lake.ids("t").await, [1, 2, 3, 10, 11, 12, 20, 21]);

    let refused = |more: &[&str], why: &str| {
        let before = tree(Path::new(&lake.uri));
        lake.run(&[&write[..], more].concat()).failed(2, why);
        assert_eq!(tree(Path::new(&lake.uri)), before);
    };
    refused(&[&text(&lake.path("more/q.*"))], "no data file matches");
    refused(
        &[&pattern, &text(&lake.path("more/p.20.csv"))],
        "is named twice",
    );
    fs::create_dir_all(lake.path("nothing")).expect("directory");
    refused(&[&text(&lake.path("nothing"))], "holds no data file");
    fs::create_dir_all(dir.join("deeper")).expect("directory");
    refused(&[&text(&dir)], "is a directory in a directory");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_are_mapped_filled_and_coerced_as_asked() {
    let mut spool = Spool::new(&["a"]);
    let lake = &spool.lake;
    let file = lake.path("odd.csv");
    fs::write(&file, "No,ignored\n 1,x\n").expect("file");
    let base = ["write", &lake.uri, "a", &text(&file)].map(str::to_owned);
    let base: Vec<&str> = base.iter().map(String::as_str).collect();
    let write = |more: &[&str]| lake.run(&[&base[..], more].concat());
    write(&[]).failed(2, "`No`");
    write(&["--column", "id=No"]).failed(2, "`ignored`");
    let mapped = ["--column", "id=No", "--column", "value=ignored"];
    write(&mapped).failed(2, "odd.csv:2");
    write(&["--column", "zz=No"]).failed(2, "--column zz=No");
    write(&["--default", "id=x"]).failed(2, "--default id=x");
    write(&["--column", "id"]).failed(2, "is no pair");
    let done = write(&[&mapped[..], &["--coerce", "trim", "--json"]].concat());
    let done = done.ok().json();
    let coerced = &done["coerced"][0];
    for (field, value) in [
        ("table", json!("a")),
        ("file", json!("odd.csv")),
        ("column", json!("id")),
        ("coercion", json!("trim")),
        ("count", json!(1)),
        ("first", json!(" 1")),
        ("at", json!(2)),
    ] {
        assert_eq!(coerced[field], value, "{field}: {done}");
    }
    assert_eq!(lake.rows("a").await, [(1, "x".to_owned())]);

    let settings = "[tables.a]\ncoerce = [\"trim\"]\n[tables.a.columns]\nid = \"No\"\n[tables.a.defaults]\nvalue = \"plant 7\"\n";
    let with = |settings: &str| {
        [
            ("a.csv", "No\n 2\n".to_owned()),
            ("batch.toml", settings.to_owned()),
        ]
    };
    spool.put("mapped", &with(settings));
    spool.put("unknown", &with(&settings.replace("value =", "zz =")));
    spool.put("unfit", &with("[tables.a.defaults]\nid = \"x\"\n"));
    let agent = spool.start(&["--until-empty"]).wait().ok();
    assert!(
        agent.stderr.contains("column id: trim changed 1 values"),
        "{agent:?}"
    );
    assert_eq!(spool.lake.rows("a").await[1], (2, "plant 7".to_owned()));
    for (name, texts, line, column) in [
        ("unknown", ["/batch.toml:6", "`zz`"], 6, "zz"),
        ("unfit", ["/batch.toml:2", "does not take it"], 2, "id"),
    ] {
        let record = spool.record(name);
        assert_eq!(record["cause"], "settings", "{record}");
        let place = (&record["file"], &record["line"], &record["column"]);
        let expected = (&json!("batch.toml"), &json!(line), &json!(column));
        assert_eq!(place, expected, "{record}");
        let reason = record["reason"].as_str().expect("text").to_owned();
        assert!(texts.iter().all(|text| reason.contains(text)), "{reason}");
    }
    // By the agent's own setting, for files that no batch.toml goes with.
    spool.put("a.null.csv", &[("", "id,value\n3,NA\n".to_owned())]);
    let config = spool.lake.path("squire.toml");
    fs::write(&config, "[agent]\ncoerce = [\"null\"]\n").expect("configuration");
    spool
        .start(&["--until-empty", "--config", &text(&config)])
        .wait()
        .ok();
    let store = spool.lake.store().await;
    let snapshot = store.load().await.expect("snapshot");
    let table = "a".parse().expect("name");
    let dataset = store.read(&snapshot, &table).await.expect("table");
    let nulls = dataset.count_rows(Some("value IS NULL".to_owned())).await;
    assert_eq!(nulls.expect("count"), 1);
}

/// The names that a process made, wrote, moved or removed below the store.
fn touched(lake: &Lake, args: &[&str]) -> Vec<squire_tests::disk::Effect> {
    use squire_tests::disk::Effect as E;
    let root = Path::new(&lake.uri);
    let below = |effect: &E| match effect {
        E::Make(path) | E::MakeDir(path) | E::Write(path, _) | E::Unlink(path) => {
            path.starts_with(root)
        }
        E::Link(from, to) | E::Rename(from, to) => from.starts_with(root) || to.starts_with(root),
        E::Sync(_) | E::SyncAll | E::Answer => false,
    };
    let mut effects = lake.traced("process", args);
    effects.retain(below);
    effects
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_counts_and_puts_nothing() {
    let lake = Lake::with_tables(&["t", "u"]);
    let seed = lake.csv("seed.csv", (0..10).map(|id| (id, "seed".to_owned())));
    for table in ["t", "u"] {
        lake.run(&["write", &lake.uri, table, &seed]).ok();
    }
    let more = lake.csv("more.csv", (8..13).map(|id| (id, "more".to_owned())));
    let cases: [(&[&str], [u64; 3]); 4] = [
        (&["write", &lake.uri, "t", &more], [5, 0, 0]),
        (
            &["write", &lake.uri, "t", &more, "--mode", "merge"],
            [3, 2, 0],
        ),
        (
            &["write", &lake.uri, "t", &more, "--mode", "overwrite"],
            [5, 0, 10],
        ),
        (&["delete", &lake.uri, "t", "--where", "id < 3"], [0, 0, 3]),
    ];
    for (args, [inserted, updated, deleted]) in cases {
        let dry = [args, &["--dry-run"]].concat();
        let touched = touched(&lake, &dry);
        assert!(touched.is_empty(), "{args:?}: {touched:?}");
        let said = lake.run(&[&dry[..], &["--json"]].concat()).ok().json();
        let expected = json!({ "inserted": inserted, "updated": updated, "deleted": deleted });
        assert_eq!(said["outcome"], "dry_run");
        assert_eq!(said["tables"][0]["rows"], expected, "{args:?}: {said}");
        // The real one says the same, on a store of its own.
        let other = Lake::with_tables(&["t"]);
        other.run(&["write", &other.uri, "t", &seed]).ok();
        let real: Vec<&str> = args
            .iter()
            .map(|arg| if *arg == lake.uri { &other.uri } else { *arg })
            .collect();
        let done = other.run(&[&real[..], &["--json"]].concat()).ok().json();
        assert_eq!(done["rows"]["t"], expected, "{args:?}: {done}");
    }
    assert!(!touched(&lake, &["delete", &lake.uri, "t", "--where", "id = 9"]).is_empty());

    // A batch directory: two tables, one of them by its keys, and nothing where one is wrong.
    let batch = lake.batch("batch", &["t", "u"], 7..11);
    let settings = "batch_id = \"b\"\n[tables.u]\nmode = \"delete\"\n";
    fs::write(Path::new(&batch).join("batch.toml"), settings).expect("settings");
    let commit = ["commit", &lake.uri, &batch];
    let dry = [&commit[..], &["--dry-run"]].concat();
    assert!(touched(&lake, &dry).is_empty());
    let said = lake.run(&dry).ok().stdout;
    assert!(said.contains("would commit to t"), "{said}");
    assert!(
        said.contains(": 4 inserted") && said.contains(": 3 deleted"),
        "{said}"
    );
    lake.run(&commit).ok();
    lake.run(&dry).ok();
    let said = lake.run(&dry).ok().stdout;
    assert!(said.contains("would commit nothing"), "{said}");
    let bad = lake.csv("bad.csv", [(1, "a".to_owned()), (1, "b".to_owned())]);
    let merge = [
        "write",
        &lake.uri,
        "t",
        &bad,
        "--mode",
        "merge",
        "--dry-run",
    ];
    lake.run(&merge).failed(2, "twice");
    let uri = format!("{}/t.lance", lake.uri);
    let mut foreign = lance::Dataset::open(&uri).await.expect("table");
    let commit = foreign.update_config([("someone", "else")]).await;
    commit.expect("an external commit");
    let drifted = ["write", &lake.uri, "t", &more, "--dry-run"];
    lake.run(&drifted).failed(3, "squire repair");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spool_says_what_lies_in_it_and_takes_rejected_entries_back() {
    let mut spool = Spool::new(&["a", "b"]);
    let not_yet = spool.lake.run(&["spool", "status", &spool.dir]);
    not_yet.failed(1, "is no spool");
    let uri = format!("{}/b.lance", spool.lake.uri);
    let mut foreign = lance::Dataset::open(&uri).await.expect("table");
    let commit = foreign.update_config([("someone", "else")]).await;
    commit.expect("an external commit");
    spool.put("a.1.csv", &[("", csv([1], "x"))]);
    spool.put("a.bad.csv", &[("", "id,value\nx,y\n".to_owned())]);
    spool.put("none.1.csv", &[("", csv([1], "x"))]);
    spool.put("b.1.csv", &[("", csv([1], "x"))]);
    fs::write(spool.path("incoming/a.2.csv.part"), "id").expect("file");
    let config = spool.lake.path("squire.toml");
    fs::write(&config, "[agent]\npoll_interval = \"20ms\"\n").expect("configuration");
    let left = spool.start(&["--until-empty", "--config", &text(&config)]);
    assert_eq!(left.wait().code, Some(1));
    spool.put("a.3.csv", &[("", csv([3], "x"))]);

    let status = spool.ask("status", &[]).ok().json();
    assert_eq!(status["incoming"][0]["table"], "a", "{status}");
    assert_eq!(status["incoming"][0]["entries"], 1, "{status}");
    assert_eq!(status["ignored"][0]["entry"], "a.2.csv.part", "{status}");
    let claim = &status["claimed"][0];
    assert_eq!(
        (&claim["held"], &claim["entries"][0]),
        (&json!(false), &json!("b.1.csv"))
    );
    assert_eq!(claim["waiting"]["cause"], "drift", "{status}");
    assert!(claim["waiting"]["next_ms"].as_u64() > claim["waiting"]["time_ms"].as_u64());
    assert_eq!(status["done"]["entries"], 1, "{status}");
    let causes: Vec<_> = status["rejected"]
        .as_array()
        .expect("list")
        .iter()
        .collect();
    let causes: Vec<_> = causes
        .iter()
        .map(|c| (c["cause"].as_str(), &c["entries"][0]))
        .collect();
    let (table, bad) = (json!("none.1.csv"), json!("a.bad.csv"));
    assert_eq!(
        causes,
        [(Some("table"), &table), (Some("value"), &bad)],
        "{status}"
    );
    let lines = spool.lake.run(&["spool", "status", &spool.dir]).ok().stdout;
    assert!(
        lines.contains("b.1.csv") && lines.contains("waits (drift)"),
        "{lines}"
    );

    for (name, state, why) in [
        ("a.3.csv", "incoming", "no agent has taken it yet"),
        ("a.2.csv.part", "incoming", "still being written"),
        ("b.1.csv", "claimed", "drift"),
        ("a.1.csv", "done", "it was committed"),
        ("a.bad.csv", "rejected", "a.bad.csv:2"),
    ] {
        let said = spool.ask("explain", &[name]).ok().json();
        assert_eq!(said["places"][0]["state"], state, "{said}");
        let told = said["places"][0]["why"].as_str().expect("text");
        assert!(told.contains(why), "{said}");
    }
    spool
        .ask("explain", &["zz.csv"])
        .failed(1, "is not in this spool");

    spool
        .ask("retry", &["zz.csv"])
        .failed(2, "is not in rejected");
    spool.ask("retry", &[]).failed(2, "");
    // Never over an entry that came meanwhile.
    spool.put("a.bad.csv", &[("", csv([2], "x"))]);
    let said = spool.ask("retry", &["--all"]);
    assert_eq!(said.code, Some(1), "{said:?}");
    let said = said.json();
    assert_eq!(said["moved"][0]["entry"], "none.1.csv", "{said}");
    assert_eq!(said["stayed"][0]["entry"], "a.bad.csv", "{said}");
    let rejected = spool.names("rejected");
    assert!(
        rejected.iter().all(|name| name.starts_with("a.bad.csv")),
        "{rejected:?}"
    );
    spool.lake.create_tables(&["none"]);
    let repair = ["repair", &spool.lake.uri, "--table", "b", "--discard"];
    spool.lake.run(&repair).ok();
    fs::remove_file(spool.path("incoming/a.2.csv.part")).expect("file");
    spool.work_off();
    fs::write(spool.path("rejected/a.bad.csv"), csv([4], "mended")).expect("file");
    spool.ask("retry", &["a.bad.csv"]).ok();
    assert_eq!(spool.names("rejected"), BTreeSet::new());
    spool.work_off();
    assert_eq!(spool.lake.ids("a").await, [1, 2, 3, 4]);
    assert_eq!(spool.lake.ids("none").await, [1]);
    let status = spool.ask("status", &[]).ok().json();
    let nothing = json!([]);
    for state in ["incoming", "ignored", "claimed", "rejected"] {
        assert_eq!(status[state], nothing, "{status}");
    }
}
