//! Commits: logical commits of one or several tables.
//!
//! 1. `stage` turns a `Write` into an uncommitted Lance transaction on the pinned version; `predicate` says which
//!    predicates may delete, `alter` how columns may change, `refusal` whose fault it is that staging failed. `kept` is what outlives a lost attempt.
//! 2. `joined` is what one operation commits: one batch, or several that append. `logical` is the retry loop: base, staging,
//!    scan, phase A. `landing` is phases B to D. `batch` says whether a batch id was committed before, and for the same content.
//!    `streamed` are rows that are too many to be held.
//! 3. `removal` drops a table. `preview` says what a commit would do, and puts nothing.

mod alter;
mod batch;
mod joined;
mod kept;
mod landing;
mod logical;
mod predicate;
mod preview;
mod refusal;
mod removal;
mod stage;
mod streamed;
mod validate;

pub use crate::publish::{Change, Record};
pub use alter::Alteration;
pub use batch::Repeated;
pub use logical::{AttemptHook, CommitRequest, Committed, Outcome, TableWrite, Together};
pub use preview::{Preview, TablePreview};
pub use removal::Drift;
pub use stage::{RowCounts, Write};
pub use streamed::RowSource;
