//! Children, and the monkey that kills, stops and wakes them.

use super::plan::{millis, rng};
use super::{Violations, now_us};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rand::RngExt;
use rand::rngs::StdRng;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often the monkey looks at its victims.
const LOOK: Duration = Duration::from_millis(20);

/// What was done to processes.
#[derive(Debug, Default)]
pub struct Counts {
    /// Processes started.
    pub started: AtomicU64,
    /// Killed by the monkey.
    pub killed: AtomicU64,
    /// Killed by themselves, at a seam.
    pub killed_at_seam: AtomicU64,
    /// Stopped by the monkey.
    pub paused: AtomicU64,
    /// Stopped by themselves, at a seam.
    pub paused_at_seam: AtomicU64,
}

#[derive(Debug)]
struct Victim {
    id: u64,
    name: String,
    child: Child,
    /// Whether whoever started it wakes it at its seams.
    led: bool,
    /// When it is woken, once it is stopped.
    wake: Option<Instant>,
    killed: bool,
}

impl Victim {
    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).expect("a pid");
        // It is reaped under the same lock as this, so the pid is still its own.
        kill(Pid::from_raw(pid), signal).expect("a child can be signalled");
    }

    fn is_stopped(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let stat = stat.unwrap_or_default();
        stat.rsplit(") ").next().and_then(|s| s.chars().next()) == Some('T')
    }
}

/// How a child ended.
#[derive(Debug, Clone, Copy)]
pub struct Ended {
    /// Its status.
    pub status: ExitStatus,
    /// Whether a signal ended it: by the monkey, or by itself at a seam.
    pub killed: bool,
}

/// Every running child.
#[derive(Debug, Default)]
pub struct Processes {
    running: Mutex<Vec<Victim>>,
    next: AtomicU64,
    /// What was done to them.
    pub counts: Counts,
}

impl Processes {
    /// Starts a child and gives its number.
    pub fn start(&self, name: &str, command: &mut Command) -> u64 {
        self.begin(name, command, false)
    }

    /// The same for one that whoever starts it wakes at its seams.
    pub fn lead(&self, name: &str, command: &mut Command) -> u64 {
        self.begin(name, command, true)
    }

    fn begin(&self, name: &str, command: &mut Command, led: bool) -> u64 {
        let child = command.spawn().expect("a child starts");
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.counts.started.fetch_add(1, Ordering::Relaxed);
        let victim = Victim {
            id,
            name: name.to_owned(),
            child,
            led,
            wake: None,
            killed: false,
        };
        self.running.lock().expect("children").push(victim);
        id
    }

    /// How child `id` ended, if it did.
    pub fn ended(&self, id: u64) -> Option<Ended> {
        let mut running = self.running.lock().expect("children");
        let index = running.iter().position(|v| v.id == id)?;
        let status = running[index].child.try_wait().expect("a child's status")?;
        let victim = running.swap_remove(index);
        let killed = status.signal() == Some(Signal::SIGKILL as i32);
        if killed && !victim.killed {
            self.counts.killed_at_seam.fetch_add(1, Ordering::Relaxed);
        }
        Some(Ended { status, killed })
    }

    /// Whether child `id` is stopped.
    pub fn is_stopped(&self, id: u64) -> bool {
        let running = self.running.lock().expect("children");
        running.iter().any(|v| v.id == id && v.is_stopped())
    }

    /// Wakes child `id`.
    pub fn wake(&self, id: u64) {
        let running = self.running.lock().expect("children");
        for victim in running.iter().filter(|v| v.id == id) {
            self.counts.paused_at_seam.fetch_add(1, Ordering::Relaxed);
            victim.signal(Signal::SIGCONT);
        }
    }

