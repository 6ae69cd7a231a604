//! Columns that this release of Lance cannot read, whatever stands in their files.
//!
//! It writes some types that it cannot read back, and older releases wrote others. That a file with such a column cannot be
//! read says nothing of the file. Whether it is the type is found by trying: a few rows of nulls are written in memory, in the
//! version of the format that the table has, and read as the table would be.

use crate::error::{Result, caught};
use arrow_array::{Int64Array, RecordBatch, RecordBatchIterator, new_null_array};
use arrow_schema::{DataType, Field, Schema};
use futures::TryStreamExt;
use lance::Dataset;
use lance::dataset::WriteParams;
use std::sync::Arc;

/// Rows that are tried.
const ROWS: usize = 3;

/// A column that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Unreadable {
    /// The column.
    pub column: String,
    /// Its type.
    pub data_type: String,
}

/// The columns of `dataset` whose types this release cannot read.
pub(super) async fn unreadable_columns(dataset: &Dataset) -> Vec<Unreadable> {
    let mut unreadable = Vec::new();
    for field in Schema::from(dataset.schema()).fields() {
        let trying = caught("trying a type", cannot_be_read(dataset, field));
        // What panics when it is read is no better; what cannot be tried is not known to be at fault.
        if trying.await.unwrap_or(false) {
            unreadable.push(Unreadable {
                column: field.name().clone(),
                data_type: short(field.data_type()),
            });
        }
    }
    unreadable
}

/// Whether rows of nulls in `field` come back. Beside another column: some types are read alone, and with no other.
async fn cannot_be_read(dataset: &Dataset, field: &Field) -> Result<bool> {
    let beside = Field::new("_beside", DataType::Int64, false);
    let nulls = field.clone().with_nullable(true);
    let schema = Arc::new(Schema::new(vec![beside, nulls]));
    let numbers = Int64Array::from_iter_values(0..ROWS as i64);
    let columns = vec![
        Arc::new(numbers) as _,
        new_null_array(field.data_type(), ROWS),
    ];
    let rows = RecordBatch::try_new(schema.clone(), columns);
    let version = dataset.manifest().data_storage_format.lance_file_format();
    let params = WriteParams {
        data_storage_version: Some(version.to_selector()),
        ..WriteParams::default()
    };
    let rows = RecordBatchIterator::new([rows], schema);
    let written = Dataset::write(rows, "memory://types", Some(params)).await;
    let written = match written {
        Ok(written) => written,
        // A type that this release does not know in this version of the format.
        Err(lance::Error::NotSupported { .. }) => return Ok(true),
        Err(e) => return Err(e.into()),
    };
    let read = caught("reading", async {
        let rows = written.scan().try_into_stream().await?;
        let rows: Vec<RecordBatch> = rows.try_collect().await?;
        Ok(rows.iter().map(RecordBatch::num_rows).sum::<usize>())
    });
    Ok(read.await.map_or(true, |rows| rows != ROWS))
}

/// A type without the names of its fields.
fn short(data_type: &DataType) -> String {
    match data_type {
        DataType::FixedSizeList(item, size) => {
            format!("fixed_size_list<{}, {size}>", short(item.data_type()))
        }
        DataType::List(item) | DataType::LargeList(item) => {
            format!("list<{}>", short(item.data_type()))
        }
        DataType::Struct(_) => String::from("struct"),
        DataType::Map(..) => String::from("map"),
        DataType::Dictionary(_, value) => format!("dictionary<{}>", short(value)),
        other => other.to_string().to_lowercase(),
    }
}
