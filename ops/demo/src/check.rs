//! The check at the end: the store against the source, row by row.
//!
//! Tables are compared as multisets of whole rows, in arrow's row format: no hash, no key, so that a
//! lost, doubled or changed row each shows.

use crate::error::{Context, DemoError, Result};
use crate::run::{Run, blocking, recover_leftovers};
use crate::{audit, terminal::Terminal};
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{SchemaRef, TimestampMillisecondType};
use arrow::row::{OwnedRow, RowConverter, SortField};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use indicatif::HumanCount;
use std::collections::HashMap;
use std::sync::Arc;

/// Rows that are shown of each kind of difference.
const SHOWN_ROWS: usize = 3;

/// Checks the first `hours` hours; says what holds, and returns what does not.
pub(crate) async fn check(run: &Run, hours: usize, terminal: &Terminal) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let [flights, weather, planes] = run.reader.rows(["flights", "weather", "planes"]).await?;
    let expected = [
        ("flights", run.source.departed(hours)?, flights),
        ("weather", run.source.observed(hours), weather),
        ("planes", run.source.planes.clone(), planes),
    ];
    for (table, expected, found) in &expected {
        let differences = blocking(|| compare(expected, found))?;
        if differences.is_empty() {
            let rows = HumanCount(expected.num_rows() as u64);
            terminal.say(format!(
                "  ok  {table}: each of {rows} rows is there exactly once"
            ));
        }
        wrong.extend(differences.into_iter().map(|d| format!("{table}: {d}")));
    }
    audit::once(run).await?;
    let counts = run.progress.counts();
    if counts.unsound.is_empty() {
        let (shown, snapshots) = (HumanCount(hours as u64), counts.whole_snapshots);
        terminal.say(format!(
            "  ok  each of {shown} hours is whole across both tables, here and in all {snapshots} snapshots taken on the way"
        ));
    }
    wrong.extend(counts.unsound);
    let changed = audit::read_first_again(run).await?;
    if changed.is_none() {
        terminal.say("  ok  the first snapshot of this run still shows what it showed");
    }
    wrong.extend(changed);
    let leftovers = recover_leftovers(run).await?;
    if leftovers.is_empty() {
        terminal.say("  ok  nothing is left undecided, no table has drifted");
    }
    wrong.extend(leftovers);
    Ok(wrong)
}

/// How often a row is expected, and found.
#[derive(Debug, Default, Clone, Copy)]
struct Seen {
    expected: usize,
    found: usize,
}

/// How many rows too few or too many.
type Excess = fn(Seen) -> usize;

/// What differs, in words.
fn compare(expected: &RecordBatch, found: &[RecordBatch]) -> Result<Vec<String>> {
    let schema = expected.schema();
    let fields = schema
        .fields()
        .iter()
        .map(|f| SortField::new(f.data_type().clone()))
        .collect();
    let what = || "cannot compare rows".to_owned();
    let converter = RowConverter::new(fields).context(what)?;
    let mut seen: HashMap<OwnedRow, Seen> = HashMap::with_capacity(expected.num_rows());
    let rows = converter
        .convert_columns(expected.columns())
        .context(what)?;
    for row in &rows {
        seen.entry(row.owned()).or_default().expected += 1;
    }
    for batch in found {
        let columns = match conform(batch, &schema) {
            Ok(columns) => columns,
            Err(e) => return Ok(vec![e.to_string()]),
        };
        let rows = converter.convert_columns(&columns).context(what)?;
        for row in &rows {
            seen.entry(row.owned()).or_default().found += 1;
        }
    }
    let kinds: [(&str, Excess); 3] = [
        ("missing", |s| s.expected.saturating_sub(s.found)),
        ("there more than once", |s| {
            if s.expected == 0 {
                0
            } else {
                s.found.saturating_sub(s.expected)
            }
        }),
        ("not in the source, or not yet deleted", |s| {
            if s.expected == 0 { s.found } else { 0 }
        }),
    ];
    let mut differences = Vec::new();
    for (kind, excess) in kinds {
        let rows: usize = seen.values().map(|s| excess(*s)).sum();
        if rows == 0 {
            continue;
        }
        let examples = seen
            .iter()
            .filter(|(_, s)| excess(**s) > 0)
            .take(SHOWN_ROWS);
        let examples: Vec<&OwnedRow> = examples.map(|(row, _)| row).collect();
        let shown = describe(&converter, &schema, &examples).context(what)?;
        differences.push(format!("{rows} rows are {kind}, such as {shown}"));
    }
    Ok(differences)
}

