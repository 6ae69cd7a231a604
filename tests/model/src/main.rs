//! Searches every interleaving of small stores, with the engine's own decisions, for a state that breaks an invariant.
//!
//! 1. `scenario` says which processes run; `mutation` which guard can be taken out. Both are data.
//! 2. `world` is storage: versions, manifest, sidecars, and ghosts that only the invariants read.
//! 3. `writer`, `heir`, `resolver`, `prefix`, `maintainer`, `cleaner` and `adopter` are the engine's processes, one request to
//!    storage a step. What they decide, `protocol` decides: the very file that the engine compiles.
//! 4. `invariants` and `rest` judge each state; `squire` is all that as a stateright model.
//! 5. `search` runs it and prints the tables; `words` prints a counterexample.

mod adopter;
mod cleaner;
mod heir;
mod ids;
mod invariants;
mod maintainer;
mod mutation;
mod outside;
mod prefix;
mod process;
#[path = "../../../engine/src/protocol.rs"]
#[allow(
    dead_code,
    reason = "the engine's file as it is; what reads transactions has no counterpart here"
)]
mod protocol;
mod resolver;
mod rest;
mod scenario;
mod search;
mod squire;
mod words;
mod world;
mod writer;

use search::{Options, Size};
use std::process::ExitCode;

const USAGE: &str = "\
usage: squire-model ci|deep [--scenario NAME] [--mutation NAME] [--trace]

  ci          the bounded search: small scenarios, each to its end, and every mutation
  deep        also the larger scenarios, up to ten minutes each
  --scenario  this scenario only
  --mutation  this mutation only; with --scenario, in that scenario
  --trace     print each counterexample, step by step";

fn main() -> ExitCode {
    match parse(std::env::args().skip(1)) {
        Some(options) if search::run(&options) => ExitCode::SUCCESS,
        Some(_) => ExitCode::FAILURE,
        None => {
            println!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<Options> {
    let size = match args.next()?.as_str() {
        "ci" => Size::Ci,
        "deep" => Size::Deep,
        _ => return None,
    };
    let mut options = Options {
        size,
        scenario: None,
        mutation: None,
        trace: false,
    };
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--scenario" => options.scenario = Some(args.next()?),
            "--mutation" => options.mutation = Some(args.next()?),
            "--trace" => options.trace = true,
            _ => return None,
        }
    }
    Some(options)
}
