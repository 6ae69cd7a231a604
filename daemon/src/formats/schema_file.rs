//! The schema that a person writes for `squire create --schema FILE`.
//!
//! ```json
//! [{"name": "id", "type": "int64", "nullable": false},
//!  {"name": "price", "type": "decimal128<18,2>"},
//!  {"name": "embedding", "type": "fixed_size_list<float32,128>"},
//!  {"name": "items", "type": "list<struct<sku:utf8,count:int32>>"}]
//! ```
//!
//! [`type_name`] parses the types.

mod type_name;

use std::{collections::HashSet, io::ErrorKind, path::Path, sync::Arc};

use arrow::datatypes::{Field, Schema, SchemaRef};
use serde::Deserialize;

use crate::text_file;

pub(crate) use type_name::parse as parse_type;

use super::{
    FormatError,
    error::{named, short},
};

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
    let text = text_file::read(path).map_err(|source| match source.kind() {
        // Another file was meant.
        ErrorKind::InvalidInput | ErrorKind::FileTooLarge => refused(
            None,
            format!("{source}; give the file that describes the columns"),
        ),
        _ => FormatError::Io {
            path: path.into(),
            source,
        },
    })?;
    // As editors on Windows write it.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let lines: Vec<ColumnLine> = serde_json::from_str(text).map_err(|e| {
        let line = u64::try_from(e.line()).ok().filter(|line| *line > 0);
        let said = short(&e.to_string());
        let detail =
            format!("{said}; write a list of {{\"name\": ..., \"type\": ..., \"nullable\": ...}}");
        refused(line, detail)
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
                    "column {} appears more than once; rename or remove one",
                    named(&line.name)
                ),
            ));
        }
        let data_type = type_name::parse(&line.data_type)
            .map_err(|detail| refused(None, format!("column {}: {detail}", named(&line.name))))?;
        fields.push(Field::new(&line.name, data_type, line.nullable));
    }
    Ok(Arc::new(Schema::new(fields)))
}
