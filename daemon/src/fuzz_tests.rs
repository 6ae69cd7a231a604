//! The seeds of fuzzing, which `make fuzz` asks for.

use std::ops::Range;

/// One seed for each case: `SQUIRE_FUZZ_CASES` of them from `SQUIRE_FUZZ_SEED` on, or as many as are usual here.
pub(crate) fn seeds(first: u64, cases: u64) -> Range<u64> {
    let asked = |name: &str, usual: u64| {
        std::env::var(name).map_or(usual, |text| text.parse().expect(name))
    };
    let first = asked("SQUIRE_FUZZ_SEED", first);
    first..first + asked("SQUIRE_FUZZ_CASES", cases)
}