    /// Waits for the end of child `id`.
    pub fn wait(&self, id: u64) -> Ended {
        loop {
            if let Some(ended) = self.ended(id) {
                return ended;
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }

    /// Kills all of them. Those who wait for them still learn how they ended.
    pub fn kill_all(&self) {
        for victim in self.running.lock().expect("children").iter_mut() {
            victim.killed = true;
            victim.signal(Signal::SIGKILL);
        }
    }

    /// Kills, stops and wakes children until `stop` says so.
    pub fn torment(&self, seed: u64, stop: &dyn Fn() -> bool) {
        let mut rng = rng(seed, "monkey");
        let mut next = Instant::now() + Duration::from_secs(1);
        while !stop() {
            std::thread::sleep(LOOK);
            self.wake_stopped(&mut rng);
            if Instant::now() >= next {
                self.strike(&mut rng);
                next = Instant::now() + millis(&mut rng, 100..900);
            }
        }
    }

    fn wake_stopped(&self, rng: &mut StdRng) {
        let now = Instant::now();
        for victim in self.running.lock().expect("children").iter_mut() {
            match victim.wake {
                None if !victim.led && victim.is_stopped() => {
                    self.counts.paused_at_seam.fetch_add(1, Ordering::Relaxed);
                    victim.wake = Some(now + millis(rng, 300..5_000));
                }
                Some(at) if at <= now => {
                    victim.wake = None;
                    victim.signal(Signal::SIGCONT);
                }
                _ => {}
            }
        }
    }

    fn strike(&self, rng: &mut StdRng) {
        let mut running = self.running.lock().expect("children");
        if running.is_empty() {
            return;
        }
        let chosen = rng.random_range(0..running.len());
        let victim = &mut running[chosen];
        if victim.name.starts_with(['d', 'm']) && rng.random_bool(0.6) {
            return; // Maintenance needs a few seconds to get anything done.
        }
        if rng.random_bool(0.45) {
            victim.killed = true;
            victim.signal(Signal::SIGKILL);
            self.counts.killed.fetch_add(1, Ordering::Relaxed);
        } else if victim.wake.is_none() {
            victim.signal(Signal::SIGSTOP);
            victim.wake = Some(Instant::now() + nap(rng));
            self.counts.paused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The names of those that run.
    pub fn names(&self) -> Vec<String> {
        let running = self.running.lock().expect("children");
        running.iter().map(|v| v.name.clone()).collect()
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        self.kill_all();
        for victim in self.running.lock().expect("children").iter_mut() {
            victim.child.wait().expect("a killed child ends");
        }
    }
}

/// How long a stopped process stays stopped: mostly short, sometimes longer than the grace of everyone else.
fn nap(rng: &mut StdRng) -> Duration {
    match rng.random_range(0..10) {
        0..4 => millis(rng, 10..300),
        4..9 => millis(rng, 300..2_000),
        _ => millis(rng, 2_000..6_000),
    }
}

/// Sees to it that the wall clock, by which the processes of a run compare times, does not jump.
#[derive(Debug)]
pub struct ClockWatch {
    last: (Instant, u64),
    /// Whether it jumped: then nothing can be said about which of two operations came first in real time.
    pub jumped: bool,
}

impl Default for ClockWatch {
    fn default() -> Self {
        Self {
            last: (Instant::now(), now_us()),
            jumped: false,
        }
    }
}

impl ClockWatch {
    /// Compares the clocks once more.
    pub fn look(&mut self) {
        let (before, wall_before) = self.last;
        self.last = (Instant::now(), now_us());
        let steady = u64::try_from((self.last.0 - before).as_micros()).expect("not that long");
        let wall = self.last.1.saturating_sub(wall_before);
        // Reading the two clocks is not one step, and a busy machine may take a while between them.
        self.jumped |= wall + 50_000 < steady;
    }
}

/// A child that ended neither by a signal nor in one of the ways it may is a finding.
pub fn judge(name: &str, ended: Ended, allowed: &[i32], violations: &Violations) {
    let fine = ended.killed || ended.status.code().is_some_and(|c| allowed.contains(&c));
    if !fine {
        violations.add(format!("process {name} ended with {}", ended.status));
    }
}
