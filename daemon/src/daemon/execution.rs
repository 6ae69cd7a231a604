//! Execution: runs one decided operation on one target.

use super::planning::{OperationKind, limits};
use super::scheduling::WorkItem;
use crate::config::{Config, Policy};
use crate::metrics::RunResult;
use crate::place::{Place, step};
use serde::Serialize;
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::maintenance::{
    CleanupPolicies, CleanupPolicy, CleanupReport, MaintenanceReport, Retention, Target,
};
use squire_engine::store::Store;
use std::collections::BTreeMap;
use std::sync::Arc;
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
    fn result(self) -> RunResult {
        match self {
            Self::Success => RunResult::Success,
            Self::Conflict => RunResult::Conflict,
            Self::Failed => RunResult::Failed,
            Self::Unfit => RunResult::Unfit,
            Self::Skipped => RunResult::Skipped,
        }
    }

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
    /// Indexes that would fail the same way again, and why.
    #[serde(skip)]
    pub(crate) unfit_indexes: Vec<(String, String)>,
    /// Whether it was about all tables of its store: a cleanup is.
    #[serde(skip)]
    covers_store: bool,
    /// How it ended for some of them; for all others it went well.
    #[serde(skip)]
    except: BTreeMap<String, Ending>,
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
            unfit_indexes: Vec::new(),
            covers_store: kind == OperationKind::Cleanup && target.table().is_some(),
            except: BTreeMap::new(),
        }
    }

    fn maintained(&mut self, m: MaintenanceReport) {
        self.conflicts = m.conflicts;
        self.fragments_removed = m.fragments_removed;
        self.fragments_added = m.fragments_added;
        if let Some(skipped) = m.skipped {
            self.ending = Ending::Skipped;
            self.detail = Some(format!("skipped: {skipped}"));
        }
        if let [first, ..] = m.unfit.as_slice() {
            self.ending = Ending::Failed;
            self.detail = Some(first.clone());
        }
        if let [(index, reason), ..] = m.pending_indexes.as_slice() {
            self.detail = Some(format!("index {index} is pending: {reason}"));
        }
        if let [(index, reason), ..] = m.failed_indexes.as_slice() {
            self.ending = Ending::Failed;
            self.detail = Some(format!("index {index} failed: {reason}"));
        }
        let failed = m.failed_indexes.into_iter();
        let unfit = failed.filter(|(index, _)| m.unfit_indexes.contains(index));
        self.unfit_indexes = unfit.collect();
    }

    /// `off` are the tables that their policies leave alone.
    fn cleaned(&mut self, c: CleanupReport, off: Vec<String>) {
        self.versions_removed = c.versions_removed;
        self.bytes_removed = c.bytes_removed;
        self.except = off.into_iter().map(|t| (t, Ending::Skipped)).collect();
        let failed = c.failed.iter().map(|(t, _)| (t.clone(), Ending::Failed));
        self.except.extend(failed);
        if let [(table, reason), ..] = c.failed.as_slice() {
            self.ending = Ending::Failed;
            self.detail = Some(format!("{table}: {reason}"));
        }
    }

    /// How it ended for each table: its own, or `all` of the store that one cleanup covered.
    pub(crate) fn results(&self, all: Vec<String>) -> Vec<(String, RunResult)> {
        let whole = self.ending.result();
        if !self.covers_store {
            return vec![(self.table.clone(), whole)];
        }
        let others = match self.except.is_empty() {
            true => whole,
            false => RunResult::Success,
        };
        let of = |table: &str| self.except.get(table).map_or(others, |e| e.result());
        all.into_iter()
            .map(|table| {
                let result = of(&table);
                (table, result)
            })
            .collect()
    }
}

/// Why a table of a store is not cleaned by itself.
pub(crate) const CLEANED_AS_A_WHOLE: &str =
    "a store is cleaned as a whole, since its snapshots span tables; name the store, and no table";

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

/// Whether `policies` let anything go of what a cleanup of `target` covers.
fn may_remove(target: &Target, policies: &CleanupPolicies) -> bool {
    match target {
        Target::Pinned(_) => {
            policies.default.enabled || policies.tables.values().any(|table| table.enabled)
        }
        Target::Plain(path) => policies.of(path).enabled,
    }
}

