//! The engine of Squire: stores of Lance tables, atomic commits over several of them, and their maintenance.
//!
//! It is the only user of lance. It spawns nothing, opens no socket and keeps no metrics; the daemon does.
//!
//! Strictly upward:
//!
//! 1. `op`, `error`, `ids`, `events`, `clock`, `protocol`, `invariants`: names, errors, what happened, time, and the protocol as pure functions.
//! 2. `store`: storage, the guarded commit handler, the manifest's state, sidecars, scans.
//! 3. `publish`: the manifest from M to M+1, the clean prefix. `history`: what was published.
//! 4. `oversight`: who watches a run, and its pace. `journal`: what runs write, by name. `proof`: what was written, read back.
//! 5. `recovery`: finish, abort or take back.
//! 6. `commit`: logical commits.
//! 7. `maintenance`: compact, reindex, clean up, verify.
//! 8. `read`: snapshots. `trace`: the events of a process as a file.
//!
//! ```no_run
//! use squire_engine::store::{Store, StoreOptions};
//! # async fn example(flights: arrow_array::RecordBatch, weather: arrow_array::RecordBatch) -> squire_engine::error::Result<()> {
//! let store = Store::open("/srv/lake", StoreOptions::default()).await?;
//! // Both tables show the hour, or neither does.
//! store
//!     .transaction()
//!     .append(&"flights".parse()?, vec![flights])
//!     .append(&"weather".parse()?, vec![weather])
//!     .commit()
//!     .await?;
//! let snapshot = store.load().await?;
//! let rows = store.read(&snapshot, &"flights".parse()?).await?.count_rows(None).await?;
//! # let _ = rows; Ok(()) }
//! ```

pub mod clock;
pub mod commit;
pub mod error;
pub mod events;
mod history;
pub mod ids;
pub mod invariants;
mod journal;
pub mod maintenance;
mod op;
mod oversight;
mod proof;
pub mod protocol;
mod publish;
pub mod read;
pub mod recovery;
pub mod store;
pub mod trace;
