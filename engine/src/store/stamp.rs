//! Whether a table is still the one that was opened.
//!
//! LanceDB drops a table by removing its folder, and makes one of the same name in the same place, whose versions have the same
//! numbers. The object of a version is put once and never changed, so the one that a table was opened at tells them apart. Where
//! a cleanup has removed that one meanwhile, the data files tell it: their names are never used twice.

use crate::error::{Error, ErrorKind};
use chrono::{DateTime, Utc};
use lance::Dataset;
use lance_io::object_store::ObjectStore as LanceStore;
use lance_table::format::Manifest;
use lance_table::io::manifest::read_manifest;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use std::collections::HashSet;
use std::sync::Arc;

/// The folders of a table that hold its files, and no other's.
pub(crate) const TABLE_FOLDERS: [&str; 5] = [
    "data",
    "_deletions",
    "_indices",
    "_transactions",
    "_versions",
];

/// The object of a version as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp(ObjectMeta);

impl Stamp {
    /// That of the version at `path`.
    ///
    /// # Errors
    /// It is gone already, and those of the storage.
    pub(crate) async fn of(objects: &dyn ObjectStore, path: &Path) -> object_store::Result<Self> {
        objects.head(path).await.map(Self)
    }

    /// When it was put.
    pub(crate) fn since(&self) -> DateTime<Utc> {
        self.0.last_modified
    }

    /// Whether it stands, as it was.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn stands(&self, objects: &dyn ObjectStore) -> object_store::Result<bool> {
        Ok(self.found(objects).await? == Some(true))
    }

    /// The same; `None` where there is nothing any more.
    async fn found(&self, objects: &dyn ObjectStore) -> object_store::Result<Option<bool>> {
        match objects.head(&self.0.location).await {
            Ok(now) => Ok(Some(self.0 == now)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// That it does not.
    pub(crate) fn gone(&self) -> Error {
        let version = &self.0.location;
        Error::new(
            ErrorKind::Refused,
            format!(
                "/{version} is gone or another one: the table was dropped meanwhile, and perhaps made again; nothing more is done to what stands there now"
            ),
        )
    }
}

/// The version that a table was opened at, and the data files of that.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    /// Whether a pin names it. Who committed above it and finds it gone looks anew at what is visible.
    pub(crate) is_pinned: bool,
    version: Stamp,
    files: Arc<HashSet<String>>,
}

fn files_of(manifest: &Manifest) -> impl Iterator<Item = &str> {
    let files = manifest.fragments.iter().flat_map(|f| &f.files);
    files.map(|file| file.path.as_str())
}

impl Opened {
    /// That of `dataset`, whose versions lie in `objects`.
    ///
    /// # Errors
    /// It is gone already, and those of the storage.
    pub(crate) async fn of(objects: &LanceStore, dataset: &Dataset) -> object_store::Result<Self> {
        let files = files_of(dataset.manifest()).map(str::to_owned);
        Ok(Self {
            is_pinned: false,
            files: Arc::new(files.collect()),
            version: Stamp::of(&objects.inner, &dataset.manifest_location().path).await?,
        })
    }

    /// That of the pinned version at `path`.
    ///
    /// # Errors
    /// It is gone already, and those of the storage.
    pub(crate) async fn pinned(objects: &LanceStore, path: &Path) -> object_store::Result<Self> {
        Ok(Self {
            is_pinned: true,
            files: Arc::default(),
            version: Stamp::of(&objects.inner, path).await?,
        })
    }

    /// Whether the table is the same still, whose version below the next one lies at `below`.
    ///
    /// # Errors
    /// Those of the storage.
    pub(crate) async fn is_table(&self, objects: &LanceStore, below: &Path) -> lance::Result<bool> {
        if let Some(stands) = self.version.found(&objects.inner).await? {
            return Ok(stands);
        }
        match read_manifest(objects, below, None).await {
            Ok(manifest) => Ok(files_of(&manifest).any(|file| self.files.contains(file))),
            Err(lance::Error::NotFound { .. }) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// That it is not.
    pub(crate) fn gone(&self) -> Error {
        self.version.gone()
    }
}

#[cfg(test)]
mod tests {
    use super::Stamp;
    use object_store::local::LocalFileSystem;
    use object_store::path::Path;
    use object_store::{ObjectStoreExt, PutPayload};

    #[tokio::test]
    async fn a_version_that_was_put_anew_is_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let objects = LocalFileSystem::new_with_prefix(folder.path()).unwrap();
        let path = Path::from("t.lance/_versions/1.manifest");
        let put = || objects.put(&path, PutPayload::from_static(b"a version"));
        put().await.unwrap();
        let stamp = Stamp::of(&objects, &path).await.unwrap();
        assert!(stamp.stands(&objects).await.unwrap());
        put().await.unwrap();
        assert!(!stamp.stands(&objects).await.unwrap(), "the same bytes");
        objects.delete(&path).await.unwrap();
        assert!(!stamp.stands(&objects).await.unwrap());
        assert!(Stamp::of(&objects, &path).await.is_err());
    }
}
