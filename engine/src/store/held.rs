//! Which snapshots are held, and whether one can be.

use super::state::State;
use super::{Snapshot, Store};
use crate::error::{Error, ErrorKind, Result};
use futures::{StreamExt, TryStreamExt};

/// Tables of a snapshot that are opened at once.
const AT_ONCE: usize = 16;

/// What of the snapshot `shown` lies below a floor of `latest`, and may be gone therefore.
fn below_floor(latest: &State, shown: &State) -> Option<String> {
    if shown.version < latest.manifest_floor {
        return Some(format!(
            "manifest version {} is below the floor {}",
            shown.version, latest.manifest_floor
        ));
    }
    shown.tables.iter().find_map(|(table, entry)| {
        let floor = latest.floor_at(table, &entry.path);
        (entry.version < floor).then(|| {
            format!(
                "table {table}: version {} is below the floor {floor}",
                entry.version
            )
        })
    })
}

/// Whether a keep of `latest` holds the snapshot at `version`, or none of it is below a floor.
pub(crate) fn check_floors(latest: &State, shown: &State) -> Result<()> {
    if latest.keeps.values().any(|kept| *kept == shown.version) {
        return Ok(());
    }
    match below_floor(latest, shown) {
        None => Ok(()),
        Some(why) => Err(Error::new(
            ErrorKind::Refused,
            format!(
                "the snapshot at manifest version {} cannot be held: {why}, so it may be gone; take a younger one",
                shown.version
            ),
        )),
    }
}

impl Store {
    /// Refuses a snapshot of which something is gone, or may be.
    ///
    /// # Errors
    /// `Refused` naming the table and the version, `Drift` when the table was made again.
    pub(crate) async fn check_holdable(&self, shown: &Snapshot) -> Result<()> {
        check_floors(&self.load().await?.state, &shown.state)?;
        futures::stream::iter(shown.state.tables.iter())
            .map(|(table, entry)| async move {
                let opened = self.open_pinned(entry).await;
                opened.map(drop).map_err(|e| match e.kind() {
                    ErrorKind::Drift => e,
                    _ => {
                        let version = entry.version;
                        let gone = format!(
                            "the snapshot at manifest version {} cannot be held: table {table}: version {version} cannot be opened",
                            shown.version()
                        );
                        Error::new(ErrorKind::Refused, gone).caused_by(e)
                    }
                })
            })
            .buffer_unordered(AT_ONCE)
            .try_collect::<Vec<()>>()
            .await
            .map(drop)
    }

    /// Whether a keep or a lease holds the snapshot at manifest version `version`.
    pub(crate) async fn is_held(&self, latest: &State, version: u64) -> Result<bool> {
        if latest.keeps.values().any(|kept| *kept == version) {
            return Ok(true);
        }
        let (leases, now) = (self.leases().await?, self.now());
        let mut live = leases.iter().filter_map(|lease| lease.live(now));
        Ok(live.any(|lease| lease.manifest_version == version))
    }

    /// Milliseconds since the epoch, as the storage's times are told.
    pub(crate) fn now(&self) -> i64 {
        i64::try_from(self.clock().now_ms()).unwrap_or(i64::MAX)
    }
}
