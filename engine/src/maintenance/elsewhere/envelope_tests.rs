//! Envelopes and results made at random come back as they were; what is hostile is refused. A failure names the seed.

use super::super::outcome::{Made, Outcome};
use super::*;
use lance::dataset::optimize::{CompactionMetrics, RewriteResult};
use lance_table::format::Fragment;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use roaring::RoaringTreemap;
use serde_json::{Value, json};

const CASES: u64 = 500;

fn op(random: &mut StdRng) -> OpId {
    OpId::from_parts(random.random_range(0..1 << 40), random.random())
}

fn some<T>(random: &mut StdRng, of: impl FnOnce(&mut StdRng) -> T) -> Option<T> {
    let is = random.random_bool(0.5);
    is.then(|| of(random))
}

fn random_task(random: &mut StdRng) -> Task {
    let first: u64 = random.random_range(0..1 << 40);
    let mut next = first;
    let fragments = (0..random.random_range(1..200)).map(|_| {
        next += random.random_range(1..9);
        next
    });
    Task {
        fragments: fragments.collect(),
        bytes: random.random(),
        written: random.random(),
        outputs: random.random(),
        remapped: random.random(),
        touched: random.random(),
        target_rows: random.random(),
        widest_row: random.random(),
    }
}

fn random_envelope(random: &mut StdRng) -> Envelope {
    let name = || "flights".parse().expect("a name");
    Envelope {
        format: FORMAT,
        lance: lance_release(),
        location: match random.random_bool(0.5) {
            true => "/srv/lake".to_owned(),
            false => "s3://bucket/a lake/ü".to_owned(),
        },
        records: match random.random_bool(0.5) {
            true => RecordsAt::Store,
            false => RecordsAt::Beside,
        },
        table: some(random, |_| name()),
        path: "flights~01ARZ3.lance/tree/main".to_owned(),
        base: random.random(),
        read_version: random.random(),
        transaction: some(random, |r| format!("{:x}", r.random::<u64>())),
        e_tag: some(random, |r| format!("\"{:x}\"", r.random::<u64>())),
        run: op(random),
        attempt: op(random),
        task: random.random(),
        work: random_task(random),
        options: CompactionOptions {
            batch_size: some(random, |r| r.random_range(1..1 << 20)),
            max_bytes_per_file: some(random, |r| r.random_range(1..1 << 40)),
            materialize_deletions_threshold: random.random(),
            num_threads: Some(1),
            ..CompactionOptions::default()
        },
        verify: Verify::Full,
        memory: random.random(),
        bytes_per_second: some(random, |r| r.random()),
    }
}

fn random_outcome(random: &mut StdRng, of: &Envelope) -> Outcome {
    let addresses = |random: &mut StdRng| {
        let mut rows = RoaringTreemap::new();
        for _ in 0..random.random_range(0..50) {
            let first = random.random_range(0..u64::MAX >> 1);
            rows.insert_range(first..first + random.random_range(0..10_000));
        }
        let mut bytes = Vec::new();
        rows.serialize_into(&mut bytes).expect("memory");
        bytes
    };
    let made = match random.random_bool(0.9) {
        true => Made::Rewritten(RewriteResult {
            metrics: CompactionMetrics::default(),
            new_fragments: vec![Fragment::new(random.random_range(0..1 << 40))],
            read_version: of.read_version,
            original_fragments: of
                .work
                .fragments
                .iter()
                .map(|id| Fragment::new(*id))
                .collect(),
            row_addrs: some(random, addresses),
        }),
        false => Made::Unfit("its rows\nare too wide".to_owned()),
    };
    let attempt = of.attempt;
    Outcome { attempt, made }
}

#[test]
fn what_travels_comes_back_as_it_was() {
    for seed in 0..CASES {
        let random = &mut StdRng::seed_from_u64(seed);
        let envelope = random_envelope(random);
        let bytes = envelope.to_bytes().expect("JSON");
        let back = Envelope::parse(&bytes).expect("an envelope");
        assert_eq!(back, envelope, "seed {seed}");
        let outcome = random_outcome(random, &envelope);
        let bytes = outcome.to_bytes(&envelope).expect("bytes");
        let back = Outcome::parse(&bytes, &envelope).expect("an outcome");
        assert_eq!(back, outcome, "seed {seed}");
    }
}

#[test]
fn addresses_travel_as_a_bitmap() {
    let random = &mut StdRng::seed_from_u64(1);
    let envelope = random_envelope(random);
    let mut rows = RoaringTreemap::new();
    rows.insert_range(0..100_000_000);
    let mut bytes = Vec::new();
    rows.serialize_into(&mut bytes).expect("memory");
    let outcome = Outcome {
        attempt: envelope.attempt,
        made: Made::Rewritten(RewriteResult {
            metrics: CompactionMetrics::default(),
            new_fragments: Vec::new(),
            read_version: envelope.read_version,
            original_fragments: envelope
                .work
                .fragments
                .iter()
                .map(|id| Fragment::new(*id))
                .collect(),
            row_addrs: Some(bytes),
        }),
    };
    let all = outcome.to_bytes(&envelope).expect("bytes").len();
    assert!(all < 64 << 10, "{all} bytes for a hundred million rows");
}

