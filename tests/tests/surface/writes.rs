//! Writes mean what was checked, and say what they did.

use crate::input::refused;
use crate::one_document;
use arrow_array::RecordBatch;
use arrow_schema::{DataType, Field, Schema};
use lance::dataset::{InsertBuilder, WriteMode, WriteParams};
use serde_json::json;
use squire_tests::{Lake, tree};
use std::path::PathBuf;
use std::sync::Arc;

/// A table `t` (id, value), keyed by id, with the ids 1 to 3.
fn lake() -> Lake {
    let lake = Lake::with_tables(&["t"]);
    let rows = lake.csv("rows.csv", (1..4).map(|id| (id, format!("v{id}"))));
    lake.run(&["write", &lake.uri, "t", &rows]).ok();
    lake
}

#[tokio::test]
async fn a_delete_runs_the_predicate_that_was_checked() {
    let lake = lake();
    for (predicate, text) in [
        ("id = 1) OR (id = 2", "parentheses"),
        ("\"value\" <> 'v1'", "double quotes"),
        ("id > 9 OR \"value\" <> 'v1'", "double quotes"),
        ("1 = 1", "reads no column"),
        ("'value' <> 'v1'", "reads no column"),
        ("_rowid >= 0", "reads no column"),
        ("_rowaddr IS NOT NULL OR 1 = 1", "reads no column"),
        ("_row_created_at_version > 0", "reads no column"),
        ("_row_last_updated_at_version >= 1", "reads no column"),
        ("id = 1; id = 2", "predicate"),
        ("random() < id", "something else each time"),
    ] {
        let args = ["delete", &lake.uri, "t", "--where", predicate];
        refused(&lake, &args, 2, &[text]);
    }
    let args = [
        "delete",
        &lake.uri,
        "t",
        "--where",
        "`value` <> 'v1' -- all but one",
    ];
    assert!(lake.run(&args).ok().stdout.contains("t 2 -> 3: 2 deleted"));
    assert_eq!(lake.ids("t").await, [1]);
    let all = lake
        .run(&["delete", &lake.uri, "t", "--where", "true"])
        .ok();
    assert!(all.stdout.contains("1 deleted"), "{all:?}");
    assert!(lake.ids("t").await.is_empty());
}

/// Lance's planner takes a time for the wall clock's in the zone of the column, and drops the offset of one without a zone.
#[tokio::test]
async fn a_time_means_the_instant_that_is_written_or_is_refused() {
    use arrow_array::TimestampMicrosecondArray;
    use squire_engine::commit::{CommitRequest, TableWrite, Write};
    use squire_engine::error::ErrorKind;
    const NOON: i64 = 1_706_702_400_000_000;
    let utc = "arrow_cast('2024-01-31T12:00:00Z', 'Timestamp(Microsecond, Some(\"UTC\"))')";
    let exact = format!("t = {utc}");
    for (zone, predicate, fits) in [
        (Some("UTC"), "t = timestamp '2024-01-31T12:00:00Z'", true),
        (
            Some("+00:00"),
            "t = timestamp '2024-01-31T14:00:00+02:00'",
            true,
        ),
        (
            Some("Europe/Berlin"),
            "t = timestamp '2024-01-31T12:00:00Z'",
            false,
        ),
        (
            Some("+05:30"),
            "t >= timestamp '2024-01-31 12:00:00'",
            false,
        ),
        (Some("Europe/Berlin"), "t < to_timestamp(1706702400)", false),
        (Some("Europe/Berlin"), exact.as_str(), true),
        (Some("+05:30"), exact.as_str(), true),
        (None, "t = timestamp '2024-01-31T14:00:00+02:00'", false),
        (None, "t = timestamp '2024-01-31T12:00:00Z'", false),
        (None, "t = timestamp '2024-01-31T12:00:00'", true),
    ] {
        let zone: Option<Arc<str>> = zone.map(Into::into);
        let kind = DataType::Timestamp(arrow_schema::TimeUnit::Microsecond, zone.clone());
        let schema = Arc::new(Schema::new(vec![Field::new("t", kind, true)]));
        let times = [NOON - 1, NOON, NOON + 1].to_vec();
        let times = TimestampMicrosecondArray::from(times).with_timezone_opt(zone.clone());
        let rows = RecordBatch::try_new(schema.clone(), vec![Arc::new(times)]).expect("rows");
        let store = squire_engine::store::Store::init("memory://times", Default::default());
        let store = store.await.expect("store");
        let commit = async |write: Write| {
            let table = "t".parse().expect("name");
            store
                .commit(&CommitRequest::new(vec![TableWrite { table, write }]))
                .await
        };
        let create = Write::Create { schema, key: None };
        commit(create).await.expect("create");
        commit(Write::Append(vec![rows].into()))
            .await
            .expect("rows");
        let predicate = predicate.to_owned();
        let deleted = commit(Write::Delete {
            predicate: predicate.clone(),
        })
        .await;
        let told = format!("{zone:?} {predicate}: {deleted:?}");
        match deleted {
            Ok(squire_engine::commit::Outcome::Committed(done)) if fits => {
                let rows = done.rows.values().map(|rows| rows.deleted).sum::<u64>();
                assert_eq!(rows, 1, "{told}");
            }
            Err(e) if !fits => assert_eq!(e.kind(), ErrorKind::InvalidInput, "{told}"),
            _ => panic!("{told}"),
        }
    }
}

