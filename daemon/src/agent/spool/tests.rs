//! Races, crashes at each step (a crash is a dropped claim: the kernel frees the lock in the same way), and bad input.

use std::{
    collections::BTreeSet,
    sync::Barrier,
    time::{Duration, SystemTime},
};

use tempfile::TempDir;

use super::*;

fn op(number: u64) -> Ulid {
    Ulid::from_parts(number, 7)
}

fn spool() -> (TempDir, Spool) {
    let root = TempDir::new().unwrap();
    let spool = Spool::open(root.path()).unwrap();
    (root, spool)
}

fn put(spool: &Spool, name: &str) {
    fs::write(spool.incoming.join(name), name).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    names_in(dir)
        .unwrap()
        .iter()
        .map(|name| name.to_str().unwrap().to_owned())
        .collect()
}

/// Takes over every claim that nobody holds.
fn resume_all(spool: &Spool) -> Vec<Claim> {
    let claims = spool.claims().unwrap();
    claims
        .into_iter()
        .filter_map(|found| spool.resume(found.operation).unwrap())
        .collect()
}

fn listed(spool: &Spool) -> usize {
    spool.list_incoming().unwrap().entries.len()
}

fn claim(spool: &Spool, operation: Ulid, entries: &[&str]) -> Claim {
    spool.claim(operation, entries).unwrap().claim.unwrap()
}

#[test]
fn an_entry_goes_from_incoming_to_done() {
    let (_root, spool) = spool();
    put(&spool, "b.2.csv");
    put(&spool, "a.1.csv");
    fs::create_dir(spool.incoming.join("c")).unwrap();
    for ignored in [".hidden.csv", "d.csv.tmp", "e.csv.part"] {
        put(&spool, ignored);
    }
    // Being written inside; and what is no input by its name.
    fs::create_dir(spool.incoming.join("d")).unwrap();
    put(&spool, "d/t.csv.partial");
    put(&spool, "notes.txt");
    let listing = spool.list_incoming().unwrap();
    let listed_names: Vec<_> = listing.entries.iter().map(|entry| &entry.name).collect();
    assert_eq!(listed_names, ["a.1.csv", "b.2.csv", "c"]);
    let ignored: Vec<_> = listing.ignored.iter().map(|(_, named)| *named).collect();
    let unfinished = Named::Unfinished;
    assert_eq!(
        ignored,
        [
            unfinished,
            unfinished,
            unfinished,
            unfinished,
            Named::Unknown
        ]
    );
    let claim = claim(&spool, op(1), &["c", "a.1.csv"]);
    assert_eq!(claim.entries(), ["a.1.csv", "c"]);
    assert_eq!(
        fs::read(claim.path(OsStr::new("a.1.csv"))).unwrap(),
        b"a.1.csv"
    );
    assert_eq!(listed(&spool), 1);
    spool.finish(claim).unwrap();
    assert_eq!(names(&spool.done), ["a.1.csv", "c"]);
    assert!(names(&spool.claimed).is_empty());
    assert!(
        Spool::open(_root.path()).is_ok(),
        "opening again changes nothing"
    );
}

#[test]
fn age_is_that_of_the_oldest_and_never_negative() {
    let (_root, spool) = spool();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
    let oldest_age = |now| spool.list_incoming().unwrap().oldest_age(now);
    assert_eq!(oldest_age(now), None);
    for (name, second) in [("a.csv", 400), ("b.csv", 900)] {
        put(&spool, name);
        let file = File::options()
            .write(true)
            .open(spool.incoming.join(name))
            .unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(second))
            .unwrap();
    }
    assert_eq!(oldest_age(now), Some(Duration::from_secs(600)));
    assert_eq!(oldest_age(SystemTime::UNIX_EPOCH), Some(Duration::ZERO));
}

