use super::{Change, Source, carry, compare, neighbours};
use lance_table::format::{DataFile, DeletionFile, DeletionFileType, Fragment};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use roaring::RoaringBitmap;

fn deletion(id: u64) -> Option<DeletionFile> {
    Some(DeletionFile {
        read_version: 3,
        id,
        file_type: DeletionFileType::Array,
        num_deleted_rows: Some(1),
        base_id: None,
    })
}

fn fragment() -> Fragment {
    let mut fragment = Fragment::new(7);
    fragment.physical_rows = Some(10);
    fragment.files = vec![DataFile::new_legacy_from_fields("a.lance", vec![0], None)];
    fragment
}

#[test]
fn only_deletions_may_change() {
    let was = fragment();
    assert_eq!(compare(&was, Some(&was)), Change::None);
    assert_eq!(compare(&was, None), Change::Other);
    let changed = |change: fn(&mut Fragment)| {
        let mut is = fragment();
        change(&mut is);
        compare(&was, Some(&is))
    };
    assert_eq!(
        changed(|f| f.deletion_file = deletion(1)),
        Change::Deletions
    );
    assert_eq!(changed(|f| f.physical_rows = Some(11)), Change::Other);
    assert_eq!(changed(|f| f.files.clear()), Change::Other);
    let other_file = |f: &mut Fragment| f.files[0].path = String::from("b.lance");
    assert_eq!(changed(other_file), Change::Other);
    let mut uncounted = fragment();
    uncounted.physical_rows = None;
    assert_eq!(compare(&uncounted, Some(&uncounted)), Change::Other);
}

/// A table of numbers: fragments of rows, of which some were deleted before and some under the rewrite.
#[test]
fn what_is_left_is_what_is_left_of_the_sources() {
    for seed in 0..500 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut sources = Vec::new();
        let (mut rewritten, mut expected) = (Vec::new(), Vec::new());
        for fragment in 0..random.random_range(1..6_u32) {
            let rows = random.random_range(0..40_u32);
            let (often, seldom) = (random.random_range(0.0..0.9), random.random_range(0.0..0.5));
            let before: RoaringBitmap = (0..rows).filter(|_| random.random_bool(often)).collect();
            let deleted: RoaringBitmap = (0..rows).filter(|_| random.random_bool(seldom)).collect();
            let after = &before | &deleted;
            let alive = |gone: &RoaringBitmap| {
                let rows = (0..rows).filter(|row| !gone.contains(*row));
                rows.map(|row| fragment * 100 + row).collect::<Vec<_>>()
            };
            rewritten.extend(alive(&before));
            expected.extend(alive(&after));
            sources.push(Source {
                rows: u64::from(rows),
                before,
                after,
            });
        }
        let (mut targets, mut rest) = (Vec::new(), rewritten.len());
        while rest > 0 {
            let rows = random.random_range(1..=rest);
            targets.push(rows as u64);
            rest -= rows;
        }
        let Some(carried) = carry(&sources, &targets) else {
            // Nothing is left of one of them.
            let mut first = 0;
            let is_gone = |rows: &u64| {
                let last = first + usize::try_from(*rows).expect("small");
                let of_target = &rewritten[first..last];
                first = last;
                !of_target.iter().any(|row| expected.contains(row))
            };
            assert!(targets.iter().any(is_gone), "seed {seed}");
            continue;
        };
        let (mut left, mut first) = (Vec::new(), 0);
        for (deleted, rows) in carried.iter().zip(&targets) {
            let rows = u32::try_from(*rows).expect("small");
            let offsets = (0..rows).filter(|offset| !deleted.contains(*offset));
            left.extend(offsets.map(|offset| rewritten[first + offset as usize]));
            first += rows as usize;
        }
        assert_eq!(left, expected, "seed {seed}");
        let beside = neighbours(&carried, &targets);
        assert!(
            beside.iter().all(|row| *row < left.len() as u64),
            "seed {seed}"
        );
        let none = carried.iter().all(RoaringBitmap::is_empty);
        assert_eq!(beside.is_empty(), none, "seed {seed}");
    }
}

#[test]
fn what_does_not_fit_is_not_carried() {
    let source = |before: &[u32], after: &[u32]| Source {
        rows: 4,
        before: before.iter().collect(),
        after: after.iter().collect(),
    };
    assert!(carry(&[source(&[1], &[1, 2])], &[3]).is_some());
    let came_back = source(&[1, 2], &[2, 3]);
    assert_eq!(carry(&[came_back], &[2]), None);
    let other_rows = source(&[1], &[1, 2]);
    assert_eq!(carry(&[other_rows], &[4]), None);
    let outside = source(&[], &[4]);
    assert_eq!(carry(&[outside], &[4]), None);
    let nothing_left = source(&[1], &[0, 1, 2, 3]);
    assert_eq!(carry(&[nothing_left], &[3]), None);
}