/// Lance's planner panics on them.
#[test]
fn a_predicate_with_a_placeholder_is_bad_input() {
    let lake = lake();
    for predicate in [
        "id = $1",
        "id = ?",
        "id = :x",
        "value = N'a'",
        "value = $$a$$",
    ] {
        let args = ["delete", &lake.uri, "t", "--where", predicate];
        lake.run(&args).failed(2, "does not fit the table");
    }
}

#[tokio::test]
async fn an_overwrite_by_nothing_takes_a_flag() {
    let lake = lake();
    let empty = lake.csv("empty.csv", []);
    let overwrite = ["write", &lake.uri, "t", &empty, "--mode", "overwrite"];
    refused(&lake, &overwrite, 2, &["table t", "--allow-empty"]);
    let batch = lake.path("batch");
    std::fs::create_dir(&batch).expect("directory");
    std::fs::copy(&empty, batch.join("t.csv")).expect("copy");
    let settings = batch.join("batch.toml");
    std::fs::write(&settings, "[tables.t]\nmode = \"overwrite\"\n").expect("file");
    let commit = ["commit", &lake.uri, &batch.to_string_lossy()];
    refused(&lake, &commit, 2, &["table t", "allow_empty"]);
    assert_eq!(lake.ids("t").await, [1, 2, 3]);
    std::fs::write(
        &settings,
        "[tables.t]\nmode = \"overwrite\"\nallow_empty = true\n",
    )
    .expect("file");
    assert!(lake.run(&commit).ok().stdout.contains("3 deleted"));
    assert!(lake.ids("t").await.is_empty());
}

