//! The engine's own guarded commit handler, without the protocol above it: its two refusals, each alone.

use arrow_array::{Int64Array, RecordBatch};
use arrow_schema::{DataType, Field, Schema};
use lance::Dataset;
use lance::dataset::builder::DatasetBuilder;
use lance::dataset::cleanup::CleanupPolicyBuilder;
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use lance_table::io::commit::commit_handler_from_url;
use squire_engine::store::{CommitCounters, GuardedCommitHandler, Slot};
use squire_tests::Lake;
use std::sync::Arc;

fn rows(id: i64) -> Vec<RecordBatch> {
    let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
    vec![RecordBatch::try_new(schema, vec![Arc::new(Int64Array::from(vec![id]))]).expect("rows")]
}

async fn guarded(uri: &str, slot: Option<u64>, counters: &Arc<CommitCounters>) -> Arc<Dataset> {
    let inner = commit_handler_from_url(uri, &None).await.expect("handler");
    let mut handler = GuardedCommitHandler::new(inner, counters.clone());
    if let Some(slot) = slot {
        handler = handler.at(Slot::ours(slot));
    }
    let builder = DatasetBuilder::from_uri(uri).with_commit_handler(Arc::new(handler));
    Arc::new(builder.load().await.expect("table"))
}

/// A table of one row, and the directory that it goes with.
async fn table() -> (tempfile::TempDir, String) {
    let dir = tempfile::TempDir::new().expect("directory");
    let uri = dir.path().join("t.lance").to_string_lossy().into_owned();
    InsertBuilder::new(uri.as_str())
        .execute(rows(1))
        .await
        .expect("create");
    (dir, uri)
}

async fn append(dataset: Arc<Dataset>, id: i64) -> lance::Result<Dataset> {
    let params = WriteParams {
        mode: WriteMode::Append,
        ..WriteParams::default()
    };
    InsertBuilder::new(dataset)
        .with_params(&params)
        .execute(rows(id))
        .await
}

/// A handle whose following versions were cleaned up cannot know what they changed (fact 5).
#[tokio::test(flavor = "multi_thread")]
async fn a_handle_behind_a_gap_is_refused() {
    let (_dir, uri) = table().await;
    let counters = Arc::new(CommitCounters::default());
    let stale = guarded(&uri, None, &counters).await;
    let mut other = Dataset::open(&uri).await.expect("table");
    for id in 2..5 {
        other = append(Arc::new(other), id).await.expect("append");
    }
    // A complete history is no reason to refuse.
    let behind = guarded(&uri, None, &counters).await;
    append(Arc::new(other.clone()), 5).await.expect("append");
    append(behind, 6)
        .await
        .expect("rebased over what it can see");
    assert_eq!(counters.read().refused_gaps, 0);
    let gone = CleanupPolicyBuilder::default()
        .versions(vec![2, 3])
        .expect("versions")
        .build();
    other.cleanup_with_policy(gone).await.expect("cleanup");
    let refused = append(stale, 7)
        .await
        .expect_err("versions 2 and 3 are gone");
    assert!(refused.to_string().contains("is gone"), "{refused}");
    assert_eq!(counters.read().refused_gaps, 1);
}

/// A commit that may only become one version is not rebased onto another.
#[tokio::test(flavor = "multi_thread")]
async fn a_taken_slot_is_refused_without_a_trace() {
    let (_dir, uri) = table().await;
    let counters = Arc::new(CommitCounters::default());
    let slotted = guarded(&uri, Some(2), &counters).await;
    let other = Arc::new(Dataset::open(&uri).await.expect("table"));
    append(other, 2).await.expect("append");
    append(slotted, 3).await.expect_err("version 2 is taken");
    assert!(counters.read().lost > 0);
    let now = Dataset::open(&uri).await.expect("table");
    assert_eq!(
        (
            now.version().version,
            now.count_rows(None).await.expect("rows")
        ),
        (2, 2)
    );
}

/// The versions of an operation are made ready beside its sidecar, and put behind it. The commit waits for both, so that one which
/// came first would be there.
#[test]
fn no_version_is_put_when_the_sidecar_cannot_be() {
    let mut lake = Lake::with_tables(&["a", "b"]);
    let versions = |lake: &Lake| ["a.lance", "b.lance"].map(|path| crate::versions(lake, path));
    let before = versions(&lake);
    let batch = lake.batch("first", &["a", "b"], 0..3);
    lake.env
        .push(("SQUIRE_FAULTS".into(), "deny=recovery/".into()));
    let refused = lake.run(&["commit", &lake.uri, &batch]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(versions(&lake), before);
    lake.env.clear();
    lake.run(&["commit", &lake.uri, &batch]).ok();
    assert_eq!(versions(&lake), before.map(|count| count + 1));
    lake.assert_at_rest();
}
