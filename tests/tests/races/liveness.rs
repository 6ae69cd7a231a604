//! Progress, counted in steps of a clock that only moves when somebody waits on it, never in wall time.

use super::Batch;
use futures::future::BoxFuture;
use squire_engine::clock::{Clock, SystemClock};
use squire_engine::commit::{CommitRequest, Outcome};
use squire_engine::store::{Store, StoreOptions};
use squire_tests::{Child, Lake, append};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const BOTH: &[&str] = &["a", "b"];
const GRACE: Duration = Duration::from_secs(30);

/// The longest that one wait between two looks takes (`meet` and the retry loop of a commit).
const ONE_WAIT: Duration = Duration::from_millis(500);

/// Time that passes by waiting alone.
#[derive(Debug, Default)]
struct Waited(Arc<AtomicU64>);

impl Waited {
    fn total(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::SeqCst))
    }
}

/// The same counter as a clock.
#[derive(Debug)]
struct WaitingClock(SystemClock, Arc<AtomicU64>);

impl Clock for WaitingClock {
    fn now_ms(&self) -> u64 {
        self.0.now_ms()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.1.load(Ordering::SeqCst))
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let micros = u64::try_from(duration.as_micros()).expect("a short wait");
        self.1.fetch_add(micros, Ordering::SeqCst);
        Box::pin(tokio::task::yield_now())
    }
}

async fn waiting_store(lake: &Lake) -> (Arc<Store>, Waited) {
    let waited = Waited::default();
    let options = StoreOptions {
        grace: GRACE,
        clock: Arc::new(WaitingClock(SystemClock::default(), waited.0.clone())),
        ..StoreOptions::default()
    };
    (
        Store::open(&lake.uri, options).await.expect("the store"),
        waited,
    )
}

/// Starts a two-table commit that stops at `seam`.
fn stopped(lake: &Lake, name: &str, ids: std::ops::Range<i64>, seam: &str) -> Child {
    let directory = Batch::new(name, BOTH, ids).directory(lake);
    let mut child = lake.with_seam(
        &format!("{seam}=1*return(stop)"),
        &["commit", &lake.uri, &directory, "--json"],
    );
    child.wait_stopped();
    child
}

#[tokio::test]
async fn a_stopped_process_blocks_nobody_for_longer_than_the_grace() {
    let lake = Lake::with_tables(BOTH);
    let half = stopped(&lake, "half", 100..103, "write.after_commit_table");
    let (store, waited) = waiting_store(&lake).await;
    let request = CommitRequest::new(vec![append("a", 1..2)]);
    store.commit(&request).await.expect("the commit");
    let total = waited.total();
    assert!(total >= GRACE, "it was aborted after {total:?} already");
    assert!(total <= GRACE + 3 * ONE_WAIT, "it blocked for {total:?}");
    half.kill();
    lake.assert_at_rest();
}

/// Two dead processes one after another: each costs one grace, whatever the number of its tables.
#[tokio::test]
async fn a_dead_process_costs_its_grace_once() {
    let lake = Lake::with_tables(BOTH);
    stopped(&lake, "half", 100..103, "write.after_commit_table").kill();
    let (store, waited) = waiting_store(&lake).await;
    let request = CommitRequest::new(vec![append("a", 1..2), append("b", 1..2)]);
    store.commit(&request).await.expect("the first");
    let first = waited.total();
    store.commit(&request).await.expect("the second");
    assert_eq!(waited.total(), first, "the second waited as well");
    lake.assert_at_rest();
}

#[tokio::test]
async fn a_complete_operation_is_published_at_once() {
    let lake = Lake::with_tables(BOTH);
    let complete = stopped(&lake, "complete", 100..103, "write.after_phase_b");
    let op = lake.sidecars().pop().expect("its sidecar");
    let (store, waited) = waiting_store(&lake).await;
    let request = CommitRequest::new(vec![append("a", 1..2)]);
    store.commit(&request).await.expect("the commit");
    // One wait before the next attempt, none for the stopped process.
    assert!(waited.total() <= ONE_WAIT, "it waited {:?}", waited.total());
    assert_eq!(lake.outcome_of(&op), "committed");
    complete.resume().ok();
    lake.assert_at_rest();
}

/// Writers that name two tables in opposite order: whoever loses lost to somebody who won, so no attempt is lost to
/// nobody. To each winner a writer loses twice at most, its slot and then the attempt that meets the winner before it has
/// published: the k-th to win needs at most 2k - 1 attempts.
#[tokio::test(flavor = "multi_thread")]
async fn writers_in_opposite_order_always_make_progress() {
    const WRITERS: u32 = 5;
    const ROUNDS: i64 = 4;
    let lake = Lake::with_tables(BOTH);
    let mut attempts = 0;
    for round in 0..ROUNDS {
        let start = Arc::new(tokio::sync::Barrier::new(WRITERS as usize));
        let writers = (0..WRITERS).map(|writer| {
            let start = start.clone();
            let uri = lake.uri.clone();
            tokio::spawn(async move {
                let store = Store::open(&uri, StoreOptions::default())
                    .await
                    .expect("the store");
                let id = round * 100 + i64::from(writer);
                let mut writes = vec![append("a", id..id + 1), append("b", id..id + 1)];
                if writer % 2 == 1 {
                    writes.reverse();
                }
                start.wait().await;
                match store
                    .commit(&CommitRequest::new(writes))
                    .await
                    .expect("the commit")
                {
                    Outcome::Committed(committed) => committed.attempts,
                    Outcome::AlreadyCommitted(op) => panic!("{op} had no batch id"),
                }
            })
        });
        for ended in futures::future::join_all(writers).await {
            let took = ended.expect("a writer");
            assert!(took < 2 * WRITERS, "a writer needed {took} attempts");
            attempts += took;
        }
    }
    let rounds = u32::try_from(ROUNDS).expect("few");
    assert!(
        attempts <= rounds * WRITERS * WRITERS,
        "{attempts} attempts"
    );
    assert_eq!(lake.ids("a").await, lake.ids("b").await);
    lake.assert_at_rest();
}
