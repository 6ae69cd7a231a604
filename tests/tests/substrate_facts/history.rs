//! Facts 8, 16 and 17: versions that come back, hints that go back, and files that are gone.

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;

use futures::{FutureExt, TryStreamExt};
use lance::Dataset;
use lance::dataset::WriteMode;
use lance::dataset::transaction::{Operation, Transaction};
use lance_io::object_store::{
    ObjectStore, ObjectStoreParams, ObjectStoreRegistry, StorageOptionsAccessor,
};
use lance_table::io::commit::{CommitHandler, ConditionalPutCommitHandler, uses_version_hint};

use crate::guard::Guard;
use crate::table::{
    Table, append, commit, head, ids, open, open_guarded, overwrite, remove_versions, span, stage,
    try_ids, versions,
};

/// A writer stages on version 2 and stops just before its put of version 3; meanwhile versions 3, 4
/// and 5 are committed and `removed` are cleaned up. Returns what the writer holds afterwards.
async fn commit_after_a_pause(removed: &'static [u64], guard: Guard) -> (Table, Dataset) {
    let table = Table::create(0..2).await;
    append(&table.uri, 2..4).await;
    let uri = table.uri.clone();
    let meanwhile = async move {
        for first in [4, 6, 8] {
            append(&uri, first..first + 2).await;
        }
        if !removed.is_empty() {
            remove_versions(&uri, removed).await;
        }
    };
    let guard = Arc::new(guard.before_put(meanwhile.boxed()));
    let writer = open_guarded(&table.uri, &guard).await;
    let staged = stage(&writer, WriteMode::Append, 100..102).await;
    let writer = commit(&writer, staged).await.unwrap();
    (table, writer)
}

#[tokio::test]
async fn fact_08_a_put_at_a_removed_version_succeeds() {
    // Relied on: a success counts only above the floor, because Ok does not mean visible.
    let (table, writer) = commit_after_a_pause(&[], Guard::new().contiguous()).await;
    assert_eq!(
        writer.version_id(),
        6,
        "with version 3 in place the slot is lost and rebased"
    );
    assert_eq!(ids(&table.uri).await.len(), 12);

    let (table, writer) = commit_after_a_pause(&[3, 4], Guard::new().contiguous()).await;
    assert_eq!(writer.version_id(), 3, "told Ok");
    assert_eq!(versions(&table.uri).await, [1, 2, 3, 5]);
    assert_eq!(head(&table.uri).await, 5);
    assert_eq!(ids(&table.uri).await, span(0..10), "its rows are not there");
}

/// An S3 store as Lance builds it; nothing is sent.
async fn s3(uri: &str) -> Arc<ObjectStore> {
    let options = [
        ("region", "us-east-1"),
        ("access_key_id", "k"),
        ("secret_access_key", "s"),
    ]
    .map(|(key, value)| (key.to_owned(), value.to_owned()));
    let options = StorageOptionsAccessor::with_static_options(HashMap::from(options));
    let params = ObjectStoreParams {
        storage_options_accessor: Some(Arc::new(options)),
        ..ObjectStoreParams::default()
    };
    let registry = Arc::new(ObjectStoreRegistry::default());
    ObjectStore::from_uri_and_params(registry, uri, &params)
        .await
        .unwrap()
        .0
}

#[tokio::test]
async fn fact_16_local_paths_and_s3_express_use_the_version_hint() {
    // Relied on: S3 Express is refused, or LANCE_USE_VERSION_HINT=0 is set before Lance is first used.
    assert!(!uses_version_hint(&ObjectStore::memory()));
    assert!(!uses_version_hint(s3("s3://bucket/t.lance").await.as_ref()));
    assert!(uses_version_hint(
        s3("s3://bucket--use1-az4--x-s3/t.lance").await.as_ref()
    ));
    assert!(uses_version_hint(&ObjectStore::local()));
}

