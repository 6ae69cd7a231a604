//! How much the units let a daemon that was taken over do, where systemd is installed to say it.

use squire_tests::squire;
use std::process::{Command, Output};

/// The exposure that `systemd-analyze security` may give, times ten.
const EXPOSURE: &str = "20";

/// A unit of `ops/systemd` that starts the binary under test.
fn unit(name: &str, folder: &std::path::Path) -> std::path::PathBuf {
    let path = format!("{}/../ops/systemd/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("a unit");
    assert!(text.contains("ExecStart=/usr/bin/squire "), "{text}");
    let here = text.replace("/usr/bin/squire", &squire().to_string_lossy());
    let name = name.replace("@.", "@events.");
    let path = folder.join(name);
    std::fs::write(&path, here).expect("written");
    path
}

fn analyze(args: &[&str]) -> Option<Output> {
    let run = Command::new("systemd-analyze").args(args).output();
    if run.is_err() {
        eprintln!("SKIPPED: systemd-analyze is not installed");
    }
    run.ok()
}

#[test]
fn the_units_are_closed() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["squire.service", "squire-agent@.service"] {
        let path = unit(name, folder.path());
        let path = path.to_string_lossy();
        let threshold = format!("--threshold={EXPOSURE}");
        let args = [
            "security",
            "--offline=true",
            "--no-pager",
            &threshold,
            &path,
        ];
        let Some(exposed) = analyze(&args) else {
            return;
        };
        let said = String::from_utf8_lossy(&exposed.stdout);
        assert!(exposed.status.success(), "{said}");
        // It would say no to a unit that is open.
        let open = std::fs::read_to_string(&*path).expect("the unit");
        let open = open.split("\nProtectSystem=").next().expect("a part");
        let other = folder.path().join("open.service");
        std::fs::write(&other, open).expect("written");
        let other = other.to_string_lossy();
        let args = [
            "security",
            "--offline=true",
            "--no-pager",
            &threshold,
            &other,
        ];
        assert!(!analyze(&args).expect("it ran").status.success());
    }
}
