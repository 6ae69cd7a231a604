//! What the attempts of one request share: staged files of blind appends outlive a lost attempt.
//!
//! They fit the table and the columns that they were staged on and no others: where those have changed meanwhile, the rows are
//! checked and staged again. A table that was dropped and made again has a folder of its own, and the files lie in the other. Committed all the same, a widened column would be null in them, and a value of a dropped one be gone.

use super::logical::{Goal, TableWrite, appends};
use super::stage::{Checked, Staged, Write};
use super::streamed::Rows;
use crate::error::{Error, Result};
use crate::ids::TableName;
use crate::store::Store;
use lance::datatypes::Schema;
use std::collections::BTreeMap;

/// The staged appends, by table.
pub(super) type Kept = BTreeMap<TableName, KeptAppend>;

/// A staged append.
pub(super) struct KeptAppend {
    pub(super) staged: Staged,
    /// Where its files lie.
    path: String,
    /// The columns that it was staged on.
    columns: Schema,
}

impl Store {
    pub(super) async fn stage_all(
        &self,
        goals: &[Goal],
        writes: &[TableWrite],
        kept: &mut Kept,
    ) -> Result<Vec<Staged>> {
        self.forget_outdated(goals, kept).await?;
        let before = &*kept;
        // All are checked before anything is put: a write that is refused leaves no files of the others.
        let checks = goals.iter().zip(writes).map(|(goal, write)| async move {
            if before.contains_key(&write.table) {
                return Ok(None);
            }
            let (visible, path) = (goal.visible.as_ref(), goal.entry.path.as_str());
            let checked = self.check(&write.table, visible, path, &write.write);
            checked.await.map(Some)
        });
        let checked = futures::future::try_join_all(checks).await?;
        let datasets: Vec<_> = checked
            .iter()
            .map(|c| c.as_ref().and_then(|c| c.dataset.clone()))
            .collect();
        let staging = checked
            .into_iter()
            .zip(writes)
            .map(|(checked, write)| async move {
                match (checked, before.get(&write.table)) {
                    (_, Some(kept)) => Ok(kept.staged.clone()),
                    (Some(checked), None) => self.stage_ahead(checked).await,
                    (None, None) => Err(Error::internal("a staged append is gone")),
                }
            });
        let staged = futures::future::join_all(staging).await;
        if staged.iter().any(Result::is_err) {
            // What was staged before, and is kept, has no dataset here.
            for (on, staged) in datasets.iter().zip(&staged) {
                if let (Some(on), Ok(staged)) = (on, staged) {
                    self.unstage(on, &staged.operation).await;
                }
            }
        }
        let staged = staged.into_iter().collect::<Result<Vec<_>>>()?;
        let targets = goals.iter().zip(writes);
        for (((goal, write), staged), on) in targets.zip(&staged).zip(&datasets) {
            if let Some(on) = on.as_ref().filter(|_| appends(&write.write)) {
                let append = KeptAppend {
                    staged: staged.clone(),
                    path: goal.entry.path.clone(),
                    columns: on.schema().clone(),
                };
                kept.insert(write.table.clone(), append);
            }
        }
        Ok(staged)
    }

    /// Stages what was checked, and reads it back unless that can go beside what comes next.
    async fn stage_ahead(&self, checked: Checked<'_>) -> Result<Staged> {
        match &checked.write {
            Write::Append(Rows::Held(_)) => self.stage_unread(checked).await,
            _ => self.stage(checked).await,
        }
    }

    /// Forgets what was staged on a table or on columns that are not these any more.
    async fn forget_outdated(&self, goals: &[Goal], kept: &mut Kept) -> Result<()> {
        for goal in goals {
            let (Some(visible), Some(append)) = (&goal.visible, kept.get(&goal.entry.table)) else {
                continue;
            };
            if goal.entry.path != append.path {
                // Cleanup takes the files with the folder.
                kept.remove(&goal.entry.table);
                continue;
            }
            let now = self.open_pinned(visible).await?;
            if *now.schema() != append.columns {
                self.unstage(&now, &append.staged.operation).await;
                kept.remove(&goal.entry.table);
            }
        }
        Ok(())
    }
}
