//! Text values against exact arithmetic, pyarrow and DuckDB.

use crate::python;
use serde_json::Value;
use squire_tests::{Lake, squire};
use std::process::Command;

/// Values for each of some fifty types, in each format. `SQUIRE_FUZZ_SEED` and `SQUIRE_FUZZ_CASES` ask for others and for more.
const VALUES: &str = "8";

#[test]
fn text_values_are_stored_exactly_or_refused_by_line_and_column() {
    let lake = Lake::new();
    let root = lake.path("differential");
    std::fs::create_dir(&root).expect("directory");
    let set = |name: &str, otherwise: &str| std::env::var(name).unwrap_or(otherwise.to_owned());
    let seed = set("SQUIRE_FUZZ_SEED", "1");
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/external/differential.py"
    );
    let output = Command::new(python())
        .arg(script)
        .arg(squire())
        .arg(&root)
        .args([&seed, &set("SQUIRE_FUZZ_CASES", VALUES)])
        .output()
        .expect("python runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let faults = report["faults"].as_array().expect("faults");
    assert!(faults.is_empty(), "SQUIRE_FUZZ_SEED={seed}: {faults:#?}");
    let some = |what: &str| report[what].as_u64() > Some(25);
    assert!(
        some("stored") && some("witnessed") && some("refused"),
        "{report}"
    );
    println!("{report}");
}
