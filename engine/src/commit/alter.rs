//! Changes of columns: what may be changed, and the version that does it.
//!
//! Lance builds the version in a rehearsal; what it would commit there is what is staged. A column that is added is null in
//! every row, and one that is dropped or renamed stays where it is: no file is written. A column that is widened is written
//! anew beside the others, and read back next to the old one.
//!
//! What refers to a column by its name does not follow it: a key, and a declared index, are in the way. So is an index that
//! was only built, unless the column is renamed: Lance's indexes know a column by its number.

use super::stage::{RowCounts, Staged, Write};
use super::validate::check_new;
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::ids::{Key, TableName};
use crate::store::{State, Store};
use arrow_array::ArrayRef;
use arrow_cast::cast;
use arrow_schema::{DataType, Field as ArrowField, Schema as ArrowSchema};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use lance::Dataset;
use lance::dataset::transaction::Operation;
use lance::dataset::{ColumnAlteration, NewColumnTransform};
use lance::datatypes::{Field, Schema, format_field_path, parse_field_path};
use lance::index::DatasetIndexExt;
use std::fmt;
use std::sync::Arc;

/// A change of one column. A column within others is named by its path, `address.city`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alteration {
    /// Adds a column that is null in every row.
    Add {
        /// Its name, or its path into a struct that is there.
        column: String,
        /// Its type.
        data_type: DataType,
    },
    /// Takes a column away.
    Drop {
        /// The column.
        column: String,
    },
    /// Gives a column another name.
    Rename {
        /// The column.
        column: String,
        /// Its new name, without the path to it.
        name: String,
    },
    /// Gives a column a type that holds all values of the one it has.
    Widen {
        /// The column.
        column: String,
        /// Its new type.
        data_type: DataType,
    },
}

impl Alteration {
    /// The column, as it is called before; one that is added, as it will be.
    pub fn column(&self) -> &str {
        match self {
            Self::Add { column, .. }
            | Self::Drop { column }
            | Self::Rename { column, .. }
            | Self::Widen { column, .. } => column,
        }
    }

    fn verb(&self) -> &'static str {
        match self {
            Self::Add { .. } => "added",
            Self::Drop { .. } => "dropped",
            Self::Rename { .. } => "renamed",
            Self::Widen { .. } => "widened",
        }
    }
}

impl fmt::Display for Alteration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Add { column, data_type } => write!(f, "add {column} {data_type}"),
            Self::Drop { column } => write!(f, "drop {column}"),
            Self::Rename { column, name } => write!(f, "rename {column} {name}"),
            Self::Widen { column, data_type } => write!(f, "widen {column} {data_type}"),
        }
    }
}

/// Refuses to change a column under a key or a declared index, which name it.
pub(super) fn check_uses(state: &State, table: &TableName, write: &Write) -> Result<()> {
    let is_named = |alteration: &&Alteration| !matches!(alteration, Alteration::Add { .. });
    let mut alterations = write.alterations().iter().filter(is_named);
    alterations.try_for_each(|alteration| check_use(state, table, alteration))
}

fn check_use(state: &State, table: &TableName, alteration: &Alteration) -> Result<()> {
    let (column, verb) = (alteration.column(), alteration.verb());
    let mut key = state.table(table)?.key.iter().flat_map(Key::columns);
    if key.any(|key| overlap(key, column)) {
        return Err(Error::new(
            ErrorKind::Refused,
            format!(
                "table {table}: column {} is its key, or in it, by which rows are merged, and cannot be {verb}",
                quoted(column)
            ),
        ));
    }
    let mut declared = state.indexes_of(table);
    match declared.find(|(_, index)| overlap(&index.column, column)) {
        Some((name, index)) => Err(indexed(table, &index.column, name, verb)),
        None => Ok(()),
    }
}

fn indexed(table: &TableName, column: &str, index: &str, verb: &str) -> Error {
    Error::new(
        ErrorKind::Refused,
        format!(
            "table {table}: column {} has the index {index}, so it cannot be {verb}; withdraw that first (`squire index STORE {table} {column} --withdraw --name {index}`) and declare it anew afterwards",
            quoted(column)
        ),
    )
}

/// Whether two paths name the same column, or one that lies within the other.
fn overlap(a: &str, b: &str) -> bool {
    match (parse_field_path(a), parse_field_path(b)) {
        (Ok(a), Ok(b)) => a.starts_with(&b) || b.starts_with(&a),
        _ => a == b,
    }
}

