//! Tags and branches of a table: what each names stands.

use super::inventory::Place;
use super::{Finding, finding};
use crate::error::Result;
use crate::store::location::decoded;
use crate::store::{Store, content_of};
use lance::dataset::refs::{BranchContents, TagContents};
use serde::de::DeserializeOwned;

const TAGS: &str = "_refs/tags/";
const BRANCHES: &str = "_refs/branches/";
const TORN: &str = "restore this file from a backup, or remove it: nobody can clean the table until then, and what it named is not known";
const DANGLING: &str = "restore the versions from a backup, or delete it: what it named is gone";

/// What is wrong with a tag or a branch, if anything is.
fn told(file: &str, is_whole: Option<bool>, names: impl FnOnce() -> String) -> Option<Finding> {
    match is_whole {
        None => Some(finding(file, "is torn: it names nothing", TORN)),
        Some(false) => Some(finding(file, names(), DANGLING)),
        Some(true) => None,
    }
}

impl Store {
    /// What is wrong with the tags and branches of the table at `path`, of whose folder `files` are all and `places` the versions.
    ///
    /// # Errors
    /// Those of the storage.
    pub(super) async fn check_refs(
        &self,
        path: &str,
        files: impl Iterator<Item = &String>,
        places: &[Place],
    ) -> Result<Vec<Finding>> {
        let mut wrong = Vec::new();
        for file in files.filter(|file| file.starts_with("_refs/") && file.ends_with(".json")) {
            if file.starts_with(TAGS) {
                let Some(tag) = self.named_by::<TagContents>(path, file).await? else {
                    continue;
                };
                let is_there = tag.as_ref().map(|tag| {
                    let named =
                        |place: &Place| place.branch == tag.branch && place.version == tag.version;
                    places.iter().any(named)
                });
                let gone = || {
                    let version = tag.as_ref().map_or(0, |tag| tag.version);
                    format!("names version {version}, which is gone")
                };
                wrong.extend(told(file, is_there, gone));
            } else if let Some(name) = file.strip_prefix(BRANCHES) {
                let Some(branch) = self.named_by::<BranchContents>(path, file).await? else {
                    continue;
                };
                let name = decoded(name.trim_end_matches(".json"));
                let is_of = |place: &Place| place.branch.as_deref() == Some(&*name);
                let is_there = branch.map(|_| places.iter().any(is_of));
                wrong.extend(told(file, is_there, || {
                    format!("names a branch of which no version is there (tree/{name})")
                }));
            }
        }
        Ok(wrong)
    }

    /// What `file` below the table at `path` says, or nothing if it says nothing; `None` where it is gone by now.
    async fn named_by<T: DeserializeOwned>(
        &self,
        path: &str,
        file: &str,
    ) -> Result<Option<Option<T>>> {
        let at = self.object_path(&format!("{path}/{file}"));
        let content = content_of(&self.objects, &at).await?;
        Ok(content.map(|bytes| serde_json::from_slice(&bytes).ok()))
    }
}
