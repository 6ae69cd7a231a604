//! `[policy]` and its per-table overrides: when a table counts as dull, how much one attempt may
//! do, and what is kept.
//!
//! One row of `policy_fields!` is one setting. The macro makes the three structs that must not
//! drift apart: [`Policy`] (what the planner reads), `PolicySection` (`[policy]`, every field
//! optional) and `TableSection` (`[[table]]`, the same plus `name`).

use std::time::Duration;

use serde::{Deserialize, Serialize, Serializer};
use squire_engine::maintenance::Verify;

use super::executor::ExecutorKind;
use super::windows::Windows;
use crate::units;

/// Retention below this is refused: a reader that opened a snapshot must have time to finish with
/// it.
pub(crate) const MIN_RETENTION: Duration = Duration::from_secs(3_600);

/// What the daemon does about versions that someone else committed above a pin.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DriftPolicy {
    /// Skip maintenance of the table and say so; an operator decides with `squire repair`.
    #[default]
    Report,
    /// Publish external commits as they come, so that unmodified pylance and LanceDB writers can
    /// share a store.
    Adopt,
}

/// `[policy.cleanup]`: apart from the other fields because it is the switch in front of every
/// deletion.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CleanupSection {
    #[serde(deserialize_with = "units::some_plain")]
    enabled: Option<bool>,
}

