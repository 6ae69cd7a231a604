//! The daemon: watches stores and directories, decides, maintains, reports.
//!
//! ```text
//!             file events · time · signals · HTTP            only wake the loop
//!                              │
//!                              v
//!   jobs ──── Open, Recover, ──┬── attempts                  in the background, side by side
//!             Scan, Look       │
//!      what came of them ──> fold ──> decide ──> begin what there are permits for
//! ```
//! 1. `service` is the daemon's life: start, loop, drain. The loop waits for nothing but wakes.
//! 2. `reconciler` begins jobs and attempts, and folds in what came of them. What is known of a location is kept by its
//!    `crate::place::location`, what waits for its turn by `crate::decide::board`; both are pure.
//! 3. `jobs` only look, or settle what others left. `attempts` sees that what runs moves; `crate::run` is what one attempt does.
//! 4. `reload` takes up a changed configuration, `pauses` keeps what people paused. `wakes` turns file events into locations and tables.
//! 5. `priority` lets others go first. `status` is what HTTP and systemd see.

mod attempts;
mod jobs;
mod pauses;
pub(crate) mod priority;
mod reconciler;
mod reload;
mod service;
mod signals;
mod status;
mod wakes;

pub(crate) use service::{Options, run};
pub(crate) use signals::{Event, Signals};
