//! Acknowledgement: an unknown outcome is called unknown, named, and settled later; and every answer stays what it is after
//! cleanup and archiving.

use squire_tests::Lake;

const BOTH: &[&str] = &["a", "b"];

/// The publish fails, and whatever is asked of the manifest afterwards fails too: the writer cannot know.
const BLIND: &str = "publish.before_commit=return(error);resolve.after_load=return(error)";

/// Commits rows 100 to 102 as batch `x` to both tables with `failpoints`; gives the operation that the error names.
fn unknown(lake: &Lake, failpoints: &str) -> String {
    let batch = lake.batch("victim", BOTH, 100..103);
    let done = lake
        .with_seam(
            failpoints,
            &["commit", &lake.uri, &batch, "--batch-id", "x", "--json"],
        )
        .wait();
    assert_eq!(done.code, Some(75), "{done:?}");
    let error = &done.json()["error"];
    assert_eq!(error["kind"], "Unknown", "{done:?}");
    error["op"].as_str().expect("the operation").to_owned()
}

/// Everything that nothing pins now goes, and the log is archived.
async fn age(lake: &Lake) {
    let more = lake.batch("more", BOTH, 200..203);
    lake.run(&["commit", &lake.uri, &more]).ok();
    // The second removes what the first archived.
    lake.clean_up();
    lake.clean_up();
    let store = lake.store().await;
    let state = store.load().await.expect("snapshot").state;
    assert!(state.archive.through > 1, "nothing was archived");
    assert!(state.manifest_floor > 1, "nothing was removed");
}

#[tokio::test]
async fn an_unknown_commit_that_landed_becomes_and_stays_committed() {
    let lake = Lake::with_tables(BOTH);
    let op = unknown(&lake, BLIND);
    assert_eq!(lake.outcome_of(&op), "undecided");
    lake.daemon_pass("0s").ok();
    assert_eq!(lake.outcome_of(&op), "committed");
    age(&lake).await;
    assert_eq!(lake.outcome_of(&op), "committed");
    lake.assert_at_rest();
}

#[tokio::test]
async fn an_unknown_commit_that_did_not_land_becomes_and_stays_aborted() {
    let lake = Lake::with_tables(BOTH);
    let op = unknown(
        &lake,
        "write.before_commit_table=1*off->1*return(error);resolve.after_load=return(error)",
    );
    assert_eq!(lake.outcome_of(&op), "undecided");
    lake.daemon_pass("0s").ok();
    assert_eq!(lake.outcome_of(&op), "aborted");
    age(&lake).await;
    assert_eq!(lake.outcome_of(&op), "aborted");
    assert_eq!(lake.ids("a").await, [200, 201, 202]);
    lake.assert_at_rest();
}

/// Exit code 75 promises that trying again with the same batch id is safe, whatever became of the first try.
#[tokio::test]
async fn an_unknown_batch_can_be_sent_again() {
    for failpoints in [
        BLIND,
        "write.before_commit_table=1*off->1*return(error);resolve.after_load=return(error)",
    ] {
        let lake = Lake::with_tables(BOTH);
        unknown(&lake, failpoints);
        let batch = lake.batch("victim", BOTH, 100..103);
        let again = [
            "commit",
            &lake.uri,
            &batch,
            "--batch-id",
            "x",
            "--grace",
            "0s",
        ];
        lake.run(&again).ok();
        for table in BOTH {
            assert_eq!(lake.ids(table).await, [100, 101, 102], "after {failpoints}");
        }
        lake.assert_at_rest();
    }
}
