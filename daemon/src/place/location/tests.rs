//! What a location asks for, and what it remembers.

use super::*;
use crate::decide::planning::OperationKind::{Cleanup, Compact};
use crate::decide::rest::Outcome;
use crate::decide::work::{Trigger, WorkItem};
use crate::place::table::{Lesson, TableStatus};
use squire_engine::maintenance::{CompactionPlan, TableHealth, tasks::Task};

const MINUTE: Duration = Duration::from_secs(60);

fn target(name: &str) -> Target {
    Target::Plain(name.to_owned())
}

fn found(names: &[&str]) -> Found {
    let table = |name: &&str| (target(name), ((*name).to_owned(), 0));
    Found {
        tables: names.iter().map(table).collect(),
        ..Found::default()
    }
}

/// A location whose tables were all looked at, at the time 0.
fn location(uri: &str, names: &[&str]) -> Location {
    let mut location = Location::new(uri, false);
    assert_eq!(location.jobs(Duration::ZERO, MINUTE), [Job::Open]);
    location.opened(false, Vec::new());
    let all = [Job::Recover { force: false }, Job::Measure, Job::Scan];
    assert_eq!(location.jobs(Duration::ZERO, MINUTE), all);

    location.recovered(0, false);
    location.scanned(found(names), Duration::ZERO);
    while let [Job::Look(target), ..] = location.jobs(Duration::ZERO, MINUTE).as_slice() {
        look(&mut location, &target.to_string(), 0, Duration::ZERO);
        for target in location.looking.clone() {
            look(&mut location, &target.to_string(), 0, Duration::ZERO);
        }
    }
    assert!(location.end_round().is_some() && location.is_settled());
    location
}

fn look(location: &mut Location, name: &str, small: u64, now: Duration) -> Verdict {
    look_at(location, name, (small, 0), now)
}

/// The same of a table with another `schema`.
fn look_at(
    location: &mut Location,
    name: &str,
    (small, schema): (u64, u64),
    now: Duration,
) -> Verdict {
    let mut rewrites = CompactionPlan::default();
    rewrites.tasks = vec![Task {
        fragments: vec![0, 1],
        bytes: 2,
        target_rows: 2,
        ..Task::default()
    }];
    let health = TableHealth {
        table: name.to_owned(),
        pin: 1,
        head: 1,
        versions: 1,
        fragments: small,
        candidate_fragments: small,
        rows: 10,
        deleted_rows: 0,
        bytes: 10,
        indexes: Vec::new(),
        schema,
        ..TableHealth::default()
    };
    let seen = Observation {
        health,
        rewrites,
        drift: false,
        unreferenced: None,
    };
    let verdict = location.looked(&target(name), seen, &Config::default(), now);
    verdict.expect("it is here")
}

fn ended(location: &mut Location, item: &WorkItem, outcome: Outcome, now: Duration) {
    let lesson = Lesson {
        outcome: Some(outcome),
        ..Lesson::default()
    };
    location.ended(item, lesson, (now, MINUTE));
}

#[test]
fn a_wake_looks_at_its_table_alone() {
    let mut location = location("lake", &["a", "b", "ns/c"]);
    let now = Duration::from_secs(1);
    let mut woken = |folder: &str| {
        location.woken(folder);
        location.jobs(now, MINUTE)
    };
    assert_eq!(woken("b"), [Job::Look(target("b"))]);
    assert_eq!(woken("ns/c/tree/branch"), [Job::Look(target("ns/c"))]);
    assert_eq!(woken("bb"), [Job::Scan], "what is not known may be new");
    location.scanned(found(&["a", "b", "bb", "ns/c"]), now);
    assert_eq!(location.jobs(now, MINUTE), [Job::Look(target("bb"))]);
    assert_eq!(location.jobs(MINUTE, MINUTE), [Job::Open], "the backstop");
}

#[test]
fn a_wake_of_a_branch_that_is_maintained_looks_at_it_alone() {
    let mut location = location("lake", &["t"]);
    let branch = Target::Branch {
        table: String::from("t"),
        branch: String::from("dev/x"),
    };
    let mut both = found(&["t"]);
    both.tables
        .insert(branch.clone(), (String::from("t/tree/dev/x"), 0));
    let now = Duration::from_secs(1);
    location.scanned(both, now);
    assert_eq!(location.jobs(now, MINUTE), [Job::Look(branch.clone())]);
    for (folder, target) in [("t/tree/dev/x", branch), ("t/tree/dev", target("t"))] {
        location.looking.clear();
        location.woken(folder);
        assert_eq!(location.jobs(now, MINUTE), [Job::Look(target)]);
    }
}

