//! Facts 9, 10, 11 and 12: cleanup and compaction.

use std::sync::Arc;

use arrow_array::{ArrayRef, BinaryArray, RecordBatch};
use chrono::DateTime;
use futures::FutureExt;
use lance::Dataset;
use lance::Error;
use lance::dataset::cleanup::{CleanupFileKind, CleanupPolicy, CleanupPolicyBuilder, RemovalStats};
use lance::dataset::optimize::{CompactionOptions, compact_files, plan_compaction};
use lance::dataset::{WriteMode, WriteParams};

use crate::guard::Guard;
use crate::table::{
    DAY, Table, append, compact, delete, ids, only, open, open_guarded, overwrite, remove_versions,
    span, stage, versions,
};

/// A cleanup that keeps every version, so that only unreferenced files are in question.
async fn sweep(uri: &str) -> RemovalStats {
    let policy = CleanupPolicyBuilder::default()
        .before_timestamp(DateTime::UNIX_EPOCH)
        .build();
    open(uri).await.cleanup(policy).execute().await.unwrap()
}

#[tokio::test]
async fn fact_09_unreferenced_files_live_for_seven_days() {
    // Relied on: a staged file is safe for 7 days; older staged files are checked before the publish.
    let table = Table::create(0..2).await;
    let referenced = table.files("data");
    stage(&open(&table.uri).await, WriteMode::Append, 2..4).await;
    let staged = table
        .files("data")
        .difference(&referenced)
        .next()
        .unwrap()
        .clone();
    let staged = format!("data/{staged}");

    assert_eq!(sweep(&table.uri).await.data_files_removed, 0);
    table.age(&staged, 7 * DAY - DAY / 24);
    assert_eq!(sweep(&table.uri).await.data_files_removed, 0);
    table.age(&staged, 7 * DAY + DAY / 24);
    assert_eq!(sweep(&table.uri).await.data_files_removed, 1);
    assert_eq!(table.files("data"), referenced);
}

#[tokio::test]
async fn fact_09_cleanup_takes_exact_versions_and_their_own_files_at_once() {
    // Relied on: we hand Lance the exact list; what only deleted versions hold goes, however young.
    let table = Table::create(0..2).await;
    overwrite(&table.uri, 2..4).await;
    append(&table.uri, 4..6).await;
    append(&table.uri, 6..8).await;
    assert_eq!(table.files("data").len(), 4);

    assert_eq!(
        remove_versions(&table.uri, &[3]).await.data_files_removed,
        0
    );
    assert_eq!(versions(&table.uri).await, [1, 2, 4]);

    // A preview removes nothing and tells what the execution then does.
    let dataset = open(&table.uri).await;
    let preview = dataset.cleanup(only(&[1])).explain().await.unwrap();
    assert_eq!(
        (preview.stats.old_versions, preview.stats.data_files_removed),
        (1, 1)
    );
    assert!(
        preview
            .candidate_files
            .iter()
            .any(|file| file.kind == CleanupFileKind::Data)
    );
    assert!(preview.candidate_files.iter().all(|file| !file.unverified));
    assert_eq!(versions(&table.uri).await, [1, 2, 4]);
    assert_eq!(remove_versions(&table.uri, &[1]).await, preview.stats);
    assert_eq!(versions(&table.uri).await, [2, 4]);
    assert_eq!(table.files("data").len(), 3);

    // The latest version stays, even when it is asked for.
    remove_versions(&table.uri, &[2, 4]).await;
    assert_eq!(versions(&table.uri).await, [4]);
    assert_eq!(ids(&table.uri).await, span(2..8));
}

#[tokio::test]
async fn fact_09_a_tag_fails_a_default_cleanup_and_is_skipped_otherwise() {
    // Relied on: `error_if_tagged_old_versions` is always set to false, so that one tag stops nothing.
    assert!(CleanupPolicy::default().error_if_tagged_old_versions);
    let table = Table::create(0..2).await;
    append(&table.uri, 2..4).await;
    append(&table.uri, 4..6).await;
    let dataset = open(&table.uri).await;
    dataset.tags().create("keep", 1_u64).await.unwrap();

    let policy = CleanupPolicyBuilder::default()
        .versions(vec![1, 2])
        .unwrap()
        .build();
    let failed = dataset.cleanup(policy).execute().await;
    assert!(matches!(failed, Err(Error::Cleanup { .. })), "{failed:?}");
    assert_eq!(versions(&table.uri).await, [1, 2, 3]);

    remove_versions(&table.uri, &[1, 2]).await;
    assert_eq!(versions(&table.uri).await, [1, 3]);
}

async fn planned(dataset: &Dataset, options: &CompactionOptions) -> usize {
    plan_compaction(dataset, options).await.unwrap().num_tasks()
}

#[tokio::test]
async fn fact_10_a_budget_below_the_first_candidate_plans_nothing() {
    // Relied on: our planner sizes its own tasks, because a budget can silently stop all progress.
    let table = Table::with_fragments(4, 2).await;
    let dataset = open(&table.uri).await;
    for (budget, tasks) in [(3, 0), (4, 1)] {
        let options = CompactionOptions {
            max_source_fragments: Some(budget),
            ..Default::default()
        };
        assert_eq!(
            planned(&dataset, &options).await,
            tasks,
            "{budget} fragments"
        );
    }
    for (budget, tasks) in [(7, 0), (8, 1)] {
        let options = CompactionOptions {
            max_source_rows: Some(budget),
            ..Default::default()
        };
        assert_eq!(planned(&dataset, &options).await, tasks, "{budget} rows");
    }
    let options = CompactionOptions {
        max_source_bytes: Some(1),
        ..Default::default()
    };
    assert_eq!(planned(&dataset, &options).await, 0);
}

