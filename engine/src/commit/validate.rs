//! Checks of incoming rows against the table, before anything is written.

use crate::error::{Error, Result, quoted};
use crate::ids::{Key, TableName};
use arrow_array::cast::AsArray;
use arrow_array::types::{Float16Type, Float32Type, Float64Type};
use arrow_array::{Array, ArrayRef, ArrowPrimitiveType, RecordBatch};
use arrow_cast::display::array_value_to_string;
use arrow_row::{OwnedRow, RowConverter, SortField};
use arrow_schema::{DataType, Field, Schema};
use std::collections::HashSet;
use std::sync::Arc;

/// A new table must have columns that Lance can keep and its readers can name, the key among them.
pub(super) fn check_new(table: &TableName, schema: &Schema, key: Option<&Key>) -> Result<()> {
    if schema.fields().is_empty() {
        return Err(Error::invalid(format!(
            "table {table} would have no columns"
        )));
    }
    for column in schema.fields() {
        if lance_core::is_system_column(column.name()) {
            return Err(Error::invalid(format!(
                "table {table}: column {}: the name is Lance's own, and nobody could read the table; take another",
                quoted(column.name())
            )));
        }
        if column.name().contains('.') {
            return Err(Error::invalid(format!(
                "table {table}: column {}: a dot in the name of a column means a field of a struct to Lance; rename it",
                quoted(column.name())
            )));
        }
        let refused = Schema::new(vec![Arc::clone(column)])
            .flattened_fields()
            .into_iter()
            .find_map(|field| Some((field.name().clone(), why_not_kept(field)?)));
        let Some((field, why)) = refused else {
            continue;
        };
        let within = match field == *column.name() {
            true => String::new(),
            false => format!(", in it {}", quoted(&field)),
        };
        return Err(Error::invalid(format!(
            "table {table}: column {}{within}: {why}",
            quoted(column.name())
        )));
    }
    let mut keys = key.into_iter().flat_map(Key::columns);
    match keys.find(|key| schema.field_with_name(key).is_err()) {
        Some(key) => Err(Error::invalid(format!(
            "table {table}: the schema has no key column {key:?}"
        ))),
        None => Ok(()),
    }
}

/// Why no file can be written to a column with `field`, or none that everybody can read.
fn why_not_kept(field: &Field) -> Option<&'static str> {
    match field.data_type() {
        // Lance takes it for the quote that it is in paths of columns, and finds the column nowhere.
        _ if field.name().contains('`') => {
            Some("no column can be written whose name has a backtick; rename it")
        }
        // Readers in C and Python end at one, with their whole process.
        _ if field.name().contains('\0') => Some(
            "its name holds U+0000, which ends the process of every Arrow reader in C; if it comes from a text file, that is in UTF-16 or UTF-32: write it as UTF-8",
        ),
        _ if field.extension_type_name() == Some("arrow.json") => Some(
            "it is of the extension type arrow.json, which Lance stores as a type of its own that no file can be written to; give its type with --schema, such as string",
        ),
        _ if field.metadata().contains_key("lance-encoding:blob") => Some(
            "its metadata mark it as a blob (lance-encoding:blob), of which Lance makes a struct of data and uri that no file of binaries can be written to; leave the mark out",
        ),
        DataType::FixedSizeList(item, _) if !may_be_fixed(item) => Some(
            "it is a list of a fixed size, for whose items Lance has no encoding: they can be numbers, booleans, dates and times, binaries of a fixed size, or such lists, and no texts or structs; take a list of any size",
        ),
        DataType::Dictionary(_, values) if !may_be_in_dictionary(values) => Some(
            "it is a dictionary of values that Lance keeps in none: they can be texts, binaries, booleans, and numbers other than decimals; give the column the type of its values",
        ),
        _ if !is_compression_known(field) => Some(
            "its metadata name a compression (lance-encoding:compression) that Lance does not know: none, fsst, lz4 or zstd",
        ),
        DataType::Struct(fields)
            if is_packed(field) && !fields.iter().all(|f| may_be_packed(f)) =>
        {
            Some(
                "its metadata ask for a packed struct, for which each of its fields has to be required, and a number, a text, a binary, or a list of numbers of a fixed size; leave the metadata out",
            )
        }
        DataType::Interval(_)
        | DataType::Decimal32(..)
        | DataType::Decimal64(..)
        | DataType::ListView(_)
        | DataType::LargeListView(_)
        | DataType::Union(..)
        | DataType::RunEndEncoded(..) => Some("Lance has no such type; give it another one"),
        // Nor one of a list or struct that it is in.
        DataType::Struct(fields) if fields.is_empty() => Some(
            "it is a struct without fields, in which Lance keeps no null; leave it out, or give it a field",
        ),
        _ => None,
    }
}

