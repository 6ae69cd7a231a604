//! A counterexample in words.

use crate::process::Proc;
use crate::squire::{Action, Squire, State};
use stateright::Path;

/// Prints the steps that lead to a state that breaks `property`, and that state.
pub fn print(model: &Squire, property: &str, path: &Path<State, Action>) {
    println!("\n  {property} breaks:");
    let mut number = 0;
    for (state, action) in path.clone().into_vec() {
        number += 1;
        match action {
            Some(action) => println!("  {number:>3}. {}", step(model, &state, action)),
            None => print_state(&state),
        }
    }
    println!();
}

fn step(model: &Squire, state: &State, action: Action) -> String {
    match action {
        Action::Foreign => "someone else commits to table 0".to_owned(),
        Action::Publish => "someone else publishes".to_owned(),
        Action::Arrive(i) => format!("late: {:?} arrives", state.world.flight[i as usize]),
        Action::Restart(i) => format!("process {i} dies and starts again"),
        Action::Step(i, choice) => {
            let who = match model.scenario.procs[i as usize] {
                crate::scenario::Process::Writer(_) | crate::scenario::Process::Stopped(_) => {
                    "writer"
                }
                crate::scenario::Process::Quick(_) => "uninterrupted writer",
                crate::scenario::Process::Resolver => "resolver",
                crate::scenario::Process::Maintainer { .. } => "maintainer",
                crate::scenario::Process::Cleaner { .. } => "cleaner",
                crate::scenario::Process::Adopter { .. } => "adopter",
                crate::scenario::Process::Heir(_) => "heir",
                crate::scenario::Process::Dropper(_) => "one that drops a table",
                crate::scenario::Process::Client(_) | crate::scenario::Process::Sweeper => {
                    "another client"
                }
            };
            let does = match &state.procs[i as usize] {
                Proc::Idle => "looks for something to do".to_owned(),
                Proc::Over => String::new(),
                Proc::Write(op, at) => format!("op {op}: {at:?}"),
                Proc::Resolve(op, role, at) => format!("resolves op {op} as {role:?}: {at:?}"),
                Proc::Prefix(name, after, at) => {
                    format!("fast-forwards table {name}, then {after:?}: {at:?}")
                }
                Proc::Maintain(op, at) => format!("op {op}: {at:?}"),
                Proc::Clean(at) => format!("{at:?}"),
                Proc::Adopt(at) => format!("{at:?}"),
                Proc::Inherit(op, at) => format!("op {op}: {at:?}"),
                Proc::Client(op) => format!("commits op {op}"),
                Proc::Drop(name) => format!("drops table {name}"),
                Proc::Sweep => "removes all versions but HEAD".to_owned(),
            };
            let way = if choice == 0 {
                String::new()
            } else {
                format!(" (way {choice})")
            };
            format!("{i} {who} {does}{way}")
        }
    }
}

fn print_state(state: &State) {
    let world = &state.world;
    println!("       manifest {:?}", world.latest());
    for (path, versions) in world
        .tables
        .iter()
        .enumerate()
        .filter(|(_, v)| !v.is_empty())
    {
        println!("       dataset {path}");
        for (v, version) in (1..).zip(versions) {
            let gone = if version.there { "" } else { ", gone" };
            println!(
                "         v{v} {:?} shows {:?}{gone}",
                version.made, version.content
            );
        }
    }
    println!(
        "       committed {:?}, decided {:?}, expected {:?}, sidecars {:?}, told {:?}",
        world.committed, world.decided, world.expected, world.sidecars, world.told
    );
}
