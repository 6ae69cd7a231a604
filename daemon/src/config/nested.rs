//! Locations within each other. A table that two of them hold has a name in each, and a `[[table]]` may use either.
//!
//! A daemon keeps to one: whatever two locations hold would be maintained twice, by settings that need not agree. A store is
//! passed over by whatever lies around it, so it may be named, too. Whether a folder is one is seen on local disks, and elsewhere
//! once it is open: [`why_twice`]. By hand, where any location may be named, a table goes by each name that a watched location
//! has for it.

use squire_engine::store::{discovery::MAX_DEPTH, location};

use super::{Policy, Tables, Watch, WatchKind, bare, storage::location_of};

/// Where `inner` lies below `outer`, both as [`location_of`] has them.
fn below<'a>(inner: &'a str, outer: &str) -> Option<&'a str> {
    inner.strip_prefix(outer)?.strip_prefix('/')
}

/// Why two of `watches` cannot be watched together, and the index of the later one: one of them lies in the other, and the
/// outer one maintains what is in it. `places` has where they lie. A store, hidden folders and what lies deeper than is looked
/// are passed over there, so that they may be named. What may be a store for all that is known here is not refused here.
pub(super) fn clash(watches: &[Watch], places: &[String]) -> Option<(usize, String)> {
    let placed: Vec<(&Watch, &str)> = watches
        .iter()
        .zip(places.iter().map(String::as_str))
        .collect();
    placed.iter().enumerate().find_map(|(index, later)| {
        let why = |earlier| why_not_both(*later, earlier);
        let why = placed[..index].iter().copied().find_map(why)?;
        Some((index, why))
    })
}

/// The same for watches that were not looked at together yet. Following links asks the disk, which may hang: not for one that
/// is alone.
pub(crate) fn why_not_together(watches: &[Watch]) -> Option<String> {
    if watches.len() < 2 {
        return None;
    }
    // One that is nowhere is refused where it is opened.
    let place = |watch: &Watch| location_of(&watch.uri).unwrap_or_default();
    let places: Vec<String> = watches.iter().map(place).collect();
    clash(watches, &places).map(|(_, why)| why)
}

fn why_not_both(one: (&Watch, &str), other: (&Watch, &str)) -> Option<String> {
    let (inner, place, path, outer) = match (below(one.1, other.1), below(other.1, one.1)) {
        (Some(path), _) => (one.0, one.1, path, other.0),
        (_, Some(path)) => (other.0, other.1, path, one.0),
        (None, None) => return None,
    };
    let may_be_store = match inner.kind {
        WatchKind::Store => true,
        WatchKind::Auto => place.contains("://") || location::is_local_store(place),
        WatchKind::Directory | WatchKind::Table => false,
    };
    let refused = !may_be_store && is_looked_at(path);
    refused.then(|| twice(inner, outer))
}

/// Whether whoever watches a location looks at `path` below it.
fn is_looked_at(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.clone().count() <= MAX_DEPTH && !parts.any(|part| part.starts_with('.'))
}

fn twice(inner: &Watch, outer: &Watch) -> String {
    format!(
        "\"{}\" lies in \"{}\", which is watched too, with all that is in it: each table would be maintained twice; remove one",
        inner.uri, outer.uri
    )
}

/// Why `inner`, which turned out to be no store, cannot be watched beside the others of `watches`: one of them holds it.
pub(crate) fn why_twice(inner: &Watch, watches: &[Watch]) -> Option<String> {
    if watches.len() < 2 {
        return None;
    }
    let place = location_of(&inner.uri).ok()?;
    watches.iter().find_map(|outer| {
        let around = location_of(&outer.uri).ok()?;
        let path = below(&place, &around)?;
        is_looked_at(path).then(|| twice(inner, outer))
    })
}

/// Where the location that is asked about lies, seen from a watched one, whose names the settings use.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Elsewhere {
    /// At this path below it.
    Within(String),
    /// Around it: the watched one lies at this path.
    Around(String),
}

impl Elsewhere {
    fn between(asked: &str, watched: &str) -> Option<Self> {
        let within = below(asked, watched).map(|path| Self::Within(path.to_owned()));
        let around = || below(watched, asked).map(|path| Self::Around(path.to_owned()));
        within.or_else(around)
    }

    /// What the watched location calls the table that is called `name` where is asked.
    pub(super) fn name_of(&self, name: &str) -> Option<String> {
        match self {
            Self::Within(path) => Some(name_around(name, path)),
            Self::Around(path) => name_within(name, path),
        }
    }

    /// The other way.
    fn name_here(&self, name: &str) -> Option<String> {
        match self {
            Self::Within(path) => name_within(name, path),
            Self::Around(path) => Some(name_around(name, path)),
        }
    }
}

/// The policies of `tables`, which are named as the locations of `watches` have them, by the names that the location at
/// `uri` has for the same tables, too.
pub(super) fn named_from(uri: &str, watches: &[Watch], tables: &Tables) -> Tables {
    let mut seen = tables.clone();
    let Ok(place) = location_of(uri) else {
        return seen;
    };
    let watched = watches.iter().filter_map(|w| location_of(&w.uri).ok());
    for there in watched.filter_map(|there| Elsewhere::between(&place, &there)) {
        for (name, policy) in &tables.named {
            let Some(other) = there.name_here(name) else {
                continue;
            };
            let known = seen.named.get(&other);
            if known.is_none_or(|known| is_stricter(policy, known)) {
                seen.named.insert(other, policy.clone());
            }
        }
        for pattern in &mut seen.patterns {
            pattern.elsewhere.push(there.clone());
        }
    }
    seen
}

