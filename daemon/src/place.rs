//! A place to work on: a store, a watched directory of plain Lance tables, or a single table.
//!
//! 1. [`Place`] is what was opened.
//! 2. `observe` does the I/O of looking: open, scan, look at one table.
//! 3. `location` keeps what is known of one watched location, and says what to look at next. Pure.
//! 4. `table` keeps what is known of one table, and decides. Pure.
//! 5. `trend` remembers how many fragments a table had.
//! 6. `unreferenced` counts what no version refers to, rarely.
//! 7. `selection` says which tables and branches a command or a round is about.

mod disk;
pub(crate) mod location;
pub(crate) mod observe;
mod selection;
pub(crate) mod table;
mod trend;
mod unreferenced;

use crate::config::{Config, Watch, WatchKind, location_of};
use crate::decide::planning::OperationKind;
use squire_engine::error::{Error, ErrorKind, Result, caught};
use squire_engine::ids::{OpId, TableName};
use squire_engine::maintenance::{RunFiles, Target, Unfit, Unreferenced};
use squire_engine::recovery::{PlannedRecovery, RecoveryReport, Watch as RecoveryWatch};
use squire_engine::store::discovery::{Discovered, PassedOver};
use squire_engine::store::location::check_lasting;
use squire_engine::store::{State, Store, StoreOptions};
use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use unreferenced::Counts;

/// What cannot be found out, and is said wherever something is removed.
pub(crate) const CLONES_ELSEWHERE: &str = "shallow clones that lie in locations which are not watched are not known, and lose the files that only old versions hold; tag what they were made of";

/// What is said of a name in `[[table]]` that is the name of no table.
pub(crate) const UNKNOWN_TABLE: &str = "a [[table]] of this name is in no location, so its settings are for nothing; it is named as `squire status` names it";

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
    /// How it was asked for.
    watch: Watch,
    counts: Arc<Counts>,
    /// What stood beside the tables of a store, and when that was looked for.
    beside: Arc<Mutex<Option<LookedBeside>>>,
}

/// When it was looked, by the monotonic clock, and what was found.
type LookedBeside = (Duration, Vec<PassedOver>);

/// What is maintained at a place, and what stands beside it.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// What is maintained.
    pub(crate) targets: Vec<Target>,
    /// What is not, and why.
    pub(crate) skipped: Vec<PassedOver>,
}

impl IntoIterator for Selection {
    type Item = Target;
    type IntoIter = std::vec::IntoIter<Target>;

    fn into_iter(self) -> Self::IntoIter {
        self.targets.into_iter()
    }
}

/// Runs one step of `doing` on `target`. A panic inside Lance, or a table that it cannot read, is an error of this step:
/// nothing that the caller asked for was wrong.
pub(crate) async fn step<T>(
    doing: &str,
    target: &Target,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    let done = caught(&format!("{doing} of {target}"), work).await;
    done.map_err(|e| match e.kind() {
        ErrorKind::Internal if doing == "reindex" => {
            e.advice("if it stays, drop that index and build it anew")
        }
        ErrorKind::Internal => e.advice("the table is as it was; if it stays, please report it"),
        _ => e.of_what_stands(),
    })
}

/// That there is nothing to work on at `uri`, and what was passed over there.
fn nothing_at(uri: &str, skipped: &[PassedOver]) -> Error {
    let more = match skipped {
        [] => format!("make a store with `squire init {uri}`"),
        [one] => format!("passed over: {}: {}", one.path, one.reason),
        [one, ..] => format!("passed over: {}: {}, and others", one.path, one.reason),
    };
    Error::new(
        ErrorKind::NotFound,
        format!("{uri} is neither a store nor a directory of Lance tables; {more}"),
    )
}

/// What stands beside the tables of a store. That it cannot be looked for hides none of them.
pub(crate) async fn beside(store: &Store) -> Vec<PassedOver> {
    store.beside().await.unwrap_or_else(|e| {
        vec![PassedOver {
            path: String::from("."),
            reason: format!("what stands beside the store's tables is not known: {e}"),
        }]
    })
}

