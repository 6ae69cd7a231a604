//! `squire verify` names what is missing or torn, with the versions that need it and what to do.

use arrow_array::{
    ArrayRef, FixedSizeListArray, Float32Array, Int64Array, RecordBatch, StringArray, StructArray,
    UInt64Array,
};
use arrow_schema::{DataType, Field, Fields, Schema};
use lance::Dataset;
use lance::dataset::transaction::{Operation, Transaction};
use lance::dataset::{CommitBuilder, InsertBuilder, NewColumnTransform, WriteMode, WriteParams};
use lance::index::DatasetIndexExt;
use lance::index::vector::VectorIndexParams;
use lance_index::scalar::{InvertedIndexParams, ScalarIndexParams};
use lance_index::{IndexParams, IndexType};
use lance_linalg::distance::MetricType;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use squire_engine::error::ErrorKind;
use squire_engine::maintenance::Oversight;
use squire_engine::maintenance::Target;
use squire_engine::maintenance::audit::{AuditOptions, Auditor};
use squire_tests::{Lake, tree};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A store with tables t and u: three commits, an index, deleted rows.
fn lake() -> Lake {
    let lake = Lake::with_tables(&["t", "u"]);
    for i in 0..3 {
        let batch = lake.batch(&format!("b{i}"), &["t", "u"], 10 * i..10 * i + 3);
        lake.run(&["commit", &lake.uri, &batch]).ok();
    }
    lake.run(&["index", &lake.uri, "t", "id", "--type", "btree"])
        .ok();
    lake.run(&["delete", &lake.uri, "t", "--where", "id = 1"])
        .ok();
    lake.run(&["reindex", &lake.uri]).ok();
    lake
}

/// The one file below the table whose path holds `part`, the last in the order of names.
fn file(table: &Path, part: &str) -> PathBuf {
    let mut found = tree(table)
        .into_iter()
        .filter(|path| table.join(path).is_file() && path.to_string_lossy().contains(part));
    table.join(found.next_back().unwrap_or_else(|| panic!("no {part}")))
}

/// The findings about `table`.
fn findings(document: &Value, table: &str) -> Vec<Value> {
    let tables = document["tables"].as_array().expect("tables");
    let found = tables.iter().find(|t| t["table"] == table);
    let found = found.unwrap_or_else(|| panic!("no {table}: {document}"));
    found["findings"].as_array().expect("findings").clone()
}

#[test]
fn what_is_whole_is_told_so_and_nothing_is_written() {
    let lake = lake();
    lake.clean_up();
    let before = tree(Path::new(&lake.uri));
    for more in [&[][..], &["--deep"], &["--table", "t"]] {
        let args = [&["verify", lake.uri.as_str()], more].concat();
        let done = lake.run(&args).ok();
        assert!(done.stdout.contains("t: whole; "), "{done:?}");
    }
    assert_eq!(tree(Path::new(&lake.uri)), before);
}

/// A file of each kind is lost, or cut, or a version made by someone else's hand: each time that one is named.
#[test]
fn every_kind_of_loss_is_named() {
    let cut = |path: &Path| {
        let file = std::fs::File::options().write(true).open(path);
        file.and_then(|file| file.set_len(10)).expect("cut");
    };
    let lose = |path: &Path| std::fs::remove_file(path).expect("removed");
    type Damage<'a> = &'a dyn Fn(&Path);
    let losses: [(&str, Damage, &str, &str); 6] = [
        ("data/", &lose, "is missing", "from a backup"),
        ("data/", &cut, "has 10 bytes and had", "from a backup"),
        ("_deletions/", &lose, "is missing", "from a backup"),
        ("_indices/", &lose, "is missing", "build it anew"),
        (".manifest", &cut, "cannot be read", "from a backup"),
        (
            ".manifest",
            &lose,
            "which manifest version",
            "from a backup",
        ),
    ];
    for (part, damage, what, remedy) in losses {
        let lake = lake();
        let damaged = file(&Path::new(&lake.uri).join("t.lance"), part);
        damage(&damaged);
        let done = lake.run(&["verify", &lake.uri, "--json"]);
        assert_eq!(done.code, Some(1), "{part}: {done:?}");
        let found = findings(&done.json(), "t");
        assert_eq!(found.len(), 1, "{part}: {found:?}");
        let text = |key: &str| found[0][key].as_str().unwrap_or_default().to_owned();
        assert!(text("what").contains(what), "{part}: {found:?}");
        assert!(text("remedy").contains(remedy), "{part}: {found:?}");
        assert!(
            !found[0]["versions"]
                .as_array()
                .expect("versions")
                .is_empty()
        );
        if part != ".manifest" {
            assert!(
                damaged.to_string_lossy().ends_with(&text("file")),
                "{found:?}"
            );
        }
        assert_eq!(findings(&done.json(), "u"), Vec::<Value>::new());
        // For people the same, one line each.
        lake.run(&["verify", &lake.uri]).failed(1, what);
    }
}

