//! The map of ARCHITECTURE.md says which room may import which: what the sources import is that, no more and no less.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

type Rooms = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The table of `krate` in ARCHITECTURE.md.
fn allowed(krate: &str) -> Rooms {
    let text = std::fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let header = format!("| room of `{krate}/` | imports |");
    let table = text.split_once(&header).expect("the table of the rooms").1;
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let names = |cell: &str| -> Vec<String> {
        let quoted = cell.split('`').skip(1).step_by(2);
        quoted.map(str::to_owned).collect()
    };
    let mut rooms = Rooms::new();
    for row in rows {
        let cells: Vec<&str> = row.split('|').collect();
        for room in names(cells[1]) {
            let before = rooms.insert(room.clone(), names(cells[2]).into_iter().collect());
            assert!(before.is_none(), "{room} of {krate} stands in two rows");
        }
    }
    rooms
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() && name != "tests" {
            sources(&path, found);
        } else if name.ends_with(".rs") && !name.ends_with("tests.rs") && name != "simulation.rs" {
            found.push(path);
        }
    }
}

/// The words behind `crate::` in code that is no test.
fn imports(text: &str) -> BTreeSet<String> {
    let code = text
        .split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or_default();
    let code = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default());
    let code = code.collect::<Vec<_>>().join("\n");
    assert!(
        !code.contains("crate::{"),
        "one import a line, so that they are seen"
    );
    let is_word = |c: char| c.is_ascii_lowercase() || c == '_';
    let words = code.split("crate::").skip(1);
    let word = |rest: &str| {
        let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
        rest[..end].to_owned()
    };
    let words = words.map(word);
    words.collect()
}

fn actual(krate: &str) -> Rooms {
    let src = root().join(krate).join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut rooms = Rooms::new();
    for file in files {
        let below = file.strip_prefix(&src).expect("below src");
        let first = below.components().next().expect("a name").as_os_str();
        let room = first.to_string_lossy().trim_end_matches(".rs").to_owned();
        if ["main", "lib"].contains(&&*room) {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("a source");
        let mut of_file = imports(&text);
        of_file.remove(&room);
        rooms.entry(room).or_default().extend(of_file);
    }
    // What is no room is an item of the crate's root.
    let names: BTreeSet<String> = rooms.keys().cloned().collect();
    for imported in rooms.values_mut() {
        imported.retain(|word| names.contains(word));
    }
    rooms
}

#[test]
fn rooms_import_what_the_map_allows() {
    for krate in ["daemon", "engine"] {
        let (allowed, actual) = (allowed(krate), actual(krate));
        let none = BTreeSet::new();
        let names: BTreeSet<&String> = allowed.keys().chain(actual.keys()).collect();
        let wrong: Vec<String> = names
            .into_iter()
            .filter_map(|room| {
                let (map, code) = (allowed.get(room)?, actual.get(room).unwrap_or(&none));
                let more: Vec<_> = code.difference(map).collect();
                let less: Vec<_> = map.difference(code).collect();
                let differs = !more.is_empty() || !less.is_empty();
                differs.then(|| {
                    format!("{room}: imports {more:?} against the map, and {less:?} no more")
                })
            })
            .collect();
        assert!(wrong.is_empty(), "{krate}: {wrong:#?}");
        let map: Vec<_> = allowed.keys().collect();
        assert_eq!(
            map,
            actual.keys().collect::<Vec<_>>(),
            "the rooms of {krate}"
        );
    }
}

fn blocks(code: &str) -> impl Iterator<Item = &str> {
    let blocks = code.split("\nimpl Store {\n").skip(1);
    blocks.map(|rest| rest.split("\n}\n").next().unwrap_or_default())
}

/// The methods that `code` adds to the store, each by its name.
fn added(code: &str) -> BTreeSet<String> {
    let lines = blocks(code).flat_map(str::lines);
    let declared = lines.filter_map(|line| line.strip_prefix("    "));
    let declared = declared.filter(|line| !line.starts_with([' ', '/']));
    let names = declared.filter_map(|line| line.split_once("fn ")?.1.split(['(', '<']).next());
    names.map(str::to_owned).collect()
}

/// What `code` calls of a store: of `self` where that is one, and of whatever is called so.
fn called(code: &str) -> BTreeSet<String> {
    let own = blocks(code).flat_map(|block| methods_of(block, "self."));
    own.chain(methods_of(code, "store.")).collect()
}

fn methods_of(code: &str, receiver: &str) -> Vec<String> {
    let dense: String = code.split_whitespace().collect();
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let calls = dense.match_indices(receiver).filter_map(|(at, _)| {
        let before = dense[..at].chars().next_back();
        let rest = &dense[at + receiver.len()..];
        let end = rest.find(|c| !is_word(c))?;
        let is_call = rest[end..].starts_with('(') && !before.is_some_and(is_word);
        is_call.then(|| rest[..end].to_owned())
    });
    calls.collect()
}

/// The rooms that `room` may import, and those that they may, and so on.
fn below<'a>(map: &'a Rooms, room: &'a str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut left = vec![room];
    while let Some(next) = left.pop() {
        for import in map.get(next).into_iter().flatten() {
            if found.insert(import.as_str()) {
                left.push(import);
            }
        }
    }
    found
}