/// Whether Lance can write a list of a fixed size of these items.
fn may_be_fixed(item: &Field) -> bool {
    use DataType as T;
    match item.data_type() {
        T::Null | T::Boolean | T::FixedSizeBinary(_) => true,
        // Its own items are looked at where it is met itself. Structs have files that nobody reads beside another column.
        T::FixedSizeList(..) => true,
        other => other.is_primitive(),
    }
}

/// Whether Lance has a name for a dictionary of these values: it is the name of their type within its own, and ends at a colon.
fn may_be_in_dictionary(values: &DataType) -> bool {
    use DataType as T;
    match values {
        T::Null | T::Boolean | T::Utf8 | T::LargeUtf8 | T::Binary | T::LargeBinary => true,
        other => other.is_integer() || other.is_floating(),
    }
}

fn is_compression_known(field: &Field) -> bool {
    let said = field.metadata().get("lance-encoding:compression");
    said.is_none_or(|said| ["none", "fsst", "lz4", "zstd"].contains(&said.as_str()))
}

/// Whether the fields of a struct are to be written as one; how Lance reads it.
fn is_packed(field: &Field) -> bool {
    let keys = ["packed", "lance-encoding:packed"];
    let mut said = keys.iter().filter_map(|key| field.metadata().get(*key));
    said.any(|said| said.eq_ignore_ascii_case("true"))
}

fn may_be_packed(field: &Field) -> bool {
    use DataType as T;
    let is_simple = match field.data_type() {
        T::FixedSizeList(item, _) => item.data_type().is_primitive(),
        T::FixedSizeBinary(_) => true,
        other => other.is_primitive() || other.is_string() || other.is_binary(),
    };
    is_simple && !field.is_nullable()
}

/// The batches must have the table's columns, types and nullability, in any order.
pub(super) fn check_schema(
    table: &TableName,
    expected: &Schema,
    batches: &[RecordBatch],
) -> Result<()> {
    for batch in batches {
        let found = batch.schema();
        for field in expected.fields() {
            let Ok(other) = found.field_with_name(field.name()) else {
                return Err(Error::invalid(format!(
                    "table {table}: the rows have no column {:?}",
                    field.name()
                )));
            };
            if !other.data_type().equals_datatype(field.data_type()) {
                return Err(Error::invalid(format!(
                    "table {table}: column {:?} is {} in the table and {} in the rows",
                    field.name(),
                    field.data_type(),
                    other.data_type()
                )));
            }
            let nulls = batch
                .column_by_name(field.name())
                .map_or(0, |c| c.null_count());
            if nulls > 0 && !field.is_nullable() {
                return Err(Error::invalid(format!(
                    "table {table}: column {:?} may not be null, but {nulls} rows have no value",
                    field.name()
                )));
            }
        }
        if let Some(extra) = found
            .fields()
            .iter()
            .find(|f| expected.field_with_name(f.name()).is_err())
        {
            return Err(Error::invalid(format!(
                "table {table} has no column {:?}, but the rows do",
                extra.name()
            )));
        }
    }
    Ok(())
}

/// The rows in the table's column order and with its fields.
pub(super) fn conform(
    table: &TableName,
    expected: &Schema,
    batches: &[RecordBatch],
) -> Result<Vec<RecordBatch>> {
    check_schema(table, expected, batches)?;
    let schema = Arc::new(expected.clone());
    batches
        .iter()
        .map(|batch| {
            let columns = expected
                .fields()
                .iter()
                .filter_map(|f| batch.column_by_name(f.name()).cloned())
                .collect();
            RecordBatch::try_new(schema.clone(), columns).map_err(|e| {
                Error::invalid(format!("table {table}: rows do not fit the table")).caused_by(e)
            })
        })
        .collect()
}