/// Whatever is cut off is refused, as what it is; nothing of it panics.
#[test]
fn what_is_cut_off_or_damaged_is_refused() {
    for seed in 0..20 {
        let random = &mut StdRng::seed_from_u64(seed);
        let envelope = random_envelope(random);
        let bytes = envelope.to_bytes().expect("JSON");
        for end in 0..bytes.len() {
            let cut = Envelope::parse(&bytes[..end]).map_err(|e| e.kind());
            assert_eq!(
                cut,
                Err(ErrorKind::InvalidInput),
                "seed {seed}, cut at {end}"
            );
        }
        let outcome = random_outcome(random, &envelope);
        let bytes = outcome.to_bytes(&envelope).expect("bytes");
        for end in (0..bytes.len()).step_by(7) {
            let cut = Outcome::parse(&bytes[..end], &envelope);
            assert!(cut.is_err(), "seed {seed}, cut at {end}");
        }
        let other = Envelope {
            task: envelope.task.wrapping_add(1),
            ..envelope.clone()
        };
        assert!(Outcome::parse(&bytes, &other).is_err(), "another task's");
        for _ in 0..200 {
            let mut damaged = bytes.clone();
            let at = random.random_range(0..damaged.len());
            damaged[at] = random.random();
            Outcome::parse(&damaged, &envelope).ok();
        }
    }
}

/// `envelope` with one change, and how it is refused.
fn refused(change: impl FnOnce(&mut Value)) -> (ErrorKind, String) {
    let envelope = random_envelope(&mut StdRng::seed_from_u64(7));
    let mut value = serde_json::to_value(&envelope).expect("JSON");
    change(&mut value);
    let bytes = serde_json::to_vec(&value).expect("JSON");
    let e = Envelope::parse(&bytes).expect_err("a hostile envelope");
    (e.kind(), e.to_string())
}

#[test]
fn what_another_release_wrote_is_refused() {
    let (kind, told) = refused(|v| v["format"] = json!(FORMAT + 1));
    assert_eq!(kind, ErrorKind::FormatTooNew);
    assert!(told.contains("upgrade squire"), "{told}");
    let (kind, told) = refused(|v| v["lance"] = json!("99.0.0"));
    assert_eq!(kind, ErrorKind::Refused);
    assert!(
        told.contains("99.0.0") && told.contains("same release"),
        "{told}"
    );
    // A newer format may have no field that is known here.
    let newer = Envelope::parse(br#"{"format":9,"what":"ever"}"#).map_err(|e| e.kind());
    assert_eq!(newer, Err(ErrorKind::FormatTooNew));
}

#[test]
fn what_is_not_known_is_refused() {
    for field in ["shell", "commit"] {
        let (kind, told) = refused(|v| v[field] = json!(true));
        assert_eq!(kind, ErrorKind::InvalidInput, "{told}");
    }
    let (kind, told) = refused(|v| v["work"]["more"] = json!(1));
    assert_eq!(kind, ErrorKind::InvalidInput, "{told}");
    let (kind, told) = refused(|v| v["options"]["defer_everything"] = json!(true));
    assert_eq!(kind, ErrorKind::InvalidInput);
    assert!(told.contains("options"), "{told}");
    let (kind, _) = refused(|v| v["work"]["fragments"] = json!([]));
    assert_eq!(kind, ErrorKind::InvalidInput);
    let (kind, _) = refused(|v| v["work"]["fragments"] = json!([1, 1]));
    assert_eq!(kind, ErrorKind::InvalidInput);
    for path in ["", "/etc", "../other.lance", "a/../../b", "a//b"] {
        let (kind, told) = refused(|v| v["path"] = json!(path));
        assert_eq!(kind, ErrorKind::InvalidInput, "{path}: {told}");
    }
}

#[test]
fn a_secret_in_a_location_is_refused_and_not_told() {
    for location in [
        "s3://KEYID:hunter2secret@bucket/lake",
        "https://user:hunter2secret@host/lake",
        "lake?sig=hunter2secret",
        "relative/hunter2secret",
    ] {
        let (kind, told) = refused(|v| v["location"] = json!(location));
        assert_eq!(kind, ErrorKind::InvalidInput, "{location}: {told}");
        assert!(!told.contains("hunter2secret"), "{told}");
    }
    // Where a field is of another type, serde would quote it.
    let (_, told) = refused(|v| v["memory"] = json!("hunter2secret"));
    assert!(!told.contains("hunter2secret"), "{told}");
}
