//! Runs the searches and prints what they saw.

use crate::invariants::Event;
use crate::mutation::{CASES, Case};
use crate::scenario::{SCENARIOS, Scenario, Search};
use crate::squire::{COMMITS, Squire};
use crate::words;
use stateright::{Checker, HasDiscoveries, Model};
use std::time::{Duration, Instant};

/// How far a search goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Size {
    Ci,
    Deep,
}

/// What the command line asks for.
#[derive(Debug)]
pub struct Options {
    pub size: Size,
    pub scenario: Option<String>,
    pub mutation: Option<String>,
    pub trace: bool,
}

/// Two cores are what every machine that builds this has.
const THREADS: usize = 2;

/// What one search may take; one that takes longer was not exhaustive, and says so.
const LIMIT: Duration = Duration::from_secs(600);

/// How many states one search may generate: what is waiting to be looked at stays below some 10 GB.
const STATES: usize = 80_000_000;

/// A scenario without a mutation, searched.
struct Searched {
    held: bool,
    exhaustive: bool,
    row: String,
    reached: Vec<Event>,
}

/// Runs what `options` ask for. True when every invariant held, every mutation was found and everything was reached.
pub fn run(options: &Options) -> bool {
    let searched = options.mutation.is_some() || search_scenarios(options);
    let found = search_mutations(options);
    searched && found
}

fn search_scenarios(options: &Options) -> bool {
    let wanted: Vec<&'static Scenario> = SCENARIOS
        .iter()
        .filter(|s| match &options.scenario {
            Some(name) => s.name == name,
            None => match s.search {
                Search::Always => true,
                Search::Deep => options.size == Size::Deep,
                Search::Beyond => false,
            },
        })
        .collect();
    println!(
        "{:<12} {:>10} {:>10} {:>6} {:>11} {:>11} {:>8}  what runs",
        "scenario", "states", "unique", "depth", "exhaustive", "properties", "seconds"
    );
    let mut reached: Vec<Event> = Vec::new();
    let mut all_held = !wanted.is_empty();
    for scenario in wanted {
        let searched = search(scenario, options.trace);
        println!("{}", searched.row);
        all_held &= searched.held && (searched.exhaustive || options.size == Size::Deep);
        reached.extend(searched.reached);
    }
    let missed: Vec<&str> = Event::ALL
        .iter()
        .filter(|e| !reached.contains(e))
        .map(|e| e.name())
        .collect();
    println!(
        "\nreached {} of {} events{}{}",
        Event::ALL.len() - missed.len(),
        Event::ALL.len(),
        if missed.is_empty() { "" } else { "; not: " },
        missed.join(", ")
    );
    all_held && (missed.is_empty() || options.scenario.is_some())
}

fn search(scenario: &'static Scenario, trace: bool) -> Searched {
    let started = Instant::now();
    let checker = Squire::new(scenario, &[])
        .checker()
        .threads(THREADS)
        .timeout(LIMIT)
        .target_state_count(STATES)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let took = started.elapsed();
    let properties = checker.model().properties().len();
    let mut broken = checker.discoveries();
    let commits = broken.remove(COMMITS).is_some();
    let exhaustive = took < LIMIT && checker.state_count() < STATES && broken.is_empty();
    let verdict = match broken.keys().next() {
        None if commits => format!("{properties} hold"),
        None => "NOTHING COMMITS".to_owned(),
        Some(name) => format!("BROKEN: {name}"),
    };
    if trace {
        broken
            .iter()
            .for_each(|(name, path)| words::print(checker.model(), name, path));
    }
    let row = format!(
        "{:<12} {:>10} {:>10} {:>6} {:>11} {:>11} {:>8.1}  {}",
        scenario.name,
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        if exhaustive { "yes" } else { "no" },
        verdict,
        took.as_secs_f32(),
        scenario.about
    );
    let reached = Event::ALL
        .into_iter()
        .filter(|e| checker.model().has_reached(*e))
        .collect();
    Searched {
        held: commits && broken.is_empty(),
        exhaustive,
        row,
        reached,
    }
}

fn search_mutations(options: &Options) -> bool {
    let wanted: Vec<&Case> = CASES
        .iter()
        .filter(|c| match (&options.mutation, &options.scenario) {
            (Some(name), _) => c.name == name,
            (None, Some(scenario)) => c.scenario == scenario,
            (None, None) => true,
        })
        .collect();
    println!(
        "\n{:<22} {:<12} {:>6} {:>10} {:>8}  property broken",
        "mutation", "scenario", "steps", "unique", "seconds"
    );
    let mut all_found = options.mutation.is_none() || !wanted.is_empty();
    for case in wanted {
        let name = options.scenario.as_deref().unwrap_or(case.scenario);
        let Some(scenario) = SCENARIOS.iter().find(|s| s.name == name) else {
            println!("no scenario {name}");
            return false;
        };
        all_found &= search_mutation(case, scenario, options.trace);
    }
    all_found
}

/// One thread: breadth first then gives the shortest counterexample, the same on each run.
fn search_mutation(case: &Case, scenario: &'static Scenario, trace: bool) -> bool {
    let started = Instant::now();
    let until = match case.breaks {
        Some(invariant) => HasDiscoveries::AnyOf([invariant.name()].into()),
        None => HasDiscoveries::AnyFailures,
    };
    let checker = Squire::new(scenario, case.without)
        .checker()
        .threads(if case.breaks.is_some() { 1 } else { THREADS })
        .timeout(LIMIT)
        .finish_when(until)
        .spawn_bfs()
        .join();
    let took = started.elapsed();
    let found = checker.discoveries();
    let broken = match case.breaks {
        Some(invariant) => found.get_key_value(invariant.name()),
        None => found.iter().find(|(name, _)| **name != COMMITS),
    };
    let steps = broken.map_or("-".to_owned(), |(_, path)| {
        path.clone().into_actions().len().to_string()
    });
    let verdict = match (broken, case.breaks) {
        (Some((name, _)), Some(_)) => (*name).to_owned(),
        (Some((name, _)), None) => format!("UNEXPECTED: {name}"),
        (None, Some(invariant)) => format!("SURVIVES: {} holds", invariant.name()),
        (None, None) => "none: another guard stands behind it".to_owned(),
    };
    println!(
        "{:<22} {:<12} {:>6} {:>10} {:>8.1}  {}",
        case.name,
        scenario.name,
        steps,
        checker.unique_state_count(),
        took.as_secs_f32(),
        verdict
    );
    if let (true, Some((name, path))) = (trace, broken) {
        words::print(checker.model(), name, path);
    }
    broken.is_some() == case.breaks.is_some() && took < LIMIT
}
