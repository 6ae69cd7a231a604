//! Branches of a table: datasets of their own in folders of the table, whose first files are the table's.

use super::Store;
use crate::error::{Error, Result};

/// The folder of a table in which its branches lie, each in a folder of its name.
pub(crate) const BRANCHES: &str = "tree";

/// Where `branch` of the table at `table` lies.
pub(crate) fn branch_path(table: &str, branch: &str) -> String {
    format!("{table}/{BRANCHES}/{branch}")
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
        let branches = handle.branches().list().await.map_err(|e| {
            let folder = format!("{}/_refs/branches", self.uri_of(path));
            Error::from(e).context(format!("reading the branches in {folder}"))
        })?;
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