#[test]
fn racing_claimers_take_each_entry_once() {
    const ENTRIES: usize = 60;
    const CLAIMERS: u64 = 4;
    let (root, spool) = spool();
    let all: Vec<String> = (0..ENTRIES)
        .map(|number| format!("t.{number:03}.csv"))
        .collect();
    all.iter().for_each(|name| put(&spool, name));
    let start = Barrier::new(usize::try_from(CLAIMERS).unwrap());
    let won: Vec<OsString> = thread::scope(|scope| {
        let claimers: Vec<_> = (0..CLAIMERS)
            .map(|claimer| {
                let (root, start) = (root.path(), &start);
                scope.spawn(move || {
                    let spool = Spool::open(root).unwrap();
                    let mut won = Vec::new();
                    start.wait();
                    for round in 0.. {
                        let listed = spool.list_incoming().unwrap().entries;
                        if listed.is_empty() {
                            return won;
                        }
                        let names: Vec<OsString> =
                            listed.into_iter().take(5).map(|entry| entry.name).collect();
                        let claimed = spool
                            .claim(op(1 + claimer * 10_000 + round), &names)
                            .unwrap();
                        assert!(claimed.refused.is_empty());
                        // Nobody else's live claim can be taken, and an empty one of theirs is not broken by sweeping.
                        assert!(resume_all(&spool).is_empty());
                        if let Some(claim) = claimed.claim {
                            won.extend(claim.entries().to_vec());
                            spool.finish(claim).unwrap();
                        }
                    }
                    won
                })
            })
            .collect();
        claimers
            .into_iter()
            .flat_map(|claimer| claimer.join().unwrap())
            .collect()
    });
    assert_eq!(won.len(), ENTRIES, "none twice");
    assert_eq!(
        won.iter().collect::<BTreeSet<_>>().len(),
        ENTRIES,
        "all of them"
    );
    assert_eq!(names(&spool.done), all);
    assert!(names(&spool.claimed).is_empty());
}

#[test]
fn a_live_claim_is_kept_and_a_dead_one_resumed_once() {
    let (root, spool) = spool();
    put(&spool, "a.csv");
    let other = Spool::open(root.path()).unwrap();
    let owned = claim(&spool, op(1), &["a.csv"]);
    assert!(resume_all(&other).is_empty());
    drop(owned);
    let mut resumed = resume_all(&other);
    assert_eq!(resumed.len(), 1);
    assert!(resume_all(&spool).is_empty(), "it has an owner again");
    let resumed = resumed.remove(0);
    assert_eq!(
        (resumed.operation(), resumed.entries()),
        (op(1), &[OsString::from("a.csv")][..])
    );
    other.finish(resumed).unwrap();
    assert_eq!(names(&spool.done), ["a.csv"]);
}

/// What an input that kills its agent is known by; whoever waits or stops is no such.
#[test]
fn attempts_that_nobody_ended_are_counted_in_the_claim() {
    let (_root, spool) = spool();
    put(&spool, "a.csv");
    let taken = claim(&spool, op(1), &["a.csv"]);
    assert_eq!(taken.unanswered(), 1, "the claim is the first attempt");
    drop(taken);
    for dead in 1..=3 {
        let mut taken = resume_all(&spool).remove(0);
        assert_eq!(taken.unanswered(), dead);
        spool.begin(&mut taken).unwrap();
        spool
            .retry_as(&mut taken, op(10 + u64::from(dead)))
            .unwrap();
    }
    let mut taken = resume_all(&spool).remove(0);
    spool.answered(&mut taken).unwrap();
    drop(taken);
    // A record that a crash left half, or that somebody edited, is none.
    let mut taken = resume_all(&spool).remove(0);
    assert_eq!(taken.unanswered(), 0);
    fs::write(taken.dir.join(ATTEMPTS_FILE), "many").unwrap();
    fs::write(taken.dir.join(ATTEMPTS_TEMPORARY), "").unwrap();
    assert_eq!(attempts::read(&taken.dir), 1);
    spool.begin(&mut taken).unwrap();
    spool.finish(taken).unwrap();
    assert!(names(&spool.claimed).is_empty(), "nothing of it is left");
}

#[test]
fn the_lock_moves_with_a_retry() {
    let (_root, spool) = spool();
    put(&spool, "a.csv");
    let mut owned = claim(&spool, op(1), &["a.csv"]);
    spool.retry_as(&mut owned, op(2)).unwrap();
    assert_eq!(names(&spool.claimed), [op(2).to_string()]);
    assert!(resume_all(&spool).is_empty());
    put(&spool, "b.csv");
    let mut second = claim(&spool, op(3), &["b.csv"]);
    assert!(matches!(
        spool.retry_as(&mut second, op(2)),
        Err(SpoolError::ClaimExists { .. })
    ));
    drop(owned);
    let resumed = resume_all(&spool);
    assert_eq!((resumed.len(), resumed[0].operation()), (1, op(2)));
}

