//! What has to wait: each batch is counted, and stays with its true reason.

use super::trouble::{Served, one};
use super::*;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

fn waiting(cause: &str, count: usize) -> String {
    format!("squire_agent_waiting{{cause=\"{cause}\"}} {count}\n")
}

/// A producer sends its file again under the same name while the first has to wait.
#[tokio::test(flavor = "multi_thread")]
async fn two_that_wait_under_one_name_are_two() {
    let mut spool = Spool::new(&["a"]);
    spool.drift("a").await;
    spool.put("a.1.csv", &one(&csv([1], "first")));
    let mut served = Served::start(&spool, &["--config", &spool.config("")]);
    served.wait_for(&spool, "/metrics", 200, &waiting("drift", 1));
    spool.put("a.1.csv", &one(&csv([2], "again")));
    served.wait_for(&spool, "/metrics", 200, &waiting("drift", 2));
    let (_, status) = served.get("/status").expect("status");
    let status: Value = serde_json::from_str(&status).expect("JSON");
    let listed = status["waiting"].as_array().expect("a list");
    assert_eq!(listed.len(), 2, "{status}");
    assert!(listed.iter().all(|wait| wait["entry"] == "a.1.csv"));
    served.agent.signal(Signal::SIGTERM);
    served.agent.wait().ok();
    let args = ["--until-empty", "--json", "--config", &spool.config("")];
    let summary = spool.start(&args).wait().failed(1, "a.1.csv").json();
    assert_eq!(summary["left"].as_array().map(Vec::len), Some(2));
    assert_eq!(spool.names("claimed").len(), 2, "each is a claim");
}

fn permit(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("permissions");
}

/// A file of another user, or of a mode that keeps the agent out, is no bad file: it stays where its producer looks for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_read_stays_in_incoming_until_it_may() {
    let mut spool = Spool::new(&["a", "b"]);
    spool.lake.is_bound = true;
    spool.put("a.1.csv", &one(&csv([1], "x")));
    spool.put("a.2.csv", &one(&csv([2], "x")));
    spool.put_pair("part", ["a", "b"], 3..4);
    spool.put_pair("shut", ["a", "b"], 4..5);
    let barred = ["a.2.csv", "part/b.csv", "shut"].map(|name| spool.path("incoming").join(name));
    barred.iter().for_each(|path| permit(path, 0));
    let config = spool.config("");
    let args = ["--until-empty", "--json", "--config", &config];
    let done = spool.start(&args).wait().failed(1, "a.2.csv");
    assert_eq!(done.stderr.matches(" WARN ").count(), 3, "{}", done.stderr);
    let summary = done.json();
    assert_eq!(
        (&summary["committed"], &summary["rejected"]),
        (&1.into(), &0.into())
    );
    let left = summary["left"].as_array().expect("a list");
    let name = |left: &Value| left["entry"].as_str().map(str::to_owned);
    let names: BTreeSet<String> = left.iter().filter_map(name).collect();
    let stays = ["a.2.csv", "part", "shut"].map(str::to_owned);
    assert_eq!(names, BTreeSet::from(stays.clone()), "{summary}");
    for left in left {
        let reason = left["reason"].as_str().expect("a reason");
        assert!(
            left["cause"] == "unreadable" && reason.contains("Permission denied"),
            "{left}"
        );
    }
    assert_eq!(spool.names("incoming"), BTreeSet::from(stays));
    assert_eq!(spool.names("claimed"), BTreeSet::new());
    let mut served = Served::start(&spool, &["--config", &config]);
    served.wait_for(&spool, "/metrics", 200, &waiting("unreadable", 3));
    barred.iter().for_each(|path| permit(path, 0o755));
    spool.wait_for("all of them", |s| s.names("done").len() == 4);
    served.wait_for(&spool, "/metrics", 200, &waiting("unreadable", 0));
    served.agent.signal(Signal::SIGTERM);
    served.agent.wait().ok();
    spool.assert_all_done();
    assert_eq!(spool.lake.ids("a").await, [1, 2, 3, 4]);
}