/// Tags and branches are what cleanup spares versions for, so one that names nothing is found before it matters.
#[tokio::test]
async fn tags_and_branches_that_name_nothing_are_named() {
    let lake = lake();
    let root = Path::new(&lake.uri).join("t.lance");
    let uri = root.to_string_lossy().into_owned();
    let mut table = Dataset::open(&uri).await.expect("the table");
    for tag in ["whole", "torn", "empty", "gone"] {
        let version = if tag == "gone" { 2 } else { 3 };
        table.tags().create(tag, version).await.expect("a tag");
    }
    let mut branches = Vec::new();
    for branch in ["whole/b", "torn/b", "gone/b"] {
        let made = table.create_branch(branch, 3, None).await;
        branches.push(made.expect("a branch"));
    }
    lake.run(&["verify", &lake.uri]).ok();
    let refs = root.join("_refs");
    let put = |file: &Path, text: &str| std::fs::write(file, text).expect("damaged");
    put(&file(&root, "_refs/tags/torn"), "{\"version\": 3, \"mani");
    put(&file(&root, "_refs/tags/empty"), "");
    put(&file(&root, "_refs/branches/torn"), "{");
    std::fs::remove_file(file(&root, "_versions/18446744073709551613")).expect("version 2");
    std::fs::remove_dir_all(root.join("tree/gone/b/_versions")).expect("its versions");
    let done = lake.run(&["verify", &lake.uri, "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let found = findings(&done.json(), "t");
    let said = |name: &str| {
        let of = |f: &&Value| f["file"].as_str().is_some_and(|f| f.starts_with(name));
        let found = found.iter().find(of);
        found.map(|f| f["what"].as_str().unwrap_or_default().to_owned())
    };
    let is = |name: &str, what: &str| {
        let said = said(name).unwrap_or_else(|| panic!("no {name}: {found:#?}"));
        assert!(said.contains(what), "{name}: {said}");
    };
    is("_refs/tags/torn.json", "is torn");
    is("_refs/tags/empty.json", "is torn");
    is("_refs/tags/gone.json", "names version 2, which is gone");
    is("_refs/branches/torn", "is torn");
    is("_refs/branches/gone", "no version is there (tree/gone/b)");
    assert_eq!(said("_refs/tags/whole"), None, "{found:#?}");
    assert_eq!(said("_refs/branches/whole"), None, "{found:#?}");
    assert!(refs.is_dir() && branches.len() == 3);
}

/// An index that waits for rows to be trained by has no files, and none is missing.
#[tokio::test]
async fn an_index_that_is_not_trained_yet_lacks_nothing() {
    let lake = Lake::new();
    let uri = lake.path("plain/v.lance").to_string_lossy().into_owned();
    let vector = Arc::new(Field::new("item", DataType::Float32, true));
    let numbers = Arc::new(Float32Array::from(vec![0.5; 8]));
    let vectors = FixedSizeListArray::new(vector, 4, numbers, None);
    let rows = RecordBatch::try_from_iter([("vec", Arc::new(vectors) as ArrayRef)]);
    let insert = InsertBuilder::new(&uri);
    let made = insert.execute(vec![rows.expect("rows")]).await;
    let mut table = made.expect("a table");
    let params = VectorIndexParams::ivf_flat(1, MetricType::L2);
    table
        .create_index_builder(&["vec"], IndexType::Vector, &params)
        .train(false)
        .await
        .expect("a definition");
    for deep in [&[][..], &["--deep"]] {
        let plain = lake.path("plain").to_string_lossy().into_owned();
        lake.run(&[&["verify", &plain][..], deep].concat()).ok();
    }
}

/// A migration of names that died half-way: nobody opens the table, and each file of it is whole.
#[test]
fn versions_of_two_namings_are_named() {
    let lake = lake();
    let versions = Path::new(&lake.uri).join("t.lance/_versions");
    let name = |version: u64| format!("{:020}.manifest", u64::MAX - version);
    std::fs::rename(versions.join(name(2)), versions.join("2.manifest")).expect("renamed");
    let done = lake.run(&["verify", &lake.uri, "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let found = findings(&done.json(), "t");
    let of = |f: &&Value| f["file"] == "_versions/2.manifest";
    let found = found
        .iter()
        .find(of)
        .unwrap_or_else(|| panic!("{found:#?}"));
    let remedy = found["remedy"].as_str().expect("a remedy");
    assert!(remedy.contains(&name(2)), "{found:#?}");
}

/// Each file of it is whole, and still nobody can open it: its only column was added without values.
#[tokio::test]
async fn a_table_that_nobody_can_open_is_not_whole() {
    let lake = lake();
    let plain = lake.path("plain").to_string_lossy().into_owned();
    let numbers = Arc::new(Float32Array::from(vec![0.5; 8])) as ArrayRef;
    let (_, mut table) = plain_table(&lake, vec![("a", numbers)]).await;
    let nulls = Schema::new(vec![Field::new("b", DataType::Int64, true)]);
    let nulls = NewColumnTransform::AllNulls(Arc::new(nulls));
    table.add_columns(nulls, None, None).await.expect("added");
    lake.run(&["verify", &plain]).ok();
    table.drop_columns(&["a"]).await.expect("dropped");
    for deep in [&[][..], &["--deep"]] {
        let verify = [&["verify", &plain][..], deep].concat();
        lake.run(&verify).failed(1, "so nobody can open the table");
    }
}

/// Files of full length without their bytes are seen by those who read them.
#[test]
fn zeros_are_seen_deep() {
    let lake = lake();
    let damaged = file(&Path::new(&lake.uri).join("t.lance"), "data/");
    let length = std::fs::metadata(&damaged).expect("file").len();
    let zeros = vec![0; usize::try_from(length).expect("short")];
    std::fs::write(&damaged, zeros).expect("zeros");
    lake.run(&["verify", &lake.uri]).ok();
    let done = lake.run(&["verify", &lake.uri, "--deep", "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let found = findings(&done.json(), "t");
    let what = found[0]["what"].as_str().expect("what");
    assert!(what.contains("cannot be read"), "{found:?}");
    assert_eq!(findings(&done.json(), "u"), Vec::<Value>::new());
}

#[test]
fn what_a_store_keeps_of_itself_is_verified() {
    let lake = lake();
    let internal = Path::new(&lake.uri).join("_squire");
    let put = |path: &str, text: &str| {
        let path = internal.join(path);
        std::fs::create_dir_all(path.parent().expect("parent")).expect("folder");
        std::fs::write(path, text).expect("file");
    };
    put("recovery/01JD2Q3V5W6X7Y8Z9A0B1C2D3E.json", "portal");
    put("leases/01JD2Q3V5W6X7Y8Z9A0B1C2D3E.json", "portal");
    let version = file(&internal.join("manifest.lance"), ".manifest");
    std::fs::write(&version, "portal").expect("file");
    let done = lake.run(&["verify", &lake.uri, "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let found = findings(&done.json(), "_squire");
    let files: Vec<&str> = found.iter().filter_map(|f| f["file"].as_str()).collect();
    let all = [
        "_squire/leases",
        "_squire/manifest.lance",
        "_squire/recovery/01JD2Q3V5W6X7Y8Z9A0B1C2D3E.json",
    ];
    assert_eq!(files, all, "{found:?}");
}

/// Plain tables: a clone needs files of its source, and one bad table stops only itself.
#[tokio::test(flavor = "multi_thread")]
async fn clones_need_their_source() {
    let lake = lake();
    let dir = lake.path("plain");
    std::fs::create_dir_all(&dir).expect("folder");
    for table in ["t.lance", "u.lance"] {
        let from = Path::new(&lake.uri).join(table);
        let copied = std::process::Command::new("cp")
            .arg("-r")
            .arg(from)
            .arg(&dir)
            .status();
        assert!(copied.expect("cp").success());
    }
    let source = dir.join("t.lance");
    let clone = dir.join("clone.lance").to_string_lossy().into_owned();
    let mut dataset = Dataset::open(&source.to_string_lossy())
        .await
        .expect("source");
    let version = dataset.version().version;
    dataset
        .shallow_clone(&clone, version, None)
        .await
        .expect("clone");
    let mut branch = dataset
        .create_branch("dev", version, None)
        .await
        .expect("branch");
    branch.delete("id = 2").await.expect("a version of its own");
    let dir = dir.to_string_lossy().into_owned();
    let whole = lake.run(&["verify", &dir, "--deep"]).ok();
    assert!(whole.stdout.contains("clone.lance: whole"), "{whole:?}");
    lake.run(&["verify", &clone]).ok();

    std::fs::remove_file(file(&source, "data/")).expect("removed");
    let done = lake.run(&["verify", &dir, "--json"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    let found = findings(&done.json(), "clone.lance");
    let lost = found[0]["file"].as_str().expect("file");
    assert!(lost.contains("plain/t.lance/data/"), "{found:?}");
    assert_eq!(findings(&done.json(), "u.lance"), Vec::<Value>::new());
    let of_source = findings(&done.json(), "t.lance");
    assert!(
        of_source.iter().any(|f| f["branch"] == "dev"),
        "{of_source:?}"
    );
}

/// Cancelled is no answer.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_cancelled_between_requests() {
    let lake = lake();
    let store = lake.store().await;
    let cancel = Oversight::default();
    cancel.cancel();
    let options = AuditOptions {
        deep: true,
        cancel: &cancel,
        progress: &|_, _, _| {},
    };
    let mut auditor = Auditor::new(&store, options);
    let records = auditor.records().await.expect_err("cancelled");
    let target = Target::Pinned("t".parse().expect("name"));
    let table = auditor.table(&target).await.expect_err("cancelled");
    for error in [records, table] {
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
    }
}

/// A table of its own, with `columns`.
async fn plain_table(lake: &Lake, columns: Vec<(&str, ArrayRef)>) -> (String, Dataset) {
    let uri = lake.path("plain/t.lance").to_string_lossy().into_owned();
    let rows = RecordBatch::try_from_iter(columns).expect("rows");
    let insert = InsertBuilder::new(uri.as_str());
    let table = insert.execute(vec![rows]).await.expect("a table");
    (uri, table)
}

/// Lance writes lists of structs of one length, and cannot read them beside another column.
#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_cannot_be_read_is_no_damage() {
    let lake = Lake::new();
    let fields = Fields::from(vec![Field::new("a", DataType::Int64, true)]);
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(0..6));
    let structs = StructArray::new(fields.clone(), vec![numbers], None);
    let item = Arc::new(Field::new("item", DataType::Struct(fields), true));
    let pairs = FixedSizeListArray::new(item, 2, Arc::new(structs), None);
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..3));
    let (uri, _) = plain_table(&lake, vec![("id", ids), ("pairs", Arc::new(pairs))]).await;
    lake.run(&["verify", &uri]).ok();
    let done = lake.run(&["verify", &uri, "--deep"]);
    assert_eq!(done.code, Some(3), "{done:?}");
    for told in [
        "whole as far as it can be read",
        "column pairs (fixed_size_list<struct, 2>) is of a type",
        "nothing is known to be damaged",
    ] {
        assert!(done.stdout.contains(told), "{told}: {done:?}");
    }
    assert!(!done.stdout.contains("backup"), "{done:?}");
    let document = lake.run(&["verify", &uri, "--deep", "--json"]).json();
    assert_eq!(document["tables"][0]["findings"], json!([]), "{document}");
    assert_eq!(document["tables"][0]["unreadable"][0]["column"], "pairs");

    // What is damaged beside it is found.
    let damaged = file(Path::new(&uri), "data/");
    let length = std::fs::metadata(&damaged).expect("file").len();
    let zeros = vec![0; usize::try_from(length).expect("short")];
    std::fs::write(&damaged, zeros).expect("zeros");
    let done = lake.run(&["verify", &uri, "--deep"]);
    assert_eq!(done.code, Some(1), "{done:?}");
    assert!(done.stdout.contains("from a backup"), "{done:?}");
}

/// 200 rows from `first` on: a word of its own in each text, and a vector that is no other's.
fn documents(first: u64) -> Vec<(&'static str, ArrayRef)> {
    let texts = (first..first + 200).map(|row| format!("document about number{row}"));
    let numbers = (first..first + 200).flat_map(|row| {
        let mut rng = StdRng::seed_from_u64(row);
        std::iter::repeat_with(move || rng.random_range(-1.0..1.0)).take(8)
    });
    let item = Arc::new(Field::new("item", DataType::Float32, true));
    let numbers = Float32Array::from_iter_values(numbers);
    let vectors = FixedSizeListArray::new(item, 8, Arc::new(numbers), None);
    vec![
        ("text", Arc::new(StringArray::from_iter_values(texts))),
        ("vec", Arc::new(vectors)),
        (
            "id",
            Arc::new(UInt64Array::from_iter_values(first..first + 200)),
        ),
    ]
}

/// Someone lists an index as one of a fragment that it has never seen: what it does not find it never found.
#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_was_wrong_from_the_start_is_found() {
    let lake = Lake::new();
    let (uri, mut table) = plain_table(&lake, documents(0)).await;
    let ivf = |metric| VectorIndexParams::ivf_flat(1, metric);
    let text = InvertedIndexParams::default();
    let text = (
        "text",
        IndexType::Inverted,
        Box::new(text) as Box<dyn IndexParams>,
    );
    let l2: Box<dyn IndexParams> = Box::new(ivf(MetricType::L2));
    let scalar: Box<dyn IndexParams> = Box::new(ScalarIndexParams::default());
    let indexes = [
        text,
        ("vec", IndexType::IvfFlat, l2),
        ("id", IndexType::BTree, scalar),
    ];
    for (column, kind, params) in &indexes {
        let columns = [*column];
        let built = table.create_index(&columns, *kind, None, params.as_ref(), false);
        built.await.expect("an index");
    }
    let more = RecordBatch::try_from_iter(documents(200)).expect("rows");
    let append = WriteParams {
        mode: WriteMode::Append,
        ..WriteParams::default()
    };
    let insert = InsertBuilder::new(Arc::new(table)).with_params(&append);
    let mut table = insert.execute(vec![more]).await.expect("an append");
    let whole = lake.run(&["verify", &uri, "--deep"]).ok();
    assert!(whole.stdout.contains("whole;"), "{whole:?}");
    for (column, ..) in indexes {
        let index = table.load_index_by_name(&format!("{column}_idx")).await;
        let index = index.expect("indexes").expect("built");
        let mut wrong = index.clone();
        wrong.fragment_bitmap.as_mut().expect("coverage").insert(1);
        let lists = Operation::CreateIndex {
            new_indices: vec![wrong],
            removed_indices: vec![index],
        };
        let lists = Transaction::new(table.version().version, lists, None);
        let commit = CommitBuilder::new(Arc::new(table)).execute(lists);
        table = commit.await.expect("a version");
        let done = lake.run(&["verify", &uri, "--deep", "--json"]);
        assert_eq!(done.code, Some(1), "{column}: {done:?}");
        let document = done.json();
        let found = document["tables"][0]["findings"]
            .as_array()
            .expect("findings");
        let of_index = found
            .iter()
            .find(|f| f["file"] == format!("index {column}_idx"));
        let of_index = of_index.unwrap_or_else(|| panic!("{column}: {found:?}"));
        let remedy = of_index["remedy"].as_str().expect("remedy");
        assert!(remedy.contains("build it anew"), "{of_index}");
    }
}