/// Nobody has died over what was parted, and a crash in between leaves two claims.
#[test]
fn parts_are_claims_of_their_own_that_nobody_has_begun() {
    let (_root, spool) = spool();
    for name in ["a.csv", "b.csv", "c.csv"] {
        put(&spool, name);
    }
    let mut group = claim(&spool, op(1), &["a.csv", "b.csv", "c.csv"]);
    spool.begin(&mut group).unwrap();
    let names = ["c.csv", "a.csv"].map(OsString::from);
    let part = spool.part(&mut group, &names, op(2)).unwrap();
    assert_eq!(
        (part.entries(), part.unanswered()),
        (&["a.csv", "c.csv"].map(OsString::from)[..], 0)
    );
    assert_eq!(
        (group.entries(), group.unanswered()),
        (&[OsString::from("b.csv")][..], 2)
    );
    let gone = spool.part(&mut group, &names, op(3));
    assert!(matches!(gone, Err(SpoolError::NoSuchEntry { .. })));
    drop((group, part));
    let resumed = resume_all(&spool);
    let counts: Vec<u32> = resumed.iter().map(Claim::unanswered).collect();
    assert_eq!(counts, [2, 0]);
    for claim in resumed {
        spool.finish(claim).unwrap();
    }
    assert!(names_in(&spool.claimed).unwrap().is_empty());
}

#[test]
fn a_lock_on_a_claim_that_has_moved_away_is_worth_nothing() {
    let (_root, spool) = spool();
    put(&spool, "a.csv");
    let mut owned = claim(&spool, op(1), &["a.csv"]);
    let old_dir = owned.dir.clone();
    // What a scanner does that opened the file just before the rename: its path is gone, so it must not even make a new one.
    spool.retry_as(&mut owned, op(2)).unwrap();
    assert!(lock_claim(&old_dir).unwrap().is_none());
    // And one whose file was replaced while it slept between open and lock.
    let late = File::open(owned.dir.join(LOCK_FILE)).unwrap();
    fs::remove_file(owned.dir.join(LOCK_FILE)).unwrap();
    assert!(
        lock_claim(&owned.dir).unwrap().is_some(),
        "the path's own file is free"
    );
    drop(owned);
    assert!(
        late.try_lock().is_ok(),
        "its lock is free, but is not the one at the path any more"
    );
}

#[test]
fn crashes_before_and_after_the_entries_leave_no_trace() {
    let (_root, spool) = spool();
    fs::create_dir(spool.claimed.join(op(1).to_string())).unwrap();
    fs::create_dir(spool.claimed.join(op(2).to_string())).unwrap();
    fs::write(spool.claimed.join(op(2).to_string()).join(LOCK_FILE), "").unwrap();
    fs::create_dir(spool.claimed.join("not an operation")).unwrap();
    assert!(resume_all(&spool).is_empty());
    assert_eq!(names(&spool.claimed), ["not an operation"]);
}

#[test]
fn a_damaged_claim_is_an_error_of_its_own() {
    let (_root, spool) = spool();
    put(&spool, "a.csv");
    drop(claim(&spool, op(2), &["a.csv"]));
    fs::write(spool.claimed.join(op(1).to_string()), "").unwrap();
    let locked = spool.claimed.join(op(3).to_string()).join(LOCK_FILE);
    fs::create_dir_all(locked).unwrap();
    let mut found = spool.claims().unwrap();
    assert_eq!(found.len(), 3);
    let (file, lock) = (found.remove(0), found.pop().unwrap());
    let error = file.entries.unwrap_err().to_string();
    assert!(error.contains(&op(1).to_string()), "{error}");
    assert!(spool.resume(lock.operation).is_err());
    let sound = spool.resume(found[0].operation).unwrap().unwrap();
    assert_eq!(spool.finish(sound).unwrap(), [spool.done.join("a.csv")]);
}

/// A reason in words and as a record.
fn said(why: &str) -> [String; 2] {
    [why.to_owned(), format!("{{\"why\":{why:?}}}")]
}

