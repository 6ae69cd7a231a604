//! Runs one decided operation on what it is about.

use super::claimed::Claims;
use super::report::OperationReport;
use crate::config::{Config, Policy};
use crate::decide::planning::{OperationKind, limits};
use crate::decide::work::{Scope, Trigger, WorkItem};
use crate::executor;
use crate::place::{Place, step};
use squire_engine::error::{Error, ErrorKind, Result, caught};
use squire_engine::maintenance::{
    CleanupPlan, CleanupPolicies, CleanupPolicy, CleanupReport, MaintenanceReport, Matching,
    Oversight, Reindexing, Retention, Shown, Target,
};
use squire_engine::store::Store;
use std::sync::Arc;
use std::time::Duration;

/// Why a table of a store is not cleaned by itself.
pub(crate) const CLEANED_AS_A_WHOLE: &str =
    "a store is cleaned as a whole, since its snapshots span tables; name the store, and no table";

/// The retention that a policy sets.
fn retention(policy: &Policy) -> Retention {
    Retention {
        age: squire_failpoints::retention().unwrap_or(policy.retention),
        versions: policy.min_versions,
    }
}

/// What the configuration says of each table's cleanup; `otherwise` where it says nothing of whether it is on.
pub(crate) fn cleanup_policies(config: &Config, otherwise: bool) -> CleanupPolicies {
    let policy = |policy: &Policy| CleanupPolicy {
        retention: retention(policy),
        enabled: policy.may_delete(otherwise),
    };
    CleanupPolicies {
        default: policy(&config.policy),
        tables: config
            .table_policies()
            .map(|(table, of_table)| (table.to_owned(), policy(of_table)))
            .collect(),
        patterns: config
            .table_patterns()
            .iter()
            .map(|pattern| {
                let matching = pattern.clone();
                let matching = Matching::new(move |table: &str| matching.matches(table));
                (matching, policy(pattern.policy()))
            })
            .collect(),
        neighbours: Vec::new(),
        one_table: false,
    }
}

/// The stores of all watched locations but `place`: what their tables refer to stays. `watched` are their URIs, and
/// `opened` those of them that could be opened.
///
/// # Errors
/// `Refused` while one of them on the medium of `place` cannot be opened: which files its tables refer to is not known.
pub(crate) fn neighbours(
    place: &Place,
    watched: &[String],
    opened: &[Place],
) -> Result<Vec<Arc<Store>>> {
    let is_opened = |uri: &String| opened.iter().any(|place| place.uri == *uri);
    // A clone lies on the disk, or in the bucket, of its source: a bucket that is away stops no local cleanup.
    let matters = |uri: &&String| !is_opened(uri) && medium(uri) == medium(&place.uri);
    if let Some(closed) = watched.iter().find(matters) {
        return Err(Error::new(
            ErrorKind::Refused,
            format!(
                "{closed} is watched and cannot be opened now, so which files of others its tables refer to is not known; nothing is removed until it can be opened or is not watched any more"
            ),
        ));
    }
    let others = opened.iter().filter(|other| other.uri != place.uri);
    Ok(others.map(|other| other.store.clone()).collect())
}

/// What tables at `uri` may share files on: the local disks, or one bucket.
fn medium(uri: &str) -> (&str, &str) {
    match uri.split_once("://") {
        Some(("file", _)) | None => ("", ""),
        Some((scheme, rest)) => (scheme, rest.split('/').next().unwrap_or_default()),
    }
}

/// What is done when there is nothing to do; it is no success of a cleanup.
const NOTHING_TO_REMOVE: &str = "there is nothing to remove";

/// Whether `policies` let anything go of what a cleanup of `scope` covers.
fn may_remove(scope: &Scope, policies: &CleanupPolicies) -> bool {
    match scope {
        Scope::Table(Target::Plain(table) | Target::Branch { table, .. }) => {
            policies.of(table).enabled
        }
        Scope::Store | Scope::Table(Target::Pinned(_)) => {
            let patterns = policies.patterns.iter().map(|(_, of)| of);
            let mut others = policies.tables.values().chain(patterns);
            policies.default.enabled || others.any(|table| table.enabled)
        }
    }
}

/// Where an attempt works, and what it must know of the rest.
#[derive(Debug, Clone)]
pub(crate) struct Surroundings {
    pub(crate) place: Place,
    /// All places that are open.
    pub(crate) places: Vec<Place>,
    /// The URIs of all watched locations, open or not.
    pub(crate) watched: Vec<String>,
    /// Tables whose cleanup is paused, of a store that is cleaned as a whole.
    pub(crate) spared: Vec<String>,
    pub(crate) config: Arc<Config>,
    /// How what is worked on is claimed, if it is.
    pub(crate) claims: Option<Claims>,
}

