//! What stands in a table's folder, and what its versions refer to: one listing, and the manifests.

use crate::error::{Error, Result};
use crate::maintenance::cleanup::{Referred, files_of, spelled};
use crate::store::Store;
use futures::{Stream, StreamExt, TryStreamExt};
use lance_index::is_system_index;
use lance_io::object_store::ObjectStore;
use lance_table::format::{IndexMetadata, Manifest};
use lance_table::io::commit::{ManifestLocation, ManifestNamingScheme};
use lance_table::io::manifest::{read_manifest, read_manifest_indexes};
use object_store::path::Path;
use std::collections::BTreeMap;

/// Manifests that are read at one time.
const AT_ONCE: usize = 16;

/// The files below a folder, with their sizes, by their paths below it.
#[derive(Debug, Default)]
pub(crate) struct Listing(BTreeMap<String, u64>);

/// A version's manifest, by its place in a listing.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The path of its manifest below the table.
    pub(crate) file: String,
    /// Where its own files lie below the table: `tree/<branch>/` of a branch, nothing otherwise.
    pub(crate) root: String,
    /// Its branch.
    pub(crate) branch: Option<String>,
    /// Its number, as its name says.
    pub(crate) version: u64,
    size: u64,
    pub(super) naming: ManifestNamingScheme,
}

/// A version that was read.
pub(crate) struct Version {
    pub(crate) place: Place,
    pub(crate) manifest: Manifest,
    pub(crate) indexes: Vec<IndexMetadata>,
}

/// A file or a folder that a version needs.
#[derive(Debug, Clone)]
pub(crate) struct Need {
    /// The root of the table or folder that it lies in; `None` for the table itself.
    pub(crate) elsewhere: Option<String>,
    /// Its path below that.
    pub(crate) path: String,
    /// Its size, where the version says one.
    pub(crate) size: Option<u64>,
    pub(crate) what: What,
}

/// What a needed file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    Rows,
    Index,
    /// A folder of an index whose files are not named.
    IndexFolder,
    Transaction,
}

impl Listing {
    /// What stands below `prefix`.
    pub(crate) async fn of(objects: &ObjectStore, prefix: &Path) -> Result<Self> {
        let below = format!("{prefix}/");
        let mut files = BTreeMap::new();
        let mut listed = objects.list(Some(prefix.clone()));
        while let Some(meta) = listed.try_next().await? {
            let path = meta.location.as_ref();
            let path = path.strip_prefix(&below).unwrap_or(path);
            files.insert(path.to_owned(), meta.size);
        }
        Ok(Self(files))
    }

    /// All files.
    pub(crate) fn files(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }

    /// The size of a file.
    pub(crate) fn size(&self, path: &str) -> Option<u64> {
        self.0.get(path).copied()
    }

    /// The bytes below a folder; `None` when there is no file in it.
    pub(crate) fn below(&self, folder: &str) -> Option<u64> {
        let start = format!("{folder}/");
        let inside = self.0.range(start.clone()..);
        let inside = inside.take_while(|(path, _)| path.starts_with(&start));
        let sizes: Vec<u64> = inside.map(|(_, size)| *size).collect();
        (!sizes.is_empty()).then(|| sizes.iter().sum())
    }

    /// What is wrong with what `need` asks for here.
    pub(crate) fn wrong(&self, need: &Need) -> Option<String> {
        if need.what == What::IndexFolder {
            let missing = String::from("is missing");
            return self.below(&need.path).is_none().then_some(missing);
        }
        match (self.size(&need.path), need.size) {
            (None, _) => Some(String::from("is missing")),
            (Some(0), None) => Some(String::from("is empty")),
            (Some(is), Some(was)) if is != was => {
                Some(format!("has {is} bytes and had {was} when it was written"))
            }
            _ => None,
        }
    }

    /// The manifests of a table's versions, its branches' among them, the newest first.
    pub(crate) fn places(&self) -> Vec<Place> {
        let place = |(path, size): (&String, &u64)| {
            let (folder, name) = path.rsplit_once('/')?;
            let root = folder.strip_suffix("_versions")?;
            let branch = match root {
                "" => None,
                root => Some(root.strip_prefix("tree/")?.trim_end_matches('/').to_owned()),
            };
            let naming = ManifestNamingScheme::detect_scheme(name)?;
            let version = naming.parse_version(name)?;
            Some(Place {
                file: path.clone(),
                root: root.to_owned(),
                branch,
                version,
                size: *size,
                naming,
            })
        };
        let mut places: Vec<Place> = self.0.iter().filter_map(place).collect();
        places.sort_by(|a, b| (&a.branch, b.version).cmp(&(&b.branch, a.version)));
        places
    }
}

