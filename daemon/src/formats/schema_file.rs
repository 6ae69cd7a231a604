//! The schema that a person writes for `squire create --schema FILE`.
//!
//! ```json
//! [{"name": "id", "type": "int64", "nullable": false},
//!  {"name": "embedding", "type": "fixed_size_list<float32,128>"}]
//! ```

use std::{collections::HashSet, fs, path::Path, sync::Arc};

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use serde::Deserialize;

use super::FormatError;

/// The type names, as the error for a wrong one lists them.
const TYPE_NAMES: &str = "int8, int16, int32, int64, uint8, uint16, uint32, uint64, float32, float64, utf8, large_utf8, binary, \
                          bool, date32, timestamp_us, timestamp_us_utc, fixed_size_list<float32,N>";

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnLine {
    name: String,
    #[serde(rename = "type")]
    data_type: String,
    #[serde(default = "nullable_by_default")]
    nullable: bool,
}

/// Arrow's and SQL's own default.
fn nullable_by_default() -> bool {
    true
}

/// Reads a JSON list of `{"name", "type", "nullable"}` (nullable unless it says otherwise).
pub(crate) fn read_schema_file(path: &Path) -> Result<SchemaRef, FormatError> {
    let refused = |line, detail| FormatError::SchemaFile {
        path: path.into(),
        line,
        detail,
    };
    let text = fs::read_to_string(path).map_err(|source| FormatError::Io {
        path: path.into(),
        source,
    })?;
    let lines: Vec<ColumnLine> = serde_json::from_str(&text).map_err(|e| {
        let line = u64::try_from(e.line()).ok().filter(|line| *line > 0);
        refused(
            line,
            format!("{e}; write a list of {{\"name\": ..., \"type\": ..., \"nullable\": ...}}"),
        )
    })?;
    if lines.is_empty() {
        return Err(refused(
            None,
            "no columns; a table needs at least one".to_owned(),
        ));
    }
    let mut names = HashSet::new();
    let mut fields = Vec::with_capacity(lines.len());
    for line in &lines {
        if line.name.is_empty() {
            return Err(refused(
                None,
                "a column has an empty name; name it".to_owned(),
            ));
        }
        if !names.insert(&line.name) {
            return Err(refused(
                None,
                format!(
                    "column `{}` appears more than once; rename or remove one",
                    line.name
                ),
            ));
        }
        let Some(data_type) = parse_type(&line.data_type) else {
            let detail = format!(
                "column `{}`: unknown type `{}`; use one of {TYPE_NAMES}",
                line.name, line.data_type
            );
            return Err(refused(None, detail));
        };
        fields.push(Field::new(&line.name, data_type, line.nullable));
    }
    Ok(Arc::new(Schema::new(fields)))
}

fn parse_type(name: &str) -> Option<DataType> {
    let name = name.trim();
    if let Some(inner) = name
        .strip_prefix("fixed_size_list<")
        .and_then(|rest| rest.strip_suffix('>'))
    {
        let (item, size) = inner.rsplit_once(',')?;
        let item = parse_type(item).filter(DataType::is_primitive)?;
        let size = size.trim().parse::<i32>().ok().filter(|size| *size > 0)?;
        return Some(DataType::FixedSizeList(
            Arc::new(Field::new_list_field(item, true)),
            size,
        ));
    }
    Some(match name {
        "int8" => DataType::Int8,
        "int16" => DataType::Int16,
        "int32" => DataType::Int32,
        "int64" => DataType::Int64,
        "uint8" => DataType::UInt8,
        "uint16" => DataType::UInt16,
        "uint32" => DataType::UInt32,
        "uint64" => DataType::UInt64,
        "float32" => DataType::Float32,
        "float64" => DataType::Float64,
        "utf8" => DataType::Utf8,
        "large_utf8" => DataType::LargeUtf8,
        "binary" => DataType::Binary,
        "bool" => DataType::Boolean,
        "date32" => DataType::Date32,
        "timestamp_us" => DataType::Timestamp(TimeUnit::Microsecond, None),
        "timestamp_us_utc" => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        _ => return None,
    })
}
