//! A cleanup reads no manifest twice, and removes what one that reads all of them removes.

use crate::version_files;
use arrow_array::RecordBatchIterator;
use lance::Dataset;
use lance::dataset::optimize::{CompactionOptions, compact_files};
use lance::dataset::refs::Ref;
use lance::dataset::{WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use squire_engine::maintenance::{CleanupPolicies, Retention};
use squire_engine::store::{Store, StoreOptions};
use squire_tests::plain::{Plain, TABLE};
use squire_tests::requests::{Counter, Counting};
use squire_tests::{Lake, append, batch_of, create, rows_of, tree};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The directory as a process sees it that has just started, every request counted.
async fn connected(directory: &Path) -> (Store, Arc<Counter>) {
    let counter = Arc::new(Counter::default());
    let options = StoreOptions {
        wrapper: Some(Arc::new(Counting(counter.clone()))),
        ..StoreOptions::default()
    };
    let uri = format!("file-object-store://{}", directory.display());
    let store = Store::connect(&uri, options).await;
    (store.expect("the directory"), counter)
}

/// The newest `versions` versions are kept.
fn newest(versions: u64) -> CleanupPolicies {
    CleanupPolicies::from(Retention {
        age: Duration::ZERO,
        versions,
    })
}

/// The manifests that were read since they were counted last.
fn manifests_read(counter: &Counter) -> BTreeSet<String> {
    let log = counter.log();
    counter.take();
    let read = log.iter().filter_map(|line| {
        let mut words = line.split(' ').skip(1);
        let got = matches!(words.next(), Some("get" | "get_ranges"));
        words
            .next()
            .filter(|path| got && path.ends_with(".manifest"))
    });
    read.map(str::to_owned).collect()
}

/// Removes all versions of the table but the newest ones. Gives how many there were to go, and the manifests that were read for their removal.
async fn clean_up(store: &Store, counter: &Counter, keep: u64) -> (usize, BTreeSet<String>) {
    let plan = store.plan_plain_cleanup(TABLE, &newest(keep)).await;
    let plan = plan.expect("a plan");
    counter.take();
    let cleaned = store.cleanup_plain(&plan, None, &Default::default()).await;
    cleaned.expect("a cleanup");
    (plan.versions.len(), manifests_read(counter))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_cleanup_reads_the_manifests_that_are_new() {
    let lake = Lake::with_tables(&[]);
    let mut plain = Plain::new(&lake.path("plain"));
    for id in 0..20 {
        plain.append(id..id + 1).await;
    }
    plain.index().await;
    let (store, counter) = connected(Path::new(&plain.uri)).await;
    let (gone, read) = clean_up(&store, &counter, 15).await;
    assert_eq!((gone, read.len()), (6, 21), "{read:#?}");
    for (id, more) in [(20, 2), (22, 3)] {
        plain.append(id..id + 1).await;
        plain.append(id + 1..id + more).await;
        let (gone, read) = clean_up(&store, &counter, 15).await;
        assert_eq!((gone, read.len()), (2, 2), "{read:#?}");
    }
    assert_eq!(version_files(&plain.path(TABLE)).len(), 15);
    plain.assert_whole().await;
    // Nothing is old, so nothing is read.
    counter.take();
    let plan = store.plan_plain_cleanup(TABLE, &newest(15)).await;
    assert_eq!(plan.expect("a plan").versions, [0; 0]);
    let asked = counter.log();
    assert_eq!(manifests_read(&counter), BTreeSet::new(), "{asked:#?}");
    assert!(asked.len() <= 9, "{asked:#?}");
    // Another process knows nothing of it.
    let (store, counter) = connected(Path::new(&plain.uri)).await;
    let (gone, read) = clean_up(&store, &counter, 10).await;
    assert_eq!((gone, read.len()), (5, 15), "{read:#?}");
}

/// In a store, the manifest's own history as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_is_cleaned_without_reading_its_history_again() {
    let lake = Lake::with_tables(&[]);
    let counter = Arc::new(Counter::default());
    let options = StoreOptions {
        wrapper: Some(Arc::new(Counting(counter.clone()))),
        ..StoreOptions::default()
    };
    let uri = format!("file-object-store://{}", lake.path("known").display());
    let store = Store::init(&uri, options).await.expect("a store");
    let commit = async |write| {
        let request = squire_engine::commit::CommitRequest::new(vec![write]);
        store.commit(&request).await.expect("a commit");
    };
    commit(create("t")).await;
    let mut read = Vec::new();
    for round in 0..2_i64 {
        for id in round * 30..round * 30 + 30 - round * 28 {
            commit(append("t", id..id + 1)).await;
        }
        let plan = store.plan_cleanup(&newest(20)).await.expect("a plan");
        let due = plan.tables.iter().chain(&plan.manifest);
        assert_eq!(due.filter(|t| !t.versions.is_empty()).count(), 2);
        counter.take();
        let done = store.cleanup(&plan, None, &Default::default()).await;
        assert_eq!(done.expect("a cleanup").failed, []);
        read.push(manifests_read(&counter).len());
    }
    assert!(read[0] > 60 && read[1] < 16, "{read:?}");
}

/// A number that was freed may be put anew by a writer that slept. What the old version needed says nothing of the new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_was_put_anew_is_read_anew() {
    let lake = Lake::with_tables(&[]);
    let mut plain = Plain::new(&lake.path("plain"));
    for id in 0..4 {
        plain.append(id..id + 1).await;
    }
    let directory = PathBuf::from(&plain.uri);
    let mut other = Plain::new(&lake.path("other"));
    copy(&plain.path("org"), &other.path("org"));
    for id in [4, 5] {
        plain.append(id..id + 1).await;
    }
    other.append(4..5).await;
    let (store, counter) = connected(&directory).await;
    clean_up(&store, &counter, 4).await;

    let of = |plain: &Plain| newest_of(&plain.path(TABLE).join("_versions"), 5);
    std::fs::remove_file(of(&plain)).expect("removed");
    std::fs::copy(of(&other), of(&plain)).expect("put anew");
    for file in std::fs::read_dir(other.path(TABLE).join("data")).expect("data") {
        let file = file.expect("a file");
        let to = plain.path(TABLE).join("data").join(file.file_name());
        std::fs::copy(file.path(), &to).expect("copied");
        // Lance removes what no version refers to when it is older than a week.
        let old = SystemTime::now() - Duration::from_secs(30 * 86_400);
        let to = std::fs::File::options().write(true).open(&to);
        to.and_then(|to| to.set_modified(old)).expect("aged");
    }
    let (gone, read) = clean_up(&store, &counter, 2).await;
    assert_eq!((gone, read.len()), (2, 1), "{read:#?}");
    let table = Dataset::open(&plain.path(TABLE).to_string_lossy()).await;
    let table = table.expect("the table").checkout_version(5).await;
    let rows = rows_of(&table.expect("version 5")).await;
    assert_eq!(rows.len(), 5);
}

