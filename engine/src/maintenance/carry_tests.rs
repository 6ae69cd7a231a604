use super::{
    Change, Coverage, HASTY, Next, Patience, Source, carry, comparable, compare, holds, neighbours,
    same_coverage, uniform_coverage,
};
use arrow_schema::{DataType, Field, Schema};
use lance_io::utils::CachedFileSize;
use lance_table::feature_flags::FLAG_STABLE_ROW_IDS;
use lance_table::format::overlay::{DataOverlayFile, OverlayCoverage};
use lance_table::format::{
    DataFile, DataStorageFormat, DeletionFile, DeletionFileType, Fragment, Manifest,
    RowDatasetVersionMeta,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use roaring::RoaringBitmap;
use std::collections::HashMap;
use std::sync::Arc;

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

/// A fragment of an older release is the same when a newer one has added what that did not write down.
#[test]
fn what_a_newer_release_adds_to_a_fragment_changes_nothing() {
    let mut was = fragment();
    was.physical_rows = None;
    let mut is = fragment();
    is.files[0].file_size_bytes = CachedFileSize::new(1_472);
    assert_eq!(compare(&was, Some(&is)), Change::None);
    is.deletion_file = deletion(1);
    assert_eq!(compare(&was, Some(&is)), Change::Deletions);
    is.files[0].path = String::from("b.lance");
    assert_eq!(compare(&was, Some(&is)), Change::Other);
}

#[test]
fn an_overlay_other_columns_and_other_versions_of_rows_are_not_carried() {
    let was = fragment();
    let overlay = DataOverlayFile {
        data_file: DataFile::new_legacy_from_fields("o.lance", vec![0], None),
        coverage: OverlayCoverage::Shared(Arc::new(RoaringBitmap::from([1]))),
        committed_version: 3,
    };
    let mut overlaid = fragment();
    overlaid.overlays.push(overlay);
    assert_eq!(compare(&was, Some(&overlaid)), Change::Other);
    assert_eq!(compare(&overlaid, Some(&overlaid)), Change::Other);
    let mut columns = fragment();
    columns.files[0] = DataFile::new_legacy_from_fields("a.lance", vec![0, 1], None);
    assert_eq!(compare(&was, Some(&columns)), Change::Other);
    let mut versions = fragment();
    versions.last_updated_at_version_meta =
        Some(RowDatasetVersionMeta::Inline(Arc::from([1_u8].as_slice())));
    assert_eq!(compare(&was, Some(&versions)), Change::Other);
}

fn manifest(version: u64, columns: &[&str], ids: &[u64]) -> Manifest {
    let fields = columns
        .iter()
        .map(|c| Field::new(*c, DataType::Int64, true));
    let schema = Schema::new(fields.collect::<Vec<_>>());
    let fragments = ids.iter().map(|id| Fragment {
        id: *id,
        ..fragment()
    });
    let fragments = Arc::new(fragments.collect());
    let schema = (&schema).try_into().expect("a schema");
    let format = DataStorageFormat::default();
    let mut manifest = Manifest::new(schema, fragments, format, HashMap::new());
    manifest.version = version;
    manifest
}

#[test]
fn only_the_same_table_is_compared() {
    let was = manifest(3, &["a"], &[1, 2]);
    let later = || manifest(4, &["a"], &[1, 2]);
    assert!(comparable(&was, &later()));
    assert!(!comparable(&was, &manifest(2, &["a"], &[1, 2])), "older");
    let columns = manifest(4, &["a", "b"], &[1, 2]);
    assert!(!comparable(&was, &columns), "a column");
    let mut format = later();
    format.data_storage_format.file_format = String::from("other");
    assert!(!comparable(&was, &format), "a format");
    let mut stable = later();
    stable.reader_feature_flags |= FLAG_STABLE_ROW_IDS;
    assert!(!comparable(&was, &stable), "row ids");
}

#[test]
fn a_task_holds_while_each_of_its_fragments_does() {
    let was = manifest(3, &["a"], &[1, 2, 3]);
    assert!(holds(&was, &was, &[1, 2]));
    let gone = manifest(4, &["a"], &[1, 2]);
    assert!(holds(&was, &gone, &[1, 2]));
    assert!(!holds(&was, &gone, &[2, 3]));
    assert!(!holds(&was, &manifest(4, &["b"], &[1, 2, 3]), &[1, 2]));
    let mut deleted = manifest(4, &["a"], &[1, 2, 3]);
    let mut fragments = deleted.fragments.as_ref().clone();
    fragments[0].deletion_file = deletion(1);
    deleted.fragments = Arc::new(fragments);
    assert!(holds(&was, &deleted, &[1, 2]));
}

#[test]
fn indexes_are_those_of_the_sources() {
    let covers = |of: &[(&str, &[u32])]| -> Coverage {
        let covers = of
            .iter()
            .map(|(id, ids)| ((*id).to_owned(), ids.iter().collect()));
        covers.collect()
    };
    let was = covers(&[("u", &[1, 2])]);
    let same = |is: &[(&str, &[u32])]| same_coverage(&was, &covers(is), &[1, 2].into());
    assert!(same(&[("u", &[1, 2])]));
    assert!(same(&[("u", &[1, 2, 3]), ("v", &[3])]), "beside them");
    assert!(!same(&[("u", &[1])]), "no longer uniform");
    assert!(!same(&[("w", &[1, 2])]), "built anew");
    assert!(!same(&[("u", &[1, 2]), ("v", &[2])]), "one more");
    assert!(!same(&[]), "dropped");
    let uniform = |is: &[(&str, &[u32])]| uniform_coverage(&covers(is), &[1, 2].into());
    assert!(uniform(&[("u", &[1, 2, 3]), ("v", &[3])]));
    assert!(uniform(&[("w", &[1, 2]), ("v", &[1, 2])]), "built anew");
    assert!(uniform(&[]), "dropped");
    assert!(!uniform(&[("u", &[1, 2]), ("v", &[2, 3])]));
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
    assert_eq!(carry(std::slice::from_ref(&outside), &[4]), None);
    // It would be a row of the next one.
    assert_eq!(carry(&[outside, source(&[], &[])], &[8]), None);
    let nothing_left = source(&[1], &[0, 1, 2, 3]);
    assert_eq!(carry(&[nothing_left], &[3]), None);
}

/// A result that only writers keep from landing waits, and tries again many times in a row; one that is lost to a HEAD that rests
/// is given up.
#[test]
fn only_writers_are_waited_for() {
    let mut patience = Patience::default();
    let tries: Vec<Next> = (0..1_000).map(|_| patience.next(true)).collect();
    for burst in tries.chunks_exact(HASTY as usize) {
        let (last, before) = burst.split_last().expect("several");
        assert!(before.iter().all(|next| *next == Next::AtOnce));
        assert_eq!(*last, Next::Later);
    }
    let failures: Vec<Next> = (0..HASTY).map(|_| patience.next(false)).collect();
    let (last, before) = failures.split_last().expect("several");
    assert!(before.iter().all(|next| *next == Next::AtOnce));
    assert_eq!(*last, Next::GiveUp);
}
