//! Rows that bring columns: the columns are added or widened, and the rows written, in one version.
//!
//! The alterations are rehearsed, one above the other, and the rows staged on the last rehearsal as on any other table. What
//! is committed is one merge of Lance's: every fragment as the rehearsal leaves it, and those of the rows behind them.
//!
//! The alterations say what the rows need. One that somebody else did meanwhile is passed over.

use super::alter::{self, Alteration};
use super::stage::{Checked, Staged, Write};
use super::validate::{check_key, conform};
use crate::error::{Error, ErrorKind, Result, quoted};
use crate::ids::TableName;
use crate::store::Store;
use arrow_schema::{Field, Schema};
use futures::FutureExt;
use futures::future::BoxFuture;
use lance::dataset::Dataset;
use lance::dataset::transaction::Operation;
use lance::datatypes::Schema as LanceSchema;
use lance_core::utils::deletion::DeletionVector;
use lance_table::format::Fragment;
use lance_table::io::deletion::write_deletion_file;
use roaring::RoaringBitmap;
use std::sync::Arc;

/// Those of `alterations` that a table of the columns `schema` still needs.
pub(super) fn missing(schema: &Schema, alterations: &[Alteration]) -> Vec<Alteration> {
    let is_done = |alteration: &&Alteration| match alteration {
        Alteration::Add { column, data_type } | Alteration::Widen { column, data_type } => schema
            .field_with_name(column)
            .is_ok_and(|field| field.data_type().equals_datatype(data_type)),
        Alteration::Drop { .. } | Alteration::Rename { .. } => false,
    };
    let missing = alterations.iter().filter(|alteration| !is_done(alteration));
    missing.cloned().collect()
}

/// The columns that a table of the columns `schema` has after `alterations`.
pub fn evolved(schema: &Schema, alterations: &[Alteration]) -> Schema {
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    for alteration in alterations {
        match alteration {
            Alteration::Add { column, data_type } => {
                fields.push(Field::new(column, data_type.clone(), true));
            }
            Alteration::Widen { column, data_type } => {
                for field in fields.iter_mut().filter(|field| field.name() == column) {
                    *field = field.clone().with_data_type(data_type.clone());
                }
            }
            Alteration::Drop { .. } | Alteration::Rename { .. } => {}
        }
    }
    let becomes = Schema::new_with_metadata(fields, schema.metadata().clone());
    // As Lance gives it back: it names the items of a vector by itself.
    LanceSchema::try_from(&becomes).map_or(becomes, |stored| Schema::from(&stored))
}

/// Checks `alterations` of `on` and what is written then. Gives what is still to be done.
pub(super) async fn check(
    table: &TableName,
    on: &Dataset,
    alterations: &[Alteration],
    then: &Write,
) -> Result<Write> {
    let schema = Schema::from(on.schema());
    let missing = missing(&schema, alterations);
    for alteration in &missing {
        let (Alteration::Add { column, .. } | Alteration::Widen { column, .. }) = alteration else {
            return Err(Error::invalid(format!(
                "table {table}: rows add columns and widen them; {alteration} is a commit of its own"
            )));
        };
        if column.contains('.') {
            return Err(Error::invalid(format!(
                "table {table}: column {} would be one of a struct by its path; add it by `squire alter`",
                quoted(column)
            )));
        }
        alter::check(on, table, alteration).await?;
    }
    let is_merge = matches!(then, Write::Merge { .. });
    if is_merge && !missing.is_empty() && on.manifest().uses_stable_row_ids() {
        // A row that is replaced keeps its id, which a fragment of such a version may not bring along.
        return Err(Error::new(
            ErrorKind::Refused,
            format!(
                "table {table} has stable row ids, so its columns cannot change in one commit with merged rows; `squire alter` them first"
            ),
        ));
    }
    let then = fit(table, &evolved(&schema, &missing), then)?;
    Ok(match missing.is_empty() {
        true => then,
        false => Write::Evolve {
            alterations: missing,
            then: Box::new(then),
        },
    })
}

/// `then` with its rows as those of a table of these columns.
fn fit(table: &TableName, schema: &Schema, then: &Write) -> Result<Write> {
    match then {
        Write::Append(rows) => Ok(Write::Append(rows.conform(table, schema)?)),
        Write::Merge { key, when, rows } => {
            let rows = conform(table, schema, rows)?;
            check_key(table, key, &rows)?;
            Ok(Write::Merge {
                key: key.clone(),
                when: *when,
                rows,
            })
        }
        Write::Overwrite(_)
        | Write::Replace { .. }
        | Write::DeleteKeys { .. }
        | Write::Delete { .. }
        | Write::Alter(_)
        | Write::Evolve { .. }
        | Write::Create { .. } => Err(Error::invalid(format!(
            "table {table}: columns come with rows that are appended or merged, and with no others"
        ))),
    }
}

