//! Figures of daemons over many tables, each with both sides in one run; `make fleet` prints them.
//!
//! 1. [`lake`]: a store of many tables, and how it is filled.
//! 2. [`daemons`]: real daemons, and what they cost.
//! 3. [`backlog`]: one daemon and two on the same backlog, and what a killed one's work waits for.
//! 4. [`idle`]: what a daemon costs that has nothing to do, and how soon it begins what becomes due.
//! 5. [`mixed`]: writers and two daemons, one of which is killed again and again.

pub mod backlog;
pub mod daemons;
pub mod idle;
pub mod lake;
pub mod mixed;

use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What was measured: printed as it comes, and kept.
#[derive(Debug, Default)]
pub struct Figures {
    /// Each with what it is of.
    pub rows: Vec<Value>,
    /// What should not be so.
    pub wrong: Vec<String>,
}

impl Figures {
    /// One figure.
    pub fn add(&mut self, what: &str, value: f64, unit: &str) {
        println!("{what:<72} {value:>12.2} {unit}");
        let row = json!({ "what": what, "value": value, "unit": unit });
        self.rows.push(row);
    }

    /// Something that must hold.
    pub fn check(&mut self, what: &str, holds: bool) {
        println!("{what:<72} {:>12}", if holds { "yes" } else { "NO" });
        self.rows.push(json!({ "what": what, "holds": holds }));
        if !holds {
            self.wrong.push(what.to_owned());
        }
    }
}

/// Waits until `check` gives something.
///
/// # Panics
/// When it does not within `within`.
pub async fn until<T>(what: &str, within: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + within;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