#[test]
fn a_move_that_fails_leaves_no_name_behind() {
    let (_root, spool) = spool();
    put(&spool, "a.csv");
    let mut owned = claim(&spool, op(1), &["a.csv"]);
    let (from, entry) = (owned.path(OsStr::new("a.csv")), OsStr::new("a.csv"));
    // A directory in place of the file, which a rename cannot put over the name that was reserved for a file.
    let swap = |_: &Path| {
        fs::remove_file(&from).unwrap();
        fs::create_dir(&from).unwrap();
        said("bad")
    };
    assert!(spool.reject(&mut owned, entry, swap).is_err());
    assert!(names(&spool.rejected).is_empty());
    assert_eq!(owned.entries(), ["a.csv"], "it is still claimed");
    spool.reject(&mut owned, entry, |_| said("bad")).unwrap();
    let rejected = ["a.csv", "a.csv.reason.json", "a.csv.reason.txt"];
    assert_eq!(names(&spool.rejected), rejected);
}

/// Another agent may take it over, so that the claim says it.
#[test]
fn a_claim_tells_that_its_files_changed() {
    let (_root, spool) = spool();
    put(&spool, "a.csv");
    let mut owned = claim(&spool, op(1), &["a.csv"]);
    assert!(!owned.changed());
    spool.tell_changed(&mut owned).unwrap();
    spool.retry_as(&mut owned, op(2)).unwrap();
    drop(owned);
    let resumed = resume_all(&spool).remove(0);
    assert!(resumed.changed() && resumed.entries() == ["a.csv"]);
    spool.finish(resumed).unwrap();
    assert!(names(&spool.claimed).is_empty(), "nothing of it is left");
}

#[test]
fn a_crash_inside_finish_is_finished_by_the_next_owner() {
    let (_root, spool) = spool();
    put(&spool, "a.csv");
    put(&spool, "b.csv");
    let owned = claim(&spool, op(1), &["a.csv", "b.csv"]);
    move_to_free_name(
        &owned.path(OsStr::new("a.csv")),
        &spool.done,
        OsStr::new("a.csv"),
        op(1),
    )
    .unwrap();
    reserve(
        &owned.path(OsStr::new("b.csv")),
        &spool.done,
        OsStr::new("b.csv"),
        op(1),
        &[],
    )
    .unwrap();
    drop(owned);
    let resumed = resume_all(&spool).remove(0);
    assert_eq!(resumed.entries(), ["b.csv"]);
    spool.finish(resumed).unwrap();
    let kept = format!("b.csv~{}", op(1));
    assert_eq!(names(&spool.done), ["a.csv", "b.csv", &kept]);
    assert_eq!(fs::read(spool.done.join(kept)).unwrap(), b"b.csv");
}

#[test]
fn names_in_done_and_rejected_are_never_overwritten() {
    let (_root, spool) = spool();
    for round in 1..=2 {
        put(&spool, "a.csv");
        fs::create_dir(spool.incoming.join("batch")).unwrap();
        fs::write(spool.incoming.join("batch/t.csv"), round.to_string()).unwrap();
        spool
            .finish(claim(&spool, op(round), &["a.csv", "batch"]))
            .unwrap();
    }
    let second = op(2);
    assert_eq!(
        names(&spool.done),
        [
            "a.csv".into(),
            format!("a.csv~{second}"),
            "batch".into(),
            format!("batch~{second}")
        ]
    );
    assert_eq!(fs::read(spool.done.join("batch/t.csv")).unwrap(), b"1");
}

#[test]
fn a_rejected_entry_has_its_reason_and_the_others_stay() {
    let (_root, spool) = spool();
    for round in 1..=2 {
        put(&spool, "bad.csv");
        put(&spool, "good.csv");
        let mut owned = claim(&spool, op(round), &["bad.csv", "good.csv"]);
        let bad = OsStr::new("bad.csv");
        let path = spool
            .reject(&mut owned, bad, |to| {
                assert!(to.starts_with(&spool.rejected));
                said(&format!("reason {round}"))
            })
            .unwrap();
        assert!(path.starts_with(&spool.rejected));
        assert_eq!(owned.entries(), ["good.csv"]);
        assert!(matches!(
            spool.reject(&mut owned, bad, |_| said("again")),
            Err(SpoolError::NoSuchEntry { .. })
        ));
        spool.finish(owned).unwrap();
    }
    let again = format!("bad.csv~{}", op(2));
    assert_eq!(
        names(&spool.rejected),
        [
            "bad.csv",
            "bad.csv.reason.json",
            "bad.csv.reason.txt",
            &again,
            &format!("{again}.reason.json"),
            &format!("{again}.reason.txt")
        ]
    );
    assert_eq!(
        fs::read_to_string(spool.rejected.join("bad.csv.reason.txt")).unwrap(),
        "reason 1\n"
    );
    assert_eq!(
        fs::read_to_string(spool.rejected.join("bad.csv.reason.json")).unwrap(),
        "{\"why\":\"reason 1\"}\n"
    );
}

