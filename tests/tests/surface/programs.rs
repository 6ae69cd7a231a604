//! Programs that write and read through the engine.

use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use lance::deps::datafusion::prelude::SessionContext;
use squire_engine::commit::Ending;
use squire_engine::error::ErrorKind;
use squire_engine::ids::TableName;
use squire_tests::{Lake, batch_of};
use std::ops::Range;

fn name(table: &str) -> TableName {
    table.parse().expect("a name")
}

fn rows(ids: Range<i64>) -> Vec<arrow_array::RecordBatch> {
    vec![batch_of(ids.map(|id| (id, format!("v{id}"))).collect())]
}

#[tokio::test]
async fn a_transaction_tells_how_it_ended() {
    let lake = Lake::with_tables(&["a", "b"]);
    let store = lake.store().await;
    let (a, b, key) = (name("a"), name("b"), "id".parse().expect("a key"));
    let both = || {
        let written = store.transaction().append(&a, rows(0..3));
        written
            .merge(&b, &key, rows(0..2))
            .batch_id("one")
            .message("both")
    };
    let Ok(Ending::Committed(done)) = both().commit().await else {
        panic!("committed");
    };
    let again = both().commit().await;
    assert!(
        matches!(again, Ok(Ending::AlreadyCommitted(op)) if op == done.op),
        "{again:?}"
    );
    assert_eq!(lake.log()[0]["message"], "both");
    let read = store.load().await.expect("snapshot");
    let changed = store.transaction().delete(&a, "id = 0");
    let changed = changed.replace(&b, "id < 5", rows(3..5)).commit().await;
    assert!(matches!(changed, Ok(Ending::Committed(_))), "{changed:?}");
    assert_eq!(
        (lake.ids("a").await, lake.ids("b").await),
        (vec![1, 2], vec![3, 4])
    );
    let stale = store
        .transaction()
        .require(&a, &read)
        .overwrite(&b, rows(7..8));
    let stale = stale.commit().await;
    assert!(
        matches!(&stale, Ok(Ending::Conflict(e)) if e.kind() == ErrorKind::Stale),
        "{stale:?}"
    );
    let unfit = store.transaction().delete(&a, "nothing = 1").commit().await;
    assert_eq!(
        unfit.expect_err("no such column").kind(),
        ErrorKind::InvalidInput
    );
    assert_eq!(
        (lake.ids("a").await, lake.ids("b").await),
        (vec![1, 2], vec![3, 4])
    );
    lake.assert_at_rest();
}

#[tokio::test]
async fn tables_of_one_snapshot_are_joined_in_sql() {
    let lake = Lake::with_tables(&["a", "b"]);
    let store = lake.store().await;
    let (a, b) = (name("a"), name("b"));
    let both = store
        .transaction()
        .append(&a, rows(0..5))
        .append(&b, rows(3..8));
    both.commit().await.expect("committed");
    let snapshot = store.load().await.expect("snapshot");
    // What is committed later is not of this snapshot.
    let later = store.transaction().append(&a, rows(5..8)).commit().await;
    later.expect("committed");
    let context = SessionContext::new();
    store
        .register(&snapshot, &context)
        .await
        .expect("registered");
    let joined = context.sql("SELECT a.id FROM a JOIN b ON a.id = b.id ORDER BY a.id");
    let joined = joined
        .await
        .expect("a query")
        .collect()
        .await
        .expect("rows");
    let ids = joined.iter().flat_map(|batch| {
        let ids = batch.column(0).as_primitive::<Int64Type>();
        ids.values().to_vec()
    });
    assert_eq!(ids.collect::<Vec<_>>(), [3, 4]);
    let twice = store.register(&snapshot, &context).await;
    assert_eq!(
        twice.expect_err("they are there").kind(),
        ErrorKind::Refused
    );
}
