//! `squire cleanup` that keeps nothing but the latest snapshot: what a cleanup removes long after the retention, which
//! the command line never goes below.

use squire_engine::maintenance::Retention;
use squire_engine::store::{Store, StoreOptions};
use std::time::Duration;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let _armed = squire_failpoints::arm_from_env()?;
    let uri = std::env::args().nth(1).ok_or("usage: squire-clean STORE")?;
    let store = Store::open(&uri, StoreOptions::default()).await?;
    let keep = Retention {
        age: Duration::ZERO,
        versions: 1,
    };
    // A version of this very millisecond counts as young.
    tokio::time::sleep(Duration::from_millis(2)).await;
    let plan = store.plan_cleanup(&keep.into()).await?;
    let report = store.cleanup(&plan, None, &Default::default()).await?;
    if let Some((table, why)) = report.failed.first() {
        return Err(format!("table {table}: {why}").into());
    }
    println!("removed {} versions", report.versions_removed);
    Ok(())
}