/// The manifest of `version`.
fn newest_of(versions: &Path, version: u64) -> PathBuf {
    versions.join(format!("{}.manifest", u64::MAX - version))
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    assert!(copied.expect("cp").success());
}

/// Somebody's table, and its clones.
struct Anybody {
    rng: StdRng,
    directory: PathBuf,
    next: i64,
    steps: u32,
    clones: Vec<PathBuf>,
}

impl Anybody {
    fn table(&self) -> PathBuf {
        self.directory.join(TABLE)
    }

    async fn open(&self) -> Dataset {
        let opened = Dataset::open(&self.table().to_string_lossy()).await;
        opened.expect("the table")
    }

    async fn write(&mut self, to: &str, mode: WriteMode, v2: bool) {
        let rows = self.rows();
        let schema = rows.schema();
        let params = WriteParams {
            mode,
            enable_v2_manifest_paths: v2,
            ..WriteParams::default()
        };
        let reader = RecordBatchIterator::new([Ok(rows)], schema);
        let written = Dataset::write(reader, to, Some(params)).await;
        written.expect("written");
    }

    fn rows(&mut self) -> arrow_array::RecordBatch {
        let from = self.next;
        self.next += self.rng.random_range(1..4);
        batch_of(
            (from..self.next)
                .map(|id| (id, format!("row-{id}")))
                .collect(),
        )
    }

