//! Files of a table that no version refers to, counted by age.
//!
//! They are what commits under way have written, what lost rewrites of anyone left (pylance's `compact_files`, LanceDB's
//! `optimize`), and what our own runs wrote until they are reclaimed. They are never touched here: Lance removes such files
//! once they are seven days old.

use super::cleanup::is_foreign_index;
use crate::error::Result;
use crate::journal::{name_of, names_of_fragment};
use crate::store::Store;
use futures::{StreamExt, TryStreamExt};
use lance_table::io::commit::{ManifestLocation, ManifestNamingScheme};
use lance_table::io::manifest::{read_manifest, read_manifest_indexes};
use object_store::ObjectMeta;
use serde::Serialize;
use std::cmp::Reverse;
use std::collections::HashMap;

/// Versions that are read for it, those of branches among them. A table with more is one whose cleanup is due first.
const MOST_VERSIONS: usize = 2_000;

/// Versions that are read at one time.
const AT_ONCE: usize = 8;

const HOUR_MS: u64 = 3_600_000;
const WEEK_MS: u64 = 7 * 24 * HOUR_MS;

/// How many, and how large.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Files {
    /// Files; those of one index count each.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Files {
    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.bytes += other.bytes;
    }
}

/// Data, deletion and index files that no version refers to, by the time since the newest of what belongs together was
/// written.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Unreferenced {
    /// Less than an hour: most likely of work in progress.
    pub under_1h: Files,
    /// Less than seven days: Lance leaves them alone.
    pub under_7d: Files,
    /// Older: the next cleanup that removes anything takes them, too.
    pub older: Files,
}

impl Unreferenced {
    /// Each age with what is of it.
    pub fn by_age(&self) -> [(&'static str, Files); 3] {
        [
            ("under_1h", self.under_1h),
            ("under_7d", self.under_7d),
            ("older", self.older),
        ]
    }
}

/// What belongs to one name, and when the last of it was written.
#[derive(Debug, Default)]
struct Named {
    files: Files,
    written_ms: u64,
}

impl Store {
    /// What no version of the table at `path` refers to, from one listing of it and from its versions, the newest first,
    /// until nothing is left. `None` when it has too many versions for that.
    pub async fn unreferenced_files(&self, path: &str) -> Result<Option<Unreferenced>> {
        let dataset = self.object_path(path);
        let mut named: HashMap<String, Named> = HashMap::new();
        let mut versions: Vec<ObjectMeta> = Vec::new();
        let mut listed = self.objects.list(Some(dataset.clone()));
        while let Some(meta) = listed.try_next().await? {
            if is_foreign_index(&meta.location) {
                continue;
            }
            if let Some(name) = name_of(&dataset, &meta.location) {
                let of_name = named.entry(name).or_default();
                let written = u64::try_from(meta.last_modified.timestamp_millis()).unwrap_or(0);
                of_name.written_ms = of_name.written_ms.max(written);
                of_name.files.add(Files {
                    files: 1,
                    bytes: meta.size,
                });
            } else if naming_of(&meta).is_some() {
                versions.push(meta);
            }
        }
        if versions.len() > MOST_VERSIONS {
            return Ok(None);
        }
        versions.sort_by_key(|meta| Reverse(meta.last_modified));
        let reads = versions.into_iter().map(|meta| self.names_in(meta));
        let mut reads = futures::stream::iter(reads).buffered(AT_ONCE);
        while !named.is_empty()
            && let Some(names) = reads.try_next().await?
        {
            for name in names {
                named.remove(&name);
            }
        }
        let now = self.clock().now_ms();
        let mut found = Unreferenced::default();
        for of_name in named.into_values() {
            let age = now.saturating_sub(of_name.written_ms);
            let of_age = match age {
                ..HOUR_MS => &mut found.under_1h,
                HOUR_MS..WEEK_MS => &mut found.under_7d,
                WEEK_MS.. => &mut found.older,
            };
            of_age.add(of_name.files);
        }
        Ok(Some(found))
    }

    /// What the version that lies at `meta` refers to. Branches refer to files of the table by bases, under the same names.
    async fn names_in(&self, meta: ObjectMeta) -> Result<Vec<String>> {
        let manifest = match read_manifest(&self.objects, &meta.location, Some(meta.size)).await {
            Ok(manifest) => manifest,
            // Removed since it was listed.
            Err(lance::Error::NotFound { .. }) => return Ok(Vec::new()),
            Err(e) => return Err(e.into()),
        };
        let location = ManifestLocation {
            version: manifest.version,
            path: meta.location.clone(),
            size: Some(meta.size),
            naming_scheme: naming_of(&meta).unwrap_or(ManifestNamingScheme::V2),
            e_tag: None,
            identity: None,
        };
        let indexes = read_manifest_indexes(&self.objects, &location, &manifest).await?;
        let indexes = indexes.iter().map(|i| format!("_indices/{}", i.uuid));
        let fragments = manifest.fragments.iter().flat_map(names_of_fragment);
        Ok(fragments.chain(indexes).collect())
    }
}

/// How the version is named that an object is; `None` for other objects.
fn naming_of(meta: &ObjectMeta) -> Option<ManifestNamingScheme> {
    let mut parts: Vec<_> = meta.location.parts().collect();
    let (name, folder) = (parts.pop()?, parts.pop()?);
    (folder.as_ref() == "_versions")
        .then(|| ManifestNamingScheme::detect_scheme(name.as_ref()))
        .flatten()
}