impl Place {
    /// Opens whatever stands at `uri`.
    ///
    /// # Errors
    /// Those of the engine; a panic is one of them.
    pub(crate) async fn open(watch: &Watch, options: StoreOptions) -> Result<Self> {
        let opening = format!("opening {}", watch.uri);
        let opened = caught(&opening, Self::open_uncaught(watch, options)).await;
        opened.map_err(|e| match e.kind() {
            ErrorKind::Internal if watch.uri.contains("://") => {
                e.advice("a storage option, or a variable such as AWS_ENDPOINT, may be malformed")
            }
            _ => e,
        })
    }

    async fn open_uncaught(watch: &Watch, mut options: StoreOptions) -> Result<Self> {
        check_lasting(&watch.uri)?;
        options.storage_options = watch
            .storage_options
            .clone()
            .into_iter()
            .collect::<HashMap<_, _>>();
        let uri = watch.uri.clone();
        match (Store::open(&uri, options.clone()).await, watch.kind) {
            (Ok(store), WatchKind::Auto | WatchKind::Store) => {
                return Ok(Self {
                    uri,
                    store,
                    managed: true,
                    single: None,
                    watch: watch.clone(),
                    counts: Arc::default(),
                    beside: Arc::default(),
                });
            }
            (Ok(_), WatchKind::Directory | WatchKind::Table) => {
                return Err(Error::new(
                    ErrorKind::Refused,
                    format!(
                        "{uri} is a store: its tables would be maintained past what its readers see; leave kind out, or set kind = \"store\""
                    ),
                ));
            }
            (Err(e), kind) if e.kind() != ErrorKind::NotFound || kind == WatchKind::Store => {
                return Err(e);
            }
            (Err(_), _) => {}
        }
        let root = Store::connect(&uri, options.clone()).await?;
        if matches!(watch.kind, WatchKind::Auto | WatchKind::Table) && root.is_dataset().await? {
            return Self::open_table(watch, options).await;
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
            watch: watch.clone(),
            counts: Arc::default(),
            beside: Arc::default(),
        };
        let Discovered { tables, skipped } = match place.store.datasets().await {
            Err(e) if e.kind() == ErrorKind::NotFound => Discovered::default(),
            found => found?,
        };
        if tables.is_empty() {
            place.store.is_object_store().await?;
            return Err(nothing_at(&place.uri, &skipped));
        }
        Ok(place)
    }