/// The key's columns must exist, and hold no null, no values twice, and nothing that equals what it is not.
pub(super) fn check_key(table: &TableName, key: &Key, batches: &[RecordBatch]) -> Result<()> {
    let mut seen: HashSet<OwnedRow> = HashSet::new();
    let mut converter = None;
    for batch in batches {
        let columns = key.columns().iter();
        let columns = columns.map(|name| key_column(table, name, batch));
        let columns: Vec<ArrayRef> = columns.collect::<Result<_>>()?;
        let unfit =
            |e| Error::invalid(format!("table {table}: {key} cannot be a key")).caused_by(e);
        let converter = match &mut converter {
            Some(converter) => converter,
            none => {
                let types = columns.iter().map(|column| column.data_type().clone());
                let fields = types.map(SortField::new).collect();
                none.insert(RowConverter::new(fields).map_err(unfit)?)
            }
        };
        let rows = converter.convert_columns(&columns).map_err(unfit)?;
        for (index, row) in rows.iter().enumerate() {
            if !seen.insert(row.owned()) {
                let pairs = key.columns().iter().zip(&columns);
                let pairs =
                    pairs.map(|(name, values)| format!("{name} = {}", shown(values, index)));
                return Err(Error::invalid(format!(
                    "table {table}: key {} stands twice in one batch",
                    pairs.collect::<Vec<_>>().join(", ")
                )));
            }
        }
    }
    Ok(())
}

/// A column of a key, which may tell rows apart.
fn key_column(table: &TableName, name: &str, batch: &RecordBatch) -> Result<ArrayRef> {
    let column = batch.column_by_name(name).ok_or_else(|| {
        Error::invalid(format!(
            "table {table}: the rows have no key column {name:?}"
        ))
    })?;
    // Those behind a dictionary's keys, and of a column of nothing else, too.
    let nulls = column.logical_null_count();
    if nulls > 0 {
        return Err(Error::invalid(format!(
            "table {table}: key column {name:?} is null in {nulls} rows"
        )));
    }
    if let Some(float) = odd_float(column.as_ref()) {
        return Err(Error::invalid(format!(
            "table {table}: key column {name:?} holds {float}; write 0 for -0, and give rows without a number another key"
        )));
    }
    Ok(column.clone())
}

/// One value, for people.
pub(super) fn shown(column: &ArrayRef, row: usize) -> String {
    if column.is_null(row) {
        return String::from("null");
    }
    let text = array_value_to_string(column, row).unwrap_or_default();
    match column.data_type().is_string() || column.data_type().is_binary() {
        true => quoted(&text),
        false => text,
    }
}

/// A number in `array`, within lists and structs too, that equals another of other bits, or not even itself: SQL takes -0
/// for 0 where a merge, which compares bits, does not, and every NaN is another.
fn odd_float(array: &dyn Array) -> Option<&'static str> {
    fn odd<T: ArrowPrimitiveType>(
        array: &dyn Array,
        of: impl Fn(T::Native) -> f64,
    ) -> Option<&'static str> {
        array
            .as_primitive::<T>()
            .iter()
            .flatten()
            .find_map(|value| match of(value) {
                value if value.is_nan() => Some("NaN, which equals nothing"),
                value if value == 0.0 && value.is_sign_negative() => Some("-0, which equals 0"),
                _ => None,
            })
    }
    match array.data_type() {
        DataType::Float16 => odd::<Float16Type>(array, f64::from),
        DataType::Float32 => odd::<Float32Type>(array, f64::from),
        DataType::Float64 => odd::<Float64Type>(array, f64::from),
        DataType::Struct(_) => {
            let columns = array.as_struct().columns();
            columns.iter().find_map(|column| odd_float(column.as_ref()))
        }
        DataType::List(_) => odd_in(array.as_list::<i32>().iter()),
        DataType::LargeList(_) => odd_in(array.as_list::<i64>().iter()),
        DataType::FixedSizeList(_, _) => odd_in(array.as_fixed_size_list().iter()),
        DataType::Dictionary(_, _) => odd_float(array.as_any_dictionary_opt()?.values().as_ref()),
        _ => None,
    }
}

