//! How an index grows: which of its segments an extension merges with the new rows. Pure.
//!
//! To rewrite an index whole for every batch of rows costs its size each time; to merge nothing leaves one segment for each batch, and every
//! query searches all of them. In between are tiers: what was written is written again only with about as much that is new, so each
//! byte moves a logarithmic number of times, and each segment is more than twice as large as what came after it.

/// Segments of an index after an extension, at most: every query opens and searches each.
pub(super) const MOST: usize = 8;

/// A segment stays as it is when it is more than so many times as large as all that would be merged into it.
const APART: u64 = 2;

/// How many of the newest segments, given `newest_first` by their bytes, become one with about `added` bytes of new rows. 0 leaves
/// them all as they are, and all of them are taken where that makes no more than `whole` bytes.
pub(super) fn merges(newest_first: &[u64], added: u64, whole: u64) -> usize {
    let all = newest_first
        .iter()
        .fold(added, |all, of| all.saturating_add(*of));
    if all <= whole {
        return newest_first.len();
    }
    let mut taken = added;
    let mut merged = 0;
    for bytes in newest_first {
        // What stays, and the one that is written.
        let is_crowded = newest_first.len() - merged + 1 > MOST;
        if *bytes > taken.saturating_mul(APART) && !is_crowded {
            break;
        }
        taken = taken.saturating_add(*bytes);
        merged += 1;
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::{MOST, merges};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    #[test]
    fn what_is_much_larger_stays_as_it_is() {
        for (newest_first, added, merged) in [
            (&[][..], 5, 0),
            (&[11][..], 5, 0),
            (&[10][..], 5, 1),
            (&[1, 12, 40], 5, 2),
            (&[1, 12, 36], 5, 3),
            (&[300, 1], 5, 0),
            // The newest go together when there are too many.
            (&[30, 100, 300, 900, 2_700, 8_100, 24_300, 72_900], 1, 1),
            (&[u64::MAX, u64::MAX], 1, 0),
        ] {
            assert_eq!(merges(newest_first, added, 0), merged, "{newest_first:?}");
        }
        assert_eq!(
            merges(&[300, 1], 5, 306),
            2,
            "a small index is in one piece"
        );
        assert_eq!(merges(&[300, 1], 5, 305), 0);
    }

    /// The bytes written by `additions`, one after the other, in tiers.
    fn written(additions: &[u64], seed: u64) -> u64 {
        let mut newest_last: Vec<u64> = Vec::new();
        let mut written = 0;
        for added in additions {
            let newest_first: Vec<u64> = newest_last.iter().rev().copied().collect();
            let kept = newest_last.len() - merges(&newest_first, *added, 0);
            let merged = newest_last.drain(kept..).sum::<u64>() + added;
            written += merged;
            newest_last.push(merged);
            assert!(newest_last.len() <= MOST, "seed {seed}: {newest_last:?}");
        }
        assert_eq!(
            newest_last.iter().sum::<u64>(),
            additions.iter().sum::<u64>()
        );
        written
    }

    /// Whatever the sizes: each byte is written a logarithmic number of times, where an index in one piece writes it at each extension.
    #[test]
    fn a_byte_is_written_a_logarithmic_number_of_times() {
        for seed in 0..500 {
            let mut random = StdRng::seed_from_u64(seed);
            let spread: u32 = random.random_range(0..20);
            let extensions = random.random_range(1..1_000);
            let additions: Vec<u64> = (0..extensions)
                .map(|_| 1_000 << random.random_range(0..=spread))
                .collect();
            let all: u64 = additions.iter().sum();
            let smallest = additions.iter().min().copied().unwrap_or(1);
            // Each time that a byte moves, its segment is half as large again; a crowd may move it once more.
            let growths = (all as f64 / smallest as f64).ln() / 1.5_f64.ln();
            let most = all as f64 * (2.0 + 2.0 * growths);
            let written = written(&additions, seed);
            assert!((written as f64) <= most, "seed {seed}: {written} of {all}");
        }
        let even = vec![1_000; 1_000];
        assert_eq!(written(&even, 0), written(&even, 0));
        assert!(written(&even, 0) < 15 * 1_000_000, "{}", written(&even, 0));
    }
}