/// What a table that a location calls `name` is called in a location that lies at `path` below it: a folder, or the table.
fn name_within(name: &str, path: &str) -> Option<String> {
    if name == bare(path) {
        return name.rsplit('/').next().map(str::to_owned);
    }
    below(name, path).map(str::to_owned)
}

/// The same the other way: the location lies around the one that calls the table `name`.
fn name_around(name: &str, path: &str) -> String {
    match bare(path).rsplit('/').next() {
        Some(last) if last == name && path.ends_with(".lance") => bare(path).to_owned(),
        _ => format!("{path}/{name}"),
    }
}

/// Of two settings for one table, the one that deletes less counts.
fn is_stricter(policy: &Policy, than: &Policy) -> bool {
    match (policy.may_delete(true), than.may_delete(true)) {
        (false, true) => true,
        (true, false) => false,
        _ => policy.retention > than.retention,
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::why_twice;

    #[test]
    fn a_table_is_known_by_every_name_that_a_watched_location_has_for_it() {
        for (watched, name, asked, table) in [
            ("/l/db", "sub/x", "/l/db/sub", "x"),
            ("/l/db", "sub/x", "/l/db/sub/x.lance", "x"),
            ("/l/db", "sub/x", "/l/db", "sub/x"),
            ("/l/db/sub", "x", "/l/db", "sub/x"),
            ("/l/db/sub/x.lance", "x", "/l/db", "sub/x"),
            ("/l/db/sub/x.lance", "x", "/l/db/sub", "x"),
            ("/l/db", "*/x", "/l/db/sub", "x"),
            ("/l/db", "s*/x", "/l/db/sub/x.lance", "x"),
            ("/l/db", "**/x", "/l/db", "sub/x"),
            ("/l/db/sub", "x*", "/l/db", "sub/x"),
            ("/l/db/sub/x.lance", "?", "/l/db/sub", "x"),
        ] {
            let text = format!(
                "[policy.cleanup]\nenabled = true\n[[watch]]\nuri = \"{watched}\"\n[[table]]\nname = \"{name}\"\ncleanup.enabled = false\n"
            );
            let config = Config::parse(&text, "squire.toml").unwrap();
            let seen = config.seen_from(asked);
            assert!(
                !seen.policy_for(table).may_delete(true),
                "{watched} {name}: {asked} {table}"
            );
            assert!(seen.policy_for("other").may_delete(true));
        }
    }

    #[test]
    fn what_may_be_a_store_is_refused_once_it_is_none() {
        let of = |inner: &str, kind: &str| {
            let text = format!(
                "[[watch]]\nuri = \"s3://b/db\"\n[[watch]]\nuri = \"s3://b/{inner}\"\n{kind}"
            );
            Config::parse(&text, "squire.toml")
        };
        let config = of("db/lake", "").unwrap();
        let (outer, inner) = (&config.watches[0], &config.watches[1]);
        let told = why_twice(inner, &config.watches).unwrap_or_default();
        assert!(
            told.starts_with("\"s3://b/db/lake\" lies in \"s3://b/db\""),
            "{told}"
        );
        assert_eq!(why_twice(outer, &config.watches), None);
        for beside in ["db2", "other/db", "db/.hidden/t", "db/1/2/3/4/5"] {
            let config = of(beside, "").unwrap();
            assert_eq!(
                why_twice(&config.watches[1], &config.watches),
                None,
                "{beside}"
            );
        }
        assert!(of("db/lake", "kind = \"store\"\n").is_ok());
        for kind in ["directory", "table"] {
            assert!(
                of("db/t", &format!("kind = \"{kind}\"\n")).is_err(),
                "{kind}"
            );
        }
    }

    #[test]
    fn one_location_in_another_is_refused() {
        let refusal = |inner: &str| {
            let text = format!("[[watch]]\nuri = \"/l/db\"\n[[watch]]\nuri = \"{inner}\"\n");
            Config::parse(&text, "squire.toml")
                .err()
                .map(|e| e.to_string())
        };
        for inner in ["/l/db/sub", "/l/db/sub/x.lance", "/l", "/l/x/../db/a"] {
            let told = refusal(inner).unwrap_or_default();
            assert!(
                told.starts_with("squire.toml:4:1: [[watch]] uri: ") && told.contains("lies in"),
                "{inner}: {told}"
            );
        }
        for beside in [
            "/l/db2",
            "/l/other/db",
            "/l/db/.hidden/t",
            "/l/db/1/2/3/4/5",
        ] {
            assert_eq!(refusal(beside), None, "{beside}");
        }
        let store =
            "[[watch]]\nuri = \"/l/db\"\n[[watch]]\nuri = \"/l/db/lake\"\nkind = \"store\"\n";
        assert!(Config::parse(store, "squire.toml").is_ok());
    }
}
