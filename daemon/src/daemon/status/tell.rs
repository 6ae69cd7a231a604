//! What came of jobs and attempts, as the log tells it, the metrics count it and `/status` shows it.

use super::{Shown, Status, push};
use crate::decide::planning::OperationKind;
use crate::decide::work::{WorkItem, WorkKey};
use crate::metrics::{Ending, IndexObservation, Removed, TableObservation};
use crate::place::location::Broken;
use crate::place::table::{TableStatus, Verdict};
use crate::run::report::OperationReport;
use squire_engine::maintenance::{Account, Target, Unreferenced};
use squire_engine::recovery::RecoveryReport;
use std::time::Duration;

fn bytes_by_age(unreferenced: &Unreferenced) -> [(&'static str, u64); 3] {
    unreferenced.by_age().map(|(age, files)| (age, files.bytes))
}

fn bytes_by_reason(account: &Account) -> [(&'static str, u64); 6] {
    let of = account.total;
    [
        ("found", of.found),
        ("written", of.written),
        ("rewritten", of.rewritten),
        ("wasted", of.wasted),
        ("indexed", of.indexed),
        ("deleted", of.deleted),
    ]
}

impl Status {
    /// Shows what a look decided, and gives the work.
    pub(crate) fn judged(
        &self,
        store: &str,
        target: &Target,
        verdict: Verdict,
    ) -> Option<Vec<WorkItem>> {
        let Verdict {
            status,
            kinds,
            left_alone,
            resting,
            in_vain,
            work,
        } = verdict;
        for (kind, due, rests) in kinds {
            let run = [store, status.health.table.as_str(), kind.as_str()];
            if due {
                self.metrics.due(run, self.now_seconds());
            } else if kind != OperationKind::Cleanup {
                self.nothing_to_do(run);
            }
            self.metrics.quarantined(run, rests);
        }
        if let Some(why) = left_alone {
            tracing::warn!(place = store, %target, why, "this table is not compacted");
        }
        for (kind, why) in in_vain {
            let kind = kind.as_str();
            tracing::error!(
                place = store,
                %target,
                kind,
                why,
                "this work gets nowhere; it rests until the schema or the release changes, or someone asks for it"
            );
        }
        let key = (store.to_owned(), status.health.table.clone());
        {
            let mut seen = self.seen();
            let began_ms = seen.began(self.clock.as_ref());
            let rests = resting.into_iter().map(|rests| rests.shown(began_ms));
            seen.rests.insert(key, rests.collect());
        }
        self.observe(store, status);
        work
    }

    /// An invariant is broken: an error for people, a metric, and no more maintenance of its tables.
    pub(crate) fn broken(&self, store: &str, broken: &Broken) {
        let Broken { invariant, seen } = broken;
        tracing::error!(
            invariant,
            seen,
            place = store,
            "an invariant of the protocol is violated"
        );
        self.metrics.invariant_violated(invariant);
        self.error(format!("{store}: {invariant}: {seen}"));
    }

    /// Shows what a recovery did. Whether anything changed.
    pub(crate) fn recovered(&self, store: &str, report: &RecoveryReport) -> bool {
        for (outcome, ops) in [
            ("committed", &report.committed),
            ("aborted", &report.aborted),
            ("healed", &report.healed),
        ] {
            for op in ops {
                tracing::info!(place = store, %op, outcome, "recovered an operation");
                self.metrics.recovered(store, outcome);
            }
        }
        for (op, bytes) in &report.reclaimed {
            tracing::info!(place = store, %op, bytes, "reclaimed what a maintenance run rewrote for nothing");
            self.metrics.reclaimed_stranded(store, *bytes);
        }
        for (op, error) in &report.failed {
            tracing::warn!(
                place = store,
                op,
                error,
                "an operation could not be resolved"
            );
            self.error(format!("recovery of {op}: {error}"));
        }
        let waiting = report.pending.len() + report.failed.len();
        self.metrics.set_sidecars(store, waiting as u64);
        self.seen()
            .locations
            .entry(store.to_owned())
            .or_default()
            .sidecars = Some(waiting as u64);
        let settled = [&report.committed, &report.aborted, &report.healed];
        settled.iter().any(|ops| !ops.is_empty())
    }

    /// Tells what rests from now on as unfit, each an index or all of it, and why.
    pub(crate) fn rest(&self, report: &OperationReport, rests: &[(Option<String>, String)]) {
        let kind = report.kind.as_str();
        let run = [report.place.as_str(), report.table.as_str(), kind];
        if report.ending == Ending::Unfit || !report.unfit_indexes.is_empty() {
            self.metrics.quarantined(run, true);
        }
        let (place, target) = (&report.place, &report.table);
        for (index, why) in rests {
            match index {
                None => {
                    tracing::error!(
                        place,
                        target,
                        kind,
                        detail = why,
                        "the result was unfit and was not committed; this rests until the schema or the release changes, or someone asks for it"
                    );
                }
                Some(index) => {
                    tracing::error!(
                        place,
                        target,
                        kind,
                        index,
                        why,
                        "this index cannot be built or extended and nothing was committed; it rests until it, the schema or the release changes, or someone asks for it"
                    );
                }
            }
        }
    }

    /// An attempt ended: one line, by how it ended.
    pub(crate) fn ended(&self, item: &WorkItem, mut report: OperationReport) {
        report.ended_ms = self.clock.now_ms();
        let WorkKey {
            location: place,
            scope: target,
            ..
        } = &item.key;
        let (kind, attempt) = (report.kind.as_str(), report.attempt);
        let detail = report.detail.as_deref().unwrap_or("");
        let (removed, added) = (report.fragments_removed, report.fragments_added);
        match report.ending {
            // It was told as what rests.
            Ending::Unfit => {}
            Ending::Conflict | Ending::Failed => {
                tracing::warn!(place, %target, attempt, kind, removed, detail, "maintenance did not succeed");
            }
            Ending::Skipped => {
                tracing::info!(place, %target, attempt, kind, detail, "maintenance was skipped");
            }
            Ending::Cancelled => {
                tracing::info!(place, %target, attempt, kind, removed, added, detail, "maintenance was cancelled; what it had finished is committed");
            }
            Ending::Success => {
                tracing::info!(
                    place,
                    %target,
                    attempt,
                    kind,
                    reason = item.reason,
                    removed,
                    added,
                    versions = report.versions_removed,
                    bytes = report.bytes_removed,
                    detail,
                    "maintenance done"
                );
            }
        }
        self.report(report);
    }

    fn observe(&self, store: &str, mut table: TableStatus) {
        let h = &table.health;
        let observation = TableObservation {
            fragments: h.fragments,
            candidate_fragments: h.candidate_fragments,
            rows: h.rows,
            deleted_rows: h.deleted_rows,
            bytes: h.bytes,
            versions: h.versions,
            drift: table.drift,
            head_version: h.head,
            pin_version: h.pin,
            indexes: h
                .indexes
                .iter()
                .map(|i| IndexObservation {
                    name: i.name.clone(),
                    unindexed_rows: i.unindexed_rows,
                    age: i.stale_seconds.map(Duration::from_secs),
                })
                .collect(),
            ledger: h.ledger.iter().flat_map(bytes_by_reason).collect(),
            unreferenced: table.unreferenced.iter().flat_map(bytes_by_age).collect(),
        };
        self.metrics.observe_table(store, &h.table, &observation);
        self.metrics.set_unreadable(store, &h.table, false);
        let key = (store.to_owned(), h.table.clone());
        let fragments = h.fragments;
        let mut seen = self.seen();
        if let Some(Shown::Observed(before)) = seen.tables.remove(&key) {
            table.trend = before.trend;
        }
        table.trend.note(self.clock.monotonic(), fragments);
        seen.tables.insert(key, Shown::Observed(Box::new(table)));
    }

    fn report(&self, report: OperationReport) {
        let kind = report.kind.as_str();
        let labels = [report.place.as_str(), report.table.as_str(), kind];
        let all = self.tables_of(&report.place);
        for (table, result) in report.results(all) {
            let run = [report.place.as_str(), &table, kind];
            self.metrics.run_finished(run, result, self.now_seconds());
        }
        for _ in 0..report.conflicts {
            self.metrics.run_retried(labels);
        }
        let removed = Removed {
            fragments: report.fragments_removed,
            bytes: report.bytes_removed,
            versions: report.versions_removed,
        };
        self.metrics.removed(&report.place, &report.table, removed);
        for (index, bytes) in &report.index_bytes {
            let index = [report.place.as_str(), report.table.as_str(), index];
            self.metrics.index_written(index, *bytes);
        }
        let failed = report.ending.is_bad();
        let mut seen = self.seen();
        let counted = if failed { "failures" } else { kind };
        *seen.counts.entry(counted).or_default() += 1;
        *seen.counts.entry("conflicts").or_default() += u64::from(report.conflicts);
        if failed {
            let about = match report.table.as_str() {
                "" => &report.place,
                table => table,
            };
            let detail = report.detail.as_deref().unwrap_or("");
            let text = format!("{kind} {about}: {detail}");
            push(&mut seen.last_errors, text);
        }
        push(&mut seen.history, report);
    }

    /// That a look found nothing to do counts as a success: silence must not look like health. Not so for a cleanup,
    /// which looks when it runs.
    fn nothing_to_do(&self, run: [&str; 3]) {
        let now = self.now_seconds();
        self.metrics.run_finished(run, Ending::Success, now);
    }

    fn tables_of(&self, place: &str) -> Vec<String> {
        let seen = self.seen();
        let here = seen.tables.keys().filter(|(store, _)| store == place);
        here.map(|(_, table)| table.clone()).collect()
    }
}
