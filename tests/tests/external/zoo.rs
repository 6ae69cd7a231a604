//! The zoo (`tests/zoo/`): its quick states, each through every command beside healthy tables (`make zoo`), and some random
//! writes of Lance clients under a rewrite (`make writers`).

use super::python;
use squire_tests::squire;
use std::process::Command;

fn run(script: &str, arguments: &[&str]) {
    let zoo = concat!(env!("CARGO_MANIFEST_DIR"), "/zoo");
    let done = Command::new(python())
        .arg(format!("{zoo}/{script}"))
        .arg("--squire")
        .arg(squire())
        .args(arguments)
        .output()
        .expect("the zoo runs");
    assert!(
        done.status.success(),
        "{}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
}

/// Runs the quick states that are number `part` of two.
fn quick(part: &str) {
    let out = tempfile::TempDir::new().expect("a temporary directory");
    let out = out.path().to_string_lossy();
    let arguments = ["--quick", "--jobs", "1", "--part", part, "--out", &out];
    run("zoo.py", &arguments);
}

#[test]
fn processes_of_the_zoo_first_half() {
    quick("1/2");
}

#[test]
fn processes_of_the_zoo_second_half() {
    quick("2/2");
}

/// Each seed is other tables; `make zoo` takes a new one.
#[test]
fn processes_of_the_zoo_random_tables() {
    let out = tempfile::TempDir::new().expect("a temporary directory");
    let out = out.path().to_string_lossy();
    let arguments = [
        "--seed", "1", "--random", "2", "--jobs", "1", "--out", &out, "random",
    ];
    run("zoo.py", &arguments);
}

#[test]
fn processes_of_lance_clients_write_under_a_rewrite() {
    run("writers.py", &["--seed", "1", "--cases", "8"]);
}
