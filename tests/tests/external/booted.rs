//! The package on a machine of its own, whose systemd is the real one: installed, started, reloaded, killed, upgraded, removed.

use super::{eventually, package::built};
use serde_json::Value;
use squire_tests::Done;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Enough for a debug build to start on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A machine; it and its files are gone when dropped.
struct Machine {
    unshare: Child,
    /// Its first process, as this machine sees it.
    init: String,
    _folder: tempfile::TempDir,
}

impl Machine {
    /// Boots, with `shared` at `/mnt`; `None`, with the reason, where that is not possible.
    fn boot(shared: &Path) -> Option<Self> {
        let folder = tempfile::tempdir().expect("a folder");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/external/boot.sh");
        let kinds = "--mount --pid --fork --kill-child --cgroup --ipc --uts --net";
        let unshare = Command::new("unshare")
            .args(kinds.split(' '))
            .args(["bash", script])
            .args([folder.path(), shared])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let mut unshare = match unshare {
            Ok(unshare) => unshare,
            Err(e) => return skipped(&format!("unshare: {e}")),
        };
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let init = eventually("the first process", PATIENCE, || {
            if let Ok(Some(_)) = unshare.try_wait() {
                return Ok(None);
            }
            let init = std::fs::read_to_string(&children).map_err(|e| e.to_string())?;
            let init = init.trim().to_owned();
            let name = std::fs::read_to_string(format!("/proc/{init}/comm"));
            match name.is_ok_and(|name| name.trim() == "systemd") {
                true => Ok(Some(init)),
                false => Err(format!("{init} is not there yet")),
            }
        });
        let Some(init) = init else {
            let said = Done::from(unshare.wait_with_output().expect("output")).stderr;
            return skipped(&said);
        };
        let machine = Self {
            unshare,
            init,
            _folder: folder,
        };
        eventually("the machine is up", PATIENCE, || {
            let state = machine.run("systemctl is-system-running").stdout;
            let is_up = matches!(state.trim(), "running" | "degraded");
            is_up.then_some(()).ok_or(state)
        });
        Some(machine)
    }

    /// Runs a line of shell in it.
    fn run(&self, line: &str) -> Done {
        let mut enter = Command::new("nsenter");
        enter.args([
            "--target", &self.init, "--all", "--root", "--wd", "sh", "-ec", line,
        ]);
        Done::from(enter.output().expect("nsenter"))
    }

    /// A property of the service.
    fn of_service(&self, property: &str) -> String {
        let shown = self.run(&format!("systemctl show squire --value -p {property}"));
        shown.ok().stdout.trim().to_owned()
    }

    fn fragments(&self) -> Value {
        let status = self.run("squire status /srv/lance/s --json").ok().json();
        status["tables"][0]["fragments"].clone()
    }

    /// Commits, as the user that owns the tables.
    fn write(&self, ids: std::ops::Range<u32>) {
        let write = "runuser -u squire -- squire write /srv/lance/s t - --format ndjson";
        for id in ids {
            self.run(&format!("echo '{{\"id\":{id}}}' | {write}")).ok();
        }
    }

    fn journal_says(&self, text: &str) {
        eventually(text, PATIENCE, || {
            let said = self.run("journalctl --no-pager -u squire").ok().stdout;
            said.contains(text).then_some(()).ok_or(said)
        });
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.unshare.kill().ok();
        self.unshare.wait().ok();
    }
}

fn skipped(why: &str) -> Option<Machine> {
    eprintln!("SKIPPED: no machine can be booted here: {why}");
    None
}

/// A store of one table, owned by the service's user, which the unit may write and the configuration names.
const PLACE: &str = r#"
mkdir -p /srv/lance /etc/systemd/system/squire.service.d
squire init /srv/lance/s
printf '[{"name":"id","type":"int64"}]' > /srv/schema.json
squire create /srv/lance/s t --schema /srv/schema.json
chown -R squire: /srv/lance
printf '[Service]\nReadWritePaths=/srv/lance\n' | tee /etc/systemd/system/squire.service.d/tables.conf > /srv/drop-in.conf
printf '\n[[watch]]\nuri = "/srv/lance/s"\n' >> /etc/squire/squire.toml
squire config check /etc/squire/squire.toml
systemctl daemon-reload
"#;

