//! How far a run is, on a terminal: one line that is drawn over, and taken away at the end. In pipes and with `--json` there is
//! nothing of it.

use super::Context;
use super::table::{count, size};
use crate::formats::{Meter, Metered};
use squire_engine::maintenance::{Crew, Headway, Oversight};
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// How often it is drawn; the first time after as long, so that what is done at once shows nothing.
const EVERY: Duration = Duration::from_millis(200);

/// A line that is drawn until this is dropped, by a thread of its own: who reads an input has no time for it.
#[derive(Debug)]
pub(super) struct Line {
    ends: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Line {
    /// Draws what `text` says, which is told how long that has been done; nothing where no terminal shows it.
    fn draw(
        context: &Context,
        mut text: impl FnMut(Duration) -> String + Send + 'static,
    ) -> Option<Self> {
        if context.out.json || !io::stderr().is_terminal() {
            return None;
        }
        let clock = context.options.clock.clone();
        let began = clock.monotonic();
        let (ends, ended) = mpsc::channel();
        let drawing = move || {
            let mut drawn = false;
            while ended.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
                drawn = true;
                draw(&text(clock.monotonic().saturating_sub(began)));
            }
            if drawn {
                draw("");
            }
        };
        let thread = Builder::new().name("progress".to_owned()).spawn(drawing);
        Some(Self {
            ends: Some(ends),
            thread: Some(thread.ok()?),
        })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.ends = None;
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// Awaits `work`, which counts its steps in `oversight`, and meanwhile shows how far it is.
pub(super) async fn shown<T>(
    context: &Context,
    doing: &str,
    oversight: &Oversight,
    work: impl Future<Output = T>,
) -> T {
    let (doing, oversight) = (doing.to_owned(), oversight.clone());
    let before = oversight.progress();
    let _line = Line::draw(context, move |took| {
        let how = told(before, oversight.progress(), took);
        format!("{doing}: {how}{}", told_of_crew(&oversight.crew()))
    });
    work.await
}

/// Shows how far the inputs are read that `meter` counts, and what is done else.
pub(super) fn of_inputs(context: &Context, meter: &Meter) -> Option<Line> {
    let (meter, mut first) = (meter.clone(), (0, Duration::ZERO));
    Line::draw(context, move |took| {
        let now = meter.now();
        // Each reading has a rate of its own.
        if first.0 != now.number {
            first = (now.number, took.saturating_sub(EVERY));
        }
        let how = told_of_inputs(&now, took.saturating_sub(first.1));
        format!("{}{how}", now.doing)
    })
}

/// Draws over what stands in the line; what is wider than the terminal is cut off, since it would not be one line. That it cannot be shown is nobody's concern.
fn draw(text: &str) {
    let mut out = io::stderr().lock();
    let text = crate::input::printable(text);
    write!(out, "\r\u{1b}[?7l{text}\u{1b}[K\u{1b}[?7h")
        .and_then(|()| out.flush())
        .ok();
}

/// How far a run is that stood at `before` when it began: share, amounts, rate, and how long it will take.
fn told(before: Headway, now: Headway, took: Duration) -> String {
    let (done, total) = (
        now.done.saturating_sub(before.done),
        now.total.saturating_sub(before.done),
    );
    if total == 0 {
        return format!("planning, for {:.0} s", took.as_secs_f64());
    }
    let amount = |n: u64| match now.unit {
        "bytes" => size(n),
        unit => format!("{} {unit}", count(n)),
    };
    let share = share(done, total);
    let (so_far, all) = (amount(done), amount(total));
    let pace = pace((done, done), Some(total), took, now.unit == "bytes");
    format!("{share:.0} %, {so_far} of {all}{pace}")
}

/// What has become of the tasks that workers execute; nothing where there are none.
fn told_of_crew(crew: &Crew) -> String {
    if crew.tasks == 0 {
        return String::new();
    }
    let (queued, at_work, done) = (crew.queued(), crew.at_work, crew.done);
    let nodes = crew.nodes.map(|nodes| format!(", on {nodes} nodes"));
    let nodes = nodes.unwrap_or_default();
    format!("; tasks: {queued} queued, {at_work} running, {done} done{nodes}")
}

/// How far some inputs are read, and how many rows came of them; or how long something is done that reads none.
fn told_of_inputs(now: &Metered, took: Duration) -> String {
    let rows = match now.rows {
        0 => String::new(),
        rows => format!(", {} rows", count(rows)),
    };
    // What was read before is nothing of this rate.
    let of_rate = now.bytes.saturating_sub(now.before);
    match now.total {
        Some(0) => format!(", for {:.0} s", took.as_secs_f64()),
        Some(total) => {
            let done = now.bytes.min(total);
            let (share, pace) = (
                share(done, total),
                pace((done, of_rate), now.total, took, true),
            );
            let (so_far, all) = (size(done), size(total));
            format!(": {share:.0} %, {so_far} of {all}{rows}{pace}")
        }
        None => {
            let pace = pace((now.bytes, of_rate), None, took, true);
            format!(": {}{rows}{pace}", size(now.bytes))
        }
    }
}

fn share(done: u64, total: u64) -> f64 {
    done as f64 / total as f64 * 100.0
}

/// The rate, of bytes, and how long it will take: of what is done, so much took so long.
fn pace((done, lately): (u64, u64), total: Option<u64>, took: Duration, in_bytes: bool) -> String {
    let seconds = took.as_secs_f64();
    if lately == 0 || total == Some(done) || seconds <= 0.0 {
        return String::new();
    }
    let rate = lately as f64 / seconds;
    let mut text = String::new();
    if in_bytes {
        text += &format!(", {}/s", size(rate.round() as u64));
    }
    if let Some(total) = total {
        text += &format!(", about {:.0} s left", (total - done) as f64 / rate);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Crew, Headway, Metered, told, told_of_crew, told_of_inputs};
    use std::time::Duration;

    #[test]
    fn it_tells_share_rate_and_what_is_left() {
        let at = |unit, done, total| Headway { unit, done, total };
        let seconds = Duration::from_secs(10);
        let none = Headway::default();
        assert_eq!(told(none, none, seconds), "planning, for 10 s");
        let half = told(none, at("bytes", 50 << 20, 200 << 20), seconds);
        assert!(
            half.starts_with("25 %, ") && half.ends_with("/s, about 30 s left"),
            "{half}"
        );
        // Of the tables before it nothing is shown.
        let second = told(at("indexes", 3, 3), at("indexes", 4, 5), seconds);
        assert_eq!(second, "50 %, 1 indexes of 2 indexes, about 10 s left");
        let all = told(none, at("tables", 2, 2), seconds);
        assert_eq!(all, "100 %, 2 tables of 2 tables");
    }

    #[test]
    fn it_tells_what_workers_are_at() {
        assert_eq!(told_of_crew(&Crew::default()), "");
        let crew = Crew {
            tasks: 9,
            at_work: 2,
            done: 3,
            nodes: Some(4),
        };
        let told = told_of_crew(&crew);
        assert_eq!(told, "; tasks: 4 queued, 2 running, 3 done, on 4 nodes");
        let here = told_of_crew(&Crew {
            nodes: None,
            ..crew
        });
        assert_eq!(here, "; tasks: 4 queued, 2 running, 3 done");
    }

    #[test]
    fn it_tells_how_far_an_input_is_read() {
        let seconds = Duration::from_secs(10);
        let at = |total, bytes, rows| Metered {
            total,
            bytes,
            rows,
            ..Metered::default()
        };
        let half = told_of_inputs(&at(Some(200 << 20), 50 << 20, 12_345), seconds);
        assert!(
            half.starts_with(": 25 %, ") && half.ends_with("/s, about 30 s left"),
            "{half}"
        );
        assert!(
            half.contains(" of ") && half.contains(", 12,345 rows, "),
            "{half}"
        );
        // Nobody knows how much comes through a pipe.
        let piped = told_of_inputs(&at(None, 50 << 20, 0), seconds);
        assert!(piped.ends_with("/s") && !piped.contains('%'), "{piped}");
        let whole = told_of_inputs(&at(Some(1 << 20), 2 << 20, 7), seconds);
        assert!(
            whole.starts_with(": 100 %, ") && whole.ends_with(", 7 rows"),
            "{whole}"
        );
        assert_eq!(told_of_inputs(&at(Some(0), 0, 0), seconds), ", for 10 s");
        // What another table had come to before is no part of the rate.
        let beside = Metered {
            before: 100 << 20,
            ..at(Some(200 << 20), 150 << 20, 7)
        };
        let beside = told_of_inputs(&beside, seconds);
        assert!(
            beside.starts_with(": 75 %, ") && beside.ends_with("5.0 MiB/s, about 10 s left"),
            "{beside}"
        );
    }
}
