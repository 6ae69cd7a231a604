//! Which targets a command or a round is about: the tables of a place, by name, and the branches that their policies ask for.

use super::{Place, Selection};
use crate::config::Config;
use squire_engine::error::{Error, ErrorKind, Result, caught};
use squire_engine::maintenance::Target;
use squire_engine::store::discovery::PassedOver;

impl Place {
    /// What is maintained here now: all that [`Place::targets`] gives, and the branches of plain tables whose policy asks for
    /// it. A store has no pins of branches, so there they are nobody's.
    pub(crate) async fn maintained(&self, config: &Config) -> Result<Selection> {
        let Selection {
            targets,
            mut skipped,
        } = self.targets().await?;
        let mut maintained = Vec::new();
        for target in targets {
            let asks = config.policy_for(Self::config_name(&target)).branches;
            let of_table = match &target {
                Target::Plain(table) if asks => self.branches(table).await,
                Target::Plain(_) | Target::Branch { .. } | Target::Pinned(_) => Ok(Vec::new()),
            };
            maintained.push(target.clone());
            match of_table {
                Ok(branches) => maintained.extend(branches),
                Err(e) => skipped.push(PassedOver {
                    path: target.to_string(),
                    reason: format!("its branches are not known: {e}"),
                }),
            }
        }
        Ok(Selection {
            targets: maintained,
            skipped,
        })
    }

    /// The branches of the plain table at `table`.
    async fn branches(&self, table: &str) -> Result<Vec<Target>> {
        let names = caught(table, self.store.branches(table)).await?;
        let branches = names.into_iter().map(|branch| Target::Branch {
            table: table.to_owned(),
            branch,
        });
        Ok(branches.collect())
    }

    /// The tables that `names` select, or branches of them as `table@branch`; all tables when it is empty.
    pub(crate) async fn select(&self, names: &[String]) -> Result<Selection> {
        let all = self.targets().await?;
        if names.is_empty() {
            return Ok(all);
        }
        let mut targets = Vec::new();
        for name in names {
            targets.push(match (self.find(&all, name), name.rsplit_once('@')) {
                // No name of a branch has an @ in it.
                (Err(_), Some((table, branch))) => self.find_branch(&all, table, branch).await?,
                (found, _) => found?,
            });
        }
        Ok(Selection {
            targets,
            skipped: Vec::new(),
        })
    }

    /// The same, and all that is maintained when `names` is empty.
    pub(crate) async fn select_maintained(
        &self,
        names: &[String],
        config: &Config,
    ) -> Result<Selection> {
        match names {
            [] => self.maintained(config).await,
            names => self.select(names).await,
        }
    }

    async fn find_branch(&self, all: &Selection, table: &str, branch: &str) -> Result<Target> {
        let of = match self.find(all, table)? {
            Target::Plain(path) => path,
            other => {
                return Err(Error::new(
                    ErrorKind::Refused,
                    format!(
                        "{other} is a table of a store, and no pin shows its branches; they are left as they are"
                    ),
                ));
            }
        };
        let branches = self.branches(&of).await?;
        let is_named =
            |target: &&Target| matches!(target, Target::Branch { branch: of, .. } if of == branch);
        if let Some(found) = branches.iter().find(is_named) {
            return Ok(found.clone());
        }
        let known: Vec<String> = branches.iter().map(ToString::to_string).collect();
        let known = match known.as_slice() {
            [] => String::from("none"),
            known => known.join(", "),
        };
        Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "no branch {branch} of {of} in {}; there are: {known}",
                self.uri
            ),
        ))
    }

    fn find(&self, all: &Selection, name: &str) -> Result<Target> {
        let wanted = |t: &&Target| match t {
            Target::Pinned(table) => table.as_str() == name,
            Target::Plain(path) => path == name || path.strip_suffix(".lance") == Some(name),
            Target::Branch { .. } => t.is_named(name),
        };
        all.targets.iter().find(wanted).cloned().ok_or_else(|| {
            if let Some(passed) = all.skipped.iter().find(|p| p.path == name) {
                let why = format!("{name} is no table to maintain: {}", passed.reason);
                return Error::new(ErrorKind::Refused, why);
            }
            let known: Vec<String> = all.targets.iter().map(ToString::to_string).collect();
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "no table {name} in {}; there are: {}",
                    self.uri,
                    known.join(", ")
                ),
            )
        })
    }
}
