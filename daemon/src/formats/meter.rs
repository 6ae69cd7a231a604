//! How far an input is read: counted where its bytes are read, and looked at by whoever shows it.
//!
//! What is read as a stream is counted as it comes, packed if it is packed. Of a Parquet file, which is read from everywhere, as many
//! bytes count as its rows that were given have a share in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Input;

/// Counts for one write; its clones count together, each for its table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter {
    shared: Arc<Mutex<Shared>>,
    /// The table whose input it counts.
    table: String,
}

/// What is read now: for one table, or for several at the same time.
#[derive(Debug, Default)]
struct Shared {
    number: u64,
    /// Bytes that were read when the latest reading began.
    before: u64,
    /// Whether more tables may come beside those.
    beside: bool,
    tables: BTreeMap<String, Counts>,
}

#[derive(Debug, Clone, Default)]
struct Counts {
    doing: String,
    total: Option<u64>,
    bytes: u64,
    rows: u64,
}

/// What one reading of some inputs, or other work, has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metered {
    /// Counts the readings that began: rows that are many are read more than once.
    pub(crate) number: u64,
    /// What is done, and to which table or how many.
    pub(crate) doing: String,
    /// Bytes of the inputs, where that is known: it is not of a pipe.
    pub(crate) total: Option<u64>,
    /// How many of them were read.
    pub(crate) bytes: u64,
    /// How many of those before the latest reading began.
    pub(crate) before: u64,
    /// Rows that were given so far.
    pub(crate) rows: u64,
}

impl Meter {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same for what is read for one table.
    pub(crate) fn of(&self, table: &str) -> Self {
        let shared = self.shared.clone();
        let table = table.to_owned();
        Self { shared, table }
    }

    /// From now on `inputs` are read, from their beginning, and nothing else is.
    pub(crate) fn begin(&self, doing: &str, inputs: &[Input]) {
        self.shared().read((&self.table, doing), inputs, false);
    }

    /// From now on `inputs` are read, from their beginning, beside those of other tables.
    pub(crate) fn begin_beside(&self, doing: &str, inputs: &[Input]) {
        self.shared().read((&self.table, doing), inputs, true);
    }

    /// From now on something is done that reads no input.
    pub(crate) fn rest(&self, doing: &str) {
        self.shared().read(("", doing), &[], false);
    }

    pub(crate) fn rows(&self, more: usize) {
        if let Some(counts) = self.shared().tables.get_mut(&self.table) {
            counts.rows += more as u64;
        }
    }

    pub(super) fn bytes(&self, more: u64) {
        if let Some(counts) = self.shared().tables.get_mut(&self.table) {
            counts.bytes += more;
        }
    }

    pub(crate) fn now(&self) -> Metered {
        self.shared().sum()
    }
}

impl Shared {
    fn read(&mut self, (table, doing): (&str, &str), inputs: &[Input], beside: bool) {
        if !(self.beside && beside) {
            self.tables.clear();
        }
        self.tables.remove(table);
        (self.number, self.beside) = (self.number + 1, beside);
        self.before = self.bytes();
        let counts = Counts {
            doing: doing.to_owned(),
            total: inputs.iter().map(Input::length).sum(),
            ..Counts::default()
        };
        self.tables.insert(table.to_owned(), counts);
    }

    /// `writing t`, `writing 2 tables`, `checking and writing 2 tables`.
    fn doing(&self) -> String {
        let doing: BTreeSet<&str> = self.tables.values().map(|of| of.doing.as_str()).collect();
        let doing = doing.into_iter().collect::<Vec<_>>().join(" and ");
        match (self.tables.keys().next(), self.tables.len()) {
            (Some(table), 1) if !table.is_empty() => format!("{doing} {table}"),
            (_, 0 | 1) => doing,
            (_, several) => format!("{doing} {several} tables"),
        }
    }

    fn bytes(&self) -> u64 {
        // What is read to see what it is counts, too.
        let read = |of: &Counts| of.total.map_or(of.bytes, |total| of.bytes.min(total));
        self.tables.values().map(read).sum()
    }

    fn sum(&self) -> Metered {
        Metered {
            number: self.number,
            doing: self.doing(),
            total: self.tables.values().map(|of| of.total).sum(),
            bytes: self.bytes(),
            before: self.before,
            rows: self.tables.values().map(|of| of.rows).sum(),
        }
    }
}

/// Bytes that are counted as they are read.
pub(super) struct Counted<R> {
    pub(super) inner: R,
    pub(super) meter: Meter,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.meter.bytes(read as u64);
        Ok(read)
    }
}