impl Version {
    /// What it needs. `table` is the spelling of the table's root.
    pub(crate) fn needs(&self, table: &str) -> Vec<Need> {
        let rows = files_of(&self.manifest).map(|file| (file, What::Rows));
        let indexes = self.indexes.iter().flat_map(files_of_index);
        let mut bases: BTreeMap<u32, Option<String>> = BTreeMap::new();
        let mut located = |(file, what): (Referred, What)| {
            let base = file.base.and_then(|id| {
                let spelled = bases.entry(id).or_insert_with(|| {
                    let base = self.manifest.base_paths.get(&id)?;
                    Some(spelled(&base.path))
                });
                spelled.clone()
            });
            let inside = base.as_deref().and_then(|base| within(table, base));
            let (elsewhere, path) = match (base, inside) {
                (None, _) => (None, format!("{}{}", self.place.root, file.path)),
                (Some(_), Some(root)) => (None, format!("{root}{}", file.path)),
                (Some(base), None) => (Some(base), file.path),
            };
            Need {
                elsewhere,
                path,
                size: file.size,
                what,
            }
        };
        let mut needs: Vec<Need> = rows.chain(indexes).map(&mut located).collect();
        // One that stands in the manifest is read from there.
        if let (Some(name), None) = (
            &self.manifest.transaction_file,
            self.manifest.transaction_section,
        ) {
            needs.push(Need {
                elsewhere: None,
                path: format!("{}_transactions/{name}", self.place.root),
                size: None,
                what: What::Transaction,
            });
        }
        needs
    }
}

/// The path below the table at `table` of a base that lies in it, with a slash at its end.
fn within(table: &str, base: &str) -> Option<String> {
    let below = base.strip_prefix(table)?;
    match below.strip_prefix('/') {
        Some(below) => Some(format!("{below}/")),
        None => below.is_empty().then(String::new),
    }
}

fn is_empty(index: &IndexMetadata) -> bool {
    let covered = index.fragment_bitmap.as_ref();
    covered.is_some_and(roaring::RoaringBitmap::is_empty)
}

fn files_of_index(index: &IndexMetadata) -> Vec<(Referred, What)> {
    let folder = format!("_indices/{}", index.uuid);
    let referred = |path: String, size| Referred {
        base: index.base_id,
        path,
        size,
    };
    match &index.files {
        Some(files) => files
            .iter()
            .map(|file| {
                let path = format!("{folder}/{}", file.path);
                // Early releases knew the names and not the sizes.
                let size = Some(file.size_bytes).filter(|size| *size > 0);
                (referred(path, size), What::Index)
            })
            .collect(),
        // Those of Lance itself may stand in the manifest alone, and so does one that waits for rows to be trained by.
        None if is_system_index(index) || is_empty(index) => Vec::new(),
        None => vec![(referred(folder, None), What::IndexFolder)],
    }
}

impl Store {
    /// What stands below `path`.
    pub(crate) async fn listing(&self, path: &str) -> Result<Listing> {
        Listing::of(&self.objects, &self.object_path(path)).await
    }

    /// Reads versions of the table at `path`, some at a time, in the order of `places`.
    pub(crate) fn versions_at<'a>(
        &'a self,
        path: &'a str,
        places: Vec<Place>,
    ) -> impl Stream<Item = (Place, Result<Version>)> + 'a {
        futures::stream::iter(places)
            .map(move |place| async move {
                let read = self.version_at(path, &place).await;
                (place, read)
            })
            .buffered(AT_ONCE)
    }

    async fn version_at(&self, path: &str, place: &Place) -> Result<Version> {
        let at = self.object_path(&format!("{path}/{}", place.file));
        let manifest = match read_manifest(&self.objects, &at, Some(place.size)).await {
            Ok(manifest) => manifest,
            Err(e) => return Err(self.unless_torn(&at, e.into()).await),
        };
        if manifest.version != place.version {
            let other = format!("holds version {}: it is damaged", manifest.version);
            let error = Error::new(crate::error::ErrorKind::Storage, other);
            return Err(self.unless_torn(&at, error).await);
        }
        let location = ManifestLocation {
            version: manifest.version,
            path: at,
            size: Some(place.size),
            naming_scheme: place.naming,
            e_tag: None,
            identity: None,
        };
        let indexes = read_manifest_indexes(&self.objects, &location, &manifest).await?;
        Ok(Version {
            place: place.clone(),
            manifest,
            indexes,
        })
    }
}