/// Checks `alteration` of `on`. Nothing is put.
pub(super) async fn check(on: &Dataset, table: &TableName, alteration: &Alteration) -> Result<()> {
    let schema = on.schema();
    match alteration {
        Alteration::Add { column, data_type } => {
            let (parents, name) = split(table, column)?;
            for depth in 1..=parents.len() {
                let parent = path_of(&parents[..depth]);
                if !matches!(
                    find(schema, table, &parent)?.data_type(),
                    DataType::Struct(_)
                ) {
                    return Err(Error::invalid(format!(
                        "table {table}: column {} is no struct, so no column can be added to it",
                        quoted(&parent)
                    )));
                }
            }
            check_free(schema, table, &parents, &name)?;
            check_new(table, &addition(table, column, data_type)?, None)
        }
        Alteration::Drop { column } => {
            let field = find(schema, table, column)?;
            let (parents, _) = split(table, column)?;
            let parent = schema.field(&path_of(&parents));
            if parent.is_some_and(|parent| parent.children.len() == 1) {
                return Err(Error::invalid(format!(
                    "table {table}: column {} is all that {} has; drop that one",
                    quoted(column),
                    quoted(&parents.join("."))
                )));
            }
            let told = |e| Error::from(e).context(format!("table {table}: {}", quoted(column)));
            on.plan_drop_columns(&[column.as_str()]).map_err(told)?;
            check_unindexed(on, table, field, alteration).await
        }
        Alteration::Rename { column, name } => {
            find(schema, table, column)?;
            if name.is_empty() || name.contains('.') {
                return Err(Error::invalid(format!(
                    "{} is no name of a column; give the new name alone, without the path to it",
                    quoted(name)
                )));
            }
            let (parents, _) = split(table, column)?;
            check_free(schema, table, &parents, name)?;
            let renamed = ArrowField::new(name, DataType::Null, true);
            check_new(table, &ArrowSchema::new(vec![renamed]), None)
        }
        Alteration::Widen { column, data_type } => {
            let field = find(schema, table, column)?;
            if field.data_type() == *data_type {
                return Err(Error::invalid(format!(
                    "table {table}: column {} is {data_type} already; there is nothing to widen",
                    quoted(column)
                )));
            }
            if !is_wider(&field.data_type(), data_type) {
                return Err(Error::invalid(format!(
                    "table {table}: column {} is {}, and not every value of that is one of {data_type}: integers widen to larger ones (unsigned also to larger signed), float16 to 32 to 64, decimals to more digits on both sides, utf8 and binary to their large kinds",
                    quoted(column),
                    field.data_type()
                )));
            }
            check_unindexed(on, table, field, alteration).await
        }
    }
}

fn find<'a>(schema: &'a Schema, table: &TableName, column: &str) -> Result<&'a Field> {
    schema.field(column).ok_or_else(|| {
        let known: Vec<&str> = schema.fields.iter().map(|f| f.name.as_str()).collect();
        Error::invalid(format!(
            "table {table} has no column {}; it has: {}",
            quoted(column),
            known.join(", ")
        ))
    })
}

/// A path as the columns around a column, and its own name.
fn split(table: &TableName, path: &str) -> Result<(Vec<String>, String)> {
    let unfit = || Error::invalid(format!("table {table}: {} names no column", quoted(path)));
    let mut parts = parse_field_path(path).map_err(|e| unfit().caused_by(e))?;
    match parts.pop() {
        Some(name) if !name.is_empty() => Ok((parts, name)),
        _ => Err(unfit()),
    }
}

fn path_of(parts: &[String]) -> String {
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    format_field_path(&parts)
}

fn check_free(schema: &Schema, table: &TableName, parents: &[String], name: &str) -> Result<()> {
    let mut path = parents.to_vec();
    path.push(name.to_owned());
    match schema.field(&path_of(&path)) {
        Some(field) => Err(Error::invalid(format!(
            "table {table} has a column {} already, of type {}",
            quoted(&path.join(".")),
            field.data_type()
        ))),
        None => Ok(()),
    }
}

/// The columns that Lance shall add: the one at `path`, within those around it.
fn addition(table: &TableName, path: &str, data_type: &DataType) -> Result<ArrowSchema> {
    let (parents, name) = split(table, path)?;
    let column = ArrowField::new(name, data_type.clone(), true);
    let column = parents.into_iter().rev().fold(column, |within, parent| {
        ArrowField::new(parent, DataType::Struct(vec![within].into()), true)
    });
    Ok(ArrowSchema::new(vec![column]))
}

async fn check_unindexed(
    on: &Dataset,
    table: &TableName,
    field: &Field,
    alteration: &Alteration,
) -> Result<()> {
    let schema = on.schema().project_by_ids(&[field.id], true);
    let within: Vec<i32> = schema.fields_pre_order().map(|field| field.id).collect();
    let indexes = on.load_indices().await?;
    let over = |fields: &[i32]| fields.iter().find(|id| within.contains(id)).copied();
    let found = indexes
        .iter()
        .find_map(|index| Some((index, over(&index.fields)?)));
    match found {
        Some((index, id)) => {
            let column = on.schema().field_path_minimal(id)?;
            Err(indexed(table, &column, &index.name, alteration.verb()))
        }
        None => Ok(()),
    }
}

