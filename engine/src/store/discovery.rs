//! Which Lance tables stand below a root, and what is passed over.
//!
//! A folder is a table when its name ends in `.lance` or when it holds `_versions` (LanceDB names the tables of its child
//! namespaces `<hash>_<namespace>$<table>`). Other folders are looked into, level by level, down to [`MAX_DEPTH`]. What
//! cannot be a table for us is passed over and named: one odd folder never hides the others.
//!
//! Cleanup asks for more (`Store::tables_anywhere`): a table that is not maintained may need files of one that is.

use super::location::store_around;
use super::{INTERNAL, Store};
use crate::error::{Error, ErrorKind, Result};
use object_store::path::PathPart;
use rustix::io::Errno;
use serde::Serialize;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::path::{Path as LocalPath, PathBuf};

/// Folders between the root and a table, the table's own included: `org/team/set/t.lance` is found. Deeper trees are
/// rarely tables, and every folder costs a listing.
pub const MAX_DEPTH: usize = 4;

/// Folders that are looked into. Each costs a listing at every look, and a prefix of a million partitions is no directory
/// of tables: the rest is passed over. Tables do not count, if their names end in `.lance`.
pub const MAX_FOLDERS: usize = 256;

/// Folders of a local disk that are looked into for tables of any kind: a second or two. Beyond it what they hold is not
/// known.
const MAX_LOCAL_FOLDERS: usize = 50_000;

/// The same on object stores, where each is a request.
const MAX_LISTED_FOLDERS: usize = 2_000;

const VERSIONS: &str = "_versions";

/// What Lance keeps in a table's folder.
const OF_A_TABLE: [&str; 6] = [
    VERSIONS,
    "_deletions",
    "_indices",
    "_transactions",
    "data",
    "tree",
];

/// What holds no table that refers to others: our own tables, and a file system's own folder, which only root may list.
const WITHOUT_TABLES: [&str; 2] = [INTERNAL, "lost+found"];

/// LanceDB's own table of its namespaces and tables.
const LANCEDB_CATALOGUE: &str = "__manifest";
/// LanceDB marks so a table that was declared and has no version yet.
const LANCEDB_RESERVED: &str = ".lance-reserved";

/// Why a store below a root is passed over.
const A_STORE: &str = "a squire store: name it as a place of its own";

/// What was found below a root.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Discovered {
    /// Tables, as paths relative to the root, sorted.
    pub tables: Vec<String>,
    /// What is no table to maintain, and why, sorted.
    pub skipped: Vec<PassedOver>,
}

/// A folder that is not maintained.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PassedOver {
    /// Its path relative to the root.
    pub path: String,
    /// Why.
    pub reason: String,
}

impl PassedOver {
    /// Whether it is a store.
    pub(super) fn is_store(&self) -> bool {
        self.reason == A_STORE
    }
}

impl std::fmt::Display for PassedOver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: skipped: {}", self.path, self.reason)
    }
}

/// The entries of one folder.
#[derive(Debug, Default)]
struct Level {
    folders: Vec<String>,
    files: Vec<String>,
    odd: Vec<(String, String)>,
}

impl Level {
    fn has(&self, name: &str) -> bool {
        self.folders.iter().any(|folder| folder == name)
    }
}

impl Discovered {
    fn skip(&mut self, path: String, reason: impl Into<String>) {
        let reason = reason.into();
        self.skipped.push(PassedOver { path, reason });
    }
}

