//! Tables of whose input nothing is taken for now. It stays in `incoming`, and what is there for other tables goes on.
//!
//! * A table in **debt** has gathered so many fragments or versions that each further commit costs whoever reads or maintains it
//!   more. Input goes into it at a pace: after each commit it rests, the longer the more there are, up to
//!   `agent.debt_pause`. It is never stopped, and what gathers meanwhile goes into one commit.
//! * A table is **blocked** while enough batches for it were tried and have to wait: more would only be claimed, tried, and wait too.
//!
//! `Held` is bookkeeping alone, which is told the time; what follows asks it.

use super::Left;
use super::rounds::Agent;
use super::spool::{Claim, EntryId, tables_at};
use super::waiting::Cause;
use crate::config::AgentConfig;
use crate::input::shown;
use squire_engine::ids::TableName;
use squire_engine::store::Gathered;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::time::Duration;
use tokio::task::block_in_place;

/// How many batches of one table may wait in claims before no more of it are taken: enough that some may be what is wrong, and few
/// beside what an agent tries in a round.
const WAITING_PER_TABLE: usize = 16;

/// How long after its rest a table is still told of as one in debt, if nothing more is committed to it.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// Why nothing is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// It has too many fragments or versions.
    Debt,
    /// Batches for it wait.
    Blocked,
}

impl Why {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Debt, Self::Blocked];

    /// The value of the `cause` label.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Debt => "debt",
            Self::Blocked => "blocked",
        }
    }
}

/// A table that is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hold {
    pub(super) why: Why,
    pub(super) reason: String,
    /// How many entries of `incoming` stay there for it.
    pub(super) entries: usize,
}

/// A table whose input goes at a pace.
#[derive(Debug)]
struct Pace {
    reason: String,
    until: Duration,
}

/// All tables that are held.
#[derive(Debug, Default)]
pub(super) struct Held {
    paced: BTreeMap<String, Pace>,
    /// Entries of claims that wait for something of their tables.
    waiting: HashMap<EntryId, (Vec<String>, String)>,
    blocked: BTreeMap<String, String>,
    /// Entries that were left in `incoming`, by table, since the last round began.
    left: BTreeMap<String, usize>,
}

impl Held {
    /// Something was committed to `table`, which has gathered so much. Gives the reason when it begins to be held.
    pub(super) fn committed(
        &mut self,
        table: &str,
        gathered: Gathered,
        now: Duration,
        config: &AgentConfig,
    ) -> Option<String> {
        let Some((pause, reason)) = debt(gathered, config) else {
            self.paced.remove(table);
            return None;
        };
        let pace = Pace {
            reason: reason.clone(),
            until: now + pause,
        };
        match self.paced.insert(table.to_owned(), pace) {
            None => Some(reason),
            Some(_) => None,
        }
    }

    /// A round begins, in which these entries are in claims.
    pub(super) fn round(&mut self, now: Duration, there: &HashSet<EntryId>) {
        self.left.clear();
        self.paced.retain(|_, pace| now < pace.until + TOLD_FOR);
        self.waiting.retain(|entry, _| there.contains(entry));
        self.count();
    }

    /// `entry`, which is for `tables`, was tried and has to wait. Gives the tables that begin to be held, with the reason.
    pub(super) fn waits(
        &mut self,
        entry: &EntryId,
        tables: Vec<String>,
        (cause, reason): (Cause, &str),
    ) -> Vec<(String, String)> {
        self.waiting.remove(entry);
        if is_of_its_table(cause) {
            let waits = (tables, reason.to_owned());
            self.waiting.insert(entry.clone(), waits);
        }
        let before = std::mem::take(&mut self.blocked);
        self.count();
        let news = self
            .blocked
            .iter()
            .filter(|(table, _)| !before.contains_key(*table));
        news.map(|(table, reason)| (table.clone(), reason.clone()))
            .collect()
    }

    /// `entry` waits no more.
    pub(super) fn ended(&mut self, entry: &EntryId) {
        if self.waiting.remove(entry).is_some() {
            self.count();
        }
    }

    fn count(&mut self) {
        let mut counts: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
        for (tables, reason) in self.waiting.values() {
            for table in tables {
                counts.entry(table).or_insert((0, reason)).0 += 1;
            }
        }
        let blocked = counts
            .into_iter()
            .filter(|(_, (count, _))| *count >= WAITING_PER_TABLE);
        self.blocked = blocked
            .map(|(table, (count, first))| {
                let reason = format!("{count} batches for it wait already; the first: {first}");
                (table.to_owned(), reason)
            })
            .collect();
    }