/// What is refused is quoted in short, whatever its length and whatever a terminal would make of it.
#[tokio::test]
async fn a_refusal_quotes_little_and_no_control_characters() {
    let lake = lake();
    let key = format!("\u{1b}[2J{}", "k".repeat(200_000));
    let schema = lake.path("keys.json").to_string_lossy().into_owned();
    std::fs::write(&schema, r#"[{"name":"k","type":"utf8"}]"#).expect("schema file");
    lake.run(&["create", &lake.uri, "keys", "--schema", &schema])
        .ok();
    let twice = lake.path("twice.csv");
    std::fs::write(&twice, format!("k\n{key}\n{key}\n")).expect("rows");
    let twice = twice.to_string_lossy();
    let merge = [
        "write", &lake.uri, "keys", &twice, "--mode", "merge", "--key", "k",
    ];
    let predicate = format!("id = 1 AND nothing IN ({}1)", "1, ".repeat(20_000));
    let delete = ["delete", &lake.uri, "t", "--where", &predicate];
    let name = "n".repeat(5_000);
    let create = ["create", &lake.uri, &name, "--schema", &schema];
    let quote = lake.path("quote.json").to_string_lossy().into_owned();
    std::fs::write(&quote, r#"[{"name":"a`b","type":"utf8"}]"#).expect("schema file");
    let backtick = ["create", &lake.uri, "quote", "--schema", &quote];
    let nul = lake.path("nul.json").to_string_lossy().into_owned();
    std::fs::write(&nul, r#"[{"name":"a\u0000b","type":"utf8"}]"#).expect("schema file");
    let nul = ["create", &lake.uri, "nul", "--schema", &nul];
    for (args, text) in [
        (&nul[..], "U+0000"),
        (&merge, "stands twice"),
        (&delete, "predicate \"id = 1 AND"),
        (&create, "is not a table name"),
        (&backtick, "backtick"),
    ] {
        let done = refused(&lake, args, 2, &[text]);
        assert!(done.stderr.len() < 1_500, "{} bytes", done.stderr.len());
        assert!(!done.stderr.contains('\u{1b}'), "{done:?}");
    }
}

#[test]
fn a_write_says_what_it_did_to_the_rows() {
    let lake = lake();
    let merged = lake.csv("merge.csv", (3..5).map(|id| (id, "new".to_owned())));
    let args = [
        "write", &lake.uri, "t", &merged, "--mode", "merge", "--json",
    ];
    let document = one_document(&lake.run(&args).ok());
    assert_eq!(
        document["rows"]["t"],
        json!({ "inserted": 1, "updated": 1, "deleted": 0 })
    );
    let args = ["write", &lake.uri, "t", &merged, "--mode", "overwrite"];
    let done = lake.run(&args).ok();
    assert!(
        done.stdout.contains("t 3 -> 4: 2 inserted, 4 deleted"),
        "{done:?}"
    );
}

#[tokio::test]
async fn a_batch_id_stands_for_one_content() {
    let lake = lake();
    let (first, other) = (
        lake.csv("first.csv", [(10, "x".to_owned())]),
        lake.csv("other.csv", [(11, "x".to_owned())]),
    );
    let write = |file: &str| {
        let args = ["write", &lake.uri, "t", file, "--batch-id", "b"];
        lake.run(&args)
    };
    write(&first).ok();
    assert!(write(&first).ok().stdout.contains("already committed"));
    let args = ["write", &lake.uri, "t", &other, "--batch-id", "b"];
    refused(&lake, &args, 2, &["batch id \"b\"", "other content"]);
    assert_eq!(lake.ids("t").await, [1, 2, 3, 10]);

    let merge = |file: &str, mode: &str, id: &str| {
        let args = [
            "write",
            &lake.uri,
            "t",
            file,
            "--mode",
            mode,
            "--batch-id",
            id,
        ];
        lake.run(&args)
    };
    merge(&first, "merge", "m").ok();
    let again = merge(&first, "merge", "m").ok().stdout;
    assert!(again.contains("already committed"), "{again}");
    merge(&other, "merge", "m").failed(2, "other content");
    merge(&first, "append", "m").failed(2, "other content");

    let delete = |predicate: &str| {
        let args = [
            "delete",
            &lake.uri,
            "t",
            "--where",
            predicate,
            "--batch-id",
            "d",
        ];
        lake.run(&args)
    };
    delete("id = 10").ok();
    let again = delete("id = 10").ok().stdout;
    assert!(again.contains("already committed"), "{again}");
    delete("id = 1").failed(2, "other content");
    assert_eq!(lake.ids("t").await, [1, 2, 3]);
}

#[tokio::test]
async fn rows_that_the_table_cannot_give_back_are_refused_before_they_are_committed() {
    let lake = lake();
    let path = PathBuf::from(&lake.uri).join("t.lance");
    // Files of the first format know no null of a struct, and no list that is null rather than empty.
    let item = Arc::new(Field::new("item", DataType::Int64, true));
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("l", DataType::List(item), true),
    ]));
    let params = WriteParams {
        mode: WriteMode::Overwrite,
        data_storage_version: "legacy".parse().ok(),
        ..WriteParams::default()
    };
    let dataset = InsertBuilder::new(&*path.to_string_lossy())
        .with_params(&params)
        .execute(vec![RecordBatch::new_empty(schema)])
        .await
        .expect("an overwrite");
    let head = dataset.version().version.to_string();
    let adopt = [
        "repair", &lake.uri, "--table", "t", "--force", "--head", &head,
    ];
    lake.run(&adopt).ok();
    let before = tree(&path);
    let file = lake.path("rows.jsonl");
    let write = ["write", &lake.uri, "t", &file.to_string_lossy()];
    std::fs::write(&file, "{\"id\":1,\"l\":null}\n{\"id\":2,\"l\":[]}\n").expect("file");
    let text = ["table t", "column l", "read back", "nothing was committed"];
    refused(&lake, &write, 2, &text);
    assert_eq!(tree(&path), before, "something is left behind");
    std::fs::write(&file, "{\"id\":1,\"l\":[1]}\n").expect("file");
    assert!(lake.run(&write).ok().stdout.contains("1 inserted"));
}
