//! What a user touches: input files, the spool, the command line, and a history that outlives its versions.
//!
//! * [`input`]: bad input and full disks: a clear error, nothing committed, nothing left behind.
//! * [`modes`]: what a write does to the rows that are there.
//! * [`writes`]: writes mean what was checked, and say what they did.
//! * [`answers`]: what a writer was told stays true.
//! * [`alter`]: columns that come, change and go.
//! * [`agent`]: agents over a spool, killed, stopped and drained: each batch exactly once.
//! * [`branches`]: branches of plain tables, where they are asked for.
//! * [`evolve`]: columns that come with rows.
//! * [`cli`]: help, JSON, exit codes, and the commands on stores, directories and single tables.
//! * [`cleanup`]: every policy and every reference is obeyed.
//! * [`holds`]: keeps and leases: what they hold stays readable, and is shown.
//! * [`growing`]: how an index grows, and at what price.
//! * [`guard`]: the guarded commit handler alone.
//! * [`drops`]: tables that are dropped, and made again.
//! * [`durability`]: what a power cut leaves.
//! * [`requests`]: what a commit asks of its storage.
//! * [`indexes`]: an index that fails is named and stops nothing else.
//! * [`known`]: a cleanup reads no manifest twice.
//! * [`memory`]: the budget of memory bounds the process, whatever the table.
//! * [`places`]: what is whose, in stores and beside them.
//! * [`plans`]: what a plan says, what a table has a say in, and that others go first.
//! * [`progress`]: what a terminal is shown while a command works.
//! * [`programs`]: what programs write and read through the engine.
//! * [`replaced`]: a table that was dropped and made again under its pin.
//! * [`ingest`]: streams from standard input.
//! * [`isolation`]: one bad table, folder, location or setting stops only itself.
//! * [`verify`]: what is missing or torn is named, with what needs it and what to do.
//! * [`replay`]: what a policy would have done, against what happened.
//! * [`rewrites`]: what Lance's own compaction spoils is left as it was.
//! * [`rooms`]: the map says which room imports which.
//! * [`settings`]: configurations are made, asked and tried.
//! * [`shown`]: the documents show what the tools print.
//! * [`streams`]: inputs that are larger than what may be held.
//! * [`tools`]: what people look at.
//! * [`history`]: archive and cleanup: what was said stays true after the versions are gone.

mod agent;
mod alter;
mod answers;
mod branches;
mod cleanup;
mod cli;
mod docs;
mod drops;
mod durability;
mod evolve;
mod growing;
mod guard;
mod history;
mod holds;
mod indexes;
mod ingest;
mod input;
mod isolation;
mod known;
mod memory;
mod modes;
mod places;
mod plans;
mod programs;
mod progress;
mod replaced;
mod replay;
mod requests;
mod rewrites;
mod rooms;
mod settings;
mod shown;
mod streams;
mod tools;
mod verify;
mod writes;

use serde_json::Value;
use squire_tests::{Done, Lake, tree};
use std::collections::BTreeSet;
use std::path::Path;

/// The versions of the dataset at `path`, by the names of their manifests.
fn version_files(path: &Path) -> BTreeSet<String> {
    let names = std::fs::read_dir(path.join("_versions")).expect("a dataset");
    names
        .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
        .filter(|n| n.ends_with(".manifest"))
        .collect()
}

/// How many versions the dataset at `path` below the store has.
fn versions(lake: &Lake, path: &str) -> usize {
    version_files(&Path::new(&lake.uri).join(path)).len()
}

/// Nothing in `_squire/recovery` and `_squire/probe`, and nowhere a file that was still being written.
fn assert_no_litter(root: &Path) {
    for path in tree(root) {
        let inside = |dir: &str| path.starts_with(dir) && path != Path::new(dir);
        let name = path.file_name().expect("name").to_string_lossy();
        let temporary = name.contains('#') || name.contains(".tmp");
        let litter = inside("_squire/recovery") || inside("_squire/probe") || temporary;
        assert!(!litter, "left behind: {}", path.display());
    }
}

/// The one JSON document on standard output.
fn one_document(done: &Done) -> Value {
    let mut documents = serde_json::Deserializer::from_str(&done.stdout).into_iter::<Value>();
    let first = documents
        .next()
        .unwrap_or_else(|| panic!("no document; stderr: {}", done.stderr))
        .unwrap_or_else(|e| panic!("not JSON ({e}): {}", done.stdout));
    let rest = documents.next();
    assert!(rest.is_none(), "more than one document: {}", done.stdout);
    first
}

/// The message of an error document.
fn error_message(done: &Done) -> String {
    let document = one_document(done);
    let message = document["error"]["message"].as_str();
    message
        .unwrap_or_else(|| panic!("no error.message: {}", done.stdout))
        .to_owned()
}