#[tokio::test]
async fn fact_10_compaction_config_of_the_table_is_ignored_unless_applied() {
    // Relied on: our policy decides; a table's own `lance.compaction.*` is read only if we apply it.
    let table = Table::with_fragments(4, 2).await;
    let mut dataset = open(&table.uri).await;
    dataset
        .update_config([("lance.compaction.target_rows_per_fragment", "2")])
        .await
        .unwrap();
    let mut options = CompactionOptions::default();
    assert_eq!(planned(&dataset, &options).await, 1);
    options.apply_dataset_config(dataset.config()).unwrap();
    assert_eq!(planned(&dataset, &options).await, 0);
}

/// 24 rows of 1 MiB that do not compress, eight to a file.
async fn wide_table() -> Table {
    let mut state = 1_u64;
    let values: Vec<Vec<u8>> = (0..24)
        .map(|_| {
            (0..(1 << 17))
                .flat_map(|_| {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    (state ^ (state >> 29)).to_le_bytes()
                })
                .collect()
        })
        .collect();
    let payload: ArrayRef = Arc::new(BinaryArray::from_iter_values(values));
    let batch = RecordBatch::try_from_iter([("payload", payload)]).unwrap();
    let params = WriteParams {
        max_rows_per_file: 8,
        ..WriteParams::default()
    };
    Table::create_with(vec![batch], params).await
}

#[tokio::test]
async fn fact_10_wide_rows_never_converge_on_a_target_in_rows() {
    // Relied on: the row target is derived from bytes per row, or the table is compacted for ever.
    let table = wide_table().await;
    let mut dataset = open(&table.uri).await;
    let options = CompactionOptions {
        max_bytes_per_file: Some(4 << 20),
        batch_size: Some(1),
        num_threads: Some(1),
        ..CompactionOptions::default()
    };
    let mut fragments = Vec::new();
    for _ in 0..2 {
        assert_ne!(planned(&dataset, &options).await, 0);
        let metrics = compact_files(&mut dataset, options.clone(), None)
            .await
            .unwrap();
        fragments.push((metrics.fragments_removed, metrics.fragments_added));
    }
    assert!(fragments[1].0 > 1, "{fragments:?}");
    assert_eq!(
        fragments[1].0, fragments[1].1,
        "all bytes rewritten, nothing gained"
    );
    assert_ne!(
        planned(&dataset, &options).await,
        0,
        "and it would do so again"
    );

    let rows = dataset
        .fragments()
        .iter()
        .map(|fragment| fragment.physical_rows.unwrap());
    let derived = CompactionOptions {
        target_rows_per_fragment: rows.min().unwrap(),
        ..options.clone()
    };
    assert_eq!(planned(&dataset, &derived).await, 0);
}

#[tokio::test]
async fn fact_11_a_stored_auto_cleanup_makes_every_commit_collect() {
    // Relied on: the setting is stripped before the first maintenance, or pinned versions vanish.
    let table = Table::with_fragments(3, 2).await;
    let mut dataset = open(&table.uri).await;
    assert!(
        dataset
            .config()
            .keys()
            .all(|key| !key.starts_with("lance.auto_cleanup"))
    );

    let settings = [
        ("lance.auto_cleanup.interval", "1"),
        ("lance.auto_cleanup.older_than", "0s"),
    ];
    dataset.update_config(settings).await.unwrap();
    assert_eq!(
        versions(&table.uri).await,
        [3, 4],
        "the commit that stores it collects already"
    );
    compact(&mut dataset, &[]).await.unwrap();
    assert_eq!(
        versions(&table.uri).await,
        [5, 6],
        "each commit keeps itself and the one before"
    );

    let none: Option<&str> = None;
    dataset
        .update_config(settings.map(|(key, _)| (key, none)))
        .await
        .unwrap();
    append(&table.uri, 6..8).await;
    assert_eq!(
        versions(&table.uri).await,
        [5, 6, 7, 8],
        "the strip itself collects nothing"
    );
}

#[tokio::test]
async fn fact_12_a_lost_compaction_leaves_its_files_for_seven_days() {
    // Relied on: stranded bytes are counted as such, and a repeated conflict must back off.
    let table = Table::with_fragments(4, 2).await;
    let before = table.files("data");
    let uri = table.uri.clone();
    let other = async move { delete(&uri, "id = 0").await }.boxed();
    let guard = Arc::new(Guard::new().before_put(other));
    let lost = compact(&mut open_guarded(&table.uri, &guard).await, &[]).await;
    assert!(
        matches!(lost, Err(Error::RetryableCommitConflict { .. })),
        "{lost:?}"
    );

    let stranded: Vec<_> = table.files("data").difference(&before).cloned().collect();
    assert_eq!(stranded.len(), 1);
    assert_eq!(sweep(&table.uri).await.data_files_removed, 0);
    table.age(&format!("data/{}", stranded[0]), 8 * DAY);
    assert_eq!(sweep(&table.uri).await.data_files_removed, 1);
    assert_eq!(table.files("data"), before);
}