    /// One table. Inside a store it is the store's: maintained at its pin, or readers of the store would lose it.
    async fn open_table(watch: &Watch, options: StoreOptions) -> Result<Self> {
        let uri = watch.uri.clone();
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
            watch: watch.clone(),
            counts: Arc::default(),
            beside: Arc::default(),
        })
    }

    /// Whether the URI names a single table.
    pub(crate) fn is_single_table(&self) -> bool {
        self.single.is_some()
    }

    /// Recovers what operations left here: all of a store, or the runs on plain tables.
    pub(crate) async fn recover(
        &self,
        watch: &mut RecoveryWatch,
        force: bool,
    ) -> Result<RecoveryReport> {
        if self.managed {
            return self.store.recover(watch, force).await;
        }
        let only = self.single.as_deref();
        self.store.recover_plain(only, watch, force).await
    }

    /// What [`Place::recover`] would do, were all graces over.
    pub(crate) async fn recovery_plan(&self) -> Result<Vec<PlannedRecovery>> {
        if self.managed {
            return self.store.recovery_plan().await;
        }
        let only = self.single.as_deref();
        self.store.plain_recovery_plan(only).await
    }

    /// Before a command maintains plain tables: reclaims what runs that died left there. Best effort.
    pub(crate) async fn reclaim_first(&self) {
        if self.managed {
            return;
        }
        match self.recover(&mut RecoveryWatch::default(), false).await {
            Ok(report) => {
                for (op, bytes) in report.reclaimed {
                    tracing::info!(place = self.uri, %op, bytes, "reclaimed what a maintenance run that died had written");
                }
                for (op, error) in report.failed {
                    tracing::warn!(
                        place = self.uri,
                        op,
                        error,
                        "what a maintenance run left cannot be reclaimed now"
                    );
                }
            }
            Err(error) => {
                tracing::warn!(place = self.uri, %error, "what maintenance runs left cannot be reclaimed now");
            }
        }
    }

    /// The operations here that are recorded: at work, or waiting for recovery.
    pub(crate) async fn sidecar_ops(&self) -> Result<Vec<OpId>> {
        if self.managed {
            return self.store.sidecar_ops().await;
        }
        let only = self.single.as_deref();
        self.store.plain_sidecar_ops(only).await
    }

    /// The runs here that have a journal, at work or dead.
    pub(crate) async fn journals(&self) -> Result<Vec<RunFiles>> {
        if self.managed {
            return self.store.journals().await;
        }
        self.store.plain_journals(self.single.as_deref()).await
    }

    /// Bytes that maintenance here wrote and did not settle.
    pub(crate) async fn stranded_bytes(&self) -> Result<u64> {
        if self.managed {
            return self.store.stranded_bytes().await;
        }
        let only = self.single.as_deref();
        self.store.plain_stranded_bytes(only).await
    }

    /// What no version of `target` refers to; `None` when it has too many versions to say.
    pub(crate) async fn unreferenced(&self, target: &Target) -> Result<Option<Unreferenced>> {
        match target {
            Target::Plain(path) => self.store.unreferenced_files(path).await,
            // They are counted with those of its table.
            Target::Branch { .. } => Ok(None),
            Target::Pinned(table) => {
                let snapshot = self.store.load().await?;
                let path = &snapshot.state.table(table)?.path;
                self.store.unreferenced_files(path).await
            }
        }
    }

    /// Keeps what was counted of its tables. Best effort: it decides about nothing but pace.
    pub(crate) async fn keep_ledger(&self) {
        if let Err(error) = self.store.keep_ledger().await {
            tracing::debug!(place = self.uri, %error, "what was counted of its tables cannot be kept now");
        }
    }

    /// What was found unfit here and is not tried again; what cannot be read is.
    pub(crate) async fn unfit(&self) -> Vec<Unfit> {
        let unfit = self.store.unfit().await;
        unfit.unwrap_or_else(|error| {
            tracing::warn!(place = self.uri, %error, "what rests as unfit cannot be read: it is tried once more");
            Vec::new()
        })
    }

    /// Notes all that rests here as unfit. Best effort: what is not noted is tried once more by the next process.
    pub(crate) async fn note_unfit(&self, unfit: &[Unfit]) {
        if let Err(error) = self.store.note_unfit(unfit).await {
            tracing::warn!(place = self.uri, %error, "what rests as unfit cannot be noted: the next start tries it once more");
        }
    }

    /// `kind` of `target` was fit by hand: the next daemon does not let it rest. Best effort.
    pub(crate) async fn lift_unfit(&self, target: &Target, kind: OperationKind) {
        let table = target.to_string();
        let forgotten = self.store.forget_unfit(&table, kind.as_str()).await;
        if let Err(error) = forgotten {
            tracing::warn!(place = self.uri, %target, %error, "what rested of it as unfit cannot be lifted");
        }
    }

    /// Whether this is what opening `watch` gives: the watch may have been changed since, and plain tables may have
    /// become those of a store, which pins them. What cannot be asked now stays: a look at it says why.
    pub(crate) async fn still_is(&self, watch: &Watch) -> bool {
        self.watch == *watch && (self.managed || !self.store.has_manifest().await.unwrap_or(false))
    }

    /// What is maintained here now; new tables appear by themselves.
    pub(crate) async fn targets(&self) -> Result<Selection> {
        if self.managed {
            let state = self.store.load().await?.state;
            return Ok(Selection {
                targets: self.pinned(&state),
                skipped: self.beside_anew(Duration::ZERO).await,
            });
        }
        let found = match &self.single {
            Some(single) => Discovered {
                tables: vec![single.clone()],
                skipped: Vec::new(),
            },
            None => self.store.datasets().await?,
        };
        Ok(Selection {
            targets: found.tables.into_iter().map(Target::Plain).collect(),
            skipped: found.skipped,
        })
    }

    /// What is maintained here of the tables of `state`.
    fn pinned(&self, state: &State) -> Vec<Target> {
        let wanted = |path: &String| self.single.as_ref().is_none_or(|single| single == path);
        let pinned = state.tables.iter().filter(|(_, e)| wanted(&e.path));
        pinned
            .map(|(name, _)| Target::Pinned(name.clone()))
            .collect()
    }

    /// What stands beside the tables of this store, looked for anew when that is older than `every`.
    async fn beside_anew(&self, every: Duration) -> Vec<PassedOver> {
        if self.single.is_some() {
            return Vec::new();
        }
        let now = self.store.clock().monotonic();
        let mut beside_last = self.beside.lock().await;
        if let Some((at, found)) = beside_last.as_ref()
            && now.saturating_sub(*at) < every
        {
            return found.clone();
        }
        let found = beside(&self.store).await;
        *beside_last = Some((now, found.clone()));
        found
    }

    /// The name that configuration uses for `target`.
    pub(crate) fn config_name(target: &Target) -> &str {
        match target {
            Target::Pinned(table) => table.as_str(),
            Target::Plain(path) | Target::Branch { table: path, .. } => {
                path.strip_suffix(".lance").unwrap_or(path)
            }
        }
    }
}