/// The same of a file that could be read when it was claimed.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_read_any_more_waits_in_its_claim() {
    let mut spool = Spool::new(&["a"]);
    spool.lake.is_bound = true;
    spool.put("a.1.csv", &one(&csv([1], "x")));
    spool.put("a.2.csv", &one(&csv([2], "x")));
    let config = spool.config("");
    let args = ["--until-empty", "--json", "--config", &config];
    let mut agent = spool.with_seam("agent.after_claim=1*return(stop)", &args);
    agent.wait_stopped();
    let claim = spool.names("claimed").pop_first().expect("the claim");
    permit(&spool.path("claimed").join(claim).join("a.2.csv"), 0);
    let summary = agent.resume().failed(1, "a.2.csv").json();
    assert_eq!(
        (&summary["committed"], &summary["rejected"]),
        (&1.into(), &0.into())
    );
    let left = &summary["left"];
    assert_eq!(left.as_array().map(Vec::len), Some(1), "{summary}");
    assert_eq!(
        (&left[0]["entry"], &left[0]["cause"]),
        (&"a.2.csv".into(), &"unreadable".into())
    );
    assert_eq!(summary["failed"], Value::Null, "the store works");
    let claim = spool.names("claimed").pop_first().expect("the claim");
    permit(&spool.path("claimed").join(claim).join("a.2.csv"), 0o644);
    spool.work_off();
    spool.assert_all_done();
    assert_eq!(spool.lake.ids("a").await, [1, 2]);
}

/// However well an agent remembers a table: what was removed under it, moved away or made again is not written to.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_committed_to_a_table_that_went_away_under_a_running_agent() {
    for away in ["gone", "made again"] {
        let mut spool = Spool::new(&["a", "b"]);
        let config = spool.config("group_batches = 1");
        let mut served = Served::start(&spool, &["--config", &config]);
        spool.put("a.0.csv", &one(&csv([0], "x")));
        spool.wait_for("a commit", |s| s.names("done").contains("a.0.csv"));
        let table = Path::new(&spool.lake.uri).join("a.lance");
        let kept = spool.lake.path("kept");
        fs::rename(&table, &kept).expect("moved away");
        if away == "made again" {
            // With just as many versions.
            let other = Lake::with_tables(&["a"]);
            let rows = other.csv("a.csv", [(9, "theirs".to_owned())]);
            other.run(&["write", &other.uri, "a", &rows]).ok();
            fs::rename(Path::new(&other.uri).join("a.lance"), &table).expect("made again");
        }
        let before = tree(&table);
        spool.put("a.1.csv", &one(&csv([1], "x")));
        spool.put("b.1.csv", &one(&csv([1], "x")));
        spool.wait_for("the other table", |s| s.names("done").contains("b.1.csv"));
        let cause = match away {
            "gone" => "storage",
            _ => "drift",
        };
        served.wait_for(&spool, "/metrics", 200, &waiting(cause, 1));
        assert_eq!(tree(&table), before, "{away}");
        // It goes on when the table is back.
        drop(fs::remove_dir_all(&table));
        fs::rename(&kept, &table).expect("brought back");
        spool.wait_for("all of it", |s| s.names("done").len() == 3);
        served.agent.signal(Signal::SIGTERM);
        served.agent.wait().ok();
        assert_eq!(spool.lake.ids("a").await, [0, 1], "{away}");
        spool.assert_all_done();
    }
}

/// A producer made `incoming` anew, after somebody had removed the spool of a running agent.
#[tokio::test(flavor = "multi_thread")]
async fn a_spool_that_was_removed_and_made_again_is_served() {
    let mut spool = Spool::new(&["a"]);
    let mut served = Served::start(&spool, &["--config", &spool.config("")]);
    spool.put("a.0.csv", &one(&csv([0], "x")));
    spool.wait_for("a commit", |s| s.names("done").contains("a.0.csv"));
    fs::remove_dir_all(&spool.dir).expect("removed");
    served.wait_for(&spool, "/status", 200, "bring it back, or mount it");
    fs::create_dir_all(spool.path("incoming")).expect("made again");
    spool.put("a.1.csv", &one(&csv([1], "x")));
    spool.wait_for("another", |s| s.names("done").contains("a.1.csv"));
    served.agent.signal(Signal::SIGTERM);
    served.agent.wait().ok();
    assert_eq!(spool.lake.ids("a").await, [0, 1]);
}
