//! Deletes by a predicate. What may delete, `predicate` says by its text, and this by the table.

use super::predicate;
use super::refusal::unless_it_cannot_run;
use super::stage::{RowCounts, Staged};
use crate::error::{Error, Result};
use arrow_schema::{DataType, TimeUnit};
use lance::dataset::{Dataset, DeleteBuilder};
use lance::deps::datafusion::logical_expr::Expr;
use lance_core::{
    ROW_ADDR, ROW_CREATED_AT_VERSION, ROW_ID, ROW_LAST_UPDATED_AT_VERSION, ROW_OFFSET,
};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// What Lance calls where a row lies, and when it came: no column of anybody's.
const POSITIONS: [&str; 5] = [
    ROW_ID,
    ROW_ADDR,
    ROW_OFFSET,
    ROW_CREATED_AT_VERSION,
    ROW_LAST_UPDATED_AT_VERSION,
];

/// How values are written that Lance's planner does not take as they stand.
const LITERALS: &str = "write a time as timestamp '2024-01-31T12:00:00', a day as date '2024-01-31', and a decimal as cast('1.24' as decimal(10, 2))";

/// `predicate` as it runs on `dataset`.
pub(super) fn runnable(dataset: &Dataset, predicate: &str) -> Result<String> {
    let whole = predicate::whole(predicate)?;
    let expression = planned(dataset, &whole)?;
    if expression.is_volatile() {
        return Err(Error::invalid(
            "it says something else each time that it is asked, of which nobody can say which rows it took; write the values that are meant",
        ));
    }
    let columns = expression.column_refs().into_iter();
    let columns: Vec<String> = columns.map(|column| column.name.clone()).collect();
    check_times(dataset, predicate, &columns)?;
    let reads = columns
        .iter()
        .any(|column| !POSITIONS.contains(&column.as_str()));
    if !reads && !predicate::means_every_row(predicate) {
        return Err(Error::invalid(
            "it reads no column of the table, so it means every row, none, or whatever stands at a place now; name a column, or write true to delete every row",
        ));
    }
    Ok(whole)
}

/// What a predicate means for `dataset`. Lance reports one that does not parse as an execution error; asking the planner first
/// tells bad input from bad storage.
pub(super) fn planned(dataset: &Dataset, whole: &str) -> Result<Expr> {
    let unfit = || Error::invalid("the predicate does not fit the table");
    let planned = catch_unwind(AssertUnwindSafe(|| {
        let mut scan = dataset.scan();
        scan.filter(whole)?.get_expr_filter()
    }));
    let expression = match planned {
        Ok(planned) => planned.map_err(|e| match e.to_string().contains("Received literal") {
            true => unfit().advice(LITERALS).caused_by(e),
            false => unfit().caused_by(e),
        })?,
        // Lance has not written out every kind of literal.
        Err(_) => {
            return Err(
                unfit().context("placeholders and literals with a prefix are not supported")
            );
        }
    };
    expression.ok_or_else(|| Error::internal("a predicate is no filter"))
}

/// Refuses a point in time that Lance's planner takes for another than the one that is written: one that is finer than one of
/// `columns` keeps, one with an offset for a column without a zone, and any for a column of a zone other than UTC, where it would be
/// the wall clock's.
fn check_times(dataset: &Dataset, predicate: &str, columns: &[String]) -> Result<()> {
    let digits = predicate::digits_of_second(predicate);
    for column in columns {
        let data_type = dataset
            .schema()
            .field(column)
            .map(|field| field.data_type());
        let Some(DataType::Timestamp(unit, zone)) = data_type else {
            continue;
        };
        let kept = match unit {
            TimeUnit::Second => 0,
            TimeUnit::Millisecond => 3,
            TimeUnit::Microsecond => 6,
            TimeUnit::Nanosecond => 9,
        };
        match &zone {
            None if predicate::has_offset(predicate) => {
                return Err(Error::invalid(format!(
                    "a time in the predicate has an offset, and column {column} has no time zone, so it would be taken for another; write it without one"
                )));
            }
            Some(zone) if !is_utc(zone) && predicate::has_time(predicate) => {
                return Err(Error::invalid(format!(
                    "column {column} has the time zone {zone}, where Lance takes a time in a predicate for that of the wall clock, whatever offset it has; write it as arrow_cast('2024-01-31T12:00:00Z', 'Timestamp({unit:?}, Some(\"UTC\"))'), which means what it says"
                )));
            }
            _ => {}
        }
        if digits > kept {
            return Err(Error::invalid(format!(
                "a time in the predicate has {digits} digits behind the second, and column {column} keeps {kept}: no row is at that time; write a time that the column can hold"
            )));
        }
    }
    Ok(())
}

fn is_utc(zone: &str) -> bool {
    let zone = zone.to_ascii_uppercase();
    matches!(
        zone.as_str(),
        "UTC" | "Z" | "+00:00" | "-00:00" | "+0000" | "ETC/UTC" | "GMT"
    )
}

pub(super) async fn delete(dataset: Arc<Dataset>, runnable: String) -> Result<Staged> {
    let deleted = DeleteBuilder::new(dataset, runnable.as_str())
        .conflict_retries(0)
        .execute_uncommitted()
        .await
        .map_err(|e| unless_it_cannot_run(e, &runnable))?;
    let rows = RowCounts {
        deleted: deleted.num_deleted_rows,
        ..RowCounts::default()
    };
    Ok(Staged {
        affected_rows: deleted.affected_rows,
        ..Staged::new(deleted.transaction.operation, rows)
    })
}