    /// Whether any table may be held.
    pub(super) fn is_empty(&self) -> bool {
        self.paced.is_empty() && self.blocked.is_empty()
    }

    /// Whether an entry for `tables` stays in `incoming` now; it is counted then.
    pub(super) fn holds(&mut self, tables: &[String], now: Duration) -> bool {
        let held = |table: &&String| {
            let paced = self.paced.get(*table).is_some_and(|pace| now < pace.until);
            paced || self.blocked.contains_key(*table)
        };
        let Some(table) = tables.iter().find(held) else {
            return false;
        };
        *self.left.entry(table.clone()).or_default() += 1;
        true
    }

    /// How long until the first table that something was left for may be taken from again.
    pub(super) fn rests(&self, now: Duration) -> Option<Duration> {
        let left = |(table, _): &(&String, &Pace)| {
            self.left.contains_key(*table) && !self.blocked.contains_key(*table)
        };
        let paced = self.paced.iter().filter(left);
        paced.map(|(_, pace)| pace.until.saturating_sub(now)).min()
    }

    /// Why nothing of `table` is taken.
    pub(super) fn blocked(&self, table: &str) -> Option<&str> {
        self.blocked.get(table).map(String::as_str)
    }

    /// The tables that are held, by name. One that is paced is, also while it may be taken from.
    pub(super) fn list(&self) -> Vec<(String, Hold)> {
        let hold = |table: &String, why, reason: &String| {
            let hold = Hold {
                why,
                reason: reason.clone(),
                entries: self.left.get(table).copied().unwrap_or_default(),
            };
            (table.clone(), hold)
        };
        let paced = self
            .paced
            .iter()
            .map(|(table, pace)| hold(table, Why::Debt, &pace.reason));
        let blocked = self
            .blocked
            .iter()
            .map(|(table, reason)| hold(table, Why::Blocked, reason));
        paced.chain(blocked).collect()
    }
}

impl Agent {
    /// Those entries of `incoming` that are for no table that is held.
    pub(super) fn not_held(&self, mut names: Vec<OsString>, held: &mut Held) -> Vec<OsString> {
        if held.is_empty() {
            return names;
        }
        let now = self.store.clock().monotonic();
        let incoming = self.spool.incoming_dir();
        let goes = |name: &OsString| {
            let tables = block_in_place(|| tables_at(&incoming.join(name)));
            !held.holds(&tables, now)
        };
        names.retain(goes);
        names
    }

    /// The entries of `claim` have to wait; of a table of which enough do, no more are taken.
    pub(super) fn hold_blocked(&self, claim: &Claim, why: (Cause, &str), held: &mut Held) {
        for entry in claim.ids() {
            let tables = block_in_place(|| tables_at(&claim.path(&entry.name)));
            for (table, reason) in held.waits(&entry, tables, why) {
                tracing::warn!(
                    table,
                    reason,
                    "no more input is taken for this table until some of it is committed"
                );
            }
        }
    }

    /// Slows down what goes into those of `tables` that have gathered too much.
    pub(super) async fn pace(&self, tables: &[TableName], held: &mut Held) {
        for table in tables {
            let Some(gathered) = self.store.gathered(table).await else {
                continue;
            };
            let now = self.store.clock().monotonic();
            let config = &self.options.config;
            if let Some(reason) = held.committed(table.as_str(), gathered, now, config) {
                tracing::warn!(%table, reason, "this table is in debt");
            }
        }
    }

    /// What stays in `incoming` because its table takes no more.
    pub(super) fn left_for_its_table(&self, name: &OsStr, held: &Held) -> Option<Left> {
        let tables = tables_at(&self.spool.incoming_dir().join(name));
        let reason = tables.iter().find_map(|table| held.blocked(table))?;
        Some(Left {
            entry: shown(name),
            cause: Why::Blocked.as_str(),
            reason: reason.to_owned(),
        })
    }
}

/// Whether others of its table would fare as it does.
fn is_of_its_table(cause: Cause) -> bool {
    match cause {
        Cause::Drift | Cause::Conflict | Cause::Undecided | Cause::Storage | Cause::Other => true,
        Cause::Unreadable
        | Cause::Unfinished
        | Cause::Killed
        | Cause::Unclaimable
        | Cause::Stuck => false,
    }
}

