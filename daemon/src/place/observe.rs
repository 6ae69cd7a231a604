//! What looking at a location and its tables takes: reads, and nothing else but what adopting drift publishes.

use super::location::Found;
use super::table::Observation;
use super::{Place, Selection, step};
use crate::config::{Config, DriftPolicy, Watch};
use crate::decide::planning::bounds;
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::maintenance::{CompactionPlan, Target};
use squire_engine::store::StoreOptions;
use squire_engine::store::discovery::PassedOver;
use squire_engine::store::state::MAX_BATCHES;
use std::collections::BTreeMap;
use std::time::Duration;

/// How long a place may take to open before it counts as one that cannot be opened; the next round tries again.
const OPEN_TIMEOUT: Duration = Duration::from_secs(20);

/// The place of `watch`: the one that is `open`, or another where something else stands now.
pub(crate) async fn open(
    watch: &Watch,
    open: Option<Place>,
    options: StoreOptions,
) -> Result<Place> {
    let clock = options.clock.clone();
    let opening = async {
        if let Some(place) = open
            && place.still_is(watch).await
        {
            return Ok(place);
        }
        let place = Place::open(watch, options).await?;
        tracing::info!(uri = place.uri, managed = place.managed, "watching");
        Ok(place)
    };
    tokio::select! {
        biased;
        opened = opening => opened,
        () = clock.sleep(OPEN_TIMEOUT) => Err(Error::new(
            ErrorKind::Storage,
            format!("no answer in {} s", OPEN_TIMEOUT.as_secs()),
        )),
    }
}

/// Lists the tables of `place`, and what was passed over.
pub(crate) async fn scan(place: &Place) -> Result<(Found, Vec<PassedOver>)> {
    let unarchived = match place.managed {
        true => archive_early(place).await?,
        false => None,
    };
    let Selection { targets, skipped } = place.targets().await?;
    place.count_only(&targets);
    if !place.managed {
        let folder = |target: &Target| (target.to_string(), 0);
        let tables = targets.into_iter().map(|t| (t.clone(), folder(&t)));
        let found = Found {
            tables: tables.collect(),
            ..Found::default()
        };
        return Ok((found, skipped));
    }
    let state = place.store.load().await?.state;
    let mut tables = BTreeMap::new();
    for target in targets {
        // One that was dropped since is found to be gone by the next scan.
        if let Some(entry) = target.table().and_then(|table| state.tables.get(table)) {
            tables.insert(target, (entry.path.clone(), entry.version));
        }
    }
    let found = Found {
        tables,
        state: Some(state),
        unarchived,
    };
    Ok((found, skipped))
}

/// Copies the commit log when more batch ids stand in the manifest than should: only archived ones may leave it,
/// and every publish writes those that stay. A log that cannot be written makes publishes longer, and stops no table:
/// the answer is why.
async fn archive_early(place: &Place) -> Result<Option<String>> {
    if place.store.load().await?.state.batches.len() > MAX_BATCHES
        && let Err(error) = place.store.archive().await
    {
        tracing::warn!(place = place.uri, %error, "the commit log cannot be written now");
        return Ok(Some(error.to_string()));
    }
    Ok(None)
}

/// Looks at one table; a panic inside Lance is an error of this look. Versions of others above the pin of a table that
/// is `stopped` are left alone. What no version refers to is counted anew when that is older than `count_every`.
pub(crate) async fn look(
    place: &Place,
    target: &Target,
    config: &Config,
    stopped: bool,
    count_every: Duration,
) -> Result<Observation> {
    let policy = config.policy_for(Place::config_name(target));
    let looking = async {
        let drift = match target.table() {
            Some(table) if !stopped => place
                .store
                .handle_drift(table, policy.drift == DriftPolicy::Adopt)
                .await?
                .is_some(),
            _ => false,
        };
        let bounds = bounds(&policy);
        let health = place.store.health(target, &bounds).await?;
        let rewrites = if health.candidate_fragments > 0 {
            place.store.compaction_plan(target, &bounds).await?
        } else {
            CompactionPlan::default()
        };
        Ok(Observation {
            health,
            rewrites,
            drift,
            unreferenced: place.counted(target, count_every).await,
        })
    };
    step("look", target, looking).await
}
