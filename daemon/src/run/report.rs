//! What became of an attempt.

use crate::decide::planning::OperationKind;
use crate::decide::rest::Outcome;
use crate::decide::work::{Scope, Trigger, WorkItem};
use crate::metrics::Ending;
use crate::place::table::Lesson;
use serde::Serialize;
use squire_engine::error::{Error, ErrorKind};
use squire_engine::maintenance::{CleanupReport, MaintenanceReport, NotedRun};
use std::collections::BTreeMap;
use std::time::Duration;

impl Ending {
    fn of(error: &Error) -> Self {
        match error.kind() {
            ErrorKind::Conflict => Self::Conflict,
            ErrorKind::Unfit => Self::Unfit,
            ErrorKind::Drift => Self::Skipped,
            ErrorKind::Cancelled => Self::Cancelled,
            // A safety check refused: someone has to look, or it refuses for ever.
            _ => Self::Failed,
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
    /// Its number in this process.
    pub(crate) attempt: u64,
    /// Empty when it was about the whole store.
    pub(crate) table: String,
    pub(crate) kind: OperationKind,
    pub(crate) trigger: Trigger,
    /// Why it was begun.
    pub(crate) reason: String,
    /// When it ended, in milliseconds since the epoch, and how long it took.
    pub(crate) ended_ms: u64,
    pub(crate) seconds: f64,
    pub(crate) ending: Ending,
    pub(crate) conflicts: u32,
    pub(crate) fragments_removed: u64,
    pub(crate) fragments_added: u64,
    pub(crate) bytes_rewritten: u64,
    pub(crate) bytes_removed: u64,
    pub(crate) versions_removed: u64,
    /// Indexes that were built or extended.
    pub(crate) indexes: Vec<String>,
    /// Bytes that were written into each index.
    pub(crate) index_bytes: BTreeMap<String, u64>,
    /// The version that was published, of a table of a store.
    pub(crate) pin: Option<u64>,
    pub(crate) detail: Option<String>,
    /// Whether anything was changed.
    #[serde(skip)]
    effective: bool,
    /// Whether it was stopped for now, and nothing is said against the next attempt.
    #[serde(skip)]
    returns: bool,
    /// How long another daemon has claimed it still.
    #[serde(skip)]
    elsewhere: Option<Duration>,
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
    /// Of an attempt that did what it should.
    pub(crate) fn new(item: &WorkItem, attempt: u64) -> Self {
        Self {
            place: item.key.location.clone(),
            attempt,
            table: match &item.key.scope {
                Scope::Store => String::new(),
                Scope::Table(target) => target.to_string(),
            },
            kind: item.key.kind,
            trigger: item.trigger,
            reason: item.reason.clone(),
            ended_ms: 0,
            seconds: 0.0,
            ending: Ending::Success,
            conflicts: 0,
            fragments_removed: 0,
            fragments_added: 0,
            bytes_rewritten: 0,
            bytes_removed: 0,
            versions_removed: 0,
            indexes: Vec::new(),
            index_bytes: BTreeMap::new(),
            pin: None,
            detail: None,
            effective: false,
            returns: false,
            elsewhere: None,
            unfit_indexes: Vec::new(),
            covers_store: item.key.scope == Scope::Store,
            except: BTreeMap::new(),
        }
    }

    /// It ended with `error`.
    pub(crate) fn failed(&mut self, error: &Error) {
        self.ending = Ending::of(error);
        self.detail = Some(error.to_string());
    }

    /// Nothing was done, as `what` says.
    pub(crate) fn planned(&mut self, what: String) {
        self.ending = Ending::Skipped;
        self.detail = Some(what);
    }

    /// It was stopped because it did not move for `seconds`.
    pub(crate) fn hung(&mut self, seconds: u64) {
        self.ending = Ending::Failed;
        self.detail = Some(format!(
            "stopped after {seconds} s without progress; what it had finished is committed"
        ));
    }

    /// It was asked to stop, for this reason. Who `wanted` it to does not want it back at once; otherwise the next may follow when
    /// it may.
    pub(crate) fn stopped(&mut self, why: &str, wanted: bool) {
        if self.ending != Ending::Cancelled {
            return;
        }
        self.returns = !wanted;
        self.detail = Some(why.to_owned());
    }

    /// Another daemon works on it: it is due again, if it is, when that must have ended.
    pub(crate) fn elsewhere(&mut self, holder: &str, left: Duration) {
        self.planned(format!("{holder} works on it"));
        self.elsewhere = Some(left);
    }

    /// What it says about the next attempt.
    pub(crate) fn lesson(&self) -> Lesson {
        let unfit = (self.ending == Ending::Unfit).then(|| self.detail.clone().unwrap_or_default());
        let outcome = match self.ending {
            _ if self.elsewhere.is_some() => self.elsewhere.map(Outcome::Elsewhere),
            // What is unfit rests by itself.
            Ending::Unfit => None,
            Ending::Success if self.effective => Some(Outcome::Effective),
            Ending::Success | Ending::Skipped => Some(Outcome::Idle),
            Ending::Cancelled if self.returns => None,
            Ending::Cancelled => Some(Outcome::Cancelled),
            Ending::Conflict | Ending::Failed => Some(Outcome::Bad),
        };
        Lesson {
            outcome,
            unfit,
            unfit_indexes: self.unfit_indexes.clone(),
        }
    }

    pub(crate) fn maintained(&mut self, m: MaintenanceReport) {
        self.conflicts = m.conflicts;
        self.fragments_removed = m.fragments_removed;
        self.fragments_added = m.fragments_added;
        self.bytes_rewritten = m.bytes_rewritten;
        let rebuilt = m.rebuilt_indexes.into_iter().map(|(name, _)| name);
        self.indexes = m.indexes.into_iter().chain(rebuilt).collect();
        self.index_bytes = m.index_bytes;
        self.pin = m.pin;
        self.effective = m.fragments_removed > 0 || !self.indexes.is_empty();
        if m.cancelled {
            self.ending = Ending::Cancelled;
        }
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

    /// What is noted of it, by `actor`, if it changed anything; it has just ended after `seconds`.
    pub(super) fn noted(&self, actor: &str, at_ms: u64, seconds: f64) -> Option<NotedRun> {
        self.effective.then(|| NotedRun {
            at_ms,
            seconds,
            actor: actor.to_owned(),
            table: self.table.clone(),
            kind: self.kind.as_str().to_owned(),
            reason: self.reason.clone(),
            detail: self.detail.clone(),
            pin: self.pin,
            fragments_removed: self.fragments_removed,
            fragments_added: self.fragments_added,
            bytes_rewritten: self.bytes_rewritten,
            indexes: self.indexes.clone(),
            index_bytes: self.index_bytes.clone(),
            versions_removed: self.versions_removed,
            bytes_removed: self.bytes_removed,
        })
    }

    /// `off` are the tables that their policies leave alone.
    pub(crate) fn cleaned(&mut self, c: CleanupReport, off: Vec<String>) {
        self.versions_removed = c.versions_removed;
        self.bytes_removed = c.bytes_removed;
        self.effective = c.versions_removed > 0;
        self.except = off.into_iter().map(|t| (t, Ending::Skipped)).collect();
        let failed = c.failed.iter().map(|(t, _)| (t.clone(), Ending::Failed));
        self.except.extend(failed);
        if let [(table, reason), ..] = c.failed.as_slice() {
            self.ending = Ending::Failed;
            self.detail = Some(format!("{table}: {reason}"));
        }
    }

    /// How it ended for each table: its own, or `all` of the store that one cleanup covered.
    pub(crate) fn results(&self, all: Vec<String>) -> Vec<(String, Ending)> {
        let whole = self.ending;
        if !self.covers_store {
            return vec![(self.table.clone(), whole)];
        }
        let others = match self.except.is_empty() {
            true => whole,
            false => Ending::Success,
        };
        let of = |table: &str| self.except.get(table).copied().unwrap_or(others);
        all.into_iter()
            .map(|table| {
                let result = of(&table);
                (table, result)
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::OperationReport;
    use crate::decide::planning::OperationKind;
    use crate::decide::work::Trigger;
    use crate::metrics::Ending;
    use std::collections::BTreeMap;

    fn cleanup(ending: Ending, except: &[(&str, Ending)]) -> OperationReport {
        let except = except.iter().map(|(t, e)| ((*t).to_owned(), *e));
        OperationReport {
            place: "lake".into(),
            attempt: 1,
            table: "a".into(),
            kind: OperationKind::Cleanup,
            trigger: Trigger::Regular,
            reason: String::new(),
            ended_ms: 0,
            seconds: 0.0,
            ending,
            conflicts: 0,
            fragments_removed: 0,
            fragments_added: 0,
            bytes_rewritten: 0,
            bytes_removed: 0,
            versions_removed: 0,
            indexes: Vec::new(),
            index_bytes: BTreeMap::new(),
            pin: None,
            detail: None,
            effective: false,
            returns: false,
            elsewhere: None,
            unfit_indexes: Vec::new(),
            covers_store: true,
            except: except.collect::<BTreeMap<_, _>>(),
        }
    }

    #[test]
    fn a_cleanup_of_a_store_says_of_each_table_how_it_went() {
        let all = || vec!["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let results = |report: &OperationReport| -> Vec<Ending> {
            report.results(all()).into_iter().map(|(_, r)| r).collect()
        };
        let (good, bad, left) = (Ending::Success, Ending::Failed, Ending::Skipped);
        let mixed = [("a", Ending::Failed), ("c", Ending::Skipped)];
        assert_eq!(results(&cleanup(Ending::Failed, &mixed)), [bad, good, left]);
        assert_eq!(results(&cleanup(Ending::Success, &[])), [good; 3]);
        assert_eq!(results(&cleanup(Ending::Failed, &[])), [bad; 3]);
        let mut plain = cleanup(Ending::Failed, &[]);
        plain.covers_store = false;
        assert_eq!(plain.results(all()), [("a".to_owned(), bad)]);
    }
}
