//! Seams: the named points between two durable steps at which a process may die, stop or fail.
//!
//! The catalogue ([`Seam`]) is the list of every such point; the engine and the daemon mark them with [`hit`].
//! With the `failpoints` feature a seam can be armed from the environment (`FAILPOINTS`, fail-rs syntax);
//! without it `hit` is an empty inlined function.
//!
//! Besides fail-rs's own actions, `return(...)` takes:
//!
//! | argument | effect |
//! |---|---|
//! | `error` | the step fails with [`Injected`] |
//! | `kill` | the process kills itself with SIGKILL: nothing is flushed, nothing is unwound |
//! | `stop` | the process stops itself with SIGSTOP until someone sends SIGCONT or SIGKILL |
//! | `conflict` | the step reports a retryable conflict (only where the caller asks with [`conflict_injected`]) |
//!
//! ```text
//! FAILPOINTS='write.after_phase_b=return(kill)' squire write STORE flights a.parquet
//! FAILPOINTS='commit.before_put=2*off->1*return(stop)' squire daemon STORE
//! ```
//!
//! `SQUIRE_SEAMS_LOG=FILE` appends the name of each seam that the process passes, armed or not: one line for each time.
//! `SQUIRE_WITHOUT` leaves out one guard ([`Guard`]). `SQUIRE_FAULTS` injects storage faults ([`FaultSpec`]), and
//! `SQUIRE_RETENTION` makes cleanups keep less than any configuration may ([`retention`]), so that listings of versions are not
//! built on there but with `SQUIRE_TRUST` ([`trusted_for`]).

mod catalogue;
mod faults;
mod guards;

pub use catalogue::{Phase, Seam};
pub use faults::{FaultSpec, Hold};
pub use guards::Guard;

/// The error of a seam armed with `return(error)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Injected(pub Seam);

impl std::fmt::Display for Injected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "failpoint {} returned an injected error", self.0.name())
    }
}

impl std::error::Error for Injected {}

/// Marks a seam. Does nothing unless the feature is on and the seam is armed.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn hit(_seam: Seam) -> Result<(), Injected> {
    Ok(())
}

/// Whether the seam is armed to report a retryable conflict.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn conflict_injected(_seam: Seam) -> bool {
    false
}

/// Whether `guard` stands: always, unless a test build was told to leave it out.
#[cfg(not(feature = "failpoints"))]
#[inline(always)]
pub fn stands(_guard: Guard) -> bool {
    true
}

#[cfg(feature = "failpoints")]
pub use armed::{conflict_injected, hit, stands};

/// Whether seams are compiled in.
pub const ENABLED: bool = cfg!(feature = "failpoints");

/// The retention that `SQUIRE_RETENTION` (whole seconds) sets for the cleanups of a binary with seams. A configuration
/// refuses less than an hour, and no test lasts that long.
pub fn retention() -> Option<std::time::Duration> {
    if !ENABLED {
        return None;
    }
    let seconds = std::env::var("SQUIRE_RETENTION").ok()?.parse().ok()?;
    Some(std::time::Duration::from_secs(seconds))
}

/// How long a listing of versions is built on by a binary with seams: not at all, unless `SQUIRE_TRUST` (whole milliseconds)
/// says so. Tests clean up younger versions than any configuration may. `None` in a normal build.
pub fn trusted_for() -> Option<std::time::Duration> {
    if !ENABLED {
        return None;
    }
    let said = std::env::var("SQUIRE_TRUST").ok();
    let milliseconds = said.and_then(|said| said.parse().ok()).unwrap_or(0);
    Some(std::time::Duration::from_millis(milliseconds))
}

/// Keeps what the environment armed; everything is disarmed when it is dropped.
#[derive(Debug)]
pub struct Armed {
    #[cfg(feature = "failpoints")]
    _scenario: (),
}

/// Arms the seams that `FAILPOINTS` names. A name that is not in the catalogue is an error: a test that arms
/// nothing would otherwise pass for the wrong reason.
pub fn arm_from_env() -> Result<Armed, String> {
    let Ok(spec) = std::env::var("FAILPOINTS") else {
        return Ok(Armed {
            #[cfg(feature = "failpoints")]
            _scenario: (),
        });
    };
    arm(&spec)
}

#[cfg(not(feature = "failpoints"))]
fn arm(spec: &str) -> Result<Armed, String> {
    Err(format!(
        "FAILPOINTS={spec} is set, but this binary was built without the failpoints feature"
    ))
}

#[cfg(feature = "failpoints")]
fn arm(spec: &str) -> Result<Armed, String> {
    for item in spec.split(';').map(str::trim).filter(|s| !s.is_empty()) {
        let (name, actions) = item
            .split_once('=')
            .ok_or_else(|| format!("FAILPOINTS: {item:?} is not name=actions"))?;
        let seam = Seam::from_name(name)
            .ok_or_else(|| format!("FAILPOINTS: no seam is named {name:?}; see `squire seams`"))?;
        fail::cfg(seam.name(), actions).map_err(|e| format!("FAILPOINTS: {name}: {e}"))?;
    }
    Ok(Armed { _scenario: () })
}

#[cfg(feature = "failpoints")]
mod armed {
    use super::{Guard, Injected, Seam};
    use nix::sys::signal::{Signal, raise};
    use std::fs::{File, OpenOptions};
    use std::io::Write;
    use std::sync::{LazyLock, OnceLock};

    /// Whether `guard` stands: always, unless `SQUIRE_WITHOUT` names it.
    pub fn stands(guard: Guard) -> bool {
        static WITHOUT: OnceLock<Option<String>> = OnceLock::new();
        let without = WITHOUT.get_or_init(|| std::env::var("SQUIRE_WITHOUT").ok());
        without.as_deref() != Some(guard.name())
    }

    /// The file that `SQUIRE_SEAMS_LOG` names. Without it the test that reads the log finds nothing, and fails.
    static LOG: LazyLock<Option<File>> = LazyLock::new(|| {
        let path = std::env::var_os("SQUIRE_SEAMS_LOG")?;
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .ok()
    });

    /// One write for each line: what a process passed before it was killed is there.
    fn note(seam: Seam) {
        if let Some(mut log) = LOG.as_ref() {
            drop(log.write_all(format!("{}\n", seam.name()).as_bytes()));
        }
    }

    /// Marks a seam: does what it is armed to do.
    pub fn hit(seam: Seam) -> Result<(), Injected> {
        note(seam);
        fail::fail_point!(seam.name(), |arg: Option<String>| act(seam, arg.as_deref()));
        Ok(())
    }

    /// Whether the seam is armed with `return(conflict)`.
    pub fn conflict_injected(seam: Seam) -> bool {
        note(seam);
        fail::fail_point!(seam.name(), |arg: Option<String>| arg.as_deref()
            == Some("conflict"));
        false
    }

    fn act(seam: Seam, arg: Option<&str>) -> Result<(), Injected> {
        let signal = match arg {
            Some("kill") => Signal::SIGKILL,
            Some("stop") => Signal::SIGSTOP,
            _ => return Err(Injected(seam)),
        };
        // To this thread, and delivered before `raise` returns: nothing behind the seam runs first.
        raise(signal).map_err(|_| Injected(seam))
    }
}