#[test]
fn the_package_lives_on_a_machine_of_its_own() {
    let shared = tempfile::tempdir().expect("a folder");
    let Some(machine) = Machine::boot(shared.path()) else {
        return;
    };
    let packages = ["0.0.9", "0.1.1"].map(|version| {
        let made = built(shared.path(), version);
        let name = made.file_name().expect("a name").to_string_lossy();
        format!("/mnt/{name}")
    });
    machine.run(&format!("dpkg --install {}", packages[0])).ok();
    // Nothing is started before the configuration names a location.
    assert_eq!(machine.of_service("ActiveState"), "inactive");
    machine.run(PLACE).ok();
    machine.write(0..18);
    // It comes back when the daemon has said that it is ready.
    machine.run("systemctl enable --now squire").ok();
    assert_eq!(machine.of_service("ActiveState"), "active");
    eventually("a compaction", PATIENCE, || match machine.fragments() {
        one if one == 1 => Ok(()),
        other => Err(other.to_string()),
    });

    // By hand, and by an edit, which nobody has to tell.
    machine.run("systemctl reload squire").ok();
    machine.journal_says("configuration reloaded");
    machine
        .run(
            "printf '\\n[[table]]\\nname = \"t\"\\nmin_versions = 7\\n' >> /etc/squire/squire.toml",
        )
        .ok();
    machine.journal_says("applied=\"table\"");
    machine.run("cp /etc/squire/squire.toml /srv/good.toml; echo 'bogus = 1' >> /etc/squire/squire.toml").ok();
    machine.journal_says("unknown key `bogus`");
    assert_eq!(
        machine.of_service("ActiveState"),
        "active",
        "the old one holds"
    );

    // A daemon that died is started again, one whose configuration is refused is not.
    let died = machine.of_service("MainPID");
    machine
        .run("cp /srv/good.toml /etc/squire/squire.toml")
        .ok();
    machine.run(&format!("kill -9 {died}")).ok();
    eventually("another start", PATIENCE, || {
        let now = (
            machine.of_service("ActiveState"),
            machine.of_service("NRestarts"),
        );
        (now == ("active".into(), "1".into()))
            .then_some(())
            .ok_or(format!("{now:?}"))
    });
    machine
        .run("echo 'bogus = 1' >> /etc/squire/squire.toml")
        .ok();
    assert_ne!(machine.run("systemctl restart squire").code, Some(0));
    assert_eq!(machine.of_service("ExecMainStatus"), "2");
    assert_eq!(
        machine.of_service("NRestarts"),
        "0",
        "it does not get better by repetition"
    );
    machine
        .run("cp /srv/good.toml /etc/squire/squire.toml; systemctl start squire")
        .ok();

    // An agent of the template, beside it.
    machine
        .run(
            "echo STORE=/srv/lance/s > /etc/squire/agent-events.env
         install -d -o squire -g squire /var/spool/squire/events /var/spool/squire/events/incoming
         install -D /srv/drop-in.conf /etc/systemd/system/squire-agent@events.service.d/tables.conf
         systemctl daemon-reload; systemctl enable --now squire-agent@events
         echo '{\"id\":100}' > /var/spool/squire/events/t.1.ndjson
         mv /var/spool/squire/events/t.1.ndjson /var/spool/squire/events/incoming/",
        )
        .ok();
    eventually("the agent's commit", PATIENCE, || {
        let done = machine.run("ls /var/spool/squire/events/done").stdout;
        (done.trim() == "t.1.ndjson").then_some(()).ok_or(done)
    });

    // An upgrade restarts what runs and keeps what was written; a removal stops it and keeps the tables.
    let before = machine.of_service("MainPID");
    machine
        .run(&format!("dpkg --force-confold --install {}", packages[1]))
        .ok();
    assert_eq!(machine.of_service("ActiveState"), "active");
    assert_ne!(machine.of_service("MainPID"), before);
    assert!(
        machine
            .run("grep min_versions.=.7 /etc/squire/squire.toml")
            .code
            == Some(0)
    );
    machine
        .run("cp /usr/bin/squire /srv/squire; dpkg --remove squire")
        .ok();
    assert_ne!(machine.of_service("ActiveState"), "active");
    assert_ne!(
        machine.run("systemctl is-active squire-agent@events").code,
        Some(0)
    );
    machine
        .run("/srv/squire verify /srv/lance/s; dpkg --purge squire; test ! -e /var/lib/squire")
        .ok();
    let status = machine
        .run("/srv/squire status /srv/lance/s --json")
        .ok()
        .json();
    assert_eq!(status["tables"][0]["rows"], 19, "{status:#}");
}
