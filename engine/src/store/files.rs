//! What is known of data files beyond the manifests that name them. Files never change, so it is looked up once.

use lance::Dataset;
use lance_table::format::{DataFile, Fragment};
use object_store::path::Path;
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The rows of a file as a reader decodes them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Width {
    /// Bytes per row, those of blobs among them.
    pub(crate) bytes: u64,
    /// Bytes of the widest that was looked at.
    pub(crate) widest: u64,
    /// What the 32-bit offsets of its widest column count per row.
    pub(crate) items: u64,
}

/// See the module's header. Keys are paths of data files.
#[derive(Debug)]
pub(crate) struct FileFacts {
    /// How many files are remembered; beyond it everything is forgotten and looked up again.
    most: usize,
    sizes: Mutex<HashMap<String, u64>>,
    widths: Mutex<HashMap<String, Width>>,
    /// The sizes of files that could be read when this process tried.
    readable: Mutex<HashMap<String, u64>>,
}

fn locked<T>(map: &Mutex<HashMap<String, T>>) -> MutexGuard<'_, HashMap<String, T>> {
    map.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FileFacts {
    /// Facts of at most so many files.
    pub(crate) fn of(most: usize) -> Self {
        Self {
            most,
            sizes: Mutex::default(),
            widths: Mutex::default(),
            readable: Mutex::default(),
        }
    }

    fn remember<T>(
        &self,
        map: &Mutex<HashMap<String, T>>,
        facts: impl IntoIterator<Item = (String, T)>,
    ) {
        let mut map = locked(map);
        if map.len() >= self.most {
            map.clear();
        }
        map.extend(facts);
    }

    /// The size of a file in bytes.
    pub(crate) fn size(&self, path: &str) -> Option<u64> {
        locked(&self.sizes).get(path).copied()
    }

    /// Remembers sizes.
    pub(crate) fn sized(&self, sizes: impl IntoIterator<Item = (String, u64)>) {
        self.remember(&self.sizes, sizes);
    }

    /// The width of a file's rows.
    pub(crate) fn width(&self, path: &str) -> Option<Width> {
        locked(&self.widths).get(path).copied()
    }

    /// Remembers a width.
    pub(crate) fn measured(&self, path: String, width: Width) {
        self.remember(&self.widths, [(path, width)]);
    }

    /// Whether a file of this size could be read.
    pub(crate) fn is_readable(&self, path: &str, bytes: u64) -> bool {
        locked(&self.readable).get(path) == Some(&bytes)
    }

    /// Remembers files that could be read, with their sizes.
    pub(crate) fn readable(&self, files: impl IntoIterator<Item = (String, u64)>) {
        self.remember(&self.readable, files);
    }
}

/// Bytes of a fragment's data files.
pub(crate) fn fragment_bytes(fragment: &Fragment) -> u64 {
    let sizes = fragment.files.iter().map(|file| &file.file_size_bytes);
    sizes.filter_map(|size| size.get()).map(u64::from).sum()
}

/// Where a data file lies; only files of the dataset's own.
pub(crate) fn own_file(dataset: &Dataset, file: &DataFile) -> Option<Path> {
    file.base_id
        .is_none()
        .then(|| dataset.data_dir().join(file.path.as_str()))
}
