//! The live view: a bar and some lines on a terminal, one line every few seconds elsewhere.

use crate::error::Result;
use crate::run::Run;
use crate::squire::Answer;
use crate::status::{Observed, TableState, ask_agent, ask_daemon, tables};
use crate::terminal::Terminal;
use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};
use squire_engine::clock::Clock;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// Looks between two lines where output is not a terminal.
const LOOKS_PER_LINE: u32 = 5;

/// The time over which commits per second are taken.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// The tables that are shown, in this order.
const SHOWN_TABLES: [&str; 3] = ["flights", "weather", "planes"];

/// Lines below the bar: the tables, the daemon, the writers, the last problem.
const LINES: usize = SHOWN_TABLES.len() + 3;

/// The view of one run.
#[derive(Debug)]
pub(crate) struct View {
    terminal: Terminal,
    daemon: Option<SocketAddr>,
    agents: Vec<SocketAddr>,
    bars: Vec<ProgressBar>,
    samples: VecDeque<(Duration, usize)>,
    observed: Observed,
    agent_conflicts: Option<u64>,
}

impl View {
    /// A view of a run up to `hours` hours.
    pub(crate) fn new(
        terminal: &Terminal,
        hours: usize,
        daemon: Option<SocketAddr>,
        agents: &[SocketAddr],
    ) -> Self {
        let bars = terminal.bars().map_or_else(Vec::new, |multi| {
            let bar = ProgressBar::new(hours as u64).with_style(style(
                "{prefix:<8} [{bar:36}] {human_pos}/{human_len} hours committed, {msg}",
            ));
            let lines =
                (0..LINES).map(|_| ProgressBar::new(0).with_style(style("{prefix:<8} {wide_msg}")));
            std::iter::once(bar)
                .chain(lines)
                .map(|bar| multi.add(bar))
                .collect()
        });
        Self {
            terminal: terminal.clone(),
            daemon,
            agents: agents.to_vec(),
            bars,
            samples: VecDeque::new(),
            observed: Observed::default(),
            agent_conflicts: None,
        }
    }

    /// Shows the run until interrupted.
    pub(crate) async fn follow(&mut self, run: &Run) -> Result<()> {
        let mut looks = 0_u32;
        loop {
            self.look(run, looks).await?;
            if !self.bars.is_empty() {
                self.draw(run);
            } else if looks > 0 && looks.is_multiple_of(LOOKS_PER_LINE) {
                self.terminal.say(self.line(run));
            }
            looks = looks.wrapping_add(1);
            run.pause(LOOK).await?;
        }
    }

    async fn look(&mut self, run: &Run, looks: u32) -> Result<()> {
        match self.daemon {
            Some(address) => {
                if let Some(observed) = ask_daemon(address).await {
                    self.observed = observed;
                }
            }
            // A process a second would be in the way of those that are watched.
            None if looks.is_multiple_of(LOOKS_PER_LINE) => {
                let answer = run.squire.run(&["status", &run.site.uri()]).await?;
                if let Answer::Done(document) = answer {
                    self.observed.tables = tables(&document);
                }
            }
            None => {}
        }
        let mut conflicts = None;
        for agent in &self.agents {
            if let Some(count) = ask_agent(*agent).await {
                conflicts = Some(conflicts.unwrap_or(0) + count);
            }
        }
        self.agent_conflicts = conflicts.or(self.agent_conflicts);
        let now = run.clock.monotonic();
        self.samples
            .push_back((now, run.progress.counts().acknowledged));
        while self
            .samples
            .front()
            .is_some_and(|(at, _)| now.saturating_sub(*at) > RATE_WINDOW)
        {
            self.samples.pop_front();
        }
        Ok(())
    }

    fn commits_per_second(&self) -> f64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return 0.0;
        };
        let seconds = last.0.saturating_sub(first.0).as_secs_f64();
        if seconds > 0.0 {
            last.1.saturating_sub(first.1) as f64 / seconds
        } else {
            0.0
        }
    }

    fn table(&self, name: &str) -> TableState {
        let found = self.observed.tables.iter().find(|t| t.name == name);
        found.cloned().unwrap_or_default()
    }

    fn maintenance(&self) -> String {
        let [compactions, reindexes, cleanups, lost] = self.observed.maintenance;
        match self.daemon {
            Some(_) => format!(
                "{compactions} compactions, {reindexes} reindexes, {cleanups} cleanups, {lost} lost races"
            ),
            None => "no daemon".to_owned(),
        }
    }

    fn writers(&self, run: &Run) -> String {
        let counts = run.progress.counts();
        let agents = self
            .agent_conflicts
            .map_or_else(|| "?".to_owned(), |n| n.to_string());
        format!(
            "agents retried {agents} conflicts | {} upserts, {} deletes, {} retries | snapshots: {} whole, {} not",
            counts.upserts,
            counts.deletes,
            counts.lost_attempts + counts.repeats as u64,
            counts.whole_snapshots,
            counts.unsound.len(),
        )
    }

    fn problem(&self, run: &Run) -> String {
        let daemon = self.observed.errors.last().cloned();
        let last = run.progress.problems().pop().or(daemon);
        last.map_or_else(|| "none".to_owned(), |text| text.replace('\n', " "))
    }

    fn draw(&self, run: &Run) {
        let [bar, lines @ ..] = self.bars.as_slice() else {
            return;
        };
        bar.set_position(run.progress.committed() as u64);
        bar.set_prefix("hours");
        bar.set_message(format!(
            "{} fed now, {:.1} commits/s",
            HumanCount(run.progress.counts().fed as u64),
            self.commits_per_second()
        ));
        let tables = SHOWN_TABLES.iter().map(|name| {
            let t = self.table(name);
            let text = format!(
                "{:>4} fragments ({:>3} to compact) {:>5} versions {:>8} rows {:>10}  {}",
                t.fragments.0,
                t.fragments.1,
                t.versions,
                HumanCount(t.rows).to_string(),
                HumanBytes(t.bytes).to_string(),
                t.doing
            );
            (*name, text)
        });
        let rest = [
            ("daemon", self.maintenance()),
            ("writers", self.writers(run)),
            ("problem", self.problem(run)),
        ];
        for (line, (name, text)) in lines.iter().zip(tables.chain(rest)) {
            line.set_prefix(name);
            line.set_message(text);
        }
    }

    fn line(&self, run: &Run) -> String {
        let tables = SHOWN_TABLES.map(|name| {
            let t = self.table(name);
            format!("{name} {} fragments {} versions", t.fragments.0, t.versions)
        });
        let mut line = format!(
            "[{:4} s] {} hours committed, {:.1}/s | {} | {} | {}",
            run.clock.monotonic().as_secs(),
            HumanCount(run.progress.committed() as u64),
            self.commits_per_second(),
            tables.join(", "),
            self.maintenance(),
            self.writers(run)
        );
        let problem = self.problem(run);
        if problem != "none" {
            line.push_str(" | last problem: ");
            line.push_str(&problem);
        }
        line
    }

    /// Removes the view.
    pub(crate) fn close(&self) {
        self.bars.iter().for_each(ProgressBar::finish_and_clear);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
