//! What is written is read here: from files or a stream to requests that the engine commits, for commands and the agent alike.
//!
//! 1. `names` says what a file is by its name.
//! 2. `batch` says what one entry wants: a file, or a directory with a `batch.toml`.
//! 3. `load` reads it by `crate::formats`, as its table has it. What is too large to be held is `streamed`; columns that the table
//!    lacks are an `evolution`.
//! 4. `place` says where something is wrong.

pub(crate) mod batch;
mod evolution;
pub(crate) mod load;
mod names;
mod place;
pub(crate) mod streamed;

pub(crate) use names::{Named, is_log, printable, shown, shown_path};
pub(crate) use place::Place;
