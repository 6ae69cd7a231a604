//! The facts about Lance 14.0.2 that the commit protocol stands on, one test each.
//!
//! A test here asserts what Lance does, not what it ought to do: when an upgrade turns one red, the
//! protocol rule that leans on the fact has to be looked at again before the upgrade goes in. The
//! comment that starts with "Relied on" names that rule.
//!
//! * [`commits`]: how a commit finds its version, who sees it, what it carries (1, 2, 3, 4, 13, 14, 15).
//! * [`conflicts`]: which concurrent operations commute (5, 6, 7).
//! * [`maintenance`]: cleanup and compaction (9, 10, 11, 12).
//! * [`evolution`]: columns that come with rows (18).
//! * [`history`]: versions that come back, hints, and files that are gone (8, 16, 17).
//! * [`guard`], [`table`]: the strict commit handler and the fixture that the tests share.

mod commits;
mod conflicts;
mod evolution;
mod guard;
mod history;
mod maintenance;
mod table;