macro_rules! policy_fields {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr, read $read:literal $(, show $show:literal)?;)+) => {
        /// The settings that hold for one table.
        #[derive(Clone, Debug, PartialEq, Serialize)]
        pub(crate) struct Policy {
            $($(#[doc = $doc])+ $(#[serde(serialize_with = $show)])? pub(crate) $name: $type,)+
            /// What happens about versions of unknown origin above a pin.
            pub(crate) drift: DriftPolicy,
            /// Whether cleanup may delete; see [`Policy::may_delete`].
            #[serde(rename = "cleanup", serialize_with = "show_cleanup", skip_serializing_if = "Option::is_none")]
            pub(crate) cleanup_enabled: Option<bool>,
        }

        impl Default for Policy {
            fn default() -> Self {
                Self { $($name: $default,)+ drift: DriftPolicy::Report, cleanup_enabled: None }
            }
        }

        /// `[policy]` as written.
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct PolicySection {
            $(#[serde(deserialize_with = $read)] $name: Option<$type>,)+
            #[serde(deserialize_with = "units::some_plain")]
            drift: Option<DriftPolicy>,
            cleanup: CleanupSection,
        }

        impl PolicySection {
            /// `base`, with what this section sets put over it.
            pub(super) fn over(self, base: &Policy) -> Policy {
                let Self { $($name,)+ drift, cleanup: CleanupSection { enabled } } = self;
                Policy {
                    $($name: $name.unwrap_or_else(|| Clone::clone(&base.$name)),)+
                    drift: drift.unwrap_or(base.drift),
                    cleanup_enabled: enabled.or(base.cleanup_enabled),
                }
            }
        }

        /// `[[table]]` as written.
        #[derive(Clone, Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct TableSection {
            name: String,
            $(#[serde(default, deserialize_with = $read)] $name: Option<$type>,)+
            #[serde(default, deserialize_with = "units::some_plain")]
            drift: Option<DriftPolicy>,
            #[serde(default)]
            cleanup: CleanupSection,
        }

        impl TableSection {
            /// The table's name and what is set for it.
            pub(super) fn into_parts(self) -> (String, PolicySection) {
                let Self { name, $($name,)+ drift, cleanup } = self;
                (name, PolicySection { $($name,)+ drift, cleanup })
            }
        }
    };
}

policy_fields! {
    /// Compact from this many fragments on that a rewrite would improve. Fewer cost readers little;
    /// a rewrite costs the same again.
    min_candidate_fragments: usize = 16, read "units::some_plain";
    /// Compact fragments with more than this share of deleted rows, which every scan still reads
    /// over.
    max_deleted_ratio: f64 = 0.10, read "units::some_plain";
    /// Clean up from this many versions on, whatever their age: listing them is what makes opening
    /// a table slow.
    max_versions: u64 = 2_000, read "units::some_plain";
    /// Extend an index from this many rows on that it does not cover; each query scans those rows.
    max_unindexed_rows: u64 = 100_000, read "units::some_plain";
    /// The same as a share of the table, so that a small table does not wait for 100,000 rows.
    max_unindexed_ratio: f64 = 0.10, read "units::some_plain";
    /// Extend an index that is older than this and lacks rows, however few.
    max_index_age: Duration = Duration::from_secs(3_600), read "units::some_duration", show "units::show_duration";
    /// The size that compaction aims at, in rows; Lance's own default. Wide rows get fewer, from
    /// `max_task_output`.
    target_rows_per_fragment: usize = 1_048_576, read "units::some_plain";
    /// Fragments in one rewrite task at most. A task that makes a fragment of the full size at once writes each byte once;
    /// each smaller one is merged again later. What a writer deletes meanwhile is carried, so length loses little.
    max_task_fragments: usize = 1_024, read "units::some_plain";
    /// Bytes that one rewrite task reads at most; bounds its memory and its time.
    max_task_input: u64 = 2 << 30, read "units::some_size", show "units::show_size";
    /// Bytes that one rewrite task writes at most; also turns bytes per row into the row target of
    /// wide tables.
    max_task_output: u64 = 1 << 30, read "units::some_size", show "units::show_size";
    /// Bytes that maintenance may lately have written for each byte of users or found at the first look; a table above it waits longer for its compaction.
    max_amplification: f64 = 10.0, read "units::some_plain";
    /// How long a finished rewrite task may wait for its commit, whatever else the run has to do.
    commit_after: Duration = Duration::from_secs(60), read "units::some_duration", show "units::show_duration";
    /// How a rewrite is compared with what it replaces before it is committed: rows and nulls, some
    /// rows by value, or all.
    verify: Verify = Verify::Sample, read "units::some_plain";
    /// Who executes the rewrite tasks: this process, or workers; see `[executor]`.
    executor: ExecutorKind = ExecutorKind::Inline, read "units::some_plain";
    /// Versions younger than this are kept. Readers and paused writers may still use them.
    retention: Duration = Duration::from_secs(7 * 86_400), read "units::some_duration", show "units::show_duration";
    /// The newest versions are kept however old they are.
    min_versions: u64 = 10, read "units::some_plain";
    /// Whether the branches of a plain table are maintained as the table is. A rewrite writes into the branch what it had of the table.
    branches: bool = false, read "units::some_plain";
    /// When work may run; always when there are none. At a window's end work stops at its next safe point.
    windows: Windows = Windows::default(), read "units::some_plain";
    /// How long a table rests after repeated failures; doubles with each further one.
    cooldown: Duration = Duration::from_secs(600), read "units::some_duration", show "units::show_duration";
    /// Where the doubling ends.
    cooldown_max: Duration = Duration::from_secs(6 * 3_600), read "units::some_duration", show "units::show_duration";
    /// Failures in a row before the first rest; a single one is usually a conflict or a network
    /// fault.
    failures_before_cooldown: u32 = 3, read "units::some_plain";
}

impl Policy {
    /// Whether cleanup may delete, or only log its plan. Unset means: yes in a store of ours, no in
    /// a directory that is only watched.
    pub(crate) fn may_delete(&self, store_is_ours: bool) -> bool {
        self.cleanup_enabled.unwrap_or(store_is_ours)
    }

    /// The first setting that is out of range by itself: its key, and what is wrong with it.
    pub(super) fn out_of_range(&self) -> Option<(&'static str, String)> {
        let too_small = self
            .least_counts()
            .into_iter()
            .find(|(_, value, least, _)| value < least);
        if let Some((key, value, least, why)) = too_small {
            return Some((key, format!("{value} is under {least}; {why}")));
        }
        let shares = [
            ("max_deleted_ratio", self.max_deleted_ratio),
            ("max_unindexed_ratio", self.max_unindexed_ratio),
        ];
        // Written so that NaN, which TOML can spell, is outside.
        if let Some((key, value)) = shares.into_iter().find(|(_, v)| !(*v > 0.0 && *v <= 1.0)) {
            let hint = "use a number above 0 and up to 1, such as 0.10";
            return Some((key, format!("{value} is not a share; {hint}")));
        }
        if self.max_amplification.is_nan() || self.max_amplification < 1.0 {
            let given = self.max_amplification;
            let why = "every byte has to be written once; use a number such as 10";
            return Some(("max_amplification", format!("{given} is under 1; {why}")));
        }
        if self.retention < MIN_RETENTION {
            let given = units::format_duration(self.retention);
            let why = "so open readers would lose their files; use a duration such as \"7d\"";
            return Some(("retention", format!("{given} is under 1h, {why}")));
        }
        if self.cooldown_max < self.cooldown {
            let (max, first) = (
                units::format_duration(self.cooldown_max),
                units::format_duration(self.cooldown),
            );
            return Some((
                "cooldown_max",
                format!("{max} is under cooldown = {first}; make it at least as long"),
            ));
        }
        None
    }

    /// Counts that must not fall below a least value: key, value, least, and what would go wrong.
    fn least_counts(&self) -> [(&'static str, u64, u64, &'static str); 9] {
        let candidates = self.min_candidate_fragments as u64;
        let target_rows = self.target_rows_per_fragment as u64;
        let (task, failures) = (
            self.max_task_fragments as u64,
            self.failures_before_cooldown.into(),
        );
        let endless = "the same work would be planned without end";
        let never = "no task could ever be planned";
        [
            (
                "min_candidate_fragments",
                candidates,
                2,
                "one fragment rewritten is one fragment",
            ),
            ("max_versions", self.max_versions, 1, endless),
            ("max_unindexed_rows", self.max_unindexed_rows, 1, endless),
            (
                "target_rows_per_fragment",
                target_rows,
                1,
                "fragments cannot be empty",
            ),
            (
                "max_task_fragments",
                task,
                2,
                "a task must merge at least two fragments",
            ),
            ("max_task_input", self.max_task_input, 1, never),
            ("max_task_output", self.max_task_output, 1, never),
            (
                "min_versions",
                self.min_versions,
                1,
                "the visible version itself must stay",
            ),
            (
                "failures_before_cooldown",
                failures,
                1,
                "tables would rest without a failure",
            ),
        ]
    }
}

fn show_cleanup<S: Serializer>(enabled: &Option<bool>, ser: S) -> Result<S::Ok, S::Error> {
    ser.collect_map(enabled.iter().map(|enabled| ("enabled", enabled)))
}