fn odd_in(lists: impl Iterator<Item = Option<ArrayRef>>) -> Option<&'static str> {
    let mut lists = lists.flatten();
    lists.find_map(|list| odd_float(list.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::{check_key, check_new};
    use crate::error::quoted;
    use crate::ids::TableName;
    use arrow_array::builder::{Int64Builder, ListBuilder};
    use arrow_array::{
        ArrayRef, DictionaryArray, Float64Array, Int32Array, NullArray, RecordBatch, StringArray,
    };
    use arrow_schema::{DataType, Field, Schema};
    use std::sync::Arc;

    fn refusal(key: ArrayRef) -> Option<String> {
        let batch = RecordBatch::try_from_iter_with_nullable([("k", key, true)]).unwrap();
        let checked = check_key(
            &TableName::new("t").unwrap(),
            &"k".parse().unwrap(),
            &[batch],
        );
        checked.err().map(|e| e.to_string())
    }

    #[test]
    fn nulls_are_found_where_they_hide() {
        let values: ArrayRef = Arc::new(StringArray::from(vec![Some("a"), None]));
        let keys = Int32Array::from(vec![0, 1]);
        let dictionary: ArrayRef = Arc::new(DictionaryArray::try_new(keys, values).unwrap());
        for (key, nulls) in [
            (dictionary, "null in 1"),
            (Arc::new(NullArray::new(2)), "null in 2"),
        ] {
            let refused = refusal(key).unwrap();
            assert!(refused.contains(nulls), "{refused}");
        }
    }

    #[test]
    fn a_number_that_is_not_what_it_equals_is_no_key() {
        let floats = |values: Vec<f64>| -> ArrayRef { Arc::new(Float64Array::from(values)) };
        assert_eq!(refusal(floats(vec![0.0, 1.5, f64::INFINITY])), None);
        assert!(
            refusal(floats(vec![1.0, -0.0]))
                .unwrap()
                .contains("-0, which equals 0")
        );
        assert!(refusal(floats(vec![f64::NAN])).unwrap().contains("NaN"));
    }

    #[test]
    fn keys_that_only_look_the_same_are_two() {
        let mut lists = ListBuilder::new(Int64Builder::new());
        lists.append_value([None]);
        lists.append_value([] as [Option<i64>; 0]);
        assert_eq!(refusal(Arc::new(lists.finish())), None);
        let twice = refusal(Arc::new(StringArray::from(vec!["a", "b", "a"]))).unwrap();
        assert!(twice.contains("\"a\" stands twice"), "{twice}");
    }

    #[test]
    fn columns_of_a_key_tell_rows_apart_together() {
        let batch = |a: &[i32], b: Vec<Option<&str>>| {
            let a: ArrayRef = Arc::new(Int32Array::from(a.to_vec()));
            let b: ArrayRef = Arc::new(StringArray::from(b));
            RecordBatch::try_from_iter_with_nullable([("a", a, true), ("b", b, true)]).unwrap()
        };
        let told = |rows: RecordBatch| {
            let table = TableName::new("t").unwrap();
            let checked = check_key(&table, &"a,b".parse().unwrap(), &[rows]);
            checked.err().map(|e| e.to_string()).unwrap_or_default()
        };
        assert_eq!(told(batch(&[1, 1], vec![Some("x"), Some("y")])), "");
        let twice = told(batch(&[1, 1], vec![Some("x"), Some("x")]));
        assert!(twice.contains("a = 1, b = \"x\" stands twice"), "{twice}");
        let null = told(batch(&[1, 1], vec![Some("x"), None]));
        assert!(null.contains("\"b\" is null in 1"), "{null}");
    }

    fn fixed(item: DataType) -> DataType {
        DataType::FixedSizeList(Arc::new(Field::new("item", item, true)), 2)
    }

    fn list(item: DataType) -> DataType {
        DataType::List(Arc::new(Field::new("item", item, true)))
    }

    fn structure(field: DataType, nullable: bool) -> DataType {
        DataType::Struct(vec![Field::new("f", field, nullable)].into())
    }

    fn marked(data_type: DataType, key: &str, value: &str) -> Field {
        let mark = (key.to_owned(), value.to_owned());
        Field::new("marked", data_type, true).with_metadata([mark].into())
    }

    /// Of which Lance makes no file, and ends with a panic now and then.
    fn without_encoding() -> Vec<(Field, &'static str)> {
        use DataType as T;
        let words = T::Dictionary(Box::new(T::Int8), Box::new(T::Utf8));
        let fixed = [
            T::Utf8,
            T::LargeUtf8,
            T::Binary,
            words,
            list(T::Int64),
            structure(T::Int64, true),
            fixed(structure(T::Int64, true)),
            structure(list(T::Int64), true),
            structure(structure(list(T::Int64), true), true),
        ]
        .map(|item| (Field::new("v", fixed(item), true), "list of a fixed size"));
        let packed = [
            structure(T::Int64, true),
            structure(T::Boolean, false),
            structure(list(T::Int64), false),
            structure(structure(T::Int64, false), false),
        ]
        .map(|of| (marked(of, "packed", "True"), "packed struct"));
        let dictionary = |values| T::Dictionary(Box::new(T::Int8), Box::new(values));
        let dictionaries = [
            T::FixedSizeBinary(3),
            T::Decimal128(5, 2),
            T::Date32,
            T::Timestamp(arrow_schema::TimeUnit::Second, None),
            structure(T::Int64, true),
            list(T::Int64),
            self::fixed(T::Float32),
            dictionary(T::Utf8),
        ]
        .map(|values| (Field::new("d", dictionary(values), true), "a dictionary of"));
        let bogus = marked(T::Utf8, "lance-encoding:compression", "bogus");
        let blob = marked(T::LargeBinary, "lance-encoding:blob", "false");
        let interval = T::Interval(arrow_schema::IntervalUnit::DayTime);
        let interval = Field::new("i", interval, true);
        let last = [
            (blob, "a blob"),
            (interval, "no such type"),
            (bogus, "a compression"),
        ];
        let nested = fixed.into_iter().chain(dictionaries);
        nested.chain(packed).chain(last).collect()
    }

    /// What is written and read.
    fn with_encoding() -> Vec<Field> {
        use DataType as T;
        let items = [
            T::Boolean,
            T::Float32,
            T::Decimal128(5, 2),
            T::FixedSizeBinary(3),
            fixed(T::Boolean),
        ];
        let fixed = items.map(|item| Field::new("v", fixed(item), true));
        let packed = [T::Int64, T::Utf8, self::fixed(T::Float32)];
        let packed = packed.map(|of| marked(structure(of, false), "lance-encoding:packed", "true"));
        let plain = marked(structure(T::Int64, true), "packed", "false");
        let values = [T::Null, T::Boolean, T::Utf8, T::LargeBinary, T::Float16];
        let dictionaries = values.map(|values| {
            let dictionary = T::Dictionary(Box::new(T::Int64), Box::new(values));
            Field::new("d", dictionary, true)
        });
        let pressed = ["none", "zstd"].map(|by| marked(T::Utf8, "lance-encoding:compression", by));
        let fields = fixed.into_iter().chain(packed).chain([plain]);
        let fields = fields.chain(dictionaries).chain(pressed).enumerate();
        fields
            .map(|(n, field)| field.with_name(format!("c{n}")))
            .collect()
    }

    /// At the top, in a struct, in a list.
    #[test]
    fn a_column_that_could_not_be_written_is_refused_by_name_when_it_is_created() {
        let json = ("ARROW:extension:name".to_owned(), "arrow.json".to_owned());
        let bad = [
            (Field::new("a\0b", DataType::Utf8, true), "U+0000"),
            (Field::new("a`b", DataType::Utf8, true), "backtick"),
            (
                Field::new("j", DataType::Utf8, true).with_metadata([json].into()),
                "arrow.json",
            ),
            (
                Field::new("e", DataType::Struct(Vec::<Field>::new().into()), true),
                "struct without fields",
            ),
        ];
        let table = TableName::new("t").unwrap();
        let good = Field::new("id", DataType::Int64, true);
        let bad = bad.into_iter().chain(without_encoding());
        for (field, why) in bad {
            let fields = vec![good.clone(), field.clone()].into();
            let outer = Field::new("outer", DataType::Struct(fields), true);
            let item = Arc::new(outer.clone().with_name("item"));
            let list = Field::new("list", DataType::List(item), true);
            for column in [field, outer, list] {
                let name = quoted(column.name());
                let schema = Schema::new(vec![good.clone(), column]);
                let refused = check_new(&table, &schema, None).unwrap_err().to_string();
                assert!(
                    refused.contains(why) && refused.contains(&name),
                    "{refused}"
                );
                assert!(!refused.contains('\0'), "{refused:?}");
            }
        }
        let dotted = Schema::new(vec![Field::new("a.b", DataType::Int64, true)]);
        let refused = check_new(&table, &dotted, None).unwrap_err().to_string();
        assert!(refused.contains("\"a.b\": a dot"), "{refused}");
        let schema = Schema::new([vec![good], with_encoding()].concat());
        for (key, is_good) in [("id", true), ("x", false), ("id,x", false)] {
            let key = key.parse().unwrap();
            assert_eq!(
                check_new(&table, &schema, Some(&key)).is_ok(),
                is_good,
                "{key}"
            );
        }
    }
}
