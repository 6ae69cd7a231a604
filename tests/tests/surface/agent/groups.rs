//! Batches that wait are committed together: each keeps its identity, and what is wrong with one is settled alone.

use super::*;
use serde_json::Value;
use squire_tests::armed;

/// The logical commits of batches, each as the messages of what it committed, oldest first.
fn commits(spool: &Spool) -> Vec<Vec<String>> {
    let mut commits: Vec<Vec<String>> = Vec::new();
    for entry in spool.lake.log() {
        let members = entry["members"].as_array().cloned();
        let batches = members.unwrap_or_else(|| vec![entry.clone()]);
        let messages = batches.iter().filter_map(|b| b["message"].as_str());
        let messages: Vec<String> = messages
            .filter(|m| spool.put.contains(*m))
            .map(str::to_owned)
            .collect();
        if !messages.is_empty() {
            commits.push(messages);
        }
    }
    commits.reverse();
    commits
}

fn kinds(spool: &Spool, kind: &str) -> usize {
    let log = spool.lake.log();
    log.iter().filter(|entry| entry["kind"] == kind).count()
}

/// Ten files, and ten directories with batch ids, for two tables.
fn fill(spool: &mut Spool) -> Vec<i64> {
    for i in 0..10_i64 {
        spool.put(
            &format!("a.{i}.csv"),
            &[("", csv(i * 10..i * 10 + 3, "file"))],
        );
        let name = format!("batch-{i}");
        let ids = 1_000 + i * 10..1_000 + i * 10 + 3;
        spool.put(
            &name,
            &[
                ("a.csv", csv(ids.clone(), "pair")),
                ("b.csv", csv(ids, "pair")),
                ("batch.toml", format!("batch_id = \"id-{i}\"\n")),
            ],
        );
    }
    let files = (0..10).flat_map(|i| i * 10..i * 10 + 3);
    files
        .chain((100..110).flat_map(|i| i * 10..i * 10 + 3))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_that_wait_are_one_commit_in_which_each_has_its_name() {
    let mut spool = Spool::new(&["a", "b"]);
    let ids = fill(&mut spool);
    let said = spool.start(&["--until-empty"]).wait().ok().stderr;
    assert_eq!(said.matches("batch committed").count(), 20, "{said}");
    let names: Vec<String> = spool.put.iter().cloned().collect();
    assert_eq!(commits(&spool), [names], "in the order of names");
    assert_eq!(spool.lake.ids("a").await, ids);
    assert_eq!(spool.lake.ids("b").await, ids[30..]);
    let status = spool.lake.table_status("a", "fragments");
    assert_eq!(status, 1, "one fragment for all");
    spool.assert_all_done();

    // Asked for later, whether the manifest or the commit log has it.
    let log = spool.lake.log();
    let group = log.iter().find(|e| e["members"].is_array());
    let op = group.expect("the group")["op"].as_str().expect("its name");
    for archived in [false, true] {
        if archived {
            spool.lake.clean_up();
        }
        let shown = spool.lake.run(&["op", &spool.lake.uri, op]).ok().stdout;
        assert!(shown.contains("committed: ") && shown.contains("20 batches"));
        for text in ["a.7.csv", "batch-7, batch id id-7"] {
            assert!(shown.contains(text), "{archived}: {shown}");
        }
        let again = csv(1_070..1_073, "pair");
        let toml = ("batch.toml", "batch_id = \"id-7\"\n".to_owned());
        let files = [("a.csv", again.clone()), ("b.csv", again), toml];
        spool.put(&format!("again-{archived}"), &files);
        let summary = spool.start(&["--until-empty", "--json"]).wait().ok().json();
        assert_eq!(summary["already_committed"], 1, "{archived}: {summary}");
    }
    assert_eq!(spool.lake.ids("a").await, ids);
    spool.assert_at_rest();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_one_batch_is_settled_alone() {
    let mut spool = Spool::new(&["a", "b"]);
    let mut ids = fill(&mut spool);
    spool.work_off();
    let pair = |ids: std::ops::Range<i64>, id: &str| {
        let rows = csv(ids, "pair");
        let toml = format!("batch_id = \"{id}\"\n");
        [
            ("a.csv", rows.clone()),
            ("b.csv", rows),
            ("batch.toml", toml),
        ]
    };
    for i in 0..6_i64 {
        ids.extend(5_000 + i..=5_000 + i);
        let rows = csv(5_000 + i..5_001 + i, "good");
        spool.put(&format!("m-{i}"), &[("a.csv", rows)]);
    }
    spool.put("m-0-bad", &[("a.csv", "id,value\nx,y\n".to_owned())]);
    spool.put("m-1-null", &[("a.csv", "id,value\n,y\n".to_owned())]);
    spool.put("m-2-repeated", &pair(1_020..1_023, "id-2"));
    spool.put("m-3-other", &pair(1..9, "id-3"));
    spool.put("m-4-twin", &pair(6_000..6_001, "twin"));
    spool.put("m-4-twin-again", &pair(6_000..6_001, "twin"));
    ids.push(6_000);
    let done = spool.start(&["--until-empty", "--json"]).wait().ok();
    let summary = done.json();
    let counts = ["committed", "already_committed", "rejected"].map(|key| summary[key].as_u64());
    assert_eq!(counts, [Some(7), Some(2), Some(3)], "{summary}");
    ids.sort_unstable();
    assert_eq!(spool.lake.ids("a").await, ids);
    let rejected = ["m-0-bad", "m-1-null", "m-3-other"];
    for name in rejected {
        let reason = spool.path("rejected").join(format!("{name}.reason.txt"));
        let reason = fs::read_to_string(reason).expect("the reason");
        assert!(reason.contains(name), "{reason}");
    }
    let commits = commits(&spool);
    assert_eq!(
        commits.len(),
        3,
        "two groups: the twin ends one: {commits:?}"
    );
    assert_eq!(spool.names("done").len(), 29);
    spool.assert_at_rest();
}

/// A merge sees what came before it by name, and nothing that comes after it.
#[tokio::test(flavor = "multi_thread")]
async fn what_reads_goes_alone_and_nothing_jumps_over_it() {
    let mut spool = Spool::new(&["a"]);
    let merge = ("batch.toml", "[tables.a]\nmode = \"merge\"\n".to_owned());
    spool.put("a.1.csv", &[("", csv([1, 2], "first"))]);
    spool.put("a.2.csv", &[("", csv([3], "first"))]);
    spool.put("a.3", &[("a.csv", csv([1, 3], "merged")), merge]);
    spool.put("a.4.csv", &[("", csv([1], "after"))]);
    spool.put("a.5.csv", &[("", csv([4], "after"))]);
    spool.work_off();
    let together = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
    let expected = [
        together(&["a.1.csv", "a.2.csv"]),
        together(&["a.3"]),
        together(&["a.4.csv", "a.5.csv"]),
    ];
    assert_eq!(commits(&spool), expected);
    let mut rows = spool.lake.rows("a").await;
    rows.sort();
    let rows: Vec<(i64, &str)> = rows.iter().map(|(id, v)| (*id, v.as_str())).collect();
    let expected = [
        (1, "after"),
        (1, "merged"),
        (2, "first"),
        (3, "merged"),
        (4, "after"),
    ];
    assert_eq!(rows, expected);
    spool.assert_all_done();
}

/// A group ends where an entry was taken away. The rest of it is older than the overwrite that follows in the same listing.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_group_left_behind_comes_before_what_reads_rows() {
    let mut spool = Spool::new(&["a"]);
    let dir = |mode: &str, ids| {
        let settings = format!("[tables.a]\nmode = \"{mode}\"\n");
        [("a.csv", csv(ids, mode)), ("batch.toml", settings)]
    };
    spool.put("0-first", &dir("merge", 0..1));
    for i in 1..4_i64 {
        spool.put(&format!("a.{i}.csv"), &[("", csv(i..i + 1, "x"))]);
    }
    spool.put("z-last", &dir("overwrite", 9..10));
    let mut agent = spool.with_seam(&armed("agent.after_claim", 1, "stop"), &["--until-empty"]);
    agent.wait_stopped();
    fs::remove_file(spool.path("incoming").join("a.2.csv")).expect("taken back");
    spool.put.remove("a.2.csv");
    agent.resume().ok();
    let order = ["0-first", "a.1.csv", "a.3.csv", "z-last"];
    assert_eq!(commits(&spool).concat(), order);
    assert_eq!(spool.lake.ids("a").await, [9]);
    spool.assert_all_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_keeps_its_limits() {
    for (limit, sizes) in [
        ("group_batches = 1", vec![1, 1, 1, 1, 1]),
        ("group_batches = 2", vec![2, 2, 1]),
        ("group_rows = 7", vec![2, 2, 1]),
        ("group_bytes = \"1B\"", vec![1, 1, 1, 1, 1]),
        ("", vec![5]),
    ] {
        let mut spool = Spool::new(&["a"]);
        for i in 0..5_i64 {
            let rows = csv(i * 10..i * 10 + 3, "x");
            spool.put(&format!("a.{i}.csv"), &[("", rows)]);
        }
        let config = spool.lake.path("limit.toml");
        fs::write(&config, format!("[agent]\n{limit}\n")).expect("the configuration");
        let config = config.to_string_lossy().into_owned();
        let args = ["--until-empty", "--config", &config];
        spool.start(&args).wait().ok();
        let commits = commits(&spool);
        let found: Vec<usize> = commits.iter().map(Vec::len).collect();
        assert_eq!(found, sizes, "{limit}");
        let order: Vec<String> = commits.concat();
        assert!(order.is_sorted(), "{limit}: {order:?}");
        spool.assert_all_done();
    }
}

/// Killed at `seam`, with another agent killed at the same place when it takes over; a third one finishes.
async fn group_killed_at(seam: &str) {
    let mut spool = Spool::new(&["a", "b"]);
    let mut ids = fill(&mut spool);
    let merge = ("batch.toml", "[tables.b]\nmode = \"merge\"\n".to_owned());
    let rows = ("b.csv", csv([1_000, 7_000], "merged"));
    spool.put("m", &[("a.csv", csv([7_000], "m")), rows, merge]);
    ids.push(7_000);
    let args = ["--until-empty", "--grace", "1s"];
    spool.with_seam(seam, &args).killed();
    drop(spool.with_seam(seam, &args).wait());
    assert_eq!(spool.names("rejected"), BTreeSet::new(), "{seam}");
    spool.work_off();
    assert_eq!(spool.lake.ids("a").await, ids, "{seam}");
    assert_eq!(spool.lake.ids("b").await, ids[30..], "{seam}");
    spool.assert_all_done();
    spool.assert_at_rest();
}

macro_rules! crash_group_at {
    ($($name:ident: $seam:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            group_killed_at($seam).await;
        }
    )*};
}

crash_group_at! {
    crash_group_while_claiming: "agent.while_claiming=7*off->return(kill)";
    crash_group_after_claim: "agent.after_claim=return(kill)";
    crash_group_before_commit: "agent.before_commit=return(kill)";
    crash_group_after_stage: "write.after_stage=return(kill)";
    crash_group_after_sidecar: "sidecar.after_put=return(kill)";
    crash_group_between_tables: "write.after_commit_table=return(kill)";
    crash_group_after_phase_b: "write.after_phase_b=return(kill)";
    crash_group_before_publish: "publish.before_commit=return(kill)";
    crash_group_after_publish: "publish.after_commit=return(kill)";
    crash_group_after_commit: "agent.after_commit=return(kill)";
    crash_group_while_finishing: "agent.while_finishing=7*off->return(kill)";
}

/// Two agents died over the group, and the next ones die while they take it apart.
#[tokio::test(flavor = "multi_thread")]
async fn crash_group_while_it_is_taken_apart() {
    let mut spool = Spool::new(&["a", "b"]);
    let ids = fill(&mut spool);
    let args = ["--until-empty", "--grace", "1s"];
    for seam in [
        "agent.before_commit=return(kill)",
        "agent.before_commit=return(kill)",
        "agent.while_parting=return(kill)",
        "agent.while_parting=5*off->return(kill)",
    ] {
        spool.with_seam(seam, &args).killed();
    }
    let parts = spool.names("claimed").len();
    assert_eq!(parts, 5, "one, three parts of two, and the others");
    spool.work_off();
    assert_eq!(spool.lake.ids("a").await, ids);
    assert_eq!(spool.lake.ids("b").await, ids[30..]);
    spool.assert_all_done();
    spool.assert_at_rest();
}

/// The group over which agents die is taken apart, so that only the one among them which kills is rejected.
#[tokio::test(flavor = "multi_thread")]
async fn crash_only_the_batch_that_kills_is_blamed() {
    let mut spool = Spool::new(&["a"]);
    for i in 0..4_i64 {
        spool.put(&format!("a.{i}.csv"), &[("", csv([i], "x"))]);
    }
    let config = spool.lake.path("two.toml");
    fs::write(&config, "[agent]\nmax_attempts = 2\n").expect("the configuration");
    let config = config.to_string_lossy().into_owned();
    let args = ["--until-empty", "--json", "--config", &config];
    // Twice over the group, then twice over its first batch alone; what others died over comes after the rest.
    for pass in [0, 0, 0, 3] {
        let seam = format!("agent.before_commit={pass}*off->return(kill)");
        spool.with_seam(&seam, &args).killed();
    }
    assert_eq!(spool.names("done").len(), 3, "the others, each alone");
    let summary = spool.start(&args).wait().ok().json();
    assert_eq!(summary["rejected"], 1, "{summary}");
    let reason = spool.path("rejected").join("a.0.csv.reason.txt");
    let reason = fs::read_to_string(reason).expect("the reason");
    assert!(reason.contains("2 agents in a row died"), "{reason}");
    assert_eq!(spool.lake.ids("a").await, [1, 2, 3]);
    spool.assert_all_done_but(&["a.0.csv"]);
}

/// A group of blind appends that meets another one's undecided version lands behind it; neither is aborted.
#[tokio::test(flavor = "multi_thread")]
async fn two_groups_on_one_table_land_one_behind_the_other() {
    for seam in [
        "agent.before_commit",
        "sidecar.after_put",
        "write.after_phase_b",
        "publish.before_commit",
        "publish.after_commit",
    ] {
        let mut spool = Spool::new(&["a"]);
        let put = |spool: &mut Spool, from: i64| {
            for i in from..from + 5 {
                spool.put(&format!("a.{i}.csv"), &[("", csv([i], "x"))]);
            }
        };
        put(&mut spool, 10);
        let failpoints = format!("{seam}=1*return(stop)");
        let mut first = spool.with_seam(&failpoints, &["--until-empty"]);
        first.wait_stopped();
        put(&mut spool, 20);
        spool.start(&["--until-empty"]).wait().ok();
        first.resume().ok();
        let ids: Vec<i64> = (10..15).chain(20..25).collect();
        assert_eq!(spool.lake.ids("a").await, ids, "{seam}");
        assert_eq!(commits(&spool).len(), 2, "{seam}");
        assert_eq!(kinds(&spool, "abort"), 0, "{seam}");
        spool.assert_all_done();
        spool.assert_at_rest();
    }
}

/// A commit of several batches is nothing that an earlier release may finish: it would leave their ids out.
#[test]
fn a_group_says_that_it_is_one() {
    let mut spool = Spool::new(&["a"]);
    for i in 0..2 {
        spool.put(&format!("a.{i}.csv"), &[("", csv([i], "x"))]);
    }
    let killed = spool.with_seam("sidecar.after_put=return(kill)", &["--until-empty"]);
    killed.killed();
    let recovery = Path::new(&spool.lake.uri).join("_squire/recovery");
    let sidecar = fs::read_dir(recovery).expect("sidecars").next();
    let sidecar = fs::read(sidecar.expect("one").expect("one").path()).expect("sidecar");
    let sidecar: Value = serde_json::from_slice(&sidecar).expect("JSON");
    assert_eq!(sidecar["format"], 2, "{sidecar}");
    assert_eq!(sidecar["members"][1]["message"], "a.1.csv", "{sidecar}");
    spool.start(&["--until-empty", "--grace", "0s"]).wait().ok();
    spool.assert_all_done();
}

/// Rows that were read for the older columns fit no more, and nothing is wrong with their file: it is read again.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_read_again_when_the_columns_change_under_it() {
    for files in [1, 3] {
        let mut spool = Spool::new(&["a"]);
        let uri = spool.lake.uri.clone();
        let alter = ["alter", &uri, "a"];
        let add = [&alter[..], &["add", "n", "int32"]].concat();
        spool.lake.run(&add).ok();
        for id in 0..files {
            let content = format!("id,value,n\n{id},x,{id}\n");
            spool.put(&format!("a.{id}.csv"), &[("", content)]);
        }
        let seam = "agent.before_commit=1*return(stop)";
        let mut agent = spool.with_seam(seam, &["--until-empty"]);
        agent.wait_stopped();
        let widen = [&alter[..], &["widen", "n", "int64"]].concat();
        spool.lake.run(&widen).ok();
        agent.resume().ok();
        assert_eq!(spool.names("rejected"), BTreeSet::new());
        assert_eq!(spool.lake.ids("a").await, (0..files).collect::<Vec<_>>());
        spool.assert_all_done();
        spool.assert_at_rest();
    }
}