#[test]
fn there_is_no_circle() {
    for krate in ["daemon", "engine"] {
        let map = allowed(krate);
        let is_in_one = |room: &&String| below(&map, room).contains(room.as_str());
        let in_circles: Vec<&String> = map.keys().filter(is_in_one).collect();
        assert!(in_circles.is_empty(), "circles of {krate}: {in_circles:?}");
    }
}

/// A room can also reach another through the methods that it adds to the store.
#[test]
fn no_room_calls_what_a_room_above_it_adds_to_the_store() {
    let map = allowed("engine");
    let src = root().join("engine/src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let code: Vec<(String, String)> = files
        .iter()
        .map(|file| {
            let first = file
                .strip_prefix(&src)
                .expect("below src")
                .components()
                .next();
            let room = first.expect("a name").as_os_str().to_string_lossy();
            let text = std::fs::read_to_string(file).expect("a source");
            let code = text
                .split("#[cfg(test)]\nmod tests {")
                .next()
                .unwrap_or_default();
            (room.trim_end_matches(".rs").to_owned(), code.to_owned())
        })
        .filter(|(room, _)| room != "lib")
        .collect();
    let mut owners: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (room, text) in &code {
        for name in added(text) {
            owners.entry(name).or_default().insert(room);
        }
    }
    let mut wrong = Vec::new();
    for (room, text) in &code {
        let below = below(&map, room);
        for name in called(text) {
            let Some(owners) = owners.get(&name) else {
                continue;
            };
            if !owners
                .iter()
                .any(|owner| owner == room || below.contains(owner))
            {
                wrong.push(format!("{room} calls {name} of {owners:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn methods_of_the_store_are_seen() {
    let text = "\nimpl Store {\n    /// fn no()\n    pub async fn load(&self) -> u64 {\n        self.objects.get();\n        self\n            .pin(1);\n        let f = |x| x;\n    }\n    fn put<T>(&self) {}\n}\nfn g() { store.take(); restore.nothing(); run.store.look(); }\n";
    let names = |found: BTreeSet<String>| found.into_iter().collect::<Vec<_>>();
    assert_eq!(names(added(text)), ["load", "put"]);
    assert_eq!(names(called(text)), ["look", "pin", "take"]);
}

#[test]
fn imports_are_seen() {
    let text = "use crate::place::Place;\nuse crate::systemd;\n// crate::cli::told\nfn f() { crate::run::go(); crate::Item; }\n#[cfg(test)]\nmod tests {\n    use crate::agent::x;\n}\n";
    let seen: Vec<String> = imports(text).into_iter().collect();
    assert_eq!(seen, ["", "place", "run", "systemd"]);
}
