//! A place to work on: a store, a watched directory of plain Lance tables, or a single table.

use crate::config::{Config, Watch, WatchKind};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::ids::TableName;
use squire_engine::maintenance::Target;
use squire_engine::store::{Store, StoreOptions};
use std::collections::HashMap;
use std::sync::Arc;

/// An opened place.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// The URI as the user wrote it.
    pub(crate) uri: String,
    /// Its storage.
    pub(crate) store: Arc<Store>,
    /// Whether it is a store: pinned tables, sidecars, a manifest.
    pub(crate) managed: bool,
    /// The single table, when the URI names one.
    single: Option<String>,
}

impl Place {
    /// Opens whatever stands at `uri`.
    pub(crate) async fn open(watch: &Watch, mut options: StoreOptions) -> Result<Self> {
        options.storage_options = watch
            .storage_options
            .clone()
            .into_iter()
            .collect::<HashMap<_, _>>();
        let uri = watch.uri.clone();
        if matches!(watch.kind, WatchKind::Auto | WatchKind::Store) {
            match Store::open(&uri, options.clone()).await {
                Ok(store) => {
                    return Ok(Self {
                        uri,
                        store,
                        managed: true,
                        single: None,
                    });
                }
                Err(e) if e.kind() == ErrorKind::NotFound && watch.kind == WatchKind::Auto => {}
                Err(e) => return Err(e),
            }
        }
        let root = Store::connect(&uri, options.clone()).await?;
        if matches!(watch.kind, WatchKind::Auto | WatchKind::Table) && root.is_dataset().await? {
            return Self::open_table(uri, options).await;
        }
        if watch.kind == WatchKind::Table {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!("{uri} is not a Lance table"),
            ));
        }
        let place = Self {
            uri,
            store: Arc::new(root),
            managed: false,
            single: None,
        };
        if place.store.datasets().await?.is_empty() {
            return Err(Error::new(
                ErrorKind::NotFound,
                format!(
                    "{} is neither a store nor a directory of Lance tables; make a store with `squire init {}`",
                    place.uri, place.uri
                ),
            ));
        }
        Ok(place)
    }

    /// One table. Inside a store it is the store's: maintained at its pin, or readers of the store would lose it.
    async fn open_table(uri: String, options: StoreOptions) -> Result<Self> {
        let (parent, name) = uri
            .trim_end_matches('/')
            .rsplit_once('/')
            .unwrap_or((".", &uri));
        let single = Some(name.to_owned());
        let (store, managed) = match Store::open(parent, options.clone()).await {
            Ok(store) => (store, true),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                (Arc::new(Store::connect(parent, options).await?), false)
            }
            Err(e) => return Err(e),
        };
        Ok(Self {
            uri,
            store,
            managed,
            single,
        })
    }

    /// What is maintained here now; new tables appear by themselves.
    pub(crate) async fn targets(&self) -> Result<Vec<Target>> {
        if self.managed {
            let snapshot = self.store.load().await?;
            if let Some(path) = &self.single {
                let table = snapshot
                    .state
                    .tables
                    .iter()
                    .find(|(_, entry)| entry.path == *path);
                return Ok(table
                    .map(|(name, _)| Target::Pinned(name.clone()))
                    .into_iter()
                    .collect());
            }
            return Ok(snapshot
                .state
                .tables
                .keys()
                .cloned()
                .map(Target::Pinned)
                .collect());
        }
        if let Some(single) = &self.single {
            return Ok(vec![Target::Plain(single.clone())]);
        }
        Ok(self
            .store
            .datasets()
            .await?
            .into_iter()
            .map(Target::Plain)
            .collect())
    }

    /// The targets that `names` select; all of them when it is empty.
    pub(crate) async fn select(&self, names: &[String]) -> Result<Vec<Target>> {
        let targets = self.targets().await?;
        if names.is_empty() {
            return Ok(targets);
        }
        names.iter().map(|name| self.find(&targets, name)).collect()
    }

    fn find(&self, targets: &[Target], name: &str) -> Result<Target> {
        let wanted = |t: &&Target| match t {
            Target::Pinned(table) => table.as_str() == name,
            Target::Plain(path) => path == name || path.strip_suffix(".lance") == Some(name),
        };
        targets.iter().find(wanted).cloned().ok_or_else(|| {
            let known: Vec<String> = targets.iter().map(ToString::to_string).collect();
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

    /// The name that configuration uses for `target`.
    pub(crate) fn config_name(target: &Target) -> &str {
        match target {
            Target::Pinned(table) => table.as_str(),
            Target::Plain(path) => path.strip_suffix(".lance").unwrap_or(path),
        }
    }
}

/// The watch of a URI given on the command line: the configured one, so that its storage options apply, or a plain one.
pub(crate) fn watch_of(config: &Config, uri: &str) -> Watch {
    let trimmed = uri.trim_end_matches('/');
    config
        .watches
        .iter()
        .find(|w| w.uri.trim_end_matches('/') == trimmed)
        .cloned()
        .unwrap_or_else(|| Watch {
            uri: trimmed.to_owned(),
            kind: WatchKind::Auto,
            storage_options: Default::default(),
        })
}

/// A table name from the command line.
pub(crate) fn table_name(name: &str) -> Result<TableName> {
    TableName::new(name)
}
