//! Facts 1, 2, 3, 4, 13, 14 and 15: how a commit finds its version, who sees it, what it carries.

use std::fs;
use std::sync::Arc;

use futures::FutureExt;
use lance::Dataset;
use lance::Error;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::dataset::transaction::{Operation, Transaction, UpdateMap, UpdateMapEntry};
use lance::dataset::{CommitBuilder, DeleteBuilder, InsertBuilder, WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::optimize::OptimizeOptions;
use lance_index::scalar::ScalarIndexParams;
use lance_table::io::commit::commit_handler_from_url;

use crate::guard::Guard;
use crate::table::{
    Table, append, commit, compact, head, ids, op_of, open, open_guarded, properties, rows, span,
    stage, try_delete,
};

#[tokio::test]
async fn fact_01_zero_retries_still_rebases_all_but_overwrite() {
    // Relied on: the strict slot is ours (the guard's), because the builder offers none.
    let table = Table::create(0..2).await;
    let stale = open(&table.uri).await;
    let staged = stage(&stale, WriteMode::Append, 2..4).await;
    append(&table.uri, 4..6).await;

    let landed = CommitBuilder::new(Arc::new(stale.clone()))
        .with_max_retries(0)
        .execute(staged);
    assert_eq!(
        landed.await.unwrap().version_id(),
        3,
        "staged on 1, landed over someone's 2"
    );
    assert_eq!(ids(&table.uri).await, span(0..6));

    let overwrite = stage(&stale, WriteMode::Overwrite, 100..101).await;
    let strict = CommitBuilder::new(Arc::new(stale.clone()))
        .with_max_retries(0)
        .execute(overwrite.clone())
        .await;
    assert!(
        matches!(strict, Err(Error::CommitConflict { .. })),
        "{strict:?}"
    );
    assert_eq!(ids(&table.uri).await, span(0..6));

    // With the default retries an overwrite silently swallows what it did not read.
    assert_eq!(commit(&stale, overwrite).await.unwrap().version_id(), 4);
    assert_eq!(ids(&table.uri).await, vec![100]);
}

#[tokio::test]
async fn fact_02_a_commit_handler_sees_and_may_refuse_every_commit() {
    // Relied on: one guarded handler per handle is enough to make every commit strict.
    let table = Table::with_fragments(3, 2).await;
    let guard = Arc::new(Guard::new());
    let mut dataset = open_guarded(&table.uri, &guard).await;
    compact(&mut dataset, &[]).await.unwrap();
    assert_eq!(guard.seen(), [4, 5], "ReserveFragments, then Rewrite");

    dataset = try_delete(&dataset, "id = 0").await.unwrap();
    dataset.update_config([("k", "v")]).await.unwrap();
    let params = ScalarIndexParams::default();
    dataset
        .create_index(&["id"], IndexType::BTree, None, &params, false)
        .await
        .unwrap();
    dataset.restore().await.unwrap();
    assert_eq!(guard.seen(), [4, 5, 6, 7, 8, 9]);

    // A refused second commit of a compaction leaves the reservation behind, and nothing else.
    let table = Table::with_fragments(2, 2).await;
    let guard = Arc::new(Guard::new().slot(3));
    let refused = compact(&mut open_guarded(&table.uri, &guard).await, &[]).await;
    assert!(
        matches!(refused, Err(Error::CommitConflict { version: 4, .. })),
        "{refused:?}"
    );
    assert_eq!(head(&table.uri).await, 3);
}

#[tokio::test]
async fn fact_02_a_refusal_leaves_no_trace_when_verdicts_are_delegated() {
    // Relied on: a lost slot is a clean "not committed", so the operation may choose what is next.
    let table = Table::create(0..2).await;
    let stale = open(&table.uri).await;
    let staged = stage(&stale, WriteMode::Append, 2..4).await;
    append(&table.uri, 4..6).await;
    let before = (table.files("_versions"), table.files("_transactions"));

    let commit_with = |guard: Guard| {
        CommitBuilder::new(Arc::new(stale.clone()))
            .with_commit_handler(Arc::new(guard))
            .execute(staged.clone())
    };
    let refused = commit_with(Guard::new().slot(2)).await;
    assert!(
        matches!(refused, Err(Error::CommitConflict { version: 3, .. })),
        "{refused:?}"
    );
    assert_eq!(
        (table.files("_versions"), table.files("_transactions")),
        before
    );

    // Without delegation the same refusal is a doubt, and its transaction file stays.
    let doubt = commit_with(Guard::new().slot(2).without_delegation())
        .await
        .unwrap_err();
    assert!(doubt.is_commit_status_unknown(), "{doubt:?}");
    assert_eq!(table.files("_versions"), before.0);
    assert_eq!(table.files("_transactions").len(), before.1.len() + 1);
}

#[tokio::test]
async fn fact_02_a_lost_answer_is_settled_when_verdicts_are_delegated() {
    // Relied on: Lance itself finds out that an ambiguous put was ours, and says Ok.
    let table = Table::create(0..2).await;
    let guard = Arc::new(Guard::new().losing_the_answer());
    let dataset = open_guarded(&table.uri, &guard).await;
    let staged = stage(&dataset, WriteMode::Append, 2..4).await;
    assert_eq!(commit(&dataset, staged).await.unwrap().version_id(), 2);

    let guard = Arc::new(Guard::new().losing_the_answer().without_delegation());
    let dataset = open_guarded(&table.uri, &guard).await;
    let staged = stage(&dataset, WriteMode::Append, 4..6).await;
    let answer = commit(&dataset, staged).await;
    assert!(matches!(answer, Err(Error::IO { .. })), "{answer:?}");
    assert_eq!(
        ids(&table.uri).await,
        span(0..6),
        "an error was told, and the rows are there"
    );
}

#[tokio::test]
async fn fact_03_only_known_schemes_get_a_safe_handler() {
    // Relied on: a store whose scheme has no conditional put is refused when it is opened.
    let name =
        async |url: &str| format!("{:?}", commit_handler_from_url(url, &None).await.unwrap());
    for url in [
        "/data/t.lance",
        "file:///data/t.lance",
        "s3://bucket/t.lance",
    ] {
        assert_eq!(name(url).await, "ConditionalPutCommitHandler", "{url}");
    }
    for url in ["hdfs://host/t.lance", "typo3://bucket/t.lance"] {
        assert_eq!(name(url).await, "UnsafeCommitHandler", "{url}");
    }
    assert!(
        commit_handler_from_url("s3+ddb://bucket/t.lance", &None)
            .await
            .is_err()
    );

    // What unsafe means: two commits of one version are both told Ok, and the first is gone.
    let table = Table::create(0..2).await;
    let uri = table.uri.clone();
    let unsafe_handler = commit_handler_from_url("typo3://bucket/t.lance", &None)
        .await
        .unwrap();
    let other = async move { append(&uri, 2..4).await }.boxed();
    let guard = Arc::new(Guard::over(unsafe_handler).before_put(other));
    let dataset = open_guarded(&table.uri, &guard).await;
    let staged = stage(&dataset, WriteMode::Append, 4..6).await;
    assert_eq!(commit(&dataset, staged).await.unwrap().version_id(), 2);
    assert_eq!(ids(&table.uri).await, [0, 1, 4, 5]);
}

#[tokio::test]
async fn fact_04_where_transaction_properties_survive() {
    // Relied on: every version we make carries squire.op; class(T, v) reads it back.
    let table = Table::create(0..2).await;
    let latest = async || {
        open(&table.uri)
            .await
            .read_transaction()
            .await
            .unwrap()
            .unwrap()
    };

    let dataset = open(&table.uri).await;
    let mut staged = stage(&dataset, WriteMode::Append, 2..4).await;
    CommitBuilder::new(Arc::new(dataset.clone()))
        .with_transaction_properties(properties("builder"))
        .execute(staged.clone())
        .await
        .unwrap();
    assert_eq!(
        op_of(&latest().await),
        None,
        "CommitBuilder drops them without a word"
    );

    staged = stage(&dataset, WriteMode::Append, 4..6).await;
    staged.transaction_properties = Some(Arc::new(properties("transaction")));
    commit(&dataset, staged).await.unwrap();
    assert_eq!(op_of(&latest().await), Some("transaction"));

    let params = WriteParams {
        mode: WriteMode::Append,
        transaction_properties: Some(Arc::new(properties("write"))),
        ..WriteParams::default()
    };
    InsertBuilder::new(table.uri.as_str())
        .with_params(&params)
        .execute(vec![rows(6..8)])
        .await
        .unwrap();
    assert_eq!(op_of(&latest().await), Some("write"));

    let params = ScalarIndexParams::default();
    let mut dataset = open(&table.uri).await;
    dataset
        .create_index_builder(&["id"], IndexType::BTree, &params)
        .name("by_id".to_owned())
        .transaction_properties(properties("index"))
        .await
        .unwrap();
    assert_eq!(op_of(&latest().await), Some("index"));

    append(&table.uri, 8..10).await;
    let mut options = OptimizeOptions::default();
    options.transaction_properties = Some(Arc::new(properties("reindex")));
    open(&table.uri)
        .await
        .optimize_indices(&options)
        .await
        .unwrap();
    assert_eq!(op_of(&latest().await), Some("reindex"));

    let mut dataset = open(&table.uri).await;
    let options = CompactionOptions::default().transaction_properties(properties("compact"));
    compact_files(&mut dataset, options, None).await.unwrap();
    assert_eq!(op_of(&latest().await), Some("compact"));
    let before = dataset
        .read_transaction_by_version(dataset.version_id() - 1)
        .await;
    let reserve = before.unwrap().unwrap();
    assert_eq!(reserve.operation.name(), "ReserveFragments");
    assert!(
        reserve.transaction_properties.is_none(),
        "so class() knows it by its type alone"
    );
}

#[tokio::test]
async fn fact_13_the_manifest_names_and_usually_holds_its_transaction() {
    // Relied on: classifying a version costs one read; the file name ends with the transaction's uuid.
    let table = Table::create(0..2).await;
    let stale = open(&table.uri).await;
    append(&table.uri, 2..4).await;
    let staged = stage(&stale, WriteMode::Append, 4..6).await;
    let uuid = staged.uuid.clone();
    let landed = commit(&stale, staged).await.unwrap();
    assert_eq!(landed.version_id(), 3);
    // The read version is the one it was staged on, not the one it landed over.
    assert_eq!(
        landed.manifest().transaction_file,
        Some(format!("1-{uuid}.txn"))
    );
    // A rebased delete or update names the version it landed over instead.
    let rebased = try_delete(&stale, "id = 0").await.unwrap();
    assert_eq!(rebased.version_id(), 4);
    let file = rebased.manifest().transaction_file.clone().unwrap();
    assert!(file.starts_with("3-"), "{file}");

    fs::remove_dir_all(table.path("_transactions")).unwrap();
    let read = open(&table.uri).await.read_transaction().await;
    assert_eq!(file, format!("3-{}.txn", read.unwrap().unwrap().uuid));

    for (mebibytes, is_inline) in [(19, true), (21, false)] {
        let dataset = open(&table.uri).await;
        let mut staged = stage(&dataset, WriteMode::Append, 6..8).await;
        staged.transaction_properties = Some(Arc::new(properties(&"x".repeat(mebibytes << 20))));
        commit(&dataset, staged).await.unwrap();
        fs::remove_dir_all(table.path("_transactions")).unwrap();
        let dataset = open(&table.uri).await;
        assert_eq!(
            dataset.manifest().transaction_section.is_some(),
            is_inline,
            "{mebibytes} MiB"
        );
        assert_eq!(
            dataset.read_transaction().await.is_ok(),
            is_inline,
            "{mebibytes} MiB"
        );
    }
}

fn config(read_version: u64, key: &str, value: Option<&str>) -> Transaction {
    let entry = UpdateMapEntry {
        key: key.to_owned(),
        value: value.map(str::to_owned),
    };
    let operation = Operation::UpdateConfig {
        config_updates: Some(UpdateMap {
            update_entries: vec![entry],
            replace: false,
        }),
        table_metadata_updates: None,
        schema_metadata_updates: None,
        field_metadata_updates: Default::default(),
    };
    Transaction::new(read_version, operation, None)
}

#[tokio::test]
async fn fact_14_config_updates_conflict_by_key() {
    // Relied on: a publish that slips past the slot would still be refused by its keys.
    let table = Table::create(0..2).await;
    let stale = open(&table.uri).await;
    let put = async |dataset: &Dataset, key: &str, value: Option<&str>| {
        commit(dataset, config(1, key, value)).await
    };
    put(&stale, "pin/a", Some("2")).await.unwrap();

    let refused = put(&stale, "pin/a", Some("3")).await;
    assert!(
        matches!(refused, Err(Error::IncompatibleTransaction { .. })),
        "{refused:?}"
    );
    let refused = put(&stale, "pin/a", None).await;
    assert!(
        matches!(refused, Err(Error::IncompatibleTransaction { .. })),
        "{refused:?}"
    );

    let rebased = put(&stale, "pin/b", Some("7")).await.unwrap();
    assert_eq!(rebased.version_id(), 3);
    assert_eq!(rebased.config().get("pin/a").map(String::as_str), Some("2"));
    assert_eq!(rebased.config().get("pin/b").map(String::as_str), Some("7"));

    // The exception: two removals of one key do not conflict.
    commit(&rebased, config(3, "pin/a", None)).await.unwrap();
    assert_eq!(
        commit(&rebased, config(3, "pin/a", None))
            .await
            .unwrap()
            .version_id(),
        5
    );
}

#[tokio::test]
async fn fact_15_a_refused_second_commit_deletes_the_winners_transaction_file() {
    // Relied on: helpers publish an operation; they never commit its staged transaction again.
    let table = Table::create(0..2).await;
    let dataset = open(&table.uri).await;
    let helper = open_guarded(&table.uri, &Arc::new(Guard::new().slot(2))).await;

    let mut staged = stage(&dataset, WriteMode::Append, 2..4).await;
    // Above the inline limit, so that the loss of the file shows.
    staged.transaction_properties = Some(Arc::new(properties(&"x".repeat(21 << 20))));
    commit(&dataset, staged.clone()).await.unwrap();
    let file = format!("1-{}.txn", staged.uuid);
    assert!(table.files("_transactions").contains(&file));
    assert!(open(&table.uri).await.read_transaction().await.is_ok());

    let refused = commit(&helper, staged).await;
    assert!(
        matches!(refused, Err(Error::CommitConflict { version: 3, .. })),
        "{refused:?}"
    );
    assert!(!table.files("_transactions").contains(&file));
    assert_eq!(
        open(&table.uri).await.manifest().transaction_file,
        Some(file)
    );
    assert!(open(&table.uri).await.read_transaction().await.is_err());
}

#[tokio::test]
async fn fact_15_a_second_commit_of_a_delete_is_refused_before_it_harms() {
    // Relied on: nothing; it bounds the fact above to what Lance rebases without changing it.
    let table = Table::create(0..4).await;
    let dataset = Arc::new(open(&table.uri).await);
    let staged = DeleteBuilder::new(dataset.clone(), "id = 0")
        .execute_uncommitted()
        .await
        .unwrap();
    let delete = || {
        CommitBuilder::new(dataset.clone())
            .with_affected_rows(staged.affected_rows.clone().unwrap())
            .execute(staged.transaction.clone())
    };
    let winner = delete().await.unwrap();
    let file = winner.manifest().transaction_file.clone().unwrap();
    let refused = delete().await;
    assert!(
        matches!(refused, Err(Error::RetryableCommitConflict { .. })),
        "{refused:?}"
    );
    assert!(table.files("_transactions").contains(&file));
}

#[tokio::test]
async fn fact_15_an_unguarded_second_commit_lands_twice() {
    // Relied on: exactly once rests on the slot and the batch id; Lance does not know its own uuid.
    let table = Table::create(0..2).await;
    let dataset = open(&table.uri).await;
    let staged = stage(&dataset, WriteMode::Append, 2..4).await;
    commit(&dataset, staged.clone()).await.unwrap();
    assert_eq!(commit(&dataset, staged).await.unwrap().version_id(), 3);
    assert_eq!(ids(&table.uri).await, [0, 1, 2, 2, 3, 3]);
}
