//! Facts 5, 6 and 7: which concurrent operations commute.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use lance::Dataset;
use lance::Error;
use lance::dataset::WriteMode;
use lance::dataset::optimize::{
    CompactionOptions, IgnoreRemap, commit_compaction, plan_compaction,
};
use lance::dataset::transaction::{Operation, RewriteGroup, Transaction};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::ScalarIndexParams;

use crate::guard::Guard;
use crate::table::{
    Table, append, commit, compact, delete, head, ids, open, open_guarded, remove_versions, span,
    stage, try_delete, try_update, update,
};

/// Two fragments of history: version 2 deletes ids below 5 from the one fragment, version 3 appends.
async fn deleted_then_appended() -> Table {
    let table = Table::create(0..10).await;
    delete(&table.uri, "id < 5").await;
    append(&table.uri, 10..12).await;
    table
}

async fn open_at_1(table: &Table, guard: Guard) -> Dataset {
    let guard = Arc::new(guard);
    open_guarded(&table.uri, &guard)
        .await
        .checkout_version(1)
        .await
        .unwrap()
}

#[tokio::test]
async fn fact_05_a_rebase_skips_versions_that_were_cleaned_up() {
    // Relied on: the guard fails on any gap, because Lance undoes a delete it cannot see.
    let table = deleted_then_appended().await;
    let stale = open_at_1(&table, Guard::new()).await;
    try_delete(&stale, "id = 7").await.unwrap();
    assert_eq!(
        ids(&table.uri).await,
        [5, 6, 8, 9, 10, 11],
        "with all versions there, both count"
    );

    let table = deleted_then_appended().await;
    let stale = open_at_1(&table, Guard::new()).await;
    remove_versions(&table.uri, &[2]).await;
    assert_eq!(try_delete(&stale, "id = 7").await.unwrap().version_id(), 4);
    assert_eq!(
        ids(&table.uri).await,
        [0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11],
        "the delete of version 2 is undone, and the writer was told Ok"
    );

    let table = deleted_then_appended().await;
    let stale = open_at_1(&table, Guard::new().contiguous()).await;
    remove_versions(&table.uri, &[2]).await;
    let refused = try_delete(&stale, "id = 7").await;
    assert!(
        matches!(refused, Err(Error::Internal { .. })),
        "{refused:?}"
    );
    assert_eq!(head(&table.uri).await, 3);
    assert_eq!(ids(&table.uri).await, span(5..12));
}

#[tokio::test]
async fn fact_05_contiguity_lets_complete_histories_pass() {
    // Relied on: the guard costs nothing where nothing is missing.
    let table = deleted_then_appended().await;
    let stale = open_at_1(&table, Guard::new().contiguous()).await;
    assert_eq!(try_delete(&stale, "id = 7").await.unwrap().version_id(), 4);
    assert_eq!(ids(&table.uri).await, [5, 6, 8, 9, 10, 11]);
}

fn restore(read_version: u64, version: u64) -> Transaction {
    Transaction::new(read_version, Operation::Restore { version }, None)
}

#[tokio::test]
async fn fact_06_a_restore_is_accepted_over_anything() {
    // Relied on: an undo goes through the strict slot, because Lance would drop what it did not see.
    let table = Table::create(0..2).await;
    append(&table.uri, 2..4).await;
    let stale = open(&table.uri).await;
    append(&table.uri, 4..6).await;
    delete(&table.uri, "id = 0").await;
    assert_eq!(commit(&stale, restore(2, 1)).await.unwrap().version_id(), 5);
    assert_eq!(ids(&table.uri).await, span(0..2));
}

