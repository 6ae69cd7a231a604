//! What a client asks about the server (`CommandGetSqlInfo`): ADBC's driver asks whether there are transactions.

use super::wire::FlightData;
use arrow::array::{
    ArrayRef, BooleanArray, Int32Array, Int64Array, RecordBatch, StringArray, UInt32Array,
    UnionArray, new_empty_array,
};
use arrow::buffer::ScalarBuffer;
use arrow::datatypes::{DataType, Field, Schema, UnionFields, UnionMode};
use arrow::error::ArrowError;
use arrow::ipc::writer::{DictionaryTracker, EncodedData, IpcDataGenerator, IpcWriteOptions};
use prost::bytes::Bytes;
use squire_engine::error::{Error, Result};
use std::sync::Arc;

/// The value of one piece of information.
#[derive(Clone, Copy)]
enum Value {
    Text(&'static str),
    Flag(bool),
    Number(i32),
}

/// What there is to know, by the numbers that Flight SQL gives it.
const FACTS: [(u32, Value); 9] = [
    (0, Value::Text("squire")),
    (1, Value::Text(env!("CARGO_PKG_VERSION"))),
    // Read only; SQL; Substrait.
    (3, Value::Flag(false)),
    (4, Value::Flag(false)),
    (5, Value::Flag(false)),
    // Transactions, but no savepoints.
    (8, Value::Number(1)),
    // Cancels a query.
    (9, Value::Flag(false)),
    // Takes rows, and takes them in transactions.
    (10, Value::Flag(true)),
    (11, Value::Flag(true)),
];

impl Value {
    /// Its place among the types that a value may have.
    fn kind(self) -> i8 {
        match self {
            Self::Text(_) => 0,
            Self::Flag(_) => 1,
            Self::Number(_) => 3,
        }
    }
}

/// The types that a value may have, as Flight SQL lists them.
fn kinds() -> UnionFields {
    let item = |data_type| Arc::new(Field::new_list_field(data_type, true));
    let numbers = DataType::List(item(DataType::Int32));
    let entry = vec![
        Field::new("key", DataType::Int32, false),
        Field::new("value", numbers, true),
    ];
    let entry = Field::new("entries", DataType::Struct(entry.into()), false);
    let fields = [
        ("string_value", DataType::Utf8),
        ("bool_value", DataType::Boolean),
        ("bigint_value", DataType::Int64),
        ("int32_bitmask", DataType::Int32),
        ("string_list", DataType::List(item(DataType::Utf8))),
        (
            "int32_to_int32_list_map",
            DataType::Map(Arc::new(entry), false),
        ),
    ];
    let fields = fields.into_iter().zip(0_i8..);
    fields
        .map(|((name, data_type), id)| (id, Arc::new(Field::new(name, data_type, true))))
        .collect()
}

fn columns() -> Schema {
    Schema::new(vec![
        Field::new("info_name", DataType::UInt32, false),
        Field::new("value", DataType::Union(kinds(), UnionMode::Dense), false),
    ])
}

fn batch(asked: &[u32]) -> Result<RecordBatch, ArrowError> {
    let facts = FACTS
        .iter()
        .filter(|(name, _)| asked.is_empty() || asked.contains(name));
    let (mut names, mut types, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
    let (mut texts, mut flags, mut numbers) = (Vec::new(), Vec::new(), Vec::new());
    for (name, value) in facts {
        names.push(*name);
        types.push(value.kind());
        let place = match *value {
            Value::Text(text) => push(&mut texts, text),
            Value::Flag(flag) => push(&mut flags, flag),
            Value::Number(number) => push(&mut numbers, number),
        };
        offsets.push(place);
    }
    let kinds = kinds();
    let mut children: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from(texts)),
        Arc::new(BooleanArray::from(flags)),
        Arc::new(Int64Array::from(Vec::<i64>::new())),
        Arc::new(Int32Array::from(numbers)),
    ];
    let rest = kinds.iter().skip(children.len());
    children.extend(rest.map(|(_, field)| new_empty_array(field.data_type())));
    let (types, offsets) = (ScalarBuffer::from(types), ScalarBuffer::from(offsets));
    let values = UnionArray::try_new(kinds, types, Some(offsets), children)?;
    let names = UInt32Array::from(names);
    RecordBatch::try_new(Arc::new(columns()), vec![Arc::new(names), Arc::new(values)])
}

/// Adds `value`, and gives its place.
fn push<T>(values: &mut Vec<T>, value: T) -> i32 {
    let place = i32::try_from(values.len()).unwrap_or(i32::MAX);
    values.push(value);
    place
}

fn message(encoded: EncodedData) -> FlightData {
    FlightData {
        flight_descriptor: None,
        data_header: encoded.ipc_message.into(),
        data_body: encoded.arrow_data.into(),
    }
}

fn encoded_schema(tracker: &mut DictionaryTracker) -> EncodedData {
    let options = IpcWriteOptions::default();
    IpcDataGenerator::default().schema_to_bytes_with_dictionary_tracker(
        &columns(),
        tracker,
        &options,
    )
}

/// The columns of the answer, as a message of a stream.
pub(super) fn schema() -> Result<Bytes> {
    let header = encoded_schema(&mut DictionaryTracker::new(true)).ipc_message;
    let piece = super::received::Piece {
        header: &header,
        body: &[],
    };
    Ok(piece.framed()?.into())
}

/// The answer, as messages of a stream; all there is to know when nothing is asked for.
pub(super) fn rows(asked: &[u32]) -> Result<Vec<FlightData>> {
    let broken = |e: ArrowError| Error::internal("the facts about the server").caused_by(e);
    let mut tracker = DictionaryTracker::new(true);
    let schema = encoded_schema(&mut tracker);
    let options = IpcWriteOptions::default();
    let batch = batch(asked).map_err(broken)?;
    let generator = IpcDataGenerator::default();
    let encoded = generator.encode(&batch, &mut tracker, &options, &mut Default::default());
    let (_, rows) = encoded.map_err(broken)?;
    Ok(vec![message(schema), message(rows)])
}
