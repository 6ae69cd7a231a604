use super::*;
use crate::config::Config;
use squire_engine::maintenance::PastIndex;

const MINUTE: u64 = 60_000;
/// A Thursday at noon, UTC.
const NOON: u64 = 1_767_268_800_000;

fn fragment(id: u64, rows: u64) -> FragmentFacts {
    FragmentFacts {
        id,
        rows,
        bytes: rows * 10,
        ..FragmentFacts::default()
    }
}

fn version(version: u64, change: Change) -> PastVersion {
    PastVersion {
        version,
        at_ms: NOON + version * MINUTE,
        change,
        is_ours: change != Change::Written,
        added: Vec::new(),
        removed: Vec::new(),
        changed: Vec::new(),
        indexes: Vec::new(),
    }
}

/// A fragment of 100 rows a minute; version 1 is empty.
fn appends(versions: u64) -> Vec<PastVersion> {
    let append = |v: u64| PastVersion {
        added: (v > 1).then(|| fragment(v, 100)).into_iter().collect(),
        ..version(v, Change::Written)
    };
    (1..=versions).map(append).collect()
}

fn played(text: &str, versions: Vec<PastVersion>, until: u64) -> Replayed {
    let config = Config::parse(text, "squire.toml").expect("a configuration");
    let policy = config.policy_for("t");
    let past = Past {
        bounds: crate::decide::planning::bounds(&policy),
        stored: versions.len() as u64,
        versions,
    };
    let keeping = Keeping {
        policy: &policy,
        cleanup_every: Duration::from_secs(600),
        managed: true,
    };
    replay(&past, &keeping, NOON + until * MINUTE).expect("versions")
}

fn at(run: &Run) -> (u64, u64, u64) {
    (run.version, run.fragments, run.became)
}

#[test]
fn a_threshold_is_met_where_users_met_it() {
    let replayed = played("", appends(41), 41);
    let runs: Vec<_> = replayed.policy.runs.iter().map(at).collect();
    // The first rewrite gives a fragment that is larger than all that come; it waits until they have grown.
    assert_eq!(runs[0], (17, 16, 1), "{runs:?}");
    assert_eq!(replayed.policy.runs[0].bytes, 16_000);
    let why = replayed.policy.runs[0].reason.as_deref();
    assert_eq!(why, Some("16 candidate fragments, threshold 16"));
    assert_eq!(replayed.happened.compactions, 0);
    assert_eq!(replayed.happened.fragments_now, 40);
    assert!(replayed.policy.fragments_most <= 16, "{replayed:?}");
    assert!(replayed.policy.fragments_mean < replayed.happened.fragments_mean / 2.0);
    assert_eq!(replayed.bytes_written, 40_000);
    let lazy = played(
        "[policy]\nmin_candidate_fragments = 1000\n",
        appends(41),
        41,
    );
    assert_eq!(lazy.policy.runs, []);
    assert_eq!(lazy.policy.fragments_mean, lazy.happened.fragments_mean);
}

#[test]
fn what_happened_is_told_and_does_not_happen_to_the_policy() {
    let mut versions = appends(9);
    let mut rewrite = version(10, Change::Rewritten);
    rewrite.removed = (2..=9).collect();
    rewrite.added = vec![fragment(20, 800)];
    versions.push(rewrite);
    let mut deletion = version(11, Change::Written);
    deletion.changed = vec![FragmentFacts {
        deleted: 400,
        ..fragment(20, 800)
    }];
    versions.push(deletion);
    let replayed = played("[policy]\nmax_deleted_ratio = 1\n", versions, 20);
    let happened: Vec<_> = replayed.happened.runs.iter().map(at).collect();
    assert_eq!(happened, [(10, 8, 1)]);
    assert_eq!(replayed.happened.bytes_rewritten, 8_000);
    assert_eq!(
        (
            replayed.happened.fragments_now,
            replayed.policy.fragments_now
        ),
        (1, 8)
    );
    // Half of all rows are gone, and scanned, for nine of the twenty minutes.
    let read = (
        replayed.happened.read_amplification,
        replayed.policy.read_amplification,
    );
    assert!(read.0 > 1.2 && (read.0 - read.1).abs() < 1e-9, "{read:?}");
    assert_eq!(
        replayed.bytes_written, 8_000,
        "a rewrite writes nothing of users"
    );
}

#[test]
fn an_index_is_extended_when_it_is_too_old_although_nobody_writes() {
    let mut versions = appends(3);
    let index = |unindexed_rows: u64| PastIndex {
        name: "i".into(),
        built_ms: Some(NOON + MINUTE),
        unindexed_rows,
        uncovered: Vec::new(),
    };
    versions[0].added = vec![fragment(1, 1_000_000)];
    for (at, version) in versions.iter_mut().enumerate() {
        version.indexes = vec![index(at as u64 * 100)];
    }
    let replayed = played("[policy]\nmax_index_age = \"30m\"\n", versions.clone(), 90);
    let runs = &replayed.policy.runs;
    assert_eq!(runs.len(), 1, "{runs:?}");
    assert_eq!(
        (runs[0].kind, runs[0].at_ms),
        (OperationKind::Reindex, NOON + 31 * MINUTE)
    );
    assert!(replayed.policy.unindexed_mean < replayed.happened.unindexed_mean / 2.0);
    // Outside of its window it waits for the next one, at two.
    let windowed = "[policy]\nmax_index_age = \"30m\"\nwindows = [\"14:00-15:00\"]\n";
    let replayed = played(windowed, versions, 180);
    let at: Vec<u64> = replayed
        .policy
        .runs
        .iter()
        .map(|r| (r.at_ms - NOON) / MINUTE)
        .collect();
    assert_eq!(at, [120]);
}

#[test]
fn versions_are_kept_as_long_as_the_policy_says() {
    let text = "[policy]\nretention = \"1h\"\nmin_versions = 5\nmin_candidate_fragments = 1000\n";
    let replayed = played(text, appends(100), 100);
    let kept = replayed.policy.versions_now;
    assert!(
        (60..=71).contains(&kept),
        "an hour and a round of cleanups: {kept}"
    );
    assert_eq!(played(text, appends(100), 1_000).policy.versions_now, 5);
    let never = format!("{text}cleanup.enabled = false\n");
    assert_eq!(played(&never, appends(100), 1_000).policy.versions_now, 100);
}
