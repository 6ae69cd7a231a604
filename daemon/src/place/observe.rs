//! What looking at a location and its tables takes: reads, and nothing else but what adopting drift publishes.

use super::location::Found;
use super::table::Observation;
use super::{Place, Selection, step};
use crate::config::{Config, DriftPolicy, Watch, nested::why_twice};
use crate::decide::planning::bounds;
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::maintenance::{Looking, Observed, Shown, Target, Unfit};
use squire_engine::store::StoreOptions;
use squire_engine::store::discovery::PassedOver;
use squire_engine::store::state::MAX_BATCHES;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a place may take to open, once it has answered, before it counts as one that cannot be opened; the next round
/// tries again.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);

/// The place of `watch`: the one that is `open`, or another where something else stands now. Refused is what one of `watches`
/// holds and would maintain as well. The second answer is what rests there as unfit, where it was opened anew.
pub(crate) async fn open(
    watch: &Watch,
    open: Option<Place>,
    watches: &[Watch],
    options: StoreOptions,
) -> Result<(Place, Vec<Unfit>)> {
    let clock = options.clock.clone();
    let opening = async {
        if let Some(place) = open
            && place.still_is(watch).await
        {
            return Ok((place, Vec::new()));
        }
        let place = Place::open(watch, options).await?;
        let is_store = place.managed && !place.is_single_table();
        if !is_store && let Some(why) = why_twice(watch, watches) {
            return Err(Error::new(ErrorKind::Refused, why));
        }
        tracing::info!(uri = place.uri, managed = place.managed, "watching");
        let unfit = place.unfit().await;
        for of in &unfit {
            let (target, kind, index) = (&of.table, &of.kind, of.index.as_deref());
            let (index, why) = (index.unwrap_or_default(), &of.reason);
            tracing::warn!(
                uri = place.uri,
                target,
                kind,
                index,
                why,
                "this was unfit and rests; ask for it to have it tried once more"
            );
        }
        Ok((place, unfit))
    };
    tokio::select! {
        biased;
        opened = opening => opened,
        () = clock.sleep(OPEN_TIMEOUT) => Err(Error::new(
            ErrorKind::Storage,
            format!("it took more than {} s to open", OPEN_TIMEOUT.as_secs()),
        )),
    }
}

/// Lists the tables of `place`, and what was passed over. What stands beside the tables of a store is looked for anew when
/// that is older than `beside_every`: each folder costs a listing.
pub(crate) async fn scan(
    place: &Place,
    config: &Config,
    beside_every: Duration,
) -> Result<(Found, Vec<PassedOver>)> {
    place.keep_ledger().await;
    if !place.managed {
        let Selection { targets, skipped } = place.maintained(config).await?;
        // It was opened, so there was something. Nobody would hear of a disk that is not mounted any more.
        if targets.is_empty() {
            let gone = "no table is there any more; is the storage still mounted?";
            return Err(Error::new(ErrorKind::NotFound, gone));
        }
        place.count_only(&targets);
        let folder = |target: &Target| match target.shown() {
            Shown::Head(path) => (path.into_owned(), 0),
            Shown::Pin(table) => (table.to_string(), 0),
        };
        let tables = targets.into_iter().map(|t| (t.clone(), folder(&t)));
        let found = Found {
            tables: tables.collect(),
            ..Found::default()
        };
        return Ok((found, skipped));
    }
    let mut state = place.store.load().await?.state;
    let mut unarchived = None;
    if state.batches.len() > MAX_BATCHES {
        unarchived = archive_early(place).await;
        state = place.store.load().await?.state;
    }
    let targets = place.pinned(&state);
    place.count_only(&targets);
    let standing = |target: Target| {
        let entry = state.tables.get(target.table()?)?;
        let at = (entry.path.clone(), entry.version);
        Some((target, at))
    };
    let tables: BTreeMap<_, _> = targets.into_iter().filter_map(standing).collect();
    let skipped = place.beside_anew(beside_every).await;
    let found = Found {
        tables,
        state: Some(state),
        unarchived,
    };
    Ok((found, skipped))
}

/// Copies the commit log because more batch ids stand in the manifest than should: only archived ones may leave it,
/// and every publish writes those that stay. A log that cannot be written makes publishes longer, and stops no table:
/// the answer is why.
async fn archive_early(place: &Place) -> Option<String> {
    let error = place.store.archive().await.err()?;
    tracing::warn!(place = place.uri, %error, "the commit log cannot be written now");
    Some(error.to_string())
}

/// Looks at one table; a panic inside Lance is an error of this look. Versions of others above the pin of a table that
/// is `stopped` are left alone. What is known is asked for anew, and what no version refers to counted, when that is older
/// than `anew_after`.
pub(crate) async fn look(
    place: &Place,
    target: &Target,
    config: &Config,
    stopped: bool,
    anew_after: Duration,
) -> Result<Observation> {
    let policy = config.policy_for(Place::config_name(target));
    let looking = async {
        let looking = Looking {
            bounds: &bounds(&policy),
            adopt: (!stopped).then_some(policy.drift == DriftPolicy::Adopt),
            anew_after,
        };
        let Observed {
            health,
            rewrites,
            drift,
        } = place.store.observe(target, &looking).await?;
        Ok(Observation {
            health,
            rewrites,
            drift,
            unreferenced: place.counted(target, anew_after).await,
        })
    };
    step("look", target, looking).await
}
