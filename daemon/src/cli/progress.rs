//! How far a run is, on a terminal: one line that is drawn over, and taken away at the end. In pipes and with `--json` there is
//! nothing of it.

use super::Context;
use super::table::{count, size};
use squire_engine::maintenance::{Headway, Oversight};
use std::future::Future;
use std::io::{self, IsTerminal, Write};
use std::pin::pin;
use std::time::Duration;

/// How often it is drawn; the first time after as long, so that what is done at once shows nothing.
const EVERY: Duration = Duration::from_millis(200);

/// Awaits `work`, which counts its steps in `oversight`, and meanwhile shows how far it is.
pub(super) async fn shown<T>(
    context: &Context,
    doing: &str,
    oversight: &Oversight,
    work: impl Future<Output = T>,
) -> T {
    if context.out.json || !io::stderr().is_terminal() {
        return work.await;
    }
    let clock = &context.options.clock;
    let (began, before) = (clock.monotonic(), oversight.progress());
    let mut work = pin!(work);
    let mut drawn = false;
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            () = clock.sleep(EVERY) => {}
        }
        let took = clock.monotonic().saturating_sub(began);
        let how = told(before, oversight.progress(), took);
        drawn = true;
        draw(&format!("{doing}: {how}"));
    };
    if drawn {
        draw("");
    }
    done
}

/// Draws over what stands in the line. That it cannot be shown is nobody's concern.
fn draw(text: &str) {
    let mut out = io::stderr().lock();
    let text = crate::input::printable(text);
    write!(out, "\r{text}\u{1b}[K")
        .and_then(|()| out.flush())
        .ok();
}

/// How far a run is that stood at `before` when it began: share, amounts, rate, and how long it will take.
fn told(before: Headway, now: Headway, took: Duration) -> String {
    let (done, total) = (
        now.done.saturating_sub(before.done),
        now.total.saturating_sub(before.done),
    );
    let seconds = took.as_secs_f64();
    if total == 0 {
        return format!("planning, for {seconds:.0} s");
    }
    let amount = |n: u64| match now.unit {
        "bytes" => size(n),
        unit => format!("{} {unit}", count(n)),
    };
    let share = done as f64 / total as f64;
    let mut text = format!(
        "{:.0} %, {} of {}",
        share * 100.0,
        amount(done),
        amount(total)
    );
    if done > 0 && done < total && seconds > 0.0 {
        let rate = done as f64 / seconds;
        if now.unit == "bytes" {
            text += &format!(", {}/s", size(rate.round() as u64));
        }
        text += &format!(", about {:.0} s left", (total - done) as f64 / rate);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{Headway, told};
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
}
