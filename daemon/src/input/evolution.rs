//! Columns that an input has and its table does not, or in a type that is too narrow there: what of the table has to change.
//!
//! An input is read for the table as it is. Where it is refused for a column, and that may be changed, the columns of all inputs
//! are asked for their types, and it is read once more for what the table becomes. So nothing changes that need not, and an input
//! that fits is read once.

use super::Place;
use crate::config::SchemaChange;
use crate::formats::{self, Input, InputLimits, Shape};
use arrow::datatypes::{DataType, Schema};
use squire_engine::commit::{Alteration, Write, evolved, is_wider};
use squire_engine::error::{Error, Result};
use tokio::task::block_in_place;

/// What changes of a table's columns, as far as is known.
#[derive(Debug)]
pub(super) struct Evolution {
    allowed: SchemaChange,
    table: Schema,
    alterations: Vec<Alteration>,
}

impl Evolution {
    /// None yet, of a table of these columns.
    pub(super) fn of(table: Schema, allowed: SchemaChange) -> Self {
        Self {
            allowed,
            table,
            alterations: Vec::new(),
        }
    }

    /// Whether any change is allowed.
    pub(super) fn is_open(&self) -> bool {
        self.allowed != SchemaChange::Strict
    }

    /// The table's columns as they become.
    pub(super) fn target(&self) -> Schema {
        evolved(&self.table, &self.alterations)
    }

    /// `write`, with the changes that it needs.
    pub(super) fn then(self, write: Write) -> Write {
        match self.alterations.is_empty() {
            true => write,
            false => Write::Evolve {
                alterations: self.alterations,
                then: Box::new(write),
            },
        }
    }

    /// Takes the change for which `refused` says that an input needs it. Gives the error back when there is none.
    pub(super) fn follow(
        &mut self,
        refused: Error,
        (inputs, shape): (&[Input], &Shape),
        limits: &InputLimits,
    ) -> Result<()> {
        let column = refused.attached::<Place>().and_then(Place::names_column);
        let Some(column) = column.filter(|_| self.is_open()).map(str::to_owned) else {
            return Err(refused);
        };
        let target = self.target();
        let Ok(reading) = shape.reading(&target) else {
            return Err(refused);
        };
        let own = reading.column_of(&column);
        let mut becomes = own.map(|field| field.data_type().clone());
        for input in inputs {
            let Ok(columns) = block_in_place(|| formats::columns_of(input, limits)) else {
                return Err(refused);
            };
            let Ok(found) = columns.field_with_name(&column) else {
                continue;
            };
            match &becomes {
                _ if lacks_values(found.data_type()) => {}
                Some(wide) if !is_wider(wide, found.data_type()) => {}
                _ => becomes = Some(found.data_type().clone()),
            }
        }
        let Some(becomes) = becomes else {
            return Err(refused.advice(
                "it, or a part of it, has no value, so its type is not known: leave it out, or add it by `squire alter`",
            ));
        };
        match own {
            None => self.add(column, becomes),
            Some(own) if *own.data_type() == becomes || self.allowed != SchemaChange::Widen => {
                return Err(refused);
            }
            Some(own) => self.widen(own.name().clone(), becomes),
        }
        Ok(())
    }

    fn add(&mut self, column: String, data_type: DataType) {
        self.alterations.push(Alteration::Add { column, data_type });
    }

    /// One that was widened, or added, becomes wider still.
    fn widen(&mut self, column: String, becomes: DataType) {
        let known = self.alterations.iter_mut().find(|a| a.column() == column);
        match known {
            Some(Alteration::Add { data_type, .. } | Alteration::Widen { data_type, .. }) => {
                *data_type = becomes;
            }
            _ => self.alterations.push(Alteration::Widen {
                column,
                data_type: becomes,
            }),
        }
    }
}

/// Whether a type is not known as a whole, since some of it has no value in the input.
fn lacks_values(data_type: &DataType) -> bool {
    match data_type {
        DataType::Null => true,
        DataType::List(item) => lacks_values(item.data_type()),
        DataType::Struct(members) => members.iter().any(|m| lacks_values(m.data_type())),
        _ => false,
    }
}
