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
                meter.begin("reading".to_owned(), slice::from_ref(&input));
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
    meter.begin(String::new(), &[Input::stdin()]);
    assert_eq!(meter.now().total, None);
}