pub(super) fn below(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

impl Store {
    /// The Lance tables below the root. A store's internal ones are not among them, nor are those of a store that stands
    /// below the root: that store keeps them, by its pins.
    ///
    /// # Errors
    /// The root cannot be listed, or is a local directory that is not there (`NotFound`): one that went with its disk is not
    /// an empty one. A folder below it that cannot be listed is passed over.
    pub async fn datasets(&self) -> Result<Discovered> {
        let mut found = Discovered::default();
        let mut folders = vec![String::new()];
        let mut left = MAX_FOLDERS;
        for depth in 1..=MAX_DEPTH {
            let beyond = folders.split_off(folders.len().min(left));
            if let [first, others @ ..] = beyond.as_slice() {
                let why = format!(
                    "not looked into, nor {} others: more than {MAX_FOLDERS} folders here that are no tables",
                    others.len()
                );
                found.skip(first.clone(), why);
            }
            left -= folders.len();
            let mut next = Vec::new();
            for folder in folders {
                match self.level(&folder).await {
                    Ok(level) => sort_out(&folder, level, depth, &mut found, &mut next),
                    Err(e) if folder.is_empty() => return Err(e),
                    Err(e) => found.skip(folder, format!("cannot be listed: {e}")),
                }
            }
            folders = next;
        }
        Ok(found.sorted())
    }

    async fn level(&self, folder: &str) -> Result<Level> {
        if self.objects.has_direct_local_paths() {
            let path = LocalPath::new(&self.uri).join(folder);
            return match local_level(&path, &self.root()).await {
                // It just went.
                Err(e) if e.kind() == ErrorKind::NotFound && !folder.is_empty() => {
                    Ok(Level::default())
                }
                level => level,
            };
        }
        let prefix = match folder {
            "" => self.base.clone(),
            _ => self.object_path(folder),
        };
        let listed = self.objects.list_with_delimiter(Some(&prefix)).await?;
        let names = |paths: Vec<object_store::path::Path>| {
            let names = paths.iter().filter_map(|p| p.filename().map(str::to_owned));
            names.collect()
        };
        Ok(Level {
            folders: names(listed.common_prefixes),
            files: names(listed.objects.into_iter().map(|o| o.location).collect()),
            odd: Vec::new(),
        })
    }

    /// The folders below the root that hold versions of a table, wherever they lie: deep, hidden, behind links, inside
    /// other tables or stores.
    ///
    /// # Errors
    /// `Storage` or `Refused` when some folder cannot be looked into: what lies in it is not known.
    pub(crate) async fn tables_anywhere(&self) -> Result<Vec<String>> {
        if !self.objects.has_direct_local_paths() {
            return self.listed_tables().await;
        }
        let root = PathBuf::from(&self.uri);
        let walk = tokio::task::spawn_blocking(move || local_tables(&root));
        let walked = walk.await;
        walked.map_err(|e| Error::internal("looking for tables").caused_by(e))?
    }

    async fn listed_tables(&self) -> Result<Vec<String>> {
        let mut tables = Vec::new();
        let mut folders = vec![String::new()];
        let mut looked_into = 0;
        while let Some(folder) = folders.pop() {
            looked_into += 1;
            if looked_into > MAX_LISTED_FOLDERS {
                return Err(too_many(&self.uri, MAX_LISTED_FOLDERS));
            }
            let level = self.level(&folder).await?;
            look_further(folder, level.folders, &mut tables, &mut folders);
        }
        Ok(tables)
    }

    fn root(&self) -> PathBuf {
        let root = PathBuf::from(&self.uri);
        root.canonicalize().unwrap_or(root)
    }
}

impl Discovered {
    fn sorted(mut self) -> Self {
        self.tables.sort();
        self.skipped.sort();
        self
    }
}

/// Puts what one folder holds where it belongs. `depth` is how far its entries are below the root.
fn sort_out(
    folder: &str,
    level: Level,
    depth: usize,
    found: &mut Discovered,
    next: &mut Vec<String>,
) {
    if !folder.is_empty() {
        if level.has(VERSIONS) {
            found.tables.push(folder.to_owned());
            return;
        }
        if level.files.iter().any(|name| name == LANCEDB_RESERVED) {
            return found.skip(
                folder.to_owned(),
                "declared in LanceDB, without a version yet",
            );
        }
        if level.has(INTERNAL) {
            return found.skip(folder.to_owned(), A_STORE);
        }
    }
    for (name, why) in level.odd {
        found.skip(below(folder, &name), why);
    }
    for name in level.folders {
        let path = below(folder, &name);
        if name.ends_with(".lance") {
            found.tables.push(path);
        } else if name == LANCEDB_CATALOGUE {
            found.skip(path, "LanceDB's own list of tables, which it maintains");
        } else if name == INTERNAL || name.starts_with('.') {
            // Ours, or nobody's business.
        } else {
            next.push(path);
        }
    }
    if depth == MAX_DEPTH {
        for path in next.drain(..) {
            let why = format!("not looked into: deeper than {MAX_DEPTH} folders");
            found.skip(path, why);
        }
    }
}

fn too_many(root: &str, most: usize) -> Error {
    let why = format!(
        "there are more than {most} folders below {root}, which are not all looked into; keep tables apart from other files"
    );
    Error::new(ErrorKind::Refused, why)
}

/// Adds `folder` to `tables` if it is one, and what is to be looked into in it to `folders`.
fn look_further(
    folder: String,
    inside: Vec<String>,
    tables: &mut Vec<String>,
    folders: &mut Vec<String>,
) {
    let is_table = !folder.is_empty() && inside.iter().any(|name| name == VERSIONS);
    let known =
        |name: &str| WITHOUT_TABLES.contains(&name) || (is_table && OF_A_TABLE.contains(&name));
    let further = inside.iter().filter(|name| !known(name.as_str()));
    folders.extend(further.map(|name| below(&folder, name)));
    if is_table {
        tables.push(folder);
    }
}

/// [`Store::tables_anywhere`] of a local folder.
fn local_tables(root: &LocalPath) -> Result<Vec<String>> {
    let real_root = root.canonicalize().unwrap_or_else(|_| root.to_owned());
    let mut followed = BTreeSet::new();
    let mut tables = Vec::new();
    let mut folders = vec![String::new()];
    let mut looked_into = 0;
    while let Some(folder) = folders.pop() {
        looked_into += 1;
        if looked_into > MAX_LOCAL_FOLDERS {
            return Err(too_many(&root.to_string_lossy(), MAX_LOCAL_FOLDERS));
        }
        let path = root.join(&folder);
        let inside = local_folders(&path, &real_root, &mut followed).map_err(|e| {
            let what = format!("cannot look into {}", path.display());
            Error::new(ErrorKind::Storage, what).caused_by(e)
        })?;
        look_further(folder, inside, &mut tables, &mut folders);
    }
    Ok(tables)
}

/// The folders in a local one that Lance could open a table below: it takes no name that is not UTF-8 or that object
/// stores do not take.
fn local_folders(
    path: &LocalPath,
    root: &LocalPath,
    followed: &mut BTreeSet<PathBuf>,
) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut folders = Vec::new();
    for entry in entries {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() || (kind.is_symlink() && leads_out(&entry.path(), root, followed)?) {
            let name = entry.file_name();
            let taken = name.to_str().filter(|name| PathPart::parse(name).is_ok());
            folders.extend(taken.map(str::to_owned));
        }
    }
    Ok(folders)
}

