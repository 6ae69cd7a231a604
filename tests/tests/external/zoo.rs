//! The quick states of the zoo (`tests/zoo/`, `make zoo`): each through every command, beside healthy tables.

use super::python;
use squire_tests::squire;
use std::process::Command;

/// Runs the quick states that are number `part` of two.
fn quick(part: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/zoo/zoo.py");
    let out = tempfile::TempDir::new().expect("a temporary directory");
    let done = Command::new(python())
        .args([script, "--quick", "--jobs", "1", "--part", part])
        .arg("--squire")
        .arg(squire())
        .arg("--out")
        .arg(out.path())
        .output()
        .expect("the zoo runs");
    assert!(
        done.status.success(),
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
}

#[test]
fn processes_of_the_zoo_first_half() {
    quick("1/2");
}

#[test]
fn processes_of_the_zoo_second_half() {
    quick("2/2");
}
