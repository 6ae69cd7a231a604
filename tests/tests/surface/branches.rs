//! Branches of a plain table: left alone unless a policy or a person asks for them, and then maintained as the table is.

use crate::version_files;
use arrow_array::RecordBatchIterator;
use lance::Dataset;
use lance::dataset::{WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use lance_index::IndexType;
use lance_index::scalar::ScalarIndexParams;
use serde_json::Value;
use squire_tests::plain::{Plain, TABLE};
use squire_tests::{Lake, armed, batch_of, rows_of, tree};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;

/// As Squire names it.
const BRANCH: &str = "org/t.lance@dev/x";

/// A watched directory with a table of three fragments and a branch of it that has grown by so many.
struct Scene {
    lake: Lake,
    plain: Plain,
    rows: Vec<(i64, String)>,
}

fn named(ids: Range<i64>) -> Vec<(i64, String)> {
    ids.map(|id| (id, format!("row-{id}"))).collect()
}

impl Scene {
    async fn new(grown: i64, indexed: bool) -> Self {
        let lake = Lake::with_tables(&[]);
        let mut plain = Plain::new(&lake.path("plain"));
        for id in 0..3 {
            plain.append(id..id + 1).await;
        }
        if indexed {
            plain.index().await;
        }
        let mut table = plain.open().await;
        let at = table.version().version;
        let made = table.create_branch("dev/x", at, None).await;
        made.expect("a branch");
        let mut scene = Self {
            lake,
            plain,
            rows: named(0..3),
        };
        for id in 100..100 + grown {
            scene.append(id).await;
        }
        scene
    }

    fn folder(&self) -> PathBuf {
        self.plain.path(TABLE).join("tree/dev/x")
    }

    async fn branch(&self) -> Dataset {
        let table = self.plain.open().await;
        table.checkout_branch("dev/x").await.expect("the branch")
    }

    async fn append(&mut self, id: i64) {
        // Two rows: Lance drops a fragment whose only row is deleted, and nothing of it could be carried.
        let rows = [named(id..id + 1), named(id + 1_000..id + 1_001)].concat();
        self.rows.extend(rows.iter().cloned());
        self.rows.sort_unstable();
        let rows = batch_of(rows);
        let schema = rows.schema();
        let reader = RecordBatchIterator::new([Ok(rows)], schema);
        let params = WriteParams {
            mode: WriteMode::Append,
            ..WriteParams::default()
        };
        let written = Dataset::write(
            reader,
            std::sync::Arc::new(self.branch().await),
            Some(params),
        );
        written.await.expect("an append to the branch");
    }

    async fn delete(&mut self, id: i64) {
        let deleted = self.branch().await.delete(&format!("id = {id}")).await;
        deleted.expect("a delete");
        self.rows.retain(|(row, _)| *row != id);
    }

    async fn fragments(&self) -> usize {
        self.branch().await.get_fragments().len()
    }

    /// Its rows are there once, are found one by one, and the table is as it was.
    async fn assert_whole(&self) {
        let branch = self.branch().await;
        branch.validate().await.expect("a valid branch");
        assert_eq!(rows_of(&branch).await, self.rows);
        for (id, _) in &self.rows {
            let found = branch.count_rows(Some(format!("id = {id}"))).await;
            assert_eq!(found.expect("a count"), 1, "id {id}");
        }
        self.plain.assert_whole().await;
        assert_eq!(self.plain.open().await.get_fragments().len(), 3);
    }

    fn config(&self, policy: &str) -> String {
        let config = self.lake.path("branches.toml");
        let text =
            format!("[policy]\nmin_versions = 1\n{policy}[policy.cleanup]\nenabled = true\n");
        std::fs::write(&config, text).expect("a configuration");
        config.to_string_lossy().into_owned()
    }

    /// What a command on the directory says, as JSON.
    fn asked(&self, config: &str, args: &[&str]) -> Value {
        let (command, others) = args.split_first().expect("a command");
        let head = [*command, &self.plain.uri, "--config", config, "--json"];
        self.lake.run(&[&head, others].concat()).ok().json()
    }

    fn named(&self, config: &str, command: &str) -> BTreeSet<String> {
        let said = self.asked(config, &[command]);
        let tables = said["tables"].as_array().expect("tables").iter();
        let tables = tables.filter_map(|table| table["table"].as_str());
        tables.map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_are_maintained_where_a_policy_asks_for_it() {
    let mut scene = Scene::new(20, true).await;
    let main = || tree(&scene.plain.path(TABLE).join("data"));
    let (before, versions) = (main(), version_files(&scene.plain.path(TABLE)));
    let pass = |config: &str| {
        let args = ["daemon", &scene.plain.uri, "--once", "--config", config];
        scene.lake.run(&args).ok();
    };
    let off = scene.config("");
    let left = tree(&scene.folder());
    pass(&off);
    assert_eq!(tree(&scene.folder()), left, "it was not asked for");
    assert_eq!(
        scene.named(&off, "status"),
        BTreeSet::from([TABLE.to_owned()])
    );

    let on = scene.config("branches = true\nmax_index_age = \"1s\"\n");
    let both = BTreeSet::from([TABLE.to_owned(), BRANCH.to_owned()]);
    for command in ["status", "plan"] {
        assert_eq!(scene.named(&on, command), both, "{command}");
    }
    pass(&on);
    // Those that the index of the table covers stay: it lies with the table.
    assert_eq!(scene.fragments().await, 4);
    let listed = scene.branch().await.load_indices().await.expect("indexes");
    assert!(listed.iter().all(|index| index.name == "id_idx"));
    scene.assert_whole().await;
    assert_eq!(main(), before);
    assert_eq!(version_files(&scene.plain.path(TABLE)), versions);
    let history = scene.asked(&on, &["history"]);
    let runs = history["runs"].as_array().expect("runs").iter();
    let of: BTreeSet<_> = runs
        .map(|run| run["table"].as_str().expect("a table"))
        .collect();
    assert_eq!(of, BTreeSet::from([BRANCH]), "{history}");
    let status = scene.asked(&on, &["status", "--table", "org/t@dev/x"]);
    let ledger = &status["tables"][0]["ledger"]["total"];
    assert!(ledger["rewritten"].as_u64() > Some(0), "{status}");
    scene.append(200).await;
    scene.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_is_maintained_by_hand_under_its_name() {
    let scene = Scene::new(5, false).await;
    let uri = &scene.plain.uri;
    for name in ["org/t@dev/x", BRANCH] {
        for command in ["plan", "status", "optimize", "reindex"] {
            let done = scene.lake.run(&[command, uri, "--table", name]).ok();
            assert!(done.stdout.contains(BRANCH), "{done:?}");
        }
    }
    assert_eq!(scene.fragments().await, 1);
    scene.assert_whole().await;
    let nameless = ["optimize", uri, "--table", "org/t@dev"];
    scene.lake.run(&nameless).failed(1, BRANCH);
    // A table that is named alone has the same.
    let alone = scene.plain.path(TABLE).to_string_lossy().into_owned();
    let named = ["optimize", &alone, "--table", "t@dev/x"];
    scene.lake.run(&named).ok();
    // A store has no pin of a branch.
    let mut store = Lake::with_tables(&["t"]);
    store.env.clear();
    let named = ["optimize", &store.uri, "--table", "t@x"];
    store.run(&named).failed(3, "no pin shows its branches");
}

/// Rows that are deleted, and appended, while a branch is rewritten.
#[tokio::test(flavor = "multi_thread")]
async fn a_writer_on_the_branch_is_not_lost() {
    for indexed in [false, true] {
        let mut scene = Scene::new(6, indexed).await;
        if indexed {
            let args = ["reindex", &scene.plain.uri, "--table", "org/t@dev/x"];
            scene.lake.run(&args).ok();
        }
        let seam = armed("maintain.after_rewrite", 1, "stop");
        let args = [
            "optimize",
            &scene.plain.uri,
            "--table",
            "org/t@dev/x",
            "--json",
        ];
        let mut run = scene.lake.with_seam(&seam, &args);
        run.wait_stopped();
        scene.delete(103).await;
        scene.append(300).await;
        scene.plain.delete(1).await;
        let done = run.resume().ok().json();
        assert_eq!(done["tables"][0]["report"]["carried"], 1, "{done}");
        scene.assert_whole_but_one().await;
    }
}

impl Scene {
    /// The same after a row was deleted from the table, which the branch has still.
    async fn assert_whole_but_one(&self) {
        let branch = self.branch().await;
        branch.validate().await.expect("a valid branch");
        assert_eq!(rows_of(&branch).await, self.rows);
        let found = branch.count_rows(Some(String::from("id = 1"))).await;
        assert_eq!(found.expect("a count"), 1);
        self.plain.assert_whole().await;
        assert_eq!(self.fragments().await, 2);
    }
}

/// What a run on a branch wrote that died is reclaimed, also where the table is named alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_run_on_a_branch_is_reclaimed() {
    for alone in [false, true] {
        let scene = Scene::new(4, false).await;
        let directory = scene.plain.path("org");
        let before = tree(&directory);
        let at = match alone {
            true => scene.plain.path(TABLE),
            false => directory.clone(),
        };
        let at = at.to_string_lossy().into_owned();
        let args = ["optimize", &at, "--table", "t@dev/x"];
        let dies = "maintain.after_rewrite=1*return(kill)";
        scene.lake.with_seam(dies, &args).killed();
        assert_ne!(tree(&directory.join("t.lance/tree")).len(), 0);
        scene.lake.run(&["recover", &at, "--force"]).ok();
        let data = |all: &BTreeSet<PathBuf>| {
            let all = all
                .iter()
                .filter(|path| path.extension().is_some_and(|e| e == "lance"));
            all.cloned().collect::<BTreeSet<PathBuf>>()
        };
        assert_eq!(data(&tree(&directory)), data(&before), "{at}");
        scene.assert_whole().await;
    }
}

/// A cleanup of a branch keeps what its tags and its own branches need, and takes nothing of the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_is_cleaned_up_for_itself() {
    let mut scene = Scene::new(6, false).await;
    let mut branch = scene.branch().await;
    let at = branch.version().version;
    let kid = branch
        .create_branch("kid", at, None)
        .await
        .expect("a branch");
    let kept = rows_of(&kid).await;
    let tagged = ("dev/x", at - 2);
    let tagging = branch.tags().create("old", tagged).await;
    tagging.expect("a tag");
    let old = rows_of(&branch.checkout_version("old").await.expect("the tag")).await;
    // What the kid has of it is nowhere else any more.
    for id in 100..106 {
        scene.delete(id).await;
    }
    for id in 0..4 {
        scene.append(400 + id).await;
    }
    let data = tree(&scene.plain.path(TABLE).join("data"));
    let config = scene.config("branches = true\n");
    let mut env = vec![("SQUIRE_RETENTION".to_owned(), "0".to_owned())];
    scene.lake.env.append(&mut env);
    // What is said of its table holds for it.
    let patient = scene.lake.path("patient.toml");
    let of_table = "[[table]]\nname = \"org/t\"\nmin_versions = 50\n";
    let text = std::fs::read_to_string(&config).expect("the configuration");
    std::fs::write(&patient, format!("{text}{of_table}")).expect("a configuration");
    let kept_all = scene.asked(&patient.to_string_lossy(), &["cleanup", "--dry-run"]);
    for table in kept_all["tables"].as_array().expect("tables") {
        assert_eq!(table["plan"]["versions"], serde_json::json!([]), "{table}");
    }
    let dry = scene.asked(&config, &["cleanup", "--dry-run"]);
    let real = scene.asked(&config, &["cleanup"]);
    let plans = |said: &Value| -> Vec<Value> {
        let tables = said["tables"].as_array().expect("tables").iter();
        tables.map(|table| table["plan"].clone()).collect()
    };
    assert_eq!(plans(&dry), plans(&real));
    let left = version_files(&scene.folder()).len();
    assert_eq!(
        left, 4,
        "the newest, the tagged, and those whose numbers the kid names: {real}"
    );
    assert_eq!(tree(&scene.plain.path(TABLE).join("data")), data);
    scene.assert_whole().await;
    let table = scene.plain.open().await;
    let kid = table.checkout_branch("kid").await.expect("the kid");
    assert_eq!(rows_of(&kid).await, kept);
    let tag = table.checkout_version("old").await.expect("the tag");
    assert_eq!(rows_of(&tag).await, old);
}

/// A branch whose folder lies in that of another: Lance's cleanup of the outer one would take its files for its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_branch_in_the_folder_of_another_keeps_its_files() {
    let mut scene = Scene::new(3, false).await;
    let mut table = scene.plain.open().await;
    let at = table.version().version;
    let inner = table.create_branch("dev/x/data", at, None).await;
    inner.expect("a branch");
    scene.append(500).await;
    let config = scene.config("branches = true\n");
    let zero = ("SQUIRE_RETENTION".to_owned(), "0".to_owned());
    scene.lake.env.push(zero);
    let args = ["cleanup", &scene.plain.uri, "--config", &config];
    scene
        .lake
        .run(&args)
        .failed(1, "lies in the folder of branch dev/x");
    scene.assert_whole().await;
}

/// Indexes of a branch that it has built for itself are extended; those that it has of its table are left where they lie.
#[tokio::test(flavor = "multi_thread")]
async fn indexes_of_a_branch_are_extended() {
    for own in [false, true] {
        let mut scene = Scene::new(4, !own).await;
        if own {
            let mut branch = scene.branch().await;
            let (kind, params) = (IndexType::BTree, ScalarIndexParams::default());
            let built = branch.create_index(&["id"], kind, None, &params, false);
            built.await.expect("an index");
            scene.append(600).await;
        }
        let uncovered = async || {
            let branch = scene.branch().await;
            let statistics = branch.index_statistics("id_idx").await.expect("statistics");
            let statistics: Value = serde_json::from_str(&statistics).expect("JSON");
            statistics["num_unindexed_rows"].as_u64().expect("rows")
        };
        assert_ne!(uncovered().await, 0);
        let args = ["reindex", &scene.plain.uri, "--table", "org/t@dev/x"];
        scene.lake.run(&args).ok();
        assert_eq!(uncovered().await, 0);
        let args = ["optimize", &scene.plain.uri, "--table", "org/t@dev/x"];
        scene.lake.run(&args).ok();
        scene.assert_whole().await;
    }
}
