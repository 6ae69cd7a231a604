//! Branches of a table: datasets of their own in folders of the table, whose first files are the table's.

use super::Store;
use super::tables::torn_ref;
use crate::error::Result;
use lance::Dataset;
use lance::dataset::refs::BranchContents;
use std::collections::HashMap;

/// The folder of a table in which its branches lie, each in a folder of its name.
pub(crate) const BRANCHES: &str = "tree";

/// Where `branch` of the table at `table` lies.
pub(crate) fn branch_path(table: &str, branch: &str) -> String {
    format!("{table}/{BRANCHES}/{branch}")
}

/// The branches of a dataset, with where each began.
///
/// # Errors
/// Those of the storage; a file of a branch that is torn.
pub(crate) async fn branches_of(dataset: &Dataset) -> Result<HashMap<String, BranchContents>> {
    let listed = dataset.branches().list().await;
    listed.map_err(|e| torn_ref(dataset, "branches", "branch", e))
}

/// Whether the table at `table`, or a branch of it, lies at `path`.
pub(crate) fn is_of_table(path: &str, table: &str) -> bool {
    let branch = |rest: &str| {
        rest.strip_prefix('/')?
            .strip_prefix(BRANCHES)?
            .strip_prefix('/')
            .map(drop)
    };
    let rest = path.strip_prefix(table);
    rest.is_some_and(|rest| rest.is_empty() || branch(rest).is_some())
}

impl Store {
    /// The names of the branches of the table at `path`, sorted.
    ///
    /// # Errors
    /// Those of the storage; a table that cannot be opened.
    pub async fn branches(&self, path: &str) -> Result<Vec<String>> {
        let handle = self.any_handle(path).await?;
        let handle = handle.ok_or_else(|| self.without_version(path))?;
        let branches = branches_of(&handle).await?;
        let mut names: Vec<String> = branches.into_keys().collect();
        names.sort_unstable();
        Ok(names)
    }
}

#[cfg(test)]
mod tests {
    use super::{branch_path, is_of_table};

    #[test]
    fn a_branch_belongs_to_its_table() {
        let table = "org/t.lance";
        for of in [table.to_owned(), branch_path(table, "dev/x")] {
            assert!(is_of_table(&of, table), "{of}");
        }
        for other in ["org/t", "org/t.lance2", "org/t.lance/treetop/x", "t.lance"] {
            assert!(!is_of_table(other, table), "{other}");
        }
    }
}
