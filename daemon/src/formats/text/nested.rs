//! Columns of lists, structs and maps: each is made of columns of its own.

use std::{collections::HashMap, marker::PhantomData, sync::Arc};

use arrow::{
    array::{
        ArrayRef, FixedSizeListArray, GenericListArray, MapArray, NullBufferBuilder,
        OffsetSizeTrait, StructArray,
    },
    buffer::{NullBuffer, OffsetBuffer},
    datatypes::{DataType, FieldRef, Fields},
    error::ArrowError,
};

use super::{
    cell::{Misfit, Value},
    column::{Column, Reason, Refusal, Slot},
};
use crate::formats::{conform::slot_bytes, shape::Given};

const NOT_A_LIST: Misfit = "is no list";
const NOT_AN_OBJECT: Misfit = "is no object";

/// How many values each row of a list or a map has, and which rows are null.
struct Rows {
    lengths: Vec<usize>,
    nulls: NullBufferBuilder,
}

impl Rows {
    fn new() -> Self {
        Self {
            lengths: Vec::new(),
            nulls: NullBufferBuilder::new(0),
        }
    }

    fn append(&mut self, length: usize) {
        self.lengths.push(length);
        self.nulls.append_non_null();
    }

    fn append_null(&mut self) {
        self.lengths.push(0);
        self.nulls.append_null();
    }

    fn finish<O: OffsetSizeTrait>(&mut self) -> (OffsetBuffer<O>, Option<NullBuffer>) {
        let lengths = std::mem::take(&mut self.lengths);
        (OffsetBuffer::from_lengths(lengths), self.nulls.finish())
    }
}

pub(super) struct List<O: OffsetSizeTrait> {
    item: Slot,
    rows: Rows,
    offset: PhantomData<O>,
}

impl<O: OffsetSizeTrait> List<O> {
    pub(super) fn new(item: &FieldRef) -> Self {
        Self {
            item: Slot::new(item),
            rows: Rows::new(),
            offset: PhantomData,
        }
    }
}

