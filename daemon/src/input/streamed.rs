//! Inputs that are too large to be held: read again each time their rows are wanted, a batch at a time.
//!
//! A claim gets a new name before its attempt puts anything, so an entry of the spool is asked for where it lies now. Each reading
//! refuses what was written to meanwhile, and the attempt compares what lies between two of them.

use super::Place;
use super::load::{Change, format_error};
use crate::formats::{self, FormatError, Input, InputLimits, Meter, Reading};
use arrow::array::RecordBatch;
use squire_engine::commit::{Purpose, RowSource};
use squire_engine::error::{Error, Result};
use squire_engine::ids::TableName;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::task::block_in_place;

/// What was changed of values, as far as they have been read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Changes(Arc<Mutex<Vec<Change>>>);

impl Changes {
    pub(crate) fn of(changes: Vec<Change>) -> Self {
        Self(Arc::new(Mutex::new(changes)))
    }

    pub(crate) fn all(&self) -> Vec<Change> {
        let changes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        changes.clone()
    }

    fn become_those(&self, changes: Vec<Change>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = changes;
    }
}

/// An entry of the spool whose claim may be renamed.
#[derive(Clone)]
pub(crate) struct Standing {
    /// Where it lay when its inputs were named.
    pub(crate) was: PathBuf,
    /// Where it lies now.
    pub(crate) now: Arc<dyn Fn() -> Result<PathBuf> + Send + Sync>,
    /// Is told of each batch, which shows that the work goes on.
    pub(crate) step: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Standing");
        shown.field("was", &self.was).finish_non_exhaustive()
    }
}

/// The rows of some inputs for one table.
#[derive(Debug)]
pub(crate) struct Streamed {
    pub(super) table: TableName,
    pub(super) inputs: Vec<Input>,
    pub(super) reading: Reading,
    pub(super) limits: InputLimits,
    pub(super) standing: Option<Standing>,
    pub(super) coerced: Changes,
    /// Is told what is read, and why.
    pub(super) meter: Meter,
}

impl RowSource for Streamed {
    fn read(
        &self,
        purpose: Purpose,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let doing = match purpose {
            Purpose::Stage => "writing",
            Purpose::Compare => "checking",
            Purpose::Digest => "hashing for",
            Purpose::Count => "counting for",
        };
        self.meter.begin_beside(doing, &self.inputs);
        self.read_all(sink)
    }
}

impl Streamed {
    /// Reads all of the inputs; `doing` says to people what for.
    pub(super) fn read_for(
        &self,
        doing: &str,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<()> {
        self.meter.begin(doing, &self.inputs);
        self.read_all(sink)
    }

    fn read_all(&self, sink: &mut dyn FnMut(RecordBatch) -> Result<()>) -> Result<()> {
        block_in_place(|| {
            let mut changes = Vec::new();
            for input in &self.inputs {
                changes.extend(self.read_one(input, sink)?);
            }
            self.coerced.become_those(changes);
            Ok(())
        })
    }

    fn read_one(
        &self,
        input: &Input,
        sink: &mut dyn FnMut(RecordBatch) -> Result<()>,
    ) -> Result<Vec<Change>> {
        let input = match &self.standing {
            Some(standing) => &input.moved(&standing.was, &(standing.now)()?),
            None => input,
        };
        let mut stopped = None;
        let read = formats::read_into(input, Some(&self.reading), &self.limits, &mut |batch| {
            if let Some(standing) = &self.standing {
                (standing.step)();
            }
            self.meter.rows(batch.num_rows());
            sink(batch).map_err(|e| {
                stopped = Some(e);
                FormatError::Stopped
            })
        });
        match (stopped, read) {
            (Some(e), _) => Err(e),
            (None, Err(e)) => Err(self.placed(format_error(e))),
            (None, Ok(coerced)) => Ok(Change::of(&self.table, input, coerced)),
        }
    }

    fn placed(&self, error: Error) -> Error {
        let place = error.attached::<Place>().cloned().unwrap_or_default();
        error.with(place.of_table(self.table.as_str()))
    }
}