/// Runs one operation to its end and says how it went; an error is part of the report.
pub(super) async fn execute(
    around: &Surroundings,
    item: &WorkItem,
    attempt: u64,
    oversight: &Oversight,
) -> OperationReport {
    let store = &around.place.store;
    let began = store.clock().monotonic();
    let work = async {
        match (&item.key.scope, item.key.kind) {
            (Scope::Table(target), OperationKind::Compact) => {
                let limits = limits(&item.policy);
                let by = (item.policy.executor, &around.config.executor);
                let done = executor::compact(store, target, &limits, by, oversight).await;
                done.map(Done::Maintained)
            }
            (Scope::Table(target), OperationKind::Reindex) => {
                let how = Reindexing {
                    except: item.resting.clone(),
                    asks_all: item.trigger == Trigger::Asked,
                };
                let done = store.reindex(target, &how, oversight).await;
                done.map(Done::Maintained)
            }
            (scope, _) => cleanup(around, scope, oversight).await,
        }
    };
    let done = match &item.key.scope {
        Scope::Table(target) => step(item.key.kind.as_str(), target, work).await,
        Scope::Store => caught("cleanup", work).await.map_err(Error::of_what_stands),
    };
    around.place.keep_ledger().await;
    let mut report = OperationReport::new(item, attempt);
    match done {
        Ok(Done::Maintained(maintained)) => report.maintained(maintained),
        Ok(Done::Cleaned(cleaned, off)) => report.cleaned(cleaned, off),
        Ok(Done::Planned(what)) => report.planned(what),
        Err(e) => report.failed(&e),
    }
    note(&around.place, &report, began).await;
    report
}

/// Notes what an attempt changed. Best effort: nothing depends on it.
async fn note(place: &Place, report: &OperationReport, began: Duration) {
    let (store, clock) = (&place.store, place.store.clock());
    let seconds = clock.monotonic().saturating_sub(began).as_secs_f64();
    let Some(run) = report.noted(&store.options().actor, clock.now_ms(), seconds) else {
        return;
    };
    if let Err(error) = store.note_run(run).await {
        tracing::debug!(place = place.uri, %error, "what was done cannot be noted in the history now");
    }
}

enum Done {
    Maintained(MaintenanceReport),
    /// What a cleanup did, and the tables it covered that their policies leave alone.
    Cleaned(CleanupReport, Vec<String>),
    Planned(String),
}

async fn cleanup(around: &Surroundings, scope: &Scope, oversight: &Oversight) -> Result<Done> {
    let place = &around.place;
    let mut policies = cleanup_policies(&around.config, place.managed);
    policies.one_table = place.is_single_table();
    for table in &around.spared {
        let of_table = policies.of(table);
        let spared = CleanupPolicy {
            enabled: false,
            ..of_table
        };
        policies.tables.insert(table.clone(), spared);
    }
    match neighbours(place, &around.watched, &around.places) {
        Err(e) if may_remove(scope, &policies) => return Err(e),
        others => policies.neighbours = others.unwrap_or_default(),
    }
    clean(place, scope, &policies, oversight).await
}

fn off(plan: &CleanupPlan) -> String {
    format!(
        "cleanup is off; it would remove versions of {} tables",
        plan.off.len()
    )
}

async fn clean(
    place: &Place,
    scope: &Scope,
    policies: &CleanupPolicies,
    oversight: &Oversight,
) -> Result<Done> {
    match scope {
        _ if place.managed && place.is_single_table() => {
            Ok(Done::Planned(CLEANED_AS_A_WHOLE.to_owned()))
        }
        Scope::Store | Scope::Table(Target::Pinned(_)) => {
            let plan = place.store.plan_cleanup(policies).await?;
            let due = !plan.tables.is_empty() || !plan.dropped.is_empty();
            if !policies.default.enabled && !due && plan.failed.is_empty() {
                return Ok(Done::Planned(off(&plan)));
            }
            let cleaned = place.store.cleanup(&plan, None, oversight).await?;
            // The commit log was copied out of the manifest, which is no success of a cleanup.
            if plan.is_empty() && cleaned.failed.is_empty() {
                return Ok(Done::Planned(match plan.off.len() {
                    0 => NOTHING_TO_REMOVE.to_owned(),
                    _ => off(&plan),
                }));
            }
            let off = plan.off.iter().map(|t| t.table.clone()).collect();
            Ok(Done::Cleaned(cleaned, off))
        }
        Scope::Table(target) => {
            let Shown::Head(path) = target.shown() else {
                return Ok(Done::Planned(CLEANED_AS_A_WHOLE.to_owned()));
            };
            let policies = policies.with_branch(target);
            let plan = place.store.plan_plain_cleanup(&path, &policies).await?;
            if !policies.of(&path).enabled {
                return Ok(Done::Planned(format!(
                    "cleanup of watched directories is off (policy.cleanup.enabled); it would remove {} versions of {target}",
                    plan.versions.len()
                )));
            }
            if plan.versions.is_empty() {
                return Ok(Done::Planned(NOTHING_TO_REMOVE.to_owned()));
            }
            let cleaned = place.store.cleanup_plain(&plan, None, oversight).await?;
            Ok(Done::Cleaned(cleaned, Vec::new()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::medium;

    #[test]
    fn tables_share_files_on_one_medium() {
        assert_eq!(medium("/a/b"), medium("file:///c"));
        assert_eq!(medium("s3://b/x"), medium("s3://b/y/z"));
        assert_ne!(medium("s3://b/x"), medium("s3://c/x"));
        assert_ne!(medium("s3://b/x"), medium("/b/x"));
    }
}
