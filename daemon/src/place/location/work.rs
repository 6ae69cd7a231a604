//! Work of a location: what people and time ask for, what began and what came of it.

use super::{Location, Tracked};
use crate::config::Config;
use crate::decide::planning::{OperationKind, OperationSpec};
use crate::decide::rest::Outcome;
use crate::decide::waits::Resting;
use crate::decide::work::{Scope, Trigger, WorkItem};
use crate::place::table::{self, Phase, cleanup_item};
use squire_engine::maintenance::Target;
use std::time::Duration;

/// While its disk is short of room, cleanups come so many times as often as usual: what has aged meanwhile is all that they find.
const OFTENER: u32 = 10;

/// The reason of a cleanup that comes early.
const SHORT_OF_ROOM: &str = "its disk is short of room";

impl Location {
    /// A person asks for a recovery.
    pub(crate) fn ask_recovery(&mut self) {
        self.recover = Some(true);
    }

    /// A person asks for `kind`, of the tables that `named` accepts. Returns the cleanups; all else begins with a look.
    pub(crate) fn ask(
        &mut self,
        kind: OperationKind,
        named: impl Fn(&Target) -> bool,
        config: &Config,
    ) -> Vec<WorkItem> {
        if kind == OperationKind::Cleanup && self.is_stopped() {
            return Vec::new();
        }
        if kind == OperationKind::Cleanup && self.managed == Some(true) {
            return vec![self.cleanup(Scope::Store, Trigger::Asked, config)];
        }
        let named: Vec<Target> = self.tables.keys().filter(|t| named(t)).cloned().collect();
        for target in &named {
            if let Some(tracked) = self.tables.get_mut(target) {
                tracked.state.ask(kind);
            }
        }
        match kind {
            OperationKind::Cleanup => named
                .into_iter()
                .map(|target| self.cleanup(Scope::Table(target), Trigger::Asked, config))
                .collect(),
            OperationKind::Compact | OperationKind::Reindex => {
                self.to_look.extend(named);
                Vec::new()
            }
        }
    }

    /// The cleanups of a round: regular, whatever compaction does, and urgent while its disk is `short` of room; of a store it
    /// covers all tables at once. The second answer is whether these are the first.
    pub(crate) fn regular_cleanups(
        &mut self,
        now: Duration,
        config: &Config,
        short: bool,
    ) -> (Vec<WorkItem>, bool) {
        let interval = config.daemon.full_scan_interval;
        let (interval, trigger) = match short {
            true => (interval / OFTENER, Trigger::Room),
            false => (interval, Trigger::Regular),
        };
        let is_due = |last: Duration| now.saturating_sub(last) >= interval;
        if self.is_stopped() {
            return (Vec::new(), false);
        }
        let kind = OperationKind::Cleanup;
        if !self.last_cleanup.is_none_or(is_due) {
            let rests = |scope: &Scope| match scope {
                Scope::Store => self.rests.blocks(kind, now),
                Scope::Table(target) => {
                    let of = self.tables.get(target);
                    of.is_some_and(|t| t.state.rests(kind, now))
                }
            };
            let again: Vec<Scope> = self
                .to_clean
                .iter()
                .filter(|s| !rests(s))
                .cloned()
                .collect();
            self.to_clean.retain(|scope| !again.contains(scope));
            let again = again.into_iter().filter(|scope| self.wants(scope, kind));
            let again = again.map(|scope| self.cleanup(scope, trigger, config));
            return (again.collect(), false);
        }
        self.to_clean.clear();
        let is_first = self.last_cleanup.replace(now).is_none();
        let scopes = match self.managed {
            Some(true) if self.rests.blocks(kind, now) || self.tables.is_empty() => Vec::new(),
            Some(true) => vec![Scope::Store],
            _ => {
                let rested = self
                    .tables
                    .iter()
                    .filter(|(_, t)| !t.state.rests(kind, now));
                rested.map(|(t, _)| Scope::Table(t.clone())).collect()
            }
        };
        let due = scopes.into_iter();
        let due = due.map(|scope| self.cleanup(scope, trigger, config));
        (due.collect(), is_first)
    }

    fn cleanup(&self, scope: Scope, trigger: Trigger, config: &Config) -> WorkItem {
        let over = |tracked: &Tracked| tracked.state.cleanup().cloned();
        let over = match &scope {
            Scope::Store => self.tables.values().find_map(over),
            Scope::Table(target) => self.tables.get(target).and_then(over),
        };
        let because = |reason: &str, debt| OperationSpec {
            kind: OperationKind::Cleanup,
            reason: reason.to_owned(),
            debt,
            needs: 0,
        };
        let spec = match trigger {
            Trigger::Asked => because(table::ASKED_FOR, 1.0),
            Trigger::Room => because(SHORT_OF_ROOM, 1.0),
            Trigger::Threshold | Trigger::Regular => {
                over.unwrap_or_else(|| because("regular", 0.0))
            }
        };
        let policy = match table::config_name(&scope) {
            Some(name) => config.policy_for(name),
            None => config.policy.clone(),
        };
        cleanup_item(&self.uri, scope, spec, (trigger, policy))
    }

    /// An attempt of `item` began. Returns its table, and where that stands now.
    pub(crate) fn started<'a>(&mut self, item: &'a WorkItem) -> Option<(&'a Target, Phase)> {
        let Scope::Table(target) = &item.key.scope else {
            return None;
        };
        let tracked = self.tables.get_mut(target)?;
        tracked.state.started(item.key.kind);
        Some((target, tracked.state.phase()))
    }

    /// An attempt of `item` ended: its table is looked at again. Returns what rests from now on as unfit.
    pub(crate) fn ended(
        &mut self,
        item: &WorkItem,
        lesson: table::Lesson,
        times: (Duration, Duration),
    ) -> Vec<(Option<String>, String)> {
        let elsewhere = matches!(lesson.outcome, Some(Outcome::Elsewhere(_)));
        if elsewhere && item.key.kind == OperationKind::Cleanup {
            self.to_clean.insert(item.key.scope.clone());
        }
        let Scope::Table(target) = &item.key.scope else {
            if let Some(outcome) = lesson.outcome {
                self.rests.note(item.key.kind, outcome, &item.policy, times);
            }
            if !self.one_pass {
                // Versions have gone, of any of them.
                self.to_look.extend(self.tables.keys().cloned());
            }
            return Vec::new();
        };
        let Some(tracked) = self.tables.get_mut(target) else {
            return Vec::new();
        };
        if !self.one_pass {
            self.to_look.insert(target.clone());
        }
        let rests = tracked.state.ended(item, lesson, times);
        self.note_unfit(target);
        rests
    }

    /// The cleanup of a store that failed, or is another daemon's, while it rests.
    pub(crate) fn resting(&self, now: Duration) -> Option<Resting> {
        let kind = OperationKind::Cleanup;
        let rests = self.rests.resting(kind, now)?;
        (self.rests.is_failing(kind) || self.to_clean.contains(&Scope::Store)).then_some(rests)
    }
}
