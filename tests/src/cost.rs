//! What a process has cost, as the kernel counts it.

/// Ticks of a second in `/proc/PID/stat`, on every Linux.
const TICKS: f64 = 100.0;

/// What a process has cost since it was started; nothing of one that is gone.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    /// Seconds of a core.
    pub cpu: f64,
    /// Bytes in memory now.
    pub rss: u64,
    /// The most that were in memory at one time.
    pub peak: u64,
    /// Bytes read and written by system calls.
    pub moved: u64,
}

impl Cost {
    /// That of the process `pid`; `self` is this one.
    pub fn of(pid: &str) -> Self {
        let read =
            |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let (stat, status, io) = (read("stat"), read("status"), read("io"));
        // The name of the program, in parentheses, may hold anything.
        let behind_name = stat.rsplit(") ").next().unwrap_or_default();
        let ticks = behind_name.split(' ').skip(11).take(2);
        let ticks: f64 = ticks.filter_map(|t| t.parse::<f64>().ok()).sum();
        let number = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            number.unwrap_or(0)
        };
        Self {
            cpu: ticks / TICKS,
            rss: number(&status, "VmRSS:") * 1_024,
            peak: number(&status, "VmHWM:") * 1_024,
            moved: number(&io, "rchar:") + number(&io, "wchar:"),
        }
    }
}
