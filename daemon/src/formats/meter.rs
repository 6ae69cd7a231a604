//! How far an input is read: counted where its bytes are read, and looked at by whoever shows it.
//!
//! What is read as a stream is counted as it comes, packed if it is packed. Of a Parquet file, which is read from everywhere, as many
//! bytes count as its rows that were given have a share in it.

use std::{
    io::{self, Read},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::Input;

/// Counts for one write; its clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<Mutex<Metered>>);

/// What one reading of some inputs, or other work, has come to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Metered {
    /// Which of the readings it is: rows that are many are read more than once.
    pub(crate) number: u64,
    /// What is done, and to which table.
    pub(crate) doing: String,
    /// Bytes of the inputs, where that is known: it is not of a pipe.
    pub(crate) total: Option<u64>,
    /// How many of them were read.
    pub(crate) bytes: u64,
    /// Rows that were given so far.
    pub(crate) rows: u64,
}

impl Meter {
    fn metered(&self) -> MutexGuard<'_, Metered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on `inputs` are read, from their beginning.
    pub(crate) fn begin(&self, doing: String, inputs: &[Input]) {
        let lengths = inputs.iter().map(Input::length);
        let total = lengths.sum::<Option<u64>>();
        let mut metered = self.metered();
        *metered = Metered {
            number: metered.number + 1,
            doing,
            total,
            ..Metered::default()
        };
    }

    /// From now on something is done that reads no input.
    pub(crate) fn rest(&self, doing: &str) {
        self.begin(doing.to_owned(), &[]);
    }

    pub(crate) fn rows(&self, more: usize) {
        self.metered().rows += more as u64;
    }

    pub(super) fn bytes(&self, more: u64) {
        self.metered().bytes += more;
    }

    pub(crate) fn now(&self) -> Metered {
        self.metered().clone()
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
