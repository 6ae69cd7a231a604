//! The end of a run: nobody disturbs the store any more, it comes to rest, and everything is compared.

use super::check::{self, Verdict};
use super::observe::{Observation, Seen, read_all};
use super::plan::Mischief;
use super::replay::Replay;
use super::run::{Lived, Room};
use super::{Violations, now_us};
use crate::{Lake, squire};
use serde_json::Value;
use squire_engine::maintenance::Retention;
use squire_engine::store::{Store, StoreOptions};
use std::process::Command;
use std::time::Duration;

/// Passes in which a store must come to rest once nobody disturbs it.
const PASSES: u32 = 20;
/// Operations whose outcome is asked at the end, besides those that nobody was told of.
const SAMPLE: usize = 200;

/// Brings the store to rest and gives the verdict on the whole history.
pub async fn settle(room: &Room, lived: Lived, violations: &Violations) -> (Replay, Verdict) {
    let mut replay = lived.replay;
    let lake = Lake::existing(&room.store);
    if !violations.any() {
        lived.producer.finish(room, violations);
        come_to_rest(room, &lake, violations).await;
    }
    // A fresh handle: no cache of the run's readers stands between the check and the storage.
    let store = Store::open(&room.store, StoreOptions::default())
        .await
        .expect("the store opens");
    let snapshot = store.load().await.expect("the manifest");
    let at = now_us();
    let seen = Seen {
        reader: "the last reader".to_owned(),
        began_us: at,
        ended_us: at,
        version: snapshot.version(),
        fresh: true,
    };
    match read_all(&store, &snapshot).await {
        Ok(tables) => replay.compare(Observation { seen, tables }).await,
        Err(e) => violations.add(format!("I11: the last snapshot cannot be read: {e}")),
    }
    if let Err(e) = replay.fetch().await {
        violations.add(format!("the log cannot be read: {e}"));
    }
    let mut verdict = check::history(&mut replay, &lived.told, violations);
    let asked = check::to_ask(&replay, SAMPLE);
    check::outcomes(&store, &replay, &asked, "at rest", violations).await;
    clean_everything(&store, violations).await;
    check::log_unchanged(&store, &replay, violations).await;
    check::outcomes(
        &store,
        &replay,
        &asked,
        "after the last cleanup",
        violations,
    )
    .await;
    verdict.asked += asked.len() as u64 * 2;
    (replay, verdict)
}

async fn come_to_rest(room: &Room, lake: &Lake, violations: &Violations) {
    let config = room.config("calm", 5);
    let config = config.to_string_lossy();
    let pass = || {
        let mut command = Command::new(squire());
        command.args(["daemon", &room.store, "--once", "--config", &config]);
        room.equip(&mut command, &Mischief::default());
        // With no retention at all each cleanup removes the manifest version of the one before, for ever.
        command.env_remove("SQUIRE_RETENTION");
        let done = command.stderr(room.log("calm")).output().expect("squire");
        (done.status, lake.status()["manifest_version"].clone())
    };
    let forced = lake.run(&["recover", &lake.uri, "--force", "--json"]);
    if forced.code != Some(0) || forced.json()["failed"] != Value::Array(Vec::new()) {
        violations.add(format!(
            "recover --force: {} {}",
            forced.stdout, forced.stderr
        ));
    }
    let mut before = Value::Null;
    for _ in 0..PASSES {
        let (status, version) = pass();
        if status.success() && version == before {
            let rest =
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| lake.assert_at_rest()));
            if rest.is_err() {
                violations.add("I8: the store is not at rest; the assertion above says why");
            }
            return;
        }
        before = version;
    }
    violations.add(format!(
        "I8: {PASSES} passes do not bring the store to rest"
    ));
}

/// A cleanup that keeps one version, so that answers come from the archive.
async fn clean_everything(store: &Store, violations: &Violations) {
    let keep = Retention {
        age: Duration::ZERO,
        versions: 1,
    };
    let cleaned = match store.plan_cleanup(&keep.into()).await {
        Ok(plan) => store.cleanup(&plan, None, &Default::default()).await,
        Err(e) => Err(e),
    };
    match cleaned {
        Ok(report) if report.failed.is_empty() => {}
        Ok(report) => violations.add(format!("the last cleanup: {:?}", report.failed)),
        Err(e) => violations.add(format!("the last cleanup: {e}")),
    }
}
