//! What a commit asks of its storage, and that what it does not ask for is still true.

use squire_engine::commit::{CommitRequest, Outcome};
use squire_engine::store::{Store, StoreOptions};
use squire_tests::requests::{Counter, Counting};
use squire_tests::{Lake, append, create};
use std::sync::Arc;

/// Neither the commits before it nor the tables that it does not touch show in the requests of a commit.
#[tokio::test]
async fn a_commit_takes_ten_requests_and_five_for_each_further_table() {
    let counter = Arc::new(Counter::default());
    let options = StoreOptions {
        wrapper: Some(Arc::new(Counting(counter.clone()))),
        ..StoreOptions::default()
    };
    let store = Store::init("memory://requests", options)
        .await
        .expect("store");
    for table in ["a", "b", "c"] {
        let request = CommitRequest::new(vec![create(table)]);
        store.commit(&request).await.expect("create");
    }
    let mut counted = Vec::new();
    for id in 0..20 {
        for tables in [&["a"][..], &["a", "b"]] {
            let writes = tables.iter().map(|t| append(t, id..id + 1)).collect();
            counter.take();
            store
                .commit(&CommitRequest::new(writes))
                .await
                .expect("commit");
            counted.push(counter.take().total);
        }
    }
    // The first commit of a process meets each table for the first time.
    for (one, two) in counted[2..].chunks(2).map(|c| (c[0], c[1])) {
        assert_eq!((one, two), (10, 15), "{counted:?}");
    }
}

/// A blind append is staged on what the process remembers. A pin that another process moved meanwhile is not what the
/// commit stands on, although only maintenance lies in between.
#[tokio::test]
async fn a_stale_guess_is_not_what_a_commit_stands_on() {
    let lake = Lake::with_tables(&["a"]);
    let store = lake.store().await;
    let commit = |id| {
        let store = store.clone();
        async move {
            let request = CommitRequest::new(vec![append("a", id..id + 1)]);
            match store.commit(&request).await.expect("commit") {
                Outcome::Committed(committed) => committed,
                again => panic!("{again:?}"),
            }
        }
    };
    commit(1).await;
    let remembered = commit(2).await.tables[0].to;
    lake.run(&["optimize", &lake.uri]).ok();
    let pin = lake.table_status("a", "pin").as_u64().expect("a version");
    assert!(remembered < pin);
    let committed = commit(3).await;
    assert_eq!((committed.tables[0].from, committed.attempts), (pin, 1));
    assert_eq!(lake.ids("a").await, [1, 2, 3]);
    lake.assert_at_rest();
}
