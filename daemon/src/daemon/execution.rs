//! Execution: runs one decided operation on one target.

use super::planning::{OperationKind, limits};
use super::scheduling::WorkItem;
use crate::config::{Config, Policy};
use crate::place::{Place, step};
use serde::Serialize;
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::maintenance::{
    CleanupPolicies, CleanupPolicy, CleanupReport, MaintenanceReport, Retention, Target,
};
use tokio_util::sync::CancellationToken;

/// How an operation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ending {
    Success,
    Conflict,
    Failed,
    /// What was made could not replace what it should have replaced: nothing was committed, and it rests.
    Unfit,
    Skipped,
}

impl Ending {
    /// Whether what was wanted does not hold.
    pub(crate) fn is_bad(self) -> bool {
        matches!(self, Self::Conflict | Self::Failed | Self::Unfit)
    }
}

/// What happened.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct OperationReport {
    pub(crate) place: String,
    pub(crate) table: String,
    pub(crate) kind: OperationKind,
    pub(crate) ending: Ending,
    pub(crate) conflicts: u32,
    pub(crate) fragments_removed: u64,
    pub(crate) fragments_added: u64,
    pub(crate) bytes_removed: u64,
    pub(crate) versions_removed: u64,
    pub(crate) detail: Option<String>,
}

impl OperationReport {
    fn new(place: &Place, target: &Target, kind: OperationKind, ending: Ending) -> Self {
        Self {
            place: place.uri.clone(),
            table: target.to_string(),
            kind,
            ending,
            conflicts: 0,
            fragments_removed: 0,
            fragments_added: 0,
            bytes_removed: 0,
            versions_removed: 0,
            detail: None,
        }
    }
}

/// The retention that a policy sets.
pub(crate) fn retention(policy: &Policy) -> Retention {
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
        neighbours: Vec::new(),
    }
}

/// Runs one operation to its end and says how it went; an error is part of the report.
pub(crate) async fn execute(
    places: &[Place],
    item: &WorkItem,
    config: &Config,
    cancel: &CancellationToken,
) -> OperationReport {
    let (place, target, kind) = (&places[item.place], &item.target, item.spec.kind);
    let work = async {
        match kind {
            OperationKind::Compact => {
                let limits = limits(&item.policy, &config.budget);
                let done = place.store.compact(target, &limits, cancel).await;
                done.map(Done::Maintained)
            }
            OperationKind::Reindex => {
                let done = place.store.reindex(target, cancel).await;
                done.map(Done::Maintained)
            }
            OperationKind::Cleanup => {
                let mut policies = cleanup_policies(config, place.managed);
                let others = places.iter().filter(|p| p.uri != place.uri);
                policies.neighbours = others.map(|p| p.store.clone()).collect();
                clean(place, target, &policies, cancel).await
            }
        }
    };
    let done = step(kind.as_str(), target, work).await;
    let mut report = OperationReport::new(place, target, kind, Ending::Success);
    match done {
        Ok(Done::Maintained(m)) => {
            report.conflicts = m.conflicts;
            report.fragments_removed = m.fragments_removed;
            report.fragments_added = m.fragments_added;
            if let Some(skipped) = m.skipped {
                report.ending = Ending::Skipped;
                report.detail = Some(format!(
                    "skipped: {}",
                    format!("{skipped:?}").to_lowercase()
                ));
            }
            if let [(index, reason), ..] = m.pending_indexes.as_slice() {
                report.detail = Some(format!("index {index} is pending: {reason}"));
            }
            if let [(index, reason), ..] = m.failed_indexes.as_slice() {
                report.ending = Ending::Failed;
                report.detail = Some(format!("index {index} failed: {reason}"));
            }
        }
        Ok(Done::Cleaned(c)) => {
            report.versions_removed = c.versions_removed;
            report.bytes_removed = c.bytes_removed;
            if let [(table, reason), ..] = c.failed.as_slice() {
                report.ending = Ending::Failed;
                report.detail = Some(format!("{table}: {reason}"));
            }
        }
        Ok(Done::Planned(what)) => {
            report.ending = Ending::Skipped;
            report.detail = Some(what);
        }
        Err(e) => {
            report.ending = ending_of(&e);
            report.detail = Some(e.to_string());
        }
    }
    report
}

enum Done {
    Maintained(MaintenanceReport),
    Cleaned(CleanupReport),
    Planned(String),
}

fn ending_of(error: &Error) -> Ending {
    match error.kind() {
        ErrorKind::Conflict => Ending::Conflict,
        ErrorKind::Unfit => Ending::Unfit,
        ErrorKind::Refused | ErrorKind::Drift | ErrorKind::Cancelled => Ending::Skipped,
        _ => Ending::Failed,
    }
}

async fn clean(
    place: &Place,
    target: &Target,
    policies: &CleanupPolicies,
    cancel: &CancellationToken,
) -> Result<Done> {
    match target {
        Target::Pinned(_) => {
            let plan = place.store.plan_cleanup(policies).await?;
            if !policies.default.enabled && plan.tables.is_empty() && plan.failed.is_empty() {
                return Ok(Done::Planned(format!(
                    "cleanup is off; it would remove versions of {} tables",
                    plan.off.len()
                )));
            }
            place
                .store
                .cleanup(&plan, None, cancel)
                .await
                .map(Done::Cleaned)
        }
        Target::Plain(path) => {
            let plan = place.store.plan_plain_cleanup(path, policies).await?;
            if !policies.of(path).enabled {
                return Ok(Done::Planned(format!(
                    "cleanup of watched directories is off (policy.cleanup.enabled); it would remove {} versions of {path}",
                    plan.versions.len()
                )));
            }
            place
                .store
                .cleanup_plain(&plan, None)
                .await
                .map(Done::Cleaned)
        }
    }
}
