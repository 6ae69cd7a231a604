//! Child processes: what they said, and how they are stopped, resumed and killed.

use crate::PATIENCE;
use crate::cost::Cost;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::process::{ChildStdin, Output};
use std::time::{Duration, Instant};

/// What a finished command said.
#[derive(Debug)]
pub struct Done {
    /// The exit code; `None` when a signal killed it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Done {
    /// Its JSON document.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {}\n{}", self.stdout, self.stderr))
    }

    /// The same, after checking that it succeeded.
    pub fn ok(self) -> Self {
        assert_eq!(
            self.code,
            Some(0),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        self
    }

    /// The same, after checking its exit code and that standard error or output holds `text`.
    pub fn failed(self, code: i32, text: &str) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "stdout: {}\nstderr: {}",
            self.stdout,
            self.stderr
        );
        let said = format!("{}{}", self.stdout, self.stderr);
        assert!(said.contains(text), "{text:?} is not in: {said}");
        self
    }
}

impl Done {
    /// The operation that its document names.
    pub fn op(&self) -> String {
        self.json()["op"]
            .as_str()
            .unwrap_or_else(|| panic!("no operation in {}", self.stdout))
            .to_owned()
    }
}

/// Words for programmers, which no message holds whatever failed.
const NOT_FOR_PEOPLE: [&str; 5] = [
    "LanceError(",
    "Generic S3 error",
    "Generic LocalFileSystem error",
    "file a bug report",
    ".cargo/registry",
];

impl From<Output> for Done {
    /// # Panics
    /// A message is in words for programmers.
    fn from(output: Output) -> Self {
        let done = Self {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        for words in NOT_FOR_PEOPLE {
            let told = [&done.stdout, &done.stderr];
            assert!(!told.iter().any(|t| t.contains(words)), "{words}: {done:?}");
        }
        done
    }
}

/// A running command; killed when dropped.
#[derive(Debug)]
pub struct Child(pub(crate) Option<std::process::Child>);

impl Child {
    fn inner(&mut self) -> &mut std::process::Child {
        self.0.as_mut().expect("not waited for yet")
    }

    /// Its process id.
    pub fn pid(&mut self) -> u32 {
        self.inner().id()
    }

    /// The most memory that it has had resident so far, in bytes.
    pub fn peak_memory(&mut self) -> u64 {
        let path = format!("/proc/{}/status", self.pid());
        let status = std::fs::read_to_string(path).expect("procfs");
        let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|p| p.split_whitespace().next());
        kib.and_then(|k| k.parse::<u64>().ok()).expect("VmHWM") << 10
    }

    /// Writes all of its standard input, and ends it. One that ended without reading it all has its reasons.
    pub fn say(&mut self, input: &[u8]) {
        let mut pipe = self.inner().stdin.take().expect("a pipe");
        drop(std::io::Write::write_all(&mut pipe, input));
    }

    /// Writes to its standard input, which ends when what is given back is dropped.
    pub fn tell(&mut self, input: &[u8]) -> ChildStdin {
        let mut pipe = self.inner().stdin.take().expect("a pipe");
        std::io::Write::write_all(&mut pipe, input).expect("it reads");
        pipe
    }

    /// Sends it a signal.
    pub fn signal(&mut self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).expect("a pid"));
        kill(pid, signal).expect("the child is alive");
    }

    /// Waits until it stopped itself at a seam. Fails when it ends instead: the seam was not reached.
    pub fn wait_stopped(&mut self) {
        if self.stopped_or_ended() {
            return;
        }
        let output = self
            .0
            .take()
            .expect("child")
            .wait_with_output()
            .expect("output");
        panic!(
            "ended with {} before the seam: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Waits until it stopped itself at a seam (true) or ended (false).
    pub fn stopped_or_ended(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if self
                .inner()
                .try_wait()
                .expect("the child can be waited for")
                .is_some()
            {
                return false;
            }
            let stat =
                std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("procfs");
            let state = stat.rsplit(") ").next().and_then(|s| s.chars().next());
            if state == Some('T') {
                return true;
            }
            assert!(Instant::now() < deadline, "the seam was not reached");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the seam that it was started with has killed it.
    pub fn killed(self) {
        let done = self.wait();
        assert_eq!(done.code, None, "the seam was not reached: {}", done.stderr);
    }

    /// Waits for its end.
    pub fn wait(mut self) -> Done {
        self.wait_here()
    }

    /// The same for one that stands in something else.
    pub fn wait_here(&mut self) -> Done {
        let child = self.0.take().expect("not waited for yet");
        child.wait_with_output().expect("output").into()
    }

    /// Waits for its end, and gives the most memory that it had resident, in bytes, as a look every few milliseconds saw it.
    pub fn wait_for_peak(mut self) -> (Done, u64) {
        let pid = self.pid().to_string();
        let mut peak = 0;
        // One that has ended has no memory any more.
        while let now @ 1.. = Cost::of(&pid).peak {
            peak = now;
            std::thread::sleep(Duration::from_millis(5));
        }
        (self.wait(), peak)
    }

    /// Lets it go on after a stop, and waits for its end.
    pub fn resume(mut self) -> Done {
        self.signal(Signal::SIGCONT);
        self.wait()
    }

    /// Kills it with SIGKILL and waits.
    pub fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            drop(child.kill());
            drop(child.wait());
        }
    }
}
