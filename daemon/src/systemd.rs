//! Words to the service manager: ready, reloading, stopping, a status line, and the watchdog ping.
//!
//! Outside systemd (no `NOTIFY_SOCKET`) every function does nothing. Inside, a word that could not
//! be sent is logged and otherwise ignored: losing one is never a reason to stop maintaining
//! tables, and the service manager has its own timeouts.

use std::time::Duration;

use sd_notify::NotifyState;

/// How many pings fall into one watchdog period. Two is systemd's advice: one may be late without a
/// restart.
const PINGS_PER_PERIOD: u32 = 2;

/// Startup, or a reload, is finished.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// One line for `systemctl status`. Line breaks would start a new assignment, so they are replaced.
pub(crate) fn status(text: &str) {
    let line = text.replace(['\n', '\r'], " ");
    tell(&[NotifyState::Status(&line)]);
}

/// A stop was asked for; running attempts are being drained.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// The configuration is being read again; [`ready`] ends it. systemd 253 and newer wants the time
/// with it.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => {
            tracing::warn!(%error, "cannot read the monotonic clock for the service manager")
        }
    }
}

/// How often to call [`watchdog_ping`]; `None` if the unit has no `WatchdogSec`.
pub(crate) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled()
        .filter(|period| !period.is_zero())
        .map(|period| period / PINGS_PER_PERIOD)
}

/// Proof of life. Call it from the loop whose hanging must restart the service, not from a timer of
/// its own.
pub(crate) fn watchdog_ping() {
    tell(&[NotifyState::Watchdog]);
}

fn tell(words: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(words) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use super::*;

    /// The speaking half of the test below, run in a process of its own: changing this one's
    /// environment would be unsafe code.
    #[test]
    #[ignore = "started by the test below with its environment"]
    fn child() {
        ready();
        status("two\nlines");
        reloading();
        watchdog_ping();
        stopping();
        assert_eq!(watchdog_interval(), Some(Duration::from_secs(15)));
    }

    #[test]
    fn every_word_reaches_the_socket() {
        let path = std::env::temp_dir().join(format!("squire-notify-{}", std::process::id()));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let (_, module) = module_path!().split_once("::").unwrap();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", &format!("{module}::child")])
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "30000000")
            .env_remove("WATCHDOG_PID")
            .output()
            .unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stdout)
        );
        let mut heard = String::new();
        let mut buffer = [0; 512];
        while !heard.contains("STOPPING=1") {
            let length = socket.recv(&mut buffer).unwrap();
            heard.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
        }
        assert!(
            heard.starts_with("READY=1\nSTATUS=two lines\nRELOADING=1\nMONOTONIC_USEC="),
            "{heard}"
        );
        assert!(heard.ends_with("WATCHDOG=1\nSTOPPING=1\n"), "{heard}");
    }
}
