//! What a table says of its own maintenance, in its configuration.
//!
//! Lance keeps defaults for `compact_files` there (`lance.compaction.*`). They go before the policy, as they do in pylance,
//! and within it: a table may ask for less memory, not for more. What Lance means for one call as a whole
//! (`max_source_*`) bounds each task here, since a run has as many as it needs.

use super::tasks::TaskBounds;
use crate::error::{Error, ErrorKind, Result};
use lance::dataset::optimize::{
    COMPACTION_CONFIG_PREFIX, CompactionMode, CompactionOptions, IndexRemapMode,
};
use std::collections::{BTreeMap, HashMap};

/// Commits of any client clean up where one of these is set.
const AUTO_CLEANUP: &str = "lance.auto_cleanup.";

/// What is not followed, and why.
const NOT_FOLLOWED: [(&str, &str); 2] = [
    (
        "defer_index_remap",
        "rows that are moved twice before an index has followed would be lost to it; indexes follow at once",
    ),
    (
        "max_overlays_per_fragment",
        "overlays alone are no reason for a rewrite here",
    ),
];

/// The settings of one table.
#[derive(Debug, Clone, Default)]
pub(crate) struct TableSettings {
    /// What it sets, over the defaults.
    options: CompactionOptions,
    /// The names of what it sets.
    set: Vec<String>,
}

impl TableSettings {
    /// Reads them.
    ///
    /// # Errors
    /// `Unfit` for a value that is none; it names the key.
    pub(crate) fn of(config: &HashMap<String, String>) -> Result<Self> {
        let names = config
            .keys()
            .filter_map(|key| key.strip_prefix(COMPACTION_CONFIG_PREFIX));
        let set: Vec<String> = names.map(str::to_owned).collect();
        let options = CompactionOptions::from_dataset_config(config).map_err(|e| {
            let why = "the table's own configuration cannot be followed; correct or remove the key";
            Error::new(ErrorKind::Unfit, why).caused_by(e)
        })?;
        Ok(Self { options, set })
    }

    fn sets(&self, name: &str) -> bool {
        self.set.iter().any(|set| set == name)
    }

    /// `policy`, as far as the table says nothing else.
    pub(crate) fn bounds(&self, policy: &TaskBounds) -> TaskBounds {
        let (of, mut bounds) = (&self.options, policy.clone());
        if self.sets("target_rows_per_fragment") {
            bounds.target_rows = (of.target_rows_per_fragment as u64).max(1);
        }
        if self.sets("materialize_deletions_threshold") {
            bounds.max_deleted_ratio = f64::from(of.materialize_deletions_threshold);
        }
        if !of.materialize_deletions {
            bounds.max_deleted_ratio = f64::INFINITY;
        }
        let least =
            |bound: u64, of_table: Option<u64>| of_table.map_or(bound, |v| v.clamp(1, bound));
        let wide = |v: Option<usize>| v.map(|v| v as u64);
        bounds.max_output_bytes = least(bounds.max_output_bytes, wide(of.max_bytes_per_file));
        bounds.max_input_bytes = least(bounds.max_input_bytes, of.max_source_bytes);
        bounds.max_input_rows = least(bounds.max_input_rows, wide(of.max_source_rows));
        if let Some(most) = of.max_source_fragments {
            bounds.max_fragments = most.clamp(1, bounds.max_fragments);
        }
        bounds
    }

    /// How a task is executed, as far as the table says anything of it.
    pub(crate) fn options(&self) -> CompactionOptions {
        CompactionOptions {
            defer_index_remap: false,
            // Where pages cannot be copied, a rewrite that must copy them would fail for ever.
            compaction_mode: self.options.compaction_mode.map(|mode| match mode {
                CompactionMode::ForceBinaryCopy => CompactionMode::TryBinaryCopy,
                mode => mode,
            }),
            // A map of rows that is written out takes some 40 bytes for each that moves.
            index_remap_mode: IndexRemapMode::Compact,
            max_source_fragments: None,
            max_source_rows: None,
            max_source_bytes: None,
            ..self.options.clone()
        }
    }

    /// What it sets and nobody follows here.
    pub(crate) fn not_followed(&self) -> Vec<String> {
        let set = NOT_FOLLOWED.iter().filter(|(name, _)| self.sets(name));
        set.map(|(name, why)| format!("{COMPACTION_CONFIG_PREFIX}{name} is not followed: {why}"))
            .collect()
    }
}

/// The settings by which commits of any client clean up a table.
pub(crate) fn auto_cleanup(config: &HashMap<String, String>) -> BTreeMap<String, String> {
    let set = config
        .iter()
        .filter(|(key, _)| key.starts_with(AUTO_CLEANUP));
    set.map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{TableSettings, TaskBounds};
    use std::collections::HashMap;

    fn settings(pairs: &[(&str, &str)]) -> crate::error::Result<TableSettings> {
        let key = |name: &str| format!("lance.compaction.{name}");
        let pairs = pairs
            .iter()
            .map(|(name, value)| (key(name), (*value).to_owned()));
        TableSettings::of(&pairs.collect::<HashMap<_, _>>())
    }

    fn policy() -> TaskBounds {
        TaskBounds {
            target_rows: 1_000,
            max_fragments: 32,
            max_input_bytes: 1_000,
            max_input_rows: u64::MAX,
            max_output_bytes: 500,
            max_deleted_ratio: 0.1,
        }
    }

    #[test]
    fn a_table_asks_for_its_own_fragments_within_the_policy() {
        assert_eq!(settings(&[]).expect("nothing").bounds(&policy()), policy());
        let asked = settings(&[
            ("target_rows_per_fragment", "5000"),
            ("materialize_deletions_threshold", "0.5"),
            ("max_source_fragments", "4"),
            ("max_source_rows", "70"),
            ("max_source_bytes", "999999"),
            ("max_bytes_per_file", "100"),
        ]);
        let bounds = TaskBounds {
            target_rows: 5_000,
            max_fragments: 4,
            max_input_bytes: 1_000,
            max_input_rows: 70,
            max_output_bytes: 100,
            max_deleted_ratio: 0.5,
        };
        assert_eq!(asked.expect("settings").bounds(&policy()), bounds);
    }

    #[test]
    fn deletions_stay_where_a_table_wants_them() {
        let asked = settings(&[("materialize_deletions", "false")]).expect("settings");
        assert!(asked.bounds(&policy()).max_deleted_ratio.is_infinite());
    }

    #[test]
    fn a_value_that_is_none_is_named_and_what_is_not_followed_is_told() {
        let error = settings(&[("batch_size", "many")]).expect_err("no number");
        assert!(
            error.to_string().contains("lance.compaction.batch_size"),
            "{error}"
        );
        let asked = settings(&[("defer_index_remap", "true")]).expect("settings");
        assert!(!asked.options().defer_index_remap);
        assert_eq!(asked.not_followed().len(), 1);
    }
}