/// The watch of a URI given on the command line: the configured one, so that its storage options apply, or a plain one.
pub(crate) fn watch_of(config: &Config, uri: &str) -> Watch {
    let configured = config.watches.iter().find(|w| same_place(&w.uri, uri));
    configured.cloned().unwrap_or_else(|| Watch {
        uri: uri.trim_end_matches('/').to_owned(),
        kind: WatchKind::Auto,
        storage_options: Default::default(),
    })
}

/// Whether two URIs are two ways to write one.
pub(crate) fn same_place(a: &str, b: &str) -> bool {
    match (location_of(a), location_of(b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a.trim_end_matches('/') == b.trim_end_matches('/'),
    }
}

/// Refuses `directory` in a store on the local disk: whoever looks into the store takes what stands there for its tables
/// or for waste.
pub(crate) fn check_outside(store: &Store, directory: &Path) -> Result<()> {
    let real = |path: &Path| {
        let whole = std::path::absolute(path).ok()?;
        // What is not there yet is where its nearest folder is.
        whole.ancestors().find_map(|path| path.canonicalize().ok())
    };
    let (root, inside) = (real(Path::new(store.uri())), real(directory));
    match (root, inside) {
        (Some(root), Some(inside)) if !store.uri().contains("://") && inside.starts_with(&root) => {
            Err(Error::new(
                ErrorKind::Refused,
                format!(
                    "{} is in the store {}; choose a directory beside it",
                    directory.display(),
                    store.uri()
                ),
            ))
        }
        _ => Ok(()),
    }
}

/// A table name from the command line.
pub(crate) fn table_name(name: &str) -> Result<TableName> {
    TableName::new(name)
}

#[cfg(test)]
mod tests {
    use super::step;
    use squire_engine::maintenance::Target;

    #[tokio::test]
    async fn a_panic_is_told_with_the_table_what_was_done_and_what_helps() {
        let target = Target::Plain("org/t.lance".to_owned());
        for (doing, helps) in [
            ("reindex", "drop that index and build it anew"),
            (
                "compact",
                "the table is as it was; if it stays, please report it",
            ),
            (
                "look",
                "the table is as it was; if it stays, please report it",
            ),
        ] {
            let work = async {
                match doing {
                    "" => Ok(()),
                    _ => panic!("not for this table"),
                }
            };
            let told = step(doing, &target, work).await.unwrap_err().to_string();
            let began = format!("{doing} of org/t.lance: panicked: not for this table");
            assert!(told.starts_with(&began) && told.contains(helps), "{told}");
        }
    }
}
