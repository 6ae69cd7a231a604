//! A maintainer that always carries: whenever it has rewritten fragments of a table, someone changes or deletes rows of it
//! before it goes on.

use super::commands::Commander;
use super::model::Change;
use super::plan::{Part, millis, mischief, one_of, rng};
use super::processes::{Ended, Processes, judge};
use super::run::{Room, store_uri};
use super::{BIN, UPSERTS, Violations};
use crate::squire;
use rand::RngExt;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::process::{Command, Stdio};

/// The exit codes that a run may end with here: done, failed, skipped, lost.
const CODES: [i32; 4] = [0, 1, 3, 75];

/// Maintains until the run is over.
pub fn run(room: &Room, number: u32, processes: &Processes, violations: &Violations) {
    let name = format!("m{number}");
    let config = room.config(&name, 5);
    let mut others = Commander::new(room, format!("{name}.0"));
    let mut rng = rng(room.seed, &name);
    while !room.is_over() {
        let table = *one_of(&mut rng, &[BIN, UPSERTS]);
        let mut mischief = mischief(&mut rng, Part::Daemon, &room.fault_log());
        let armed = mischief.seams.unwrap_or_default();
        mischief.seams = Some(format!("{armed};maintain.after_rewrite=return(stop)"));
        let mut command = Command::new(squire());
        command
            .args(["optimize", &store_uri(&room.store, &mischief)])
            .args(["--table", table, "--actor", &name, "--config"])
            .arg(&config);
        room.equip(&mut command, &mischief);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(room.log(&name));
        let id = processes.lead(&name, &mut command);
        let ended = led(processes, id, || {
            let begin = others.begin(|tag| change(&mut rng, table, tag));
            others.call(begin, processes, violations);
        });
        judge(&name, ended, &CODES, violations);
        std::thread::sleep(millis(&mut rng, 0..200));
    }
}

/// Waits for the end of child `id`; `meanwhile` it is stopped.
fn led(processes: &Processes, id: u64, mut meanwhile: impl FnMut()) -> Ended {
    loop {
        if let Some(ended) = processes.ended(id) {
            return ended;
        }
        if processes.is_stopped(id) {
            meanwhile();
            processes.wake(id);
        }
        std::thread::sleep(std::time::Duration::from_millis(3));
    }
}

/// Something that meets rows of nearly every fragment, and leaves some in each.
fn change(rng: &mut StdRng, table: &str, tag: &str) -> BTreeMap<String, Change> {
    let change = match table {
        UPSERTS => {
            let every_third = (rng.random_range(0..3)..66).step_by(3);
            Change::Merge(every_third.map(|id| (id, tag.to_owned())).collect())
        }
        _ => {
            let first = rng.random_range(0..340);
            Change::DeleteRange(first, first + 60)
        }
    };
    BTreeMap::from([(table.to_owned(), change)])
}