/// Whether a link leads to a folder that is not below the root, and to which no other did.
fn leads_out(
    link: &LocalPath,
    root: &LocalPath,
    followed: &mut BTreeSet<PathBuf>,
) -> io::Result<bool> {
    let real = match link.canonicalize() {
        Ok(real) => real,
        // Nobody can open a table behind it.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) if Errno::from_io_error(&e) == Some(Errno::LOOP) => return Ok(false),
        Err(e) => return Err(e),
    };
    Ok(real.is_dir() && !real.starts_with(root) && followed.insert(real))
}

/// A local folder, entry by entry: the object-store interface fails as a whole on one name or link that it cannot take.
async fn local_level(path: &LocalPath, root: &LocalPath) -> Result<Level> {
    let unlisted = |e: io::Error| {
        let kind = match e.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            _ => ErrorKind::Storage,
        };
        Error::new(kind, format!("cannot list {}", path.display())).caused_by(e)
    };
    let mut level = Level::default();
    let mut entries = tokio::fs::read_dir(path).await.map_err(unlisted)?;
    while let Some(entry) = entries.next_entry().await.map_err(unlisted)? {
        let name = entry.file_name();
        let shown = name.to_string_lossy().into_owned();
        let kind = entry.file_type().await;
        let link = kind.as_ref().is_ok_and(std::fs::FileType::is_symlink);
        match folder_or_why_not(&entry.path(), &name, link, root).await {
            Ok(true) => level.folders.push(shown),
            Ok(false) => level.files.push(shown),
            Err(why) => level.odd.push((shown, why)),
        }
    }
    Ok(level)
}

