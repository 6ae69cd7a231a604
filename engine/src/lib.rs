//! The engine of Squire: stores of Lance tables, atomic commits over several of them, and their maintenance.
//!
//! It is the only user of lance. It spawns nothing, opens no socket and keeps no metrics; the daemon does.
//!
//! Strictly upward:
//!
//! 1. `ids`, `error`, `events`, `clock`, `protocol`, `invariants`: names, errors, what happened, time, and the protocol as pure functions.
//! 2. `store`: storage, the guarded commit handler, the manifest's state, sidecars, scans.
//! 3. `commit`: publish, logical commits, the clean prefix.
//! 4. `recovery` and `maintenance`: finish, abort or take back; compact, reindex, clean up, archive.
//! 5. `read`: snapshots. `trace`: the events of a process as a file.
//!
//! ```no_run
//! use squire_engine::commit::{CommitRequest, TableWrite, Write};
//! use squire_engine::store::{Store, StoreOptions};
//! # async fn example(flights: arrow_array::RecordBatch, weather: arrow_array::RecordBatch) -> squire_engine::error::Result<()> {
//! let store = Store::open("/srv/lake", StoreOptions::default()).await?;
//! // Both tables show the hour, or neither does.
//! store
//!     .commit(&CommitRequest::new(vec![
//!         TableWrite { table: "flights".parse()?, write: Write::Append(vec![flights]) },
//!         TableWrite { table: "weather".parse()?, write: Write::Append(vec![weather]) },
//!     ]))
//!     .await?;
//! let snapshot = store.load().await?;
//! let rows = store.read(&snapshot, &"flights".parse()?).await?.count_rows(None).await?;
//! # let _ = rows; Ok(()) }
//! ```

pub mod clock;
pub mod commit;
pub mod error;
pub mod events;
pub mod ids;
pub mod invariants;
pub mod maintenance;
pub mod protocol;
pub mod read;
pub mod recovery;
pub mod store;
pub mod trace;