/// Runs one operation to its end and says how it went; an error is part of the report. `watched` are the URIs of all
/// watched locations, whether they could be opened or not.
pub(crate) async fn execute(
    places: &[Place],
    watched: &[String],
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
                let done = place.store.reindex(target, &item.resting, cancel).await;
                done.map(Done::Maintained)
            }
            OperationKind::Cleanup => {
                let mut policies = cleanup_policies(config, place.managed);
                policies.one_table = place.is_single_table();
                match neighbours(place, watched, places) {
                    Err(e) if may_remove(target, &policies) => return Err(e),
                    others => policies.neighbours = others.unwrap_or_default(),
                }
                clean(place, target, &policies, cancel).await
            }
        }
    };
    let done = step(kind.as_str(), target, work).await;
    let mut report = OperationReport::new(place, target, kind, Ending::Success);
    match done {
        Ok(Done::Maintained(maintained)) => report.maintained(maintained),
        Ok(Done::Cleaned(cleaned, off)) => report.cleaned(cleaned, off),
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
    /// What a cleanup did, and the tables it covered that their policies leave alone.
    Cleaned(CleanupReport, Vec<String>),
    Planned(String),
}

fn ending_of(error: &Error) -> Ending {
    match error.kind() {
        ErrorKind::Conflict => Ending::Conflict,
        ErrorKind::Unfit => Ending::Unfit,
        ErrorKind::Drift | ErrorKind::Cancelled => Ending::Skipped,
        // A safety check refused: someone has to look, or it refuses for ever.
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
        Target::Pinned(_) if place.is_single_table() => {
            Ok(Done::Planned(CLEANED_AS_A_WHOLE.to_owned()))
        }
        Target::Pinned(_) => {
            let plan = place.store.plan_cleanup(policies).await?;
            if !policies.default.enabled && plan.tables.is_empty() && plan.failed.is_empty() {
                return Ok(Done::Planned(format!(
                    "cleanup is off; it would remove versions of {} tables",
                    plan.off.len()
                )));
            }
            let off = plan.off.iter().map(|t| t.table.clone()).collect();
            let cleaned = place.store.cleanup(&plan, None, cancel).await?;
            Ok(Done::Cleaned(cleaned, off))
        }
        Target::Plain(path) => {
            let plan = place.store.plan_plain_cleanup(path, policies).await?;
            if !policies.of(path).enabled {
                return Ok(Done::Planned(format!(
                    "cleanup of watched directories is off (policy.cleanup.enabled); it would remove {} versions of {path}",
                    plan.versions.len()
                )));
            }
            let cleaned = place.store.cleanup_plain(&plan, None).await?;
            Ok(Done::Cleaned(cleaned, Vec::new()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Ending, OperationReport, medium};
    use crate::daemon::planning::OperationKind;
    use crate::metrics::RunResult;
    use std::collections::BTreeMap;

    fn cleanup(ending: Ending, except: &[(&str, Ending)]) -> OperationReport {
        let except = except.iter().map(|(t, e)| ((*t).to_owned(), *e));
        OperationReport {
            place: "lake".into(),
            table: "a".into(),
            kind: OperationKind::Cleanup,
            ending,
            conflicts: 0,
            fragments_removed: 0,
            fragments_added: 0,
            bytes_removed: 0,
            versions_removed: 0,
            detail: None,
            unfit_indexes: Vec::new(),
            covers_store: true,
            except: except.collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn tables_share_files_on_one_medium() {
        assert_eq!(medium("/a/b"), medium("file:///c"));
        assert_eq!(medium("s3://b/x"), medium("s3://b/y/z"));
        assert_ne!(medium("s3://b/x"), medium("s3://c/x"));
        assert_ne!(medium("s3://b/x"), medium("/b/x"));
    }

    #[test]
    fn a_cleanup_of_a_store_says_of_each_table_how_it_went() {
        let all = || vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let results = |report: &OperationReport| -> Vec<RunResult> {
            report.results(all()).into_iter().map(|(_, r)| r).collect()
        };
        let (good, bad, left) = (RunResult::Success, RunResult::Failed, RunResult::Skipped);
        let mixed = [("a", Ending::Failed), ("c", Ending::Skipped)];
        assert_eq!(results(&cleanup(Ending::Failed, &mixed)), [bad, good, left]);
        assert_eq!(results(&cleanup(Ending::Success, &[])), [good; 3]);
        assert_eq!(results(&cleanup(Ending::Failed, &[])), [bad; 3]);
        let mut plain = cleanup(Ending::Failed, &[]);
        plain.covers_store = false;
        assert_eq!(plain.results(all()), [("a".to_owned(), bad)]);
    }
}