/// Whether the entry is a folder, or why it is neither folder nor file for us.
async fn folder_or_why_not(
    path: &LocalPath,
    name: &OsStr,
    link: bool,
    root: &LocalPath,
) -> Result<bool, String> {
    let table = name.to_string_lossy().ends_with(".lance");
    let folder = match tokio::fs::metadata(path).await {
        Ok(meta) => meta.is_dir(),
        Err(e) if table => return Err(format!("cannot be followed: {e}")),
        // A link that leads nowhere or an entry that just went: no table.
        Err(_) => return Ok(false),
    };
    if !folder {
        return Ok(false);
    }
    let Some(name) = name.to_str() else {
        return Err(String::from(
            "its name is not UTF-8, and Lance cannot open it",
        ));
    };
    if PathPart::parse(name).is_err() {
        return Err(String::from(
            "its name has characters that object stores do not take",
        ));
    }
    if !link {
        return Ok(true);
    }
    if !table {
        return Err(String::from(
            "a link to a folder: name it as a place of its own",
        ));
    }
    match tokio::fs::canonicalize(path).await {
        Ok(real) if real.starts_with(root) => {
            Err(format!("a link to {}, which is here", real.display()))
        }
        Ok(real) => match store_around(&real) {
            Some(store) => Err(format!(
                "a link to a table of the store {}, which alone maintains it: name the store",
                store.display()
            )),
            // Who may write here may not say what else is rewritten and cleaned up.
            None => Err(format!(
                "a link to {}, which is outside of this location: name that as a place of its own",
                real.display()
            )),
        },
        Err(e) => Err(format!("cannot be followed: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::{Discovered, MAX_DEPTH, PassedOver};
    use crate::error::ErrorKind;
    use crate::store::{Store, StoreOptions};
    use std::fs::create_dir_all;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    async fn found(root: &Path) -> Discovered {
        let uri = root.to_str().unwrap();
        let store = Store::connect(uri, StoreOptions::default()).await.unwrap();
        store.datasets().await.unwrap()
    }

    fn reasons(found: &Discovered, path: &str) -> String {
        let matching = found.skipped.iter().filter(|s| s.path == path);
        matching.map(|s| s.reason.as_str()).collect()
    }

    #[tokio::test]
    async fn tables_are_found_at_every_depth_and_odd_folders_are_named() {
        let root = std::env::temp_dir().join(format!("squire-found-{}", std::process::id()));
        let dir = root.as_path();
        for table in ["a.lance", "org/model.lance", "1/2/3/deep.lance", "h_ns$t"] {
            create_dir_all(dir.join(table).join("_versions")).unwrap();
        }
        for folder in [
            "half.lance/data",
            "__manifest/_versions",
            "a.lance/inner.lance",
            "lake/_squire",
            "lake/pinned.lance/_versions",
            "1/2/3/4/too.lance",
            ".hidden/t.lance",
            "declared",
        ] {
            create_dir_all(dir.join(folder)).unwrap();
        }
        std::fs::write(dir.join("declared/.lance-reserved"), "").unwrap();
        create_dir_all(dir.join(std::ffi::OsStr::from_bytes(b"\xff.lance"))).unwrap();
        symlink(dir, dir.join("loop")).unwrap();
        symlink("self.lance", dir.join("self.lance")).unwrap();
        symlink("a.lance", dir.join("again.lance")).unwrap();
        let outside = std::env::temp_dir();
        symlink(&outside, dir.join("outside.lance")).unwrap();

        let found = found(dir).await;
        let tables = [
            "1/2/3/deep.lance",
            "a.lance",
            "h_ns$t",
            "half.lance",
            "org/model.lance",
        ];
        assert_eq!(found.tables, tables);
        for (path, reason) in [
            ("\u{fffd}.lance", "UTF-8"),
            ("1/2/3/4", "deeper"),
            ("__manifest", "LanceDB"),
            ("again.lance", "a link to"),
            ("declared", "without a version"),
            ("lake", "a squire store"),
            ("loop", "a link to a folder"),
            ("outside.lance", "outside of this location"),
            ("self.lance", "cannot be followed"),
        ] {
            let reason_of = reasons(&found, path);
            assert!(reason_of.contains(reason), "{path}: {reason_of}");
        }
        assert_eq!(found.skipped.len(), 9, "{:?}", found.skipped);
        assert_eq!(MAX_DEPTH, 4);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[tokio::test]
    async fn cleanup_looks_where_nothing_is_maintained() {
        let root = std::env::temp_dir().join(format!("squire-anywhere-{}", std::process::id()));
        let dir = root.join("lake");
        for table in [
            "lake/a.lance",
            "lake/1/2/3/4/5/deep",
            "lake/.hidden/t.lance",
        ]
        .into_iter()
        .chain(["lake/a.lance/x/inner.lance", "lake/store/t.lance"])
        .chain(["lake/_squire/manifest.lance", "elsewhere/t.lance"])
        {
            create_dir_all(root.join(table).join("_versions")).unwrap();
        }
        create_dir_all(dir.join("a.lance/data/no.lance/_versions")).unwrap();
        for (target, link) in [
            ("../elsewhere", "linked"),
            ("../elsewhere", "again"),
            (".", "loop"),
            ("self.lance", "self.lance"),
            ("nowhere", "dangling"),
        ] {
            symlink(target, dir.join(link)).unwrap();
        }
        let options = StoreOptions::default();
        let uri = dir.to_str().unwrap();
        let store = Store::connect(uri, options).await.unwrap();
        let mut found = store.tables_anywhere().await.unwrap();
        found.sort();
        let by_link: Vec<String> = found
            .extract_if(.., |path| {
                path.starts_with("linked/") || path.starts_with("again/")
            })
            .collect();
        assert_eq!(by_link.len(), 1, "one of two links to it: {by_link:?}");
        let tables = [
            ".hidden/t.lance",
            "1/2/3/4/5/deep",
            "a.lance",
            "a.lance/x/inner.lance",
            "store/t.lance",
        ];
        assert_eq!(found, tables);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_no_empty_one() {
        let root = std::env::temp_dir().join(format!("squire-gone-{}", std::process::id()));
        let uri = root.to_str().unwrap();
        let store = Store::connect(uri, StoreOptions::default()).await.unwrap();
        let gone = store.datasets().await.unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
    }

    #[tokio::test]
    async fn object_stores_are_listed_level_by_level() {
        let options = StoreOptions::default();
        let store = Store::connect("memory://discovery", options).await.unwrap();
        for object in [
            "t.lance/_versions/1.manifest",
            "org/m.lance/_versions/1.manifest",
            "other/file.txt",
        ] {
            let path = store.object_path(object);
            store.put_if_absent(&path, b"x".to_vec()).await.unwrap();
        }
        let found = store.datasets().await.unwrap();
        assert_eq!(found.tables, ["org/m.lance", "t.lance"]);
        assert_eq!(found.skipped, Vec::<PassedOver>::new());
        let path = store.object_path("1/2/3/4/5/deep.lance/_versions/1.manifest");
        store.put_if_absent(&path, b"x".to_vec()).await.unwrap();
        let mut found = store.tables_anywhere().await.unwrap();
        found.sort();
        assert_eq!(found, ["1/2/3/4/5/deep.lance", "org/m.lance", "t.lance"]);
    }
}