#[test]
fn a_publish_looks_at_what_it_moved() {
    let mut location = Location::new("lake", false);
    location.jobs(Duration::ZERO, MINUTE);
    location.opened(true, Vec::new());
    let all = [Job::Recover { force: false }, Job::Measure, Job::Scan];
    assert_eq!(location.jobs(Duration::ZERO, MINUTE), all);
    location.scanned(found(&["a", "b"]), Duration::ZERO);
    assert_eq!(location.jobs(Duration::ZERO, MINUTE).len(), 2);
    look(&mut location, "a", 0, Duration::ZERO);
    look(&mut location, "b", 0, Duration::ZERO);
    assert!(location.end_round().is_some());
    assert!(!location.is_settled(), "it was not recovered yet");
    location.recovered(0, false);
    assert!(location.is_settled());
    location.woken("_squire/commits.lance");
    assert_eq!(location.jobs(Duration::ZERO, MINUTE), []);
    location.woken("_squire/manifest.lance");
    assert_eq!(location.jobs(Duration::ZERO, MINUTE), [Job::Scan]);
    let mut moved = found(&["a", "b"]);
    moved.tables.insert(target("b"), ("b".to_owned(), 1));
    location.scanned(moved, Duration::ZERO);
    assert_eq!(
        location.jobs(Duration::ZERO, MINUTE),
        [Job::Look(target("b"))]
    );
}

#[test]
fn a_table_at_work_is_observed_and_left_alone() {
    let mut location = location("lake", &["t"]);
    let [item] = look(&mut location, "t", 20, MINUTE)
        .work
        .expect("decided")
        .try_into()
        .expect("work");
    location.started(&item);
    let TableStatus { phase, health, .. } = {
        let verdict = look(&mut location, "t", 30, MINUTE);
        assert!(verdict.work.is_none());
        verdict.status
    };
    assert_eq!((phase, health.fragments), (Phase::Running, 30));
    ended(&mut location, &item, Outcome::Effective, MINUTE);
    let again = location.jobs(MINUTE, MINUTE);
    assert!(again.contains(&Job::Look(target("t"))), "{again:?}");
    let due = look(&mut location, "t", 20, MINUTE);
    assert_eq!(
        (due.work.map(|w| w.len()), due.status.phase),
        (Some(1), Phase::Due)
    );
}

#[test]
fn what_changed_nothing_rests_and_is_looked_at_again_by_itself() {
    let mut location = location("lake", &["t"]);
    let [item] = look(&mut location, "t", 20, MINUTE)
        .work
        .expect("decided")
        .try_into()
        .expect("work");
    location.started(&item);
    ended(&mut location, &item, Outcome::Idle, MINUTE);
    let rests = look(&mut location, "t", 20, MINUTE);
    assert_eq!(
        (rests.work.map(|w| w.len()), rests.status.phase),
        (Some(0), Phase::Cooling)
    );
    location.ask(Compact, |_| true, &Config::default());
    let asked = look(&mut location, "t", 20, MINUTE).work.expect("decided");
    assert_eq!(asked[0].trigger, Trigger::Asked, "a person need not wait");
    location.started(&asked[0]);
    ended(&mut location, &item, Outcome::Idle, MINUTE);
    look(&mut location, "t", 20, MINUTE);
    location.to_look.clear();
    let rested = location.jobs(2 * MINUTE, MINUTE);
    assert!(rested.contains(&Job::Look(target("t"))), "{rested:?}");
}

/// It came out otherwise than what it should replace, and would again.
#[test]
fn an_unfit_compaction_is_told_once_and_rests_until_its_schema_changes_or_a_person_asks() {
    let mut location = location("lake", &["t"]);
    let fails = |location: &mut Location, verdict: Verdict| {
        let [item] = verdict.work.expect("decided").try_into().expect("work");
        location.started(&item);
        let lesson = Lesson {
            unfit: Some("rows are missing".into()),
            ..Lesson::default()
        };
        location.ended(&item, lesson, (MINUTE, MINUTE))
    };
    let rests = |verdict: Verdict| {
        assert_eq!(verdict.work.map(|work| work.len()), Some(0));
        assert_eq!(verdict.status.state, "quarantined");
        assert!(verdict.status.reason.contains("rows are missing"));
        assert!(verdict.kinds.contains(&(Compact, true, true)));
    };
    let due = look(&mut location, "t", 20, MINUTE);
    let told = fails(&mut location, due);
    assert_eq!(told, [(None, "rows are missing".to_owned())]);
    for minutes in 2..5 {
        rests(look(&mut location, "t", 20, minutes * MINUTE));
    }

    location.ask(Compact, |_| true, &Config::default());
    let asked = look(&mut location, "t", 20, MINUTE);
    assert_eq!(fails(&mut location, asked).len(), 1, "who asked is told");
    rests(look(&mut location, "t", 20, MINUTE));

    let changed = look_at(&mut location, "t", (20, 1), MINUTE);
    assert_eq!(changed.work.map(|work| work.len()), Some(1));
}

