//! Commits: logical commits of one or several tables.
//!
//! 1. `stage` turns a `Write` into an uncommitted Lance transaction on the pinned version: `streamed` adds rows, held or not,
//!    `merge` and `delete` change those that are there, `replace` a slice of them; `alter` changes columns, `evolve` columns
//!    with rows; `created` makes tables. `predicate` says which predicates may delete, `refusal` whose fault it is that staging failed. `kept` is what outlives a lost attempt.
//! 2. `joined` is what one operation commits: one batch, or several that append. `logical` is the retry loop: base, staging,
//!    scan. `required` is what must be as its caller read it. `landing` is phases A to D. `batch` says whether a
//!    batch id was committed before, and for the same content.
//! 3. `transaction` is how programs write one down. `removal` drops a table. `preview` says what a commit would do, and puts
//!    nothing.

mod alter;
mod batch;
mod created;
mod delete;
mod evolve;
mod joined;
mod kept;
mod landing;
mod logical;
mod merge;
mod predicate;
mod preview;
mod refusal;
mod removal;
mod replace;
mod required;
mod stage;
mod streamed;
mod transaction;
mod validate;

pub use crate::publish::{Change, Record};
pub use alter::{Alteration, is_wider};
pub use batch::Repeated;
pub use evolve::evolved;
pub use logical::{AttemptHook, CommitRequest, Committed, Outcome, TableWrite, Together};
pub use merge::When;
pub use preview::{Preview, TablePreview};
pub use removal::Drift;
pub use stage::{RowCounts, Write};
pub use streamed::{Purpose, RowSource, Rows};
pub use transaction::{Ending, Transaction};