#[tokio::test]
async fn fact_06_others_are_refused_over_a_restore() {
    // Relied on: what was staged before an undo cannot land on top of it by accident.
    let table = Table::with_fragments(2, 4).await;
    let stale = open(&table.uri).await;
    let appended = stage(&stale, WriteMode::Append, 8..10).await;
    let rewrite = rewrite_of(&stale).await;
    commit(&stale, restore(2, 2)).await.unwrap();

    let answers = [
        ("append", commit(&stale, appended).await.map(drop)),
        ("delete", try_delete(&stale, "id = 0").await.map(drop)),
        ("update", try_update(&stale, "id = 0").await),
        ("rewrite", commit(&stale, rewrite).await.map(drop)),
        (
            "compact_files",
            compact(&mut stale.clone(), &[]).await.map(drop),
        ),
    ];
    for (operation, answer) in answers {
        assert!(
            matches!(answer, Err(Error::IncompatibleTransaction { .. })),
            "{operation}: {answer:?}"
        );
    }
    assert_eq!(head(&table.uri).await, 3);
}

/// The bare Rewrite that a compaction of all fragments would commit second.
async fn rewrite_of(dataset: &Dataset) -> Transaction {
    let plan = plan_compaction(dataset, &CompactionOptions::default())
        .await
        .unwrap();
    let mut groups = Vec::new();
    for planned in plan.compaction_tasks() {
        let result = planned.execute(dataset).await.unwrap();
        groups.push(RewriteGroup {
            old_fragments: result.original_fragments,
            new_fragments: result.new_fragments,
        });
    }
    let operation = Operation::Rewrite {
        groups,
        rewritten_indices: Vec::new(),
        frag_reuse_index: None,
    };
    Transaction::new(dataset.version_id(), operation, None)
}

/// Compacts four fragments of two rows (ids 0..8), sparing some, while `other` commits in between.
async fn compact_while(
    spared: &[u32],
    other: impl FnOnce(String) -> BoxFuture<'static, ()>,
) -> (Table, Vec<u64>, lance::Result<()>) {
    let table = Table::with_fragments(4, 2).await;
    let guard = Arc::new(Guard::new().before_put(other(table.uri.clone())));
    let answer = compact(&mut open_guarded(&table.uri, &guard).await, spared)
        .await
        .map(drop);
    (table, guard.seen(), answer)
}

#[tokio::test]
async fn fact_07_a_rewrite_commutes_with_what_leaves_its_fragments_alone() {
    // Relied on: maintenance never blocks writers, and lands over their commits.
    let (table, seen, answer) =
        compact_while(&[], |uri| async move { append(&uri, 8..10).await }.boxed()).await;
    answer.unwrap();
    assert_eq!(
        seen,
        [5, 6, 7],
        "ReserveFragments lost slot 5 to the append and took 6"
    );
    assert_eq!(ids(&table.uri).await, span(0..10));

    let (table, _, answer) = compact_while(&[0], |uri| {
        async move { delete(&uri, "id = 0").await }.boxed()
    })
    .await;
    answer.unwrap();
    assert_eq!(ids(&table.uri).await, span(1..8));

    let (table, _, answer) = compact_while(&[0], |uri| {
        async move { update(&uri, "id = 0").await }.boxed()
    })
    .await;
    answer.unwrap();
    assert_eq!(ids(&table.uri).await, span(0..8));

    // Between the two commits of a compaction: the append ends up under the Rewrite.
    let table = Table::with_fragments(4, 2).await;
    let uri = table.uri.clone();
    let other = async move { append(&uri, 8..10).await }.boxed();
    let guard = Arc::new(Guard::new().before_nth_put(2, other));
    let mut dataset = open_guarded(&table.uri, &guard).await;
    compact(&mut dataset, &[]).await.unwrap();
    assert_eq!(guard.seen(), [5, 6, 7]);
    for (version, operation) in [(5, "ReserveFragments"), (6, "Append"), (7, "Rewrite")] {
        let read = dataset
            .read_transaction_by_version(version)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(read.operation.name(), operation);
    }
    assert_eq!(ids(&table.uri).await, span(0..10));

    // The other way round: a delete staged before the compaction of other fragments.
    let table = Table::with_fragments(4, 2).await;
    let stale = open(&table.uri).await;
    compact(&mut open(&table.uri).await, &[0]).await.unwrap();
    try_delete(&stale, "id = 0").await.unwrap();
    try_update(&stale, "id = 1").await.unwrap();
    assert_eq!(ids(&table.uri).await, span(1..8));
}

