//! The Debian package, below a root of its own, and what a container holds.

use squire_tests::{Done, Lake, squire};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

fn script(path: &str) -> Command {
    Command::new(format!("{}/../ops/{path}", env!("CARGO_MANIFEST_DIR")))
}

pub(super) fn is_there(command: &str) -> bool {
    let found = Command::new(command).arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED: {command} is not installed");
    }
    found
}

pub(super) fn is_root() -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0);
    if !root {
        eprintln!("SKIPPED: dpkg and chroot ask for root");
    }
    root
}

pub(super) fn built(folder: &Path, version: &str) -> PathBuf {
    let made = script("package/build.sh")
        .args([squire(), folder.to_path_buf()])
        .arg(version)
        .env("SQUIRE_DEB_FLAGS", "-Zgzip -z1")
        .output();
    let made = Done::from(made.expect("build.sh")).ok();
    PathBuf::from(made.stdout.trim())
}

/// A root below which packages are installed.
pub(super) struct Root(tempfile::TempDir);

impl Root {
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().expect("a folder");
        for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc", "tmp"] {
            std::fs::create_dir_all(root.path().join(folder)).expect("a folder");
        }
        std::fs::write(root.path().join("var/lib/dpkg/status"), "").expect("status");
        Self(root)
    }

    pub(super) fn dpkg(&self, args: &[&str]) -> Done {
        let mut dpkg = Command::new("dpkg");
        dpkg.arg(format!("--root={}", self.0.path().display()));
        // Its scripts run outside the root, which has no shell; what it depends on is on this machine.
        dpkg.args([
            "--force-script-chrootless",
            "--force-depends",
            "--force-confold",
        ]);
        Done::from(dpkg.args(args).output().expect("dpkg"))
    }

    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn has(&self, path: &str) -> bool {
        self.path(path).symlink_metadata().is_ok()
    }
}

#[test]
fn the_package_is_installed_upgraded_removed_and_purged() {
    if !is_there("dpkg-deb") || !is_root() {
        return;
    }
    let (root, made) = (Root::new(), tempfile::tempdir().expect("a folder"));
    let first = built(made.path(), "0.0.9");
    root.dpkg(&["--install", &first.to_string_lossy()]).ok();
    for file in [
        "usr/bin/squire",
        "usr/lib/systemd/system/squire.service",
        "usr/lib/systemd/system/squire-agent@.service",
        "usr/share/bash-completion/completions/squire",
        "usr/share/zsh/vendor-completions/_squire",
        "usr/share/fish/vendor_completions.d/squire.fish",
        "usr/share/man/man1/squire-optimize.1.gz",
        "usr/share/doc/squire/prometheus/squire.rules.yml",
        "usr/share/doc/squire/grafana/squire.json",
        "usr/share/doc/squire/runbooks/SquireDown.md",
        "etc/squire/squire.toml",
    ] {
        assert!(root.has(file), "{file}");
    }
    if is_there("systemd-sysusers") {
        let users = std::fs::read_to_string(root.path("etc/passwd")).expect("users");
        assert!(users.contains("squire:"), "{users}");
        assert!(root.has("etc/squire/credentials") && root.has("var/spool/squire"));
    }
    // What was installed works, on tables of its own.
    let lake = Lake::with_tables(&["t"]);
    let config = root.path("etc/squire/squire.toml");
    let installed = |args: &[&str]| {
        let run = Command::new(root.path("usr/bin/squire"))
            .args(args)
            .output();
        Done::from(run.expect("squire"))
    };
    installed(&["config", "check", &config.to_string_lossy()]).ok();
    installed(&["daemon", &lake.uri, "--once"]).ok();

    // An upgrade keeps what a person has written, and the tables.
    let text = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(&config, format!("{text}# ours\n")).expect("written");
    let state = root.path("var/lib/squire");
    std::fs::create_dir_all(state.join("places")).expect("state");
    let second = built(made.path(), "0.1.1");
    let upgraded = root.dpkg(&["--install", &second.to_string_lossy()]).ok();
    assert!(upgraded.stdout.contains("0.1.1"), "{upgraded:?}");
    let kept = || std::fs::read_to_string(&config).is_ok_and(|text| text.ends_with("# ours\n"));
    assert!(kept() && state.is_dir());

    root.dpkg(&["--remove", "squire"]).ok();
    assert!(!root.has("usr/bin/squire") && kept() && state.is_dir());
    root.dpkg(&["--purge", "squire"]).ok();
    assert!(!root.has("etc/squire") && !root.has("var/lib/squire"));
    lake.run(&["verify", &lake.uri]).ok();
}

#[test]
fn a_container_holds_all_that_squire_needs() {
    if !is_there("chroot") || !is_root() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let root = folder.path().join("rootfs");
    let laid = script("container/rootfs.sh")
        .args([squire(), root.clone()])
        .output();
    Done::from(laid.expect("rootfs.sh")).ok();
    let lake = Lake::with_tables(&["t"]);
    let copied = Command::new("cp")
        .arg("-r")
        .arg(&lake.uri)
        .arg(root.join("data/lake"))
        .status();
    assert!(copied.expect("cp").success());
    let owned = Command::new("chown")
        .args(["-R", "65532:65532"])
        .arg(root.join("data"))
        .status();
    assert!(owned.expect("chown").success());
    let inside = |args: &[&str]| {
        let mut chroot = Command::new("chroot");
        chroot
            .args(["--userspec=65532:65532"])
            .arg(&root)
            .arg("/usr/bin/squire");
        Done::from(chroot.args(args).output().expect("chroot"))
    };
    inside(&["daemon", "/data/lake", "--once"]).ok();
    let status = inside(&["status", "/data/lake", "--json"]).ok().json();
    assert_eq!(status["tables"][0]["table"], "t");
    // It is laid out once: what is there may be someone's.
    let again = script("container/rootfs.sh")
        .args([squire(), root])
        .output();
    let again = Done::from(again.expect("rootfs.sh"));
    assert!(
        again.code == Some(1) && again.stderr.contains("not empty"),
        "{again:?}"
    );
}