#[test]
fn a_reason_does_not_overwrite_an_entry_of_that_name_and_long_names_are_cut() {
    let (_root, spool) = spool();
    put(&spool, "a.csv.reason.txt");
    put(&spool, "a.csv");
    let long = "x".repeat(255);
    put(&spool, &long);
    let mut owned = claim(&spool, op(1), &["a.csv", "a.csv.reason.txt", &long]);
    spool
        .reject(&mut owned, OsStr::new("a.csv.reason.txt"), |_| {
            said("not a format")
        })
        .unwrap();
    let path = spool
        .reject(&mut owned, OsStr::new("a.csv"), |_| said("bad"))
        .unwrap();
    assert_eq!(path, spool.rejected.join(format!("a.csv~{}", op(1))));
    assert_eq!(
        fs::read(spool.rejected.join("a.csv.reason.txt")).unwrap(),
        b"a.csv.reason.txt"
    );
    spool
        .reject(&mut owned, OsStr::new(&long), |_| said("too long"))
        .unwrap();
    spool.finish(owned).unwrap();
    assert!(names(&spool.claimed).is_empty());
}

#[test]
fn bad_names_and_used_operations_are_refused() {
    let (_root, spool) = spool();
    for name in ["", ".", "..", "a/b", "/a", "../a", ".lock", "a/"] {
        assert!(
            matches!(
                spool.claim(op(1), &[name]),
                Err(SpoolError::NoSuchEntry { .. })
            ),
            "{name}"
        );
    }
    assert!(spool.claim(op(1), &["gone.csv"]).unwrap().claim.is_none());
    assert!(
        names(&spool.claimed).is_empty(),
        "nothing won, nothing left"
    );
    put(&spool, "a.csv");
    put(&spool, "b.csv");
    let owned = claim(&spool, op(1), &["a.csv"]);
    assert!(matches!(
        spool.claim(op(1), &["b.csv"]),
        Err(SpoolError::ClaimExists { .. })
    ));
    drop(owned);
    assert!(
        matches!(
            spool.claim(op(1), &["b.csv"]),
            Err(SpoolError::ClaimExists { .. })
        ),
        "dead, but not empty"
    );
    assert_eq!(listed(&spool), 1);
}

#[test]
fn a_group_ends_where_another_agent_is_at_work() {
    let (_root, spool) = spool();
    let all = ["a.csv", "b.csv", "c.csv", "d.csv"];
    all.iter().for_each(|name| put(&spool, name));
    let other = claim(&spool, op(1), &["b.csv"]);
    let claimed = spool.claim(op(2), &all).unwrap();
    assert!(claimed.overtaken && claimed.refused.is_empty());
    let own = claimed.claim.unwrap();
    assert_eq!(own.entries(), ["a.csv"]);
    assert_eq!(listed(&spool), 2, "what follows is left to the other one");
    let behind = spool.claim(op(3), &all[1..]).unwrap();
    assert!(behind.overtaken && behind.claim.is_none());
    assert_eq!(names(&spool.claimed).len(), 2, "nothing is made for it");
    let next = spool.claim(op(3), &all[2..]).unwrap();
    assert!(!next.overtaken);
    assert_eq!(next.claim.unwrap().entries(), &all[2..]);
    drop((own, other));
}

#[test]
fn a_file_in_the_way_of_a_directory_says_so() {
    let root = TempDir::new().unwrap();
    fs::write(root.path().join("claimed"), "").unwrap();
    let message = Spool::open(root.path()).unwrap_err().to_string();
    assert!(
        message.contains("cannot create") && message.contains("claimed"),
        "{message}"
    );
}