/// The columns of `batch` in the order and with the types of the source.
fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<Vec<ArrayRef>> {
    let mut columns = Vec::with_capacity(schema.fields().len());
    for field in schema.fields() {
        let Some(column) = batch.column_by_name(field.name()) else {
            return Err(DemoError::Failed(format!(
                "column {} is missing",
                field.name()
            )));
        };
        let cast = cast(column, field.data_type());
        columns.push(cast.context(|| format!("column {}", field.name()))?);
    }
    if batch.num_columns() != columns.len() {
        let names: Vec<String> = batch
            .schema()
            .fields()
            .iter()
            .map(|f| f.name().clone())
            .collect();
        return Err(DemoError::Failed(format!(
            "it has other columns: {}",
            names.join(", ")
        )));
    }
    Ok(columns)
}

fn describe(
    converter: &RowConverter,
    schema: &SchemaRef,
    rows: &[&OwnedRow],
) -> Result<String, arrow::error::ArrowError> {
    let mut columns = converter.convert_rows(rows.iter().map(|row| row.row()))?;
    for column in &mut columns {
        // Named time zones need a database to be shown; these are all UTC.
        if let Some(times) = column.as_primitive_opt::<TimestampMillisecondType>() {
            *column = Arc::new(times.clone().with_timezone_opt(None::<&str>));
        }
    }
    let options = FormatOptions::default().with_null("null");
    let mut shown = Vec::new();
    for row in 0..rows.len() {
        let mut cells = Vec::new();
        for (field, column) in schema.fields().iter().zip(&columns) {
            let cell = ArrayFormatter::try_new(column.as_ref(), &options)?;
            cells.push(format!("{}={}", field.name(), cell.value(row)));
        }
        shown.push(format!("({})", cells.join(" ")));
    }
    Ok(shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Float64Array, Int64Array, StringArray};

    fn rows(of: &[(i64, Option<&str>, f64)]) -> RecordBatch {
        let numbers = Int64Array::from_iter_values(of.iter().map(|r| r.0));
        let names: StringArray = of.iter().map(|r| r.1).collect();
        let values = Float64Array::from_iter_values(of.iter().map(|r| r.2));
        RecordBatch::try_from_iter_with_nullable([
            ("n", Arc::new(numbers) as ArrayRef, true),
            ("name", Arc::new(names), true),
            ("value", Arc::new(values), true),
        ])
        .unwrap()
    }

    const A: (i64, Option<&str>, f64) = (1, Some("a"), 0.5);
    const B: (i64, Option<&str>, f64) = (2, None, 1.5);

    #[test]
    fn equal_multisets_have_no_differences() {
        let found = [rows(&[B]), rows(&[A, B])];
        assert!(compare(&rows(&[A, B, B]), &found).unwrap().is_empty());
        assert!(compare(&rows(&[]), &[]).unwrap().is_empty());
    }

    #[test]
    fn missing_doubled_and_changed_rows_show() {
        let lost = compare(&rows(&[A, B]), &[rows(&[A])]).unwrap();
        assert_eq!(
            lost,
            ["1 rows are missing, such as (n=2 name=null value=1.5)"]
        );
        let doubled = compare(&rows(&[A, B]), &[rows(&[A, A, B])]).unwrap();
        assert_eq!(
            doubled,
            ["1 rows are there more than once, such as (n=1 name=a value=0.5)"]
        );
        let changed = compare(&rows(&[A]), &[rows(&[(1, Some("a"), 0.25)])]).unwrap();
        assert_eq!(changed.len(), 2, "{changed:?}");
    }

    #[test]
    fn other_columns_show() {
        let narrow = rows(&[A]).project(&[0, 1]).unwrap();
        assert_eq!(
            compare(&rows(&[A]), std::slice::from_ref(&narrow)).unwrap(),
            ["column value is missing"]
        );
        let wide = compare(&narrow, &[rows(&[A])]).unwrap();
        assert_eq!(wide, ["it has other columns: n, name, value"]);
    }
}
