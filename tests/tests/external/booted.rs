//! The package on a machine of its own, whose systemd is the real one: installed, started, reloaded, killed, upgraded, removed.

use super::{eventually, package::built, python};
use serde_json::Value;
use squire_tests::{Done, squire};
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
        self.journal_of("squire", text);
    }

    fn journal_of(&self, unit: &str, text: &str) {
        eventually(text, PATIENCE, || {
            let line = format!("journalctl --no-pager -u {unit}");
            let said = self.run(&line).ok().stdout;
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

/// Secrets that only root may read, a configuration that names them, units that are given them, and a server that writes down with
/// which key it is asked: /srv/keys.
const CREDENTIALS: &str = r#"
put() { install -m 600 /dev/null "/etc/squire/credentials/$1"; printf '%s\n' "$2" > "/etc/squire/credentials/$1"; }
put token first; put s3-key KEY1; put s3-secret secret-one
for unit in squire.service squire-agent@events.service; do
  mkdir -p "/etc/systemd/system/$unit.d"
  printf '[Service]\n' > "/etc/systemd/system/$unit.d/credentials.conf"
  for name in token s3-key s3-secret; do
    printf 'LoadCredential=%s:/etc/squire/credentials/%s\n' $name $name >> "/etc/systemd/system/$unit.d/credentials.conf"
  done
done
sed -i 's|^\[daemon\]$|[daemon]\ntoken_file = "credential:token"|' /etc/squire/squire.toml
cat >> /etc/squire/squire.toml <<END

[[watch]]
uri = "s3://bucket/lake"
[watch.storage_options]
endpoint = "http://127.0.0.1:5000"
allow_http = "true"
region = "us-east-1"
access_key_id = "credential:s3-key"
secret_access_key = "credential:s3-secret"
END
systemctl daemon-reload
systemd-run --quiet --unit s3 "$PYTHON" /mnt/keys.py 5000 /srv/keys
"#;

/// As somebody who is not the service.
const AS_SOMEBODY: &str = "AWS_ACCESS_KEY_ID=SOMEBODY AWS_SECRET_ACCESS_KEY=else AWS_ENDPOINT=http://127.0.0.1:5000 AWS_ALLOW_HTTP=true AWS_REGION=us-east-1";

impl Machine {
    /// Waits until the server was asked with `key`, and with none that the services should not have.
    fn asked_with(&self, key: &str, never: &str) {
        eventually(key, PATIENCE, || {
            let keys = self.run("cat /srv/keys").stdout;
            assert!(!keys.contains(never), "{keys}");
            keys.contains(key).then_some(()).ok_or(keys)
        });
    }

    /// How a call with the token `text` ends.
    fn resumed_with(&self, text: &str) -> Option<i32> {
        let line = "squire resume --daemon 127.0.0.1:9464 --token-file /srv/token";
        let done = self.run(&format!("printf {text} > /srv/token; {line}"));
        done.code
    }
}

#[test]
fn services_read_their_credentials_and_read_them_again() {
    let shared = tempfile::tempdir().expect("a folder");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/external/keys.py");
    std::fs::copy(script, shared.path().join("keys.py")).expect("a script");
    let Some(machine) = Machine::boot(shared.path()) else {
        return;
    };
    let package = built(shared.path(), "0.1.1");
    let package = package.file_name().expect("a name").to_string_lossy();
    machine.run(&format!("dpkg --install /mnt/{package}")).ok();
    machine
        .run(&format!("PYTHON={}; {CREDENTIALS}", python().display()))
        .ok();
    eventually("a bucket", PATIENCE, || {
        let init = machine.run(&format!(
            "{AS_SOMEBODY} squire init s3://bucket/lake && printf '[{{\"name\":\"id\",\"type\":\"int64\"}}]' > /srv/schema.json && {AS_SOMEBODY} squire create s3://bucket/lake t --schema /srv/schema.json; "
        ));
        match init.code {
            Some(0) => Ok(()),
            _ => Err(format!("{init:?}")),
        }
    });
    machine
        .run(": > /srv/keys; systemctl enable --now squire")
        .ok();
    assert_eq!(machine.of_service("ActiveState"), "active");
    machine.journal_says("watching uri=\"s3://bucket/lake\"");
    machine.asked_with("KEY1", "KEY2");
    assert_eq!(machine.resumed_with("first"), Some(0));
    assert_ne!(machine.resumed_with("second"), Some(0));

    // What systemd gave is the service's to read, and no other's. A newer systemd writes it anew at a reload (RefreshOnReload=); here
    // that is done by hand.
    let given = "/run/credentials/squire.service";
    let own = machine.run(&format!("stat -c '%U %a' {given}/token")).ok();
    assert_eq!(own.stdout.trim(), "squire 400");
    machine
        .run(&format!(
            "mount -o remount,bind,rw {given}; printf second > {given}/token; printf KEY2 > {given}/s3-key; systemctl reload squire"
        ))
        .ok();
    machine.journal_says("watch s3://bucket/lake: storage_options, the tokens");
    assert_ne!(machine.resumed_with("first"), Some(0));
    assert_eq!(machine.resumed_with("second"), Some(0));
    machine.asked_with("KEY2", "KEY3");

    // Rotated where they lie, they are read by whatever starts.
    machine
        .run("printf KEY3 > /etc/squire/credentials/s3-key; printf third > /etc/squire/credentials/token; systemctl restart squire")
        .ok();
    assert_eq!(machine.resumed_with("third"), Some(0));
    machine.asked_with("KEY3", "KEY4");
    let kept = machine
        .run("journalctl --no-pager; cat /etc/squire/squire.toml")
        .ok();
    for secret in ["secret-one", "KEY3", "third"] {
        assert!(!kept.stdout.contains(secret), "{secret} is told");
    }

    machine
        .run(
            "systemctl stop squire; printf KEY4 > /etc/squire/credentials/s3-key; : > /srv/keys
         echo STORE=s3://bucket/lake > /etc/squire/agent-events.env
         install -d -o squire -g squire /var/spool/squire/events /var/spool/squire/events/incoming
         systemctl enable --now squire-agent@events
         echo '{\"id\":100}' > /var/spool/squire/events/t.1.ndjson
         mv /var/spool/squire/events/t.1.ndjson /var/spool/squire/events/incoming/",
        )
        .ok();
    eventually("the agent's commit", PATIENCE, || {
        let done = machine.run("ls /var/spool/squire/events/done").stdout;
        (done.trim() == "t.1.ndjson").then_some(()).ok_or(done)
    });
    machine.asked_with("KEY4", "KEY3");

    // A unit that is not given what the configuration names says what to write into it, once.
    machine
        .run("rm -r /etc/systemd/system/squire-agent@events.service.d; systemctl daemon-reload")
        .ok();
    assert_ne!(
        machine.run("systemctl restart squire-agent@events").code,
        Some(0)
    );
    machine.journal_of(
        "squire-agent@events",
        "by LoadCredential=token:FILE in its unit",
    );
}

/// The package of an earlier release in `folder`: its units, its configuration and its scripts, with its binary where `SQUIRE_PREVIOUS`
/// names it, and else with the one under test.
fn earlier(folder: &Path) -> std::path::PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let checkout = folder.join("earlier");
    let lay_out = r#"
      mkdir "$2"; cp -r "$1/README.md" "$1/ARCHITECTURE.md" "$1/NOTICE" "$1/ops" "$2/"
      rm -r "$2/ops/systemd" "$2/ops/config" "$2/ops/package"
      tar -xzf "$1/tests/upgrade/packaging.tar.gz" -C "$2"
    "#;
    let laid = Command::new("sh")
        .args(["-ec", lay_out, "sh", root])
        .arg(&checkout)
        .output();
    Done::from(laid.expect("sh")).ok();
    let binary = std::env::var_os("SQUIRE_PREVIOUS");
    let made = Command::new(checkout.join("ops/package/build.sh"))
        .arg(binary.map_or_else(squire, Into::into))
        .arg(folder)
        .arg("0.0.9")
        .env("SQUIRE_DEB_FLAGS", "-Zgzip -z1")
        .output();
    Done::from(made.expect("build.sh"))
        .ok()
        .stdout
        .trim()
        .into()
}

/// What tests/upgrade/make.sh has kept of a machine, below the package that wrote it.
const STATE: &str = r#"
mkdir -p /etc/systemd/system/squire.service.d
cp /etc/squire/squire.toml /srv/shipped.toml
tar -xzf /mnt/state.tar.gz -C /
chown -R squire: /srv/lance /var/lib/squire
printf '[Service]\nReadWritePaths=/srv/lance\n' > /etc/systemd/system/squire.service.d/tables.conf
install -m 400 -o squire /dev/null /etc/squire/token; echo before > /etc/squire/token
cp /etc/squire/squire.toml /srv/ours.toml
systemctl daemon-reload
"#;

#[test]
fn an_upgrade_takes_up_what_an_earlier_release_has_written() {
    let shared = tempfile::tempdir().expect("a folder");
    let state = concat!(env!("CARGO_MANIFEST_DIR"), "/upgrade/state.tar.gz");
    std::fs::copy(state, shared.path().join("state.tar.gz")).expect("the state");
    let Some(machine) = Machine::boot(shared.path()) else {
        return;
    };
    earlier(shared.path());
    built(shared.path(), "0.1.1");
    machine.run("dpkg --install /mnt/squire_0.0.9_*.deb").ok();
    machine.run(STATE).ok();
    // The release ships another configuration than the earlier one did, and a person has changed that.
    let install = "dpkg --force-confold --install /mnt/squire_0.1.1_*.deb";
    let upgraded = machine.run(install).ok();
    assert!(!upgraded.stderr.contains("goes back"), "{upgraded:?}");
    machine
        .run("cmp /etc/squire/squire.toml /srv/ours.toml; ! cmp -s /etc/squire/squire.toml.dpkg-dist /srv/shipped.toml; squire config check /etc/squire/squire.toml")
        .ok();
    machine.run("systemctl start squire").ok();

    // What was left in the middle is settled, and nothing that was acknowledged is gone.
    eventually("recovery", PATIENCE, || {
        let left = machine.run("ls /srv/lance/s/_squire/recovery").stdout;
        left.trim().is_empty().then_some(()).ok_or(left)
    });
    let status = machine.run("squire status /srv/lance/s --json").ok().json();
    let rows = |status: &Value, table: usize| status["tables"][table]["rows"].clone();
    assert_eq!(
        (rows(&status, 0), rows(&status, 1)),
        (37.into(), 3.into()),
        "{status:#}"
    );
    machine
        .run("squire verify /srv/lance/s --deep; squire verify /srv/lance/plain")
        .ok();
    let monday = machine
        .run("squire snapshot /srv/lance/s --name monday --json")
        .ok()
        .json();
    assert_eq!(monday["tables"]["t"]["rows"], 19, "{monday:#}");
    let again = "echo '{\"id\":100}' | runuser -u squire -- squire write /srv/lance/s t - --format ndjson --batch-id day-1";
    let again = machine.run(again).ok().stdout;
    assert!(again.contains("already committed"), "{again}");

    // What was done before is remembered, and what was paused is paused.
    for (location, what) in [("s", "t 20->22"), ("s", "as monday"), ("plain", "compact")] {
        let history = machine
            .run(&format!("squire history /srv/lance/{location}"))
            .ok();
        assert!(history.stdout.contains(what), "{location}: {history:?}");
    }
    let resume = "squire resume /srv/lance/s --table u --token-file /etc/squire/token";
    let resumed = machine.run(resume).ok().stdout;
    assert!(resumed.contains("table u, reason an audit"), "{resumed}");

    // Back again: it is said what that means, and the earlier one works on.
    let back = machine
        .run("dpkg --force-confold --install /mnt/squire_0.0.9_*.deb")
        .ok();
    assert!(
        back.stderr.contains("squire 0.1.1 goes back to 0.0.9"),
        "{back:?}"
    );
    assert_eq!(machine.of_service("ActiveState"), "active");
    machine
        .run("squire verify /srv/lance/s; cmp /etc/squire/squire.toml /srv/ours.toml")
        .ok();
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