/// Whether `to` is another type than `from` and holds each of its values.
pub fn is_wider(from: &DataType, to: &DataType) -> bool {
    use DataType as T;
    let bits = |data_type: &DataType| data_type.primitive_width().unwrap_or(0);
    match (from, to) {
        (from, to) if from.is_integer() && to.is_integer() => {
            let keeps_sign = from.is_signed_integer() == to.is_signed_integer();
            bits(to) > bits(from) && (keeps_sign || to.is_signed_integer())
        }
        (from, to) if from.is_floating() && to.is_floating() => bits(to) > bits(from),
        (T::Utf8, T::LargeUtf8) | (T::Binary, T::LargeBinary) => true,
        (T::Decimal128(p, s), T::Decimal128(to_p, to_s) | T::Decimal256(to_p, to_s))
        | (T::Decimal256(p, s), T::Decimal256(to_p, to_s)) => {
            let before = |p: u8, s: i8| i16::from(p) - i16::from(s);
            from != to && to_s >= s && before(*to_p, *to_s) >= before(*p, *s)
        }
        _ => false,
    }
}

impl Store {
    /// Stages `alteration`, which was checked, of `table`, the dataset at `path`.
    pub(super) async fn stage_alteration(
        &self,
        (table, path): (&TableName, &str),
        on: &Dataset,
        alteration: &Alteration,
    ) -> Result<Staged> {
        let mut next = self.rehearsal_of(path, on).await?;
        let operation = self.rehearse(table, &mut next, alteration).await?;
        Ok(Staged::new(operation, RowCounts::default()))
    }

    /// Makes `alteration` to a rehearsal, which may be above another one, and gives the operation that does it.
    pub(super) async fn rehearse(
        &self,
        table: &TableName,
        next: &mut Dataset,
        alteration: &Alteration,
    ) -> Result<Operation> {
        let before = next.clone();
        match alteration {
            Alteration::Add { column, data_type } => {
                let columns = Arc::new(addition(table, column, data_type)?);
                let nulls = NewColumnTransform::AllNulls(columns);
                next.add_columns(nulls, None, None).await?;
            }
            Alteration::Drop { column } => next.drop_columns(&[column.as_str()]).await?,
            Alteration::Rename { column, name } => {
                let renamed = ColumnAlteration::new(column.clone()).rename(name.clone());
                next.alter_columns(&[renamed]).await?;
            }
            Alteration::Widen { column, data_type } => {
                let widened = ColumnAlteration::new(column.clone()).cast_to(data_type.clone());
                next.alter_columns(&[widened]).await?;
            }
        }
        let transaction = next.read_transaction().await?;
        let transaction =
            transaction.ok_or_else(|| Error::internal("what was rehearsed has no transaction"))?;
        let operation = transaction.operation;
        if let Alteration::Widen { column, .. } = alteration
            && let Err(e) = compare(&before, next, column).await
        {
            self.unstage(&before, &operation).await;
            return Err(e);
        }
        Ok(operation)
    }
}

/// The values of a column, in the order of the rows.
async fn values(of: &Dataset, column: &str) -> Result<BoxStream<'static, Result<ArrayRef>>> {
    let mut scan = of.scan();
    scan.project(&[column])?.scan_in_order(true);
    let batches = scan.try_into_stream().await?;
    let values = batches.map(|batch| match batch {
        Ok(batch) => Ok(batch.column(0).clone()),
        Err(e) => Err(e.into()),
    });
    Ok(values.boxed())
}

/// Reads `column` of both from end to end: every value must be the same one.
async fn compare(old: &Dataset, new: &Dataset, column: &str) -> Result<()> {
    let differs = |row: usize| {
        Error::new(
            ErrorKind::Unfit,
            format!(
                "column {} reads otherwise after it was written anew, at row {row}; nothing was committed",
                quoted(column)
            ),
        )
    };
    let (mut old, mut new) = (values(old, column).await?, values(new, column).await?);
    let (mut was, mut is): (Option<ArrayRef>, Option<ArrayRef>) = (None, None);
    let mut row = 0;
    loop {
        if was.as_ref().is_none_or(|array| array.is_empty()) {
            was = old.try_next().await?;
        }
        if is.as_ref().is_none_or(|array| array.is_empty()) {
            is = new.try_next().await?;
        }
        let (a, b) = match (&was, &is) {
            (None, None) => return Ok(()),
            (Some(a), Some(b)) => (a.clone(), b.clone()),
            _ => return Err(differs(row)),
        };
        let step = a.len().min(b.len());
        let told = |e| Error::internal("casting a widened column").caused_by(e);
        let cast = cast(&a.slice(0, step), b.data_type()).map_err(told)?;
        if cast.to_data() != b.slice(0, step).to_data() {
            return Err(differs(row));
        }
        row += step;
        was = Some(a.slice(step, a.len() - step));
        is = Some(b.slice(step, b.len() - step));
    }
}
