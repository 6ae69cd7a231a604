//! What a meter counts: the bytes of an input as they lie there, and those of each reading anew.

use std::{fs, slice};

use super::{Files, InputLimits, compressed::packed, good::good, schema_of};
use crate::formats::{Input, Meter, Reading, source::HEAD_BYTES};

#[test]
fn a_meter_counts_an_input_as_far_as_it_is_read() {
    let (files, limits) = (Files::new(), InputLimits::default());
    for (extension, bytes) in good().iter().filter(|(name, _)| *name != "json") {
        for packing in ["", ".gz", ".zst", ".bz2"] {
            let name = format!("t.{extension}{packing}");
            let path = files.0.path().join(&name);
            let bytes = match packing.strip_prefix('.') {
                Some(packing) => packed(packing, bytes),
                None => bytes.clone(),
            };
            fs::write(&path, &bytes).unwrap();
            let schema = schema_of(&path).unwrap();
            let (meter, length) = (Meter::default(), bytes.len() as u64);
            let input = Input::file(&path).metered(&meter);
            for reading in 1..3 {
                meter.begin("reading", slice::from_ref(&input));
                let exactly = Reading::exactly(&schema);
                crate::formats::read(&input, Some(&exactly), &limits).unwrap();
                let now = meter.now();
                assert_eq!((now.number, now.total), (reading, Some(length)), "{name}");
                // Of what is read where it lies, the first bytes are looked at before.
                let twice = now.bytes.checked_sub(length);
                assert!(
                    twice.is_some_and(|twice| twice <= HEAD_BYTES),
                    "{name}: {now:?}"
                );
            }
        }
    }
    // Nobody knows how much comes through a pipe.
    let meter = Meter::default();
    meter.begin("", &[Input::stdin()]);
    assert_eq!(meter.now().total, None);
}

#[test]
fn what_is_read_for_several_tables_at_once_is_one_reading() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: usize| {
        let path = dir.path().join(name);
        fs::write(&path, vec![b'x'; bytes]).unwrap();
        [Input::file(path)]
    };
    let (all, a, b) = (Meter::default(), file("a", 300), file("b", 100));
    let (of_a, of_b) = (all.of("a"), all.of("b"));
    of_a.begin_beside("writing", &a);
    of_a.bytes(100);
    let first = all.now();
    assert_eq!(
        (first.doing.as_str(), first.total),
        ("writing a", Some(300))
    );
    of_b.begin_beside("writing", &b);
    of_b.bytes(500);
    of_b.rows(7);
    let both = all.now();
    assert_eq!(both.doing, "writing 2 tables");
    assert_eq!((both.number, both.total), (first.number + 1, Some(400)));
    assert_eq!((both.bytes, both.before, both.rows), (200, 100, 7));
    // One that begins again begins at nothing, and the other goes on.
    of_a.begin_beside("checking", &a);
    let again = all.now();
    assert_eq!(again.doing, "checking and writing 2 tables");
    assert_eq!((again.total, again.bytes), (Some(400), 100));
    all.rest("committing");
    of_b.bytes(1);
    let rest = all.now();
    assert_eq!((rest.doing.as_str(), rest.total), ("committing", Some(0)));
    assert_eq!(rest.bytes, 0);
    of_b.begin_beside("checking", &b);
    assert_eq!(all.now().doing, "checking b");
}