#[tokio::test]
async fn fact_07_a_rewrite_of_changed_fragments_is_a_conflict_nobody_retries() {
    // Relied on: the maintenance loop reopens and replans; Lance does not do it for us.
    let (table, seen, answer) = compact_while(&[], |uri| {
        async move { delete(&uri, "id = 0").await }.boxed()
    })
    .await;
    assert!(
        matches!(answer, Err(Error::RetryableCommitConflict { .. })),
        "{answer:?}"
    );
    assert_eq!(
        seen,
        [5, 6],
        "both are ReserveFragments; the Rewrite was not even tried"
    );
    assert_eq!(ids(&table.uri).await, span(1..8));

    let (table, _, answer) = compact_while(&[], |uri| {
        async move { update(&uri, "id = 0").await }.boxed()
    })
    .await;
    assert!(
        matches!(answer, Err(Error::RetryableCommitConflict { .. })),
        "{answer:?}"
    );
    assert_eq!(ids(&table.uri).await, span(0..8));

    // The other way round: the writer's delete or update, staged before the compaction.
    let table = Table::with_fragments(4, 2).await;
    let stale = open(&table.uri).await;
    compact(&mut open(&table.uri).await, &[]).await.unwrap();
    for answer in [
        try_delete(&stale, "id = 0").await.map(drop),
        try_update(&stale, "id = 0").await,
    ] {
        // `UpdateBuilder` wraps its own exhausted retries.
        assert!(
            matches!(
                answer,
                Err(Error::RetryableCommitConflict { .. } | Error::TooMuchWriteContention { .. })
            ),
            "{answer:?}"
        );
    }
}

/// The commit of an index on `id` over everything that `dataset` sees.
async fn index_of(dataset: &Dataset) -> Transaction {
    let params = ScalarIndexParams::default();
    let mut dataset = dataset.clone();
    let index = dataset
        .create_index_builder(&["id"], IndexType::BTree, &params)
        .name("by_id".to_owned())
        .execute_uncommitted()
        .await
        .unwrap();
    let operation = Operation::CreateIndex {
        new_indices: vec![index],
        removed_indices: Vec::new(),
    };
    Transaction::new(dataset.version_id(), operation, None)
}

#[tokio::test]
async fn fact_07_an_index_and_an_eager_rewrite_conflict_on_shared_fragments() {
    // Relied on: compaction and reindexing of one table are serialised, or one of them replans.
    let table = Table::with_fragments(4, 2).await;
    let stale = open(&table.uri).await;
    let index = index_of(&stale).await;
    compact(&mut open(&table.uri).await, &[]).await.unwrap();
    let answer = commit(&stale, index).await;
    assert!(
        matches!(answer, Err(Error::RetryableCommitConflict { .. })),
        "{answer:?}"
    );

    // Disjoint: the index covers the fragments that the compaction spared.
    let table = Table::with_fragments(2, 2).await;
    let stale = open(&table.uri).await;
    let index = index_of(&stale).await;
    append(&table.uri, 4..6).await;
    append(&table.uri, 6..8).await;
    compact(&mut open(&table.uri).await, &[0, 1]).await.unwrap();
    let indexed = commit(&stale, index).await.unwrap();
    assert_eq!(indexed.load_indices().await.unwrap().len(), 1);

    // The other way round: the index lands while the rewrite is in hand.
    let table = Table::with_fragments(4, 2).await;
    let mut stale = open(&table.uri).await;
    let options = CompactionOptions::default();
    let plan = plan_compaction(&stale, &options).await.unwrap();
    let mut rewritten = Vec::new();
    for planned in plan.compaction_tasks() {
        rewritten.push(planned.execute(&stale).await.unwrap());
    }
    let index = index_of(&stale).await;
    commit(&open(&table.uri).await, index).await.unwrap();
    let remapper = Arc::new(IgnoreRemap::default());
    let answer = commit_compaction(&mut stale, rewritten, remapper, &options).await;
    assert!(
        matches!(answer, Err(Error::RetryableCommitConflict { .. })),
        "{answer:?}"
    );
}