impl Store {
    /// Stages what was checked of `on`, the dataset of a table at a path.
    pub(super) fn stage_evolution<'a>(
        &'a self,
        at: (&'a TableName, &'a str),
        on: &'a Dataset,
        alterations: &'a [Alteration],
        then: &'a Write,
    ) -> BoxFuture<'a, Result<Staged>> {
        self.rehearse_and_stage(at, on, alterations, then).boxed()
    }

    async fn rehearse_and_stage(
        &self,
        (table, path): (&TableName, &str),
        on: &Dataset,
        alterations: &[Alteration],
        then: &Write,
    ) -> Result<Staged> {
        let mut next = self.rehearsal_of(path, on).await?;
        let mut rehearsed = None;
        for alteration in alterations {
            match self.rehearse(table, &mut next, alteration).await {
                Ok(operation) => rehearsed = Some(operation),
                Err(e) => {
                    if let Some(rehearsed) = &rehearsed {
                        self.unstage(on, rehearsed).await;
                    }
                    return Err(e);
                }
            }
        }
        let rehearsed =
            rehearsed.ok_or_else(|| Error::internal("nothing is left to be altered"))?;
        let staged = match fit(table, &Schema::from(next.schema()), then) {
            Ok(write) => {
                let dataset = Some(Arc::new(next));
                let checked = Checked {
                    table,
                    path,
                    dataset,
                    write,
                };
                self.stage(checked).await
            }
            Err(e) => Err(e),
        };
        let failed = match staged {
            Ok(staged) => match together(on, &rehearsed, &staged).await {
                Ok(operation) => {
                    return Ok(Staged::new(operation, staged.rows));
                }
                Err(e) => {
                    self.unstage(on, &staged.operation).await;
                    e
                }
            },
            Err(e) => e,
        };
        self.unstage(on, &rehearsed).await;
        Err(failed)
    }
}

/// The rehearsed columns and the rows that were staged on them, as one merge.
async fn together(on: &Dataset, rehearsed: &Operation, staged: &Staged) -> Result<Operation> {
    let unlike = || Error::internal("what was rehearsed is no merge of columns");
    let Operation::Merge {
        fragments,
        schema,
        preserves_nullability,
    } = rehearsed
    else {
        return Err(unlike());
    };
    let mut fragments = fragments.clone();
    let new = match &staged.operation {
        Operation::Append { fragments } => fragments,
        Operation::Update {
            removed_fragment_ids,
            updated_fragments,
            new_fragments,
            ..
        } => {
            for fragment in &mut fragments {
                let updated = updated_fragments.iter().find(|u| u.id == fragment.id);
                if let Some(updated) = updated {
                    fragment.clone_from(updated);
                }
                if removed_fragment_ids.contains(&fragment.id) {
                    emptied(on, fragment).await?;
                }
            }
            new_fragments
        }
        _ => return Err(unlike()),
    };
    // Numbered here: a new one that is called 0 would be taken for fragment 0 (fact 18).
    let free = on
        .manifest()
        .max_fragment_id
        .map_or(0, |id| u64::from(id) + 1);
    let numbered = new.iter().cloned().zip(free..);
    fragments.extend(numbered.map(|(fragment, id)| Fragment { id, ..fragment }));
    Ok(Operation::Merge {
        fragments,
        schema: schema.clone(),
        preserves_nullability: *preserves_nullability,
    })
}

/// Deletes every row of `fragment`: a merge of columns leaves no fragment out. The next compaction does.
async fn emptied(on: &Dataset, fragment: &mut Fragment) -> Result<()> {
    let unknown = || Error::internal(format!("fragment {} has no number of rows", fragment.id));
    let rows = fragment.physical_rows.ok_or_else(unknown)?;
    let rows = u32::try_from(rows).map_err(|e| unknown().caused_by(e))?;
    let all: DeletionVector = (0..rows).collect::<RoaringBitmap>().into();
    let (objects, version) = (on.object_store(None).await?, on.manifest().version);
    let base = on.branch_location().path;
    fragment.deletion_file =
        write_deletion_file(&base, fragment.id, version, &all, &objects).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_schema::DataType;

    #[test]
    fn what_others_did_meanwhile_is_passed_over() {
        let schema = Schema::new(vec![
            Field::new("id", DataType::Int64, false),
            Field::new("n", DataType::Int32, true),
        ]);
        let add = |column: &str, data_type| Alteration::Add {
            column: column.to_owned(),
            data_type,
        };
        let widen = |data_type| Alteration::Widen {
            column: "n".to_owned(),
            data_type,
        };
        let all = [add("x", DataType::Utf8), widen(DataType::Int64)];
        assert_eq!(missing(&schema, &all), all);
        let after = evolved(&schema, &all);
        assert_eq!(missing(&after, &all), []);
        assert!(after.field_with_name("x").unwrap().is_nullable());
        assert_eq!(*after.field(1).data_type(), DataType::Int64);
        assert!(!after.field(0).is_nullable());
        // Lance calls the items of a vector by a name of its own, whatever a file calls them.
        let vector = |item: &str| {
            DataType::FixedSizeList(Field::new(item, DataType::Float32, true).into(), 2)
        };
        let stored = evolved(&schema, &[add("v", vector("element"))]);
        assert_eq!(*stored.field(2).data_type(), vector("item"));
        // Another type under the same name is another column.
        let other = [add("x", DataType::Int8)];
        assert_eq!(missing(&after, &other), other);
    }
}