    /// Does something to the table. Gives what.
    async fn step(&mut self) -> &'static str {
        self.steps += 1;
        let name = format!("r{}", self.steps);
        let table = self.table().to_string_lossy().into_owned();
        let at = self.open().await.version().version;
        match self.rng.random_range(0..14) {
            0..4 => {
                self.write(&table, WriteMode::Append, true).await;
                "append"
            }
            4 => {
                self.write(&table, WriteMode::Overwrite, true).await;
                "overwrite"
            }
            5 | 6 => {
                let id = self.rng.random_range(0..self.next);
                let deleted = self.open().await.delete(&format!("id = {id}")).await;
                deleted.expect("a delete");
                "delete"
            }
            7 => {
                let mut table = self.open().await;
                let compacted = compact_files(&mut table, CompactionOptions::default(), None);
                compacted.await.expect("a compaction");
                "compact"
            }
            8 => {
                let indexes = self.open().await.load_indices().await;
                if indexes.expect("indexes").is_empty() {
                    Plain::new(&self.directory).index().await;
                }
                "index"
            }
            9 => {
                let table = self.open().await;
                table.tags().create(&name, at).await.expect("a tag");
                "tag"
            }
            10 => {
                let tags = self.open().await.tags().list().await.expect("tags");
                if let Some(tag) = tags.keys().min() {
                    let gone = self.open().await.tags().delete(tag).await;
                    gone.expect("untagged");
                }
                "untag"
            }
            11 => {
                let mut table = self.open().await;
                let made = table.create_branch(&name, at, None).await;
                let branch = made.expect("a branch").uri().to_owned();
                self.write(&branch, WriteMode::Append, true).await;
                "branch"
            }
            12 => {
                let branches = self.open().await.list_branches().await.expect("branches");
                if let Some(name) = branches.keys().min() {
                    let branch = self.open().await.checkout_branch(name).await;
                    let branch = branch.expect("a branch").uri().to_owned();
                    self.write(&branch, WriteMode::Append, true).await;
                }
                "append to a branch"
            }
            _ => {
                // Of the table, or of a clone of it.
                let of = self.clones.last().filter(|_| self.clones.len() % 2 == 1);
                let of = of.cloned().unwrap_or_else(|| self.table());
                let mut of = Dataset::open(&of.to_string_lossy()).await.expect("source");
                let clone = self.directory.join(format!("{name}.lance"));
                let (uri, at) = (clone.to_string_lossy(), of.version().version);
                let made = of.shallow_clone(&uri, at, None).await;
                made.expect("a clone");
                self.write(&uri, WriteMode::Append, true).await;
                self.clones.push(clone);
                "clone"
            }
        }
    }

    /// Everything that can be read: the table at each tag, its branches, its clones.
    async fn all_rows(&self) -> Vec<(String, Vec<(i64, String)>)> {
        let table = self.open().await;
        let mut all = vec![(String::from("the table"), rows_of(&table).await)];
        for tag in table.tags().list().await.expect("tags").into_keys() {
            let at = table.checkout_version(Ref::Tag(tag.clone())).await;
            all.push((tag, rows_of(&at.expect("a tag")).await));
        }
        for branch in table.list_branches().await.expect("branches").into_keys() {
            let at = table.checkout_branch(&branch).await;
            all.push((branch, rows_of(&at.expect("a branch")).await));
        }
        for clone in &self.clones {
            let clone = clone.to_string_lossy().into_owned();
            let at = Dataset::open(&clone).await;
            all.push((clone, rows_of(&at.expect("a clone")).await));
        }
        all.sort();
        all
    }
}

/// Tables of all kinds, cleaned up now and then, once by a process that has just started and once by one that knows what it read before: the
/// same files are left, and all that can be read stays as it was.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_changes_nothing_about_what_goes() {
    let seed: u64 = match std::env::var("SQUIRE_SEED") {
        Ok(seed) => seed.parse().expect("a number"),
        Err(_) => 11,
    };
    let rounds = 6;
    let (mut fresh_reads, mut known_reads, mut cleanups) = (0, 0, 0);
    for seed in seed..seed + rounds {
        println!("SQUIRE_SEED={seed}");
        let lake = Lake::with_tables(&[]);
        let directory = lake.path("plain");
        std::fs::create_dir(&directory).expect("a directory");
        let mut anybody = Anybody {
            rng: StdRng::seed_from_u64(seed),
            directory: directory.clone(),
            next: 0,
            steps: 0,
            clones: Vec::new(),
        };
        let table = anybody.table().to_string_lossy().into_owned();
        // Every other table has the names of manifests that early releases gave.
        anybody
            .write(&table, WriteMode::Create, seed % 2 == 0)
            .await;
        let (knowing, knows) = connected(&directory).await;
        let (mut did, mut seen) = (Vec::new(), BTreeSet::new());
        for _ in 0..8 {
            for _ in 0..6 {
                did.push(anybody.step().await);
            }
            let keep = newest(anybody.rng.random_range(6..20));
            let before = anybody.all_rows().await;
            let aside = lake.path("aside");
            std::fs::rename(&directory, &aside).expect("aside");
            copy(&aside, &directory);
            let (fresh, counter) = connected(&directory).await;
            let plan = fresh
                .plan_plain_cleanup(TABLE, &keep)
                .await
                .expect("a plan");
            counter.take();
            let done = fresh.cleanup_plain(&plan, None, &Default::default()).await;
            done.expect("a cleanup");
            fresh_reads += manifests_read(&counter).len();
            let left = tree(&directory);
            assert_eq!(anybody.all_rows().await, before, "{seed}: {did:?}");

            std::fs::remove_dir_all(&directory).expect("removed");
            std::fs::rename(&aside, &directory).expect("back");
            // The newest version is opened as ever.
            let planned = knowing.plan_plain_cleanup(TABLE, &keep).await;
            let known = planned.expect("a plan");
            assert_eq!(known.versions, plan.versions);
            knows.take();
            let done = knowing
                .cleanup_plain(&known, None, &Default::default())
                .await;
            done.expect("a cleanup");
            let read = manifests_read(&knows);
            assert!(seen.is_disjoint(&read), "{seed}: read twice of {read:#?}");
            known_reads += read.len();
            seen.extend(read);
            assert_eq!(tree(&directory), left, "{seed}: {did:?}");
            cleanups += usize::from(!plan.versions.is_empty());
        }
    }
    println!(
        "{cleanups} cleanups: {fresh_reads} manifests read, {known_reads} where they were known"
    );
    assert!(cleanups > 20 && known_reads < fresh_reads);
}