fn append_items(item: &mut Slot, items: &[Value<'_>]) -> Result<(), Refusal> {
    for (index, value) in items.iter().enumerate() {
        let appended = item.append(value);
        appended.map_err(|refusal| refusal.below(&format!("[{index}]")))?;
    }
    Ok(())
}

impl<O: OffsetSizeTrait> Column for List<O> {
    fn append(&mut self, value: &Value<'_>) -> Result<(), Refusal> {
        let Value::List(items) = value else {
            return Err(Refusal::value(value, NOT_A_LIST));
        };
        append_items(&mut self.item, items)?;
        self.rows.append(items.len());
        Ok(())
    }

    fn append_null(&mut self) {
        self.rows.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let (offsets, nulls) = self.rows.finish();
        Ok(Arc::new(GenericListArray::<O>::try_new(
            Arc::clone(&self.item.field),
            offsets,
            self.item.finish()?,
            nulls,
        )?))
    }
}

/// Memory that null lists of a fixed size may take in a batch. In other lists there can be any number of them.
const MOST_FILLED: u64 = 1 << 30;

pub(super) struct FixedList {
    item: Slot,
    size: i32,
    /// Bytes of a null, and of all nulls since the last batch.
    null: u64,
    filled: u64,
    nulls: NullBufferBuilder,
}

impl FixedList {
    pub(super) fn new(item: &FieldRef, size: i32) -> Self {
        Self {
            item: Slot::new(item),
            size,
            null: slot_bytes(item.data_type()).saturating_mul(size.unsigned_abs().into()),
            filled: 0,
            nulls: NullBufferBuilder::new(0),
        }
    }
}

impl Column for FixedList {
    fn append(&mut self, value: &Value<'_>) -> Result<(), Refusal> {
        let Value::List(items) = value else {
            return Err(Refusal::value(value, NOT_A_LIST));
        };
        if i32::try_from(items.len()) != Ok(self.size) {
            return Err(Reason::Length(items.len(), self.size).into());
        }
        append_items(&mut self.item, items)?;
        self.nulls.append_non_null();
        Ok(())
    }

    fn append_null(&mut self) {
        self.filled = self.filled.saturating_add(self.null);
        if self.filled > MOST_FILLED {
            return;
        }
        let items = usize::try_from(self.size).unwrap_or(0);
        self.item.column.append_nulls(items);
        self.nulls.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        if std::mem::take(&mut self.filled) > MOST_FILLED {
            let detail = "nulls of a list of a fixed size take too much memory";
            return Err(ArrowError::MemoryError(detail.to_owned()));
        }
        let (field, values) = (Arc::clone(&self.item.field), self.item.finish()?);
        let nulls = self.nulls.finish();
        Ok(Arc::new(FixedSizeListArray::try_new(
            field, self.size, values, nulls,
        )?))
    }
}

/// The fields of an object by name: those of a struct, or the columns of a table.
pub(super) struct Members {
    fields: Fields,
    slots: Vec<Slot>,
    by_name: HashMap<String, usize>,
    /// For each field, whether the object in hand has it.
    given: Vec<bool>,
    /// For each field, what stands in where it does not.
    defaults: Vec<Option<Given>>,
}

impl Members {
    pub(super) fn new(fields: &Fields) -> Self {
        let names = fields.iter().map(|field| field.name().clone());
        Self {
            fields: fields.clone(),
            slots: fields.iter().map(Slot::new).collect(),
            by_name: names.zip(0..).collect(),
            given: vec![false; fields.len()],
            defaults: vec![None; fields.len()],
        }
    }

    /// The same with these values for what objects do not have.
    pub(super) fn with_defaults(self, defaults: Vec<Option<Given>>) -> Self {
        Self { defaults, ..self }
    }

    /// Where the field of this name is.
    pub(super) fn index_of(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Whether the last object has the field at `index`.
    pub(super) fn has(&self, index: usize) -> bool {
        self.given[index]
    }

    /// Adds an object; what it does not have is its default, or null.
    pub(super) fn append(
        &mut self,
        object: &[(impl AsRef<str>, Value<'_>)],
    ) -> Result<(), Refusal> {
        self.given.fill(false);
        for (name, value) in object {
            let name = name.as_ref();
            let Some(index) = self.by_name.get(name) else {
                return Err(Refusal::from(Reason::Unknown).below(name));
            };
            self.given[*index] = true;
            let appended = self.slots[*index].append(value);
            appended.map_err(|refusal| refusal.below(name))?;
        }
        let missing = self.given.iter().zip(&self.defaults);
        for (slot, (given, default)) in self.slots.iter_mut().zip(missing) {
            if !given {
                let value = default.as_ref().map_or(Value::Null, Given::value);
                let appended = slot.append(&value);
                appended.map_err(|refusal| refusal.below(slot.field.name()))?;
            }
        }
        Ok(())
    }

    /// Adds a row that gives `columns`, which are all of them, their values in order.
    pub(super) fn append_row<'a>(
        &mut self,
        columns: &[usize],
        values: impl Iterator<Item = Value<'a>>,
    ) -> Result<(), Refusal> {
        for (index, value) in columns.iter().zip(values) {
            let slot = &mut self.slots[*index];
            let appended = slot.append(&value);
            appended.map_err(|refusal| refusal.below(slot.field.name()))?;
        }
        Ok(())
    }

    /// The columns, in the order of the fields.
    pub(super) fn finish(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.slots.iter_mut().map(Slot::finish).collect()
    }
}

pub(super) struct Struct {
    members: Members,
    nulls: NullBufferBuilder,
    rows: usize,
}

impl Struct {
    pub(super) fn new(fields: &Fields) -> Self {
        Self {
            members: Members::new(fields),
            nulls: NullBufferBuilder::new(0),
            rows: 0,
        }
    }
}

impl Column for Struct {
    fn append(&mut self, value: &Value<'_>) -> Result<(), Refusal> {
        let Value::Object(object) = value else {
            return Err(Refusal::value(value, NOT_AN_OBJECT));
        };
        self.members.append(object)?;
        self.nulls.append_non_null();
        self.rows += 1;
        Ok(())
    }

    fn append_null(&mut self) {
        for slot in &mut self.members.slots {
            slot.column.append_null();
        }
        self.nulls.append_null();
        self.rows += 1;
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let rows = std::mem::take(&mut self.rows);
        let (fields, nulls) = (self.members.fields.clone(), self.nulls.finish());
        let columns = self.members.finish()?;
        let array = StructArray::try_new_with_length(fields, columns, nulls, rows)?;
        Ok(Arc::new(array))
    }
}

/// A JSON object whose names are values.
pub(super) struct Map {
    entries: FieldRef,
    ordered: bool,
    pairs: Members,
    rows: Rows,
}

impl Map {
    /// `None` where the keys are no texts, as names are.
    pub(super) fn new(entries: &FieldRef, ordered: bool) -> Option<Self> {
        let DataType::Struct(fields) = entries.data_type() else {
            return None;
        };
        let is_text = fields.first()?.data_type().is_string();
        (fields.len() == 2 && is_text).then_some(())?;
        Some(Self {
            entries: Arc::clone(entries),
            ordered,
            pairs: Members::new(fields),
            rows: Rows::new(),
        })
    }
}

impl Column for Map {
    fn append(&mut self, value: &Value<'_>) -> Result<(), Refusal> {
        let Value::Object(object) = value else {
            return Err(Refusal::value(value, NOT_AN_OBJECT));
        };
        for (name, value) in object {
            let pair = [Value::Field(name), value.clone()];
            let appended = self.pairs.append_row(&[0, 1], pair.into_iter());
            appended.map_err(|refusal| refusal.below(name))?;
        }
        self.rows.append(object.len());
        Ok(())
    }

    fn append_null(&mut self) {
        self.rows.append_null();
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let (offsets, nulls) = self.rows.finish();
        let pairs = StructArray::try_new(self.pairs.fields.clone(), self.pairs.finish()?, None)?;
        Ok(Arc::new(MapArray::try_new(
            Arc::clone(&self.entries),
            offsets,
            pairs,
            nulls,
            self.ordered,
        )?))
    }
}