#[tokio::test]
async fn fact_16_the_local_latest_version_ignores_a_hint_that_went_back() {
    // Relied on: on local paths HEAD is read from the directory, so it never goes back.
    let (table, writer) = commit_after_a_pause(&[3, 4], Guard::new()).await;
    let hint = fs::read_to_string(table.path("_versions/latest_version_hint.json")).unwrap();
    assert_eq!(hint, r#"{"version":3}"#);
    assert_eq!(head(&table.uri).await, 5);
    assert_eq!(writer.latest_version_id().await.unwrap(), 5);
    let mut refreshed = writer.clone();
    refreshed.checkout_latest().await.unwrap();
    assert_eq!(refreshed.version_id(), 5);
}

#[tokio::test]
async fn fact_16_the_local_conflict_scan_believes_a_hint_that_went_back() {
    // Relied on: the contiguity guard lists in full, because the listing "since" can miss HEAD.
    let (table, writer) = commit_after_a_pause(&[3, 4], Guard::new()).await;
    let store = writer.object_store(None).await.unwrap();
    let base = writer.branch_location().path;
    let handler = ConditionalPutCommitHandler;
    let since: Vec<_> = handler
        .list_manifest_locations_since(&base, &store, 3)
        .try_collect()
        .await
        .unwrap();
    assert!(since.is_empty(), "{since:?}");
    let all: Vec<_> = handler
        .list_manifest_locations(&base, &store, true)
        .try_collect()
        .await
        .unwrap();
    assert_eq!(
        all.iter()
            .map(|location| location.version)
            .collect::<Vec<_>>(),
        [5, 3, 2, 1]
    );

    // So a contiguity check on "since" would pass, and the stale handle resurrects version 4 too.
    let staged = stage(&writer, WriteMode::Append, 102..104).await;
    assert_eq!(commit(&writer, staged).await.unwrap().version_id(), 4);
    assert_eq!(head(&table.uri).await, 5);
    assert_eq!(ids(&table.uri).await, span(0..10));

    // A contiguity check on the full listing stops it.
    let (table, writer) = commit_after_a_pause(&[3, 4], Guard::new().contiguous()).await;
    let staged = stage(&writer, WriteMode::Append, 102..104).await;
    let refused = commit(&writer, staged).await;
    assert!(
        matches!(refused, Err(lance::Error::Internal { .. })),
        "{refused:?}"
    );
    assert_eq!(versions(&table.uri).await, [1, 2, 3, 5]);
}

#[tokio::test]
async fn fact_17_a_commit_does_not_look_for_its_data_files() {
    // Relied on: files staged long ago are checked by us before they are published.
    let table = Table::create(0..2).await;
    let before = table.files("data");
    let dataset = open(&table.uri).await;
    let staged = stage(&dataset, WriteMode::Append, 2..4).await;
    for file in table.files("data").difference(&before) {
        fs::remove_file(table.path("data").join(file)).unwrap();
    }
    assert_eq!(commit(&dataset, staged).await.unwrap().version_id(), 2);
    let read = try_ids(&table.uri).await;
    assert!(
        read.as_ref().is_err_and(lance::Error::is_not_found),
        "{read:?}"
    );
    // A count comes from the manifest and does not notice.
    assert_eq!(open(&table.uri).await.count_rows(None).await.unwrap(), 4);
}

#[tokio::test]
async fn fact_17_a_restore_that_races_cleanup_leaves_an_unreadable_head() {
    // Relied on: v - 1 of an undecided operation is a cleanup root, so an undo finds its target.
    let table = Table::create(0..2).await;
    overwrite(&table.uri, 2..4).await;
    let uri = table.uri.clone();
    let cleanup = async move {
        remove_versions(&uri, &[1]).await;
    }
    .boxed();
    let guard = Arc::new(Guard::new().before_put(cleanup));
    let dataset = open_guarded(&table.uri, &guard).await;
    let restore = Transaction::new(2, Operation::Restore { version: 1 }, None);
    assert_eq!(commit(&dataset, restore).await.unwrap().version_id(), 3);
    assert_eq!(head(&table.uri).await, 3);
    let read = try_ids(&table.uri).await;
    assert!(
        read.as_ref().is_err_and(lance::Error::is_not_found),
        "{read:?}"
    );
}