/// How long a table rests that has gathered so much, and why; nothing within the limits. Twice as much as a limit is a whole
/// `agent.debt_pause`.
fn debt(gathered: Gathered, config: &AgentConfig) -> Option<(Duration, String)> {
    let counts = [
        (
            gathered.fragments,
            config.debt_fragments,
            "fragments",
            "debt_fragments",
        ),
        (
            gathered.versions,
            config.debt_versions,
            "versions",
            "debt_versions",
        ),
    ];
    let over = |(count, limit, ..): &(u64, u64, _, _)| {
        (*count > *limit).then(|| (*count - *limit) as f64 / (*limit).max(1) as f64)
    };
    let worst = counts.iter().filter_map(|c| Some((over(c)?, c)));
    let (over, (count, limit, what, key)) = worst.max_by(|a, b| a.0.total_cmp(&b.0))?;
    let pause = config.debt_pause.mul_f64(over.min(1.0));
    let reason = format!(
        "it has {count} {what}, more than {limit} (agent.{key}): commits to it rest up to {pause:?} until it is maintained; see that a \
         daemon runs, and `squire plan`",
        pause = config.debt_pause
    );
    Some((pause, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn config() -> AgentConfig {
        AgentConfig {
            debt_fragments: 100,
            debt_versions: 1_000,
            debt_pause: at(10),
            ..AgentConfig::default()
        }
    }

    fn gathered(fragments: u64, versions: u64) -> Gathered {
        Gathered {
            fragments,
            versions,
        }
    }

    #[test]
    fn a_table_in_debt_goes_at_a_pace_and_others_go_on() {
        let (mut held, config) = (Held::default(), config());
        let t = ["t".to_owned()];
        assert_eq!(
            held.committed("t", gathered(100, 1_000), at(0), &config),
            None
        );
        assert!(!held.holds(&t, at(0)) && held.is_empty());
        let told = held
            .committed("t", gathered(150, 10), at(0), &config)
            .unwrap();
        assert!(
            told.contains("150 fragments") && told.contains("agent.debt_fragments"),
            "{told}"
        );
        // Half as much too much, half of the pause; and it is no news while it lasts.
        assert!(held.holds(&t, at(4)) && held.rests(at(4)) == Some(at(1)));
        assert!(!held.holds(&["u".to_owned()], at(4)) && !held.holds(&t, at(5)));
        assert_eq!(
            held.committed("t", gathered(10, 9_000), at(5), &config),
            None
        );
        assert!(
            held.holds(&t, at(14)) && !held.holds(&t, at(15)),
            "never longer than the pause"
        );
        assert!(held.list()[0].1.reason.contains("9000 versions"));
        assert_eq!(held.committed("t", gathered(10, 10), at(15), &config), None);
        assert!(held.is_empty(), "maintained");
    }

    #[test]
    fn a_table_whose_batches_wait_takes_no_more_and_others_go_on() {
        let mut held = Held::default();
        let names: Vec<EntryId> = (0..WAITING_PER_TABLE)
            .map(|n| EntryId::named(format!("t.{n}.csv")))
            .collect();
        let (t, u) = (["t".to_owned()], ["u".to_owned()]);
        let mut news = Vec::new();
        for name in &names {
            assert!(news.is_empty() && held.is_empty());
            news = held.waits(name, t.to_vec(), (Cause::Drift, "table t has drift"));
        }
        let told = "16 batches for it wait already; the first: table t has drift";
        assert_eq!(news, [("t".to_owned(), told.to_owned())]);
        assert!(held.holds(&t, at(0)) && !held.holds(&u, at(0)));
        assert!(held.list()[0].1.entries == 1 && held.blocked("t").is_some());
        assert!(
            held.waits(&names[3], t.to_vec(), (Cause::Drift, "again"))
                .is_empty(),
            "told once"
        );
        // What is one entry's own trouble says nothing of its table.
        assert!(
            held.waits(&names[3], t.to_vec(), (Cause::Killed, "it"))
                .is_empty()
                && held.is_empty()
        );
        assert!(
            !held
                .waits(&names[3], t.to_vec(), (Cause::Conflict, "others"))
                .is_empty()
        );
        held.ended(&names[3]);
        assert!(!held.holds(&t, at(0)), "one was committed");
        held.waits(&names[3], t.to_vec(), (Cause::Drift, "drift"));
        held.round(at(0), &names[..1].iter().cloned().collect());
        assert!(held.is_empty(), "another agent committed them");
    }
}