/// Another process resumes what this one noted: a restart rewrites nothing only to find it unfit again.
#[test]
fn what_is_unfit_rests_in_the_next_process_too() {
    let mut first = location("lake", &["t"]);
    let [item] = look(&mut first, "t", 20, MINUTE)
        .work
        .expect("decided")
        .try_into()
        .expect("work");
    first.started(&item);
    let lesson = Lesson {
        unfit: Some("rows are missing".into()),
        ..Lesson::default()
    };
    first.ended(&item, lesson, (MINUTE, MINUTE));
    let noted = |location: &mut Location| {
        let jobs = location.jobs(MINUTE, MINUTE);
        jobs.into_iter().find_map(|job| match job {
            Job::Note(unfit) => Some(unfit),
            _ => None,
        })
    };
    assert!(!first.is_quiet(), "it is to be noted");
    let unfit = noted(&mut first).expect("noted");
    assert_eq!(unfit.len(), 1);
    assert_eq!(noted(&mut first), None, "once");
    first.noted();

    let mut next = Location::new("lake", false);
    next.jobs(Duration::ZERO, MINUTE);
    next.opened(false, unfit);
    next.scanned(found(&["t"]), Duration::ZERO);
    let rests = look(&mut next, "t", 20, MINUTE);
    assert_eq!(rests.status.state, "quarantined");
    assert_eq!(rests.work.map(|work| work.len()), Some(0));
    assert_eq!(noted(&mut next), None, "nothing is new");
    look_at(&mut next, "t", (20, 1), MINUTE);
    assert_eq!(noted(&mut next), Some(Vec::new()), "its schema has changed");
}

/// A reload takes a location away, and another one is watched: it has tables of the same names.
#[test]
fn another_location_inherits_no_cooldown() {
    let mut failing = location("lake/a", &["t"]);
    for _ in 0..5 {
        failing.ask(Compact, |_| true, &Config::default());
        let work = look(&mut failing, "t", 20, MINUTE).work.expect("decided");
        failing.started(&work[0]);
        ended(&mut failing, &work[0], Outcome::Bad, MINUTE);
    }
    let rests = look(&mut failing, "t", 20, 5 * MINUTE);
    assert_eq!(rests.status.phase, Phase::Cooling);
    for uri in ["lake/b", "lake/a"] {
        let mut fresh = location(uri, &["t"]);
        let due = look(&mut fresh, "t", 20, 5 * MINUTE).work.expect("decided");
        assert_eq!(due[0].key.location, uri);
    }
}

#[test]
fn cleanup_is_regular_or_asked_for_and_never_of_a_broken_location() {
    let config = Config::default();
    let mut location = location("lake", &["a", "b"]);
    let (first, is_first) = location.regular_cleanups(MINUTE, &config, false);
    assert_eq!((first.len(), is_first), (2, true));
    let at = |minutes, short| (minutes * MINUTE, short);
    for ((now, short), cleanups) in [
        (at(2, false), 0),
        (at(12, false), 2),
        (at(13, false), 0),
        // While its disk is short of room.
        (at(13, true), 2),
        (at(13, true), 0),
        (at(14, true), 2),
    ] {
        let (items, is_first) = location.regular_cleanups(now, &config, short);
        assert_eq!(
            (items.len(), is_first),
            (cleanups, false),
            "{now:?} {short}"
        );
        let trigger = if short {
            Trigger::Room
        } else {
            Trigger::Regular
        };
        assert!(items.iter().all(|item| item.trigger == trigger));
    }
    let asked = location.ask(Cleanup, |t| *t == target("a"), &config);
    assert_eq!(asked[0].trigger, Trigger::Asked);
    let table = TableName::new("a").expect("a name");
    location
        .broken
        .entry(table)
        .or_default()
        .insert("I7", String::new());
    assert!(
        location
            .regular_cleanups(MINUTE * 60, &config, true)
            .0
            .is_empty()
    );
    assert!(location.ask(Cleanup, |_| true, &config).is_empty());
    assert!(!location.wants(&first[0].key.scope, Cleanup));
}
