//! Patterns in the names of `[[table]]`: settings for every table whose name one matches.

use std::fmt;

use glob::{MatchOptions, Pattern};

use super::nested::Elsewhere;
use super::{Policy, bare};

/// A table's name is no file's: a dot at its beginning hides nothing, and case counts everywhere. A `/` divides it.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// A `[[table]]` whose name is a pattern.
#[derive(Clone, PartialEq)]
pub(crate) struct TablePattern {
    pattern: Pattern,
    pub(super) policy: Policy,
    /// How the tables are called where the pattern was written for.
    pub(super) elsewhere: Vec<Elsewhere>,
}

impl TablePattern {
    /// The pattern that `name` is, if it is one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn of(name: &str, policy: &Policy) -> Result<Option<Self>, String> {
        if !name.contains(['*', '?', '[']) {
            return Ok(None);
        }
        let pattern = Pattern::new(bare(name));
        let pattern = pattern.map_err(|e| format!("\"{name}\" is no pattern: {}", e.msg))?;
        Ok(Some(Self {
            pattern,
            policy: policy.clone(),
            elsewhere: Vec::new(),
        }))
    }

    pub(crate) fn name(&self) -> &str {
        self.pattern.as_str()
    }

    /// Its settings.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Whether they are for `table`. A name that has the letters of the pattern itself is one, too.
    pub(crate) fn matches(&self, table: &str) -> bool {
        let is_meant = |name: &str| name == self.name() || self.pattern.matches_with(name, OPTIONS);
        let table = bare(table);
        let mut others = self
            .elsewhere
            .iter()
            .filter_map(|there| there.name_of(table));
        is_meant(table) || others.any(|name| is_meant(&name))
    }
}

impl fmt::Debug for TablePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TablePattern").field(&self.name()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, render};

    #[test]
    fn a_pattern_is_for_every_table_that_it_fits_and_a_name_comes_first() {
        let text = "[policy]\nretention = \"2d\"\n[[table]]\nname = \"raw_*\"\nretention = \"3d\"\n[[table]]\nname = \"raw_events\"\nmin_versions = 3\n[[table]]\nname = \"*\"\nretention = \"5d\"\n[[table]]\nname = \"org/**/x?.lance\"\ncleanup.enabled = false\n";
        let config = Config::parse(text, "squire.toml").unwrap();
        let days = |table: &str| config.policy_for(table).retention.as_secs() / 86_400;
        for (table, kept) in [
            ("raw_clicks", 3),
            ("raw_clicks.lance", 3),
            ("raw_events", 2),
            ("clicks", 5),
            ("org/raw_clicks", 2),
            ("raw_*", 3),
        ] {
            assert_eq!(days(table), kept, "{table}");
        }
        for (table, deletes) in [("org/a/b/x1.lance", false), ("org/x1", false), ("x1", true)] {
            assert_eq!(
                config.policy_for(table).may_delete(true),
                deletes,
                "{table}"
            );
        }
        let known = ["raw_clicks.lance".to_owned(), "org/x1.lance".to_owned()];
        assert_eq!(config.unknown_tables(&known), ["raw_events"]);
        assert_eq!(
            config.unknown_tables(&known[1..]),
            ["raw_events", "raw_*", "*"]
        );
        assert_eq!(
            Config::parse(&toml::to_string(&config).unwrap(), "shown").unwrap(),
            config
        );
        let shown = render(&config.settings(text, "squire.toml").unwrap()).join("\n");
        let origin = |value: &str| {
            let line = shown.lines().find(|line| line.contains(value));
            line.and_then(|line| line.split("# ").last())
                .unwrap_or_default()
                .to_owned()
        };
        assert_eq!(origin("retention = \"3d\""), "squire.toml:5");
        assert_eq!(origin("retention = \"5d\""), "squire.toml:11");
        assert_eq!(origin("name = \"org/**/x?\""), "squire.toml:13");
    }
}
