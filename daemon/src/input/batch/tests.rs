//! Entries as producers write them, and each way to get one wrong.

use tempfile::TempDir;

use super::*;
use crate::formats::{Coercion, Given};

/// A batch directory with these files; `batch.toml` gets its text, all others stay empty.
fn directory(files: &[&str], settings: Option<&str>) -> TempDir {
    let dir = TempDir::new().unwrap();
    for file in files {
        fs::write(dir.path().join(file), "").unwrap();
    }
    if let Some(settings) = settings {
        fs::write(dir.path().join(BATCH_FILE), settings).unwrap();
    }
    dir
}

fn parse(files: &[&str], settings: &str) -> Result<BatchSpec, BatchError> {
    BatchSpec::parse(directory(files, Some(settings)).path())
}

fn refused(files: &[&str], settings: &str, parts: &[&str]) {
    let message = parse(files, settings).unwrap_err().to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` not in: {message}");
    }
}

fn modes(spec: &BatchSpec) -> Vec<(&str, &Mode, usize)> {
    spec.tables
        .iter()
        .map(|input| (input.table.as_str(), &input.mode, input.files.len()))
        .collect()
}

#[test]
fn a_file_is_appended_to_its_table() {
    for name in [
        "orders.csv",
        "orders.2026-01-01.parquet",
        "orders.a.b.c.jsonl",
        "orders.1.ARROWS",
        "orders.1.csv.gz",
    ] {
        let dir = directory(&[name], None);
        let path = dir.path().join(name);
        let spec = BatchSpec::parse(&path).unwrap();
        assert_eq!(spec.name, name);
        assert_eq!(
            spec.tables,
            [TableInput::append("orders".into(), vec![path])]
        );
        assert_eq!((spec.message, spec.batch_id), (None, None));
    }
}

#[test]
fn a_directory_is_one_batch() {
    let files = [
        "b.2.csv",
        "b.1.csv",
        "a.parquet",
        "m.csv",
        "d.csv",
        "o.csv",
        ".DS_Store",
        "_SUCCESS",
        "_committed_17",
        "Thumbs.db",
        "desktop.ini",
        "b.1.csv.crc",
    ];
    let settings = "message = \"nightly\"\nbatch_id = \"n-1\"\n[tables.m]\nmode = \"merge\"\nkey = \"id\"\n[tables.d]\nmode = \"delete\"\n\
                    [tables.o]\nmode = \"overwrite\"\n[tables.w]\nmode = \"delete\"\nwhere = \"x < 1\"\n[tables.a]\n";
    let dir = directory(&files, Some(settings));
    let spec = BatchSpec::parse(dir.path()).unwrap();
    assert_eq!(
        (spec.message.as_deref(), spec.batch_id.as_deref()),
        (Some("nightly"), Some("n-1"))
    );
    let (merge, delete) = (
        Mode::Merge {
            key: Some("id".parse().unwrap()),
            when: When::Upsert,
        },
        Mode::DeleteByKey { key: None },
    );
    let by_predicate = Mode::DeleteWhere {
        predicate: "x < 1".into(),
    };
    let expected = [
        ("a", &Mode::Append, 1),
        ("b", &Mode::Append, 2),
        ("d", &delete, 1),
        ("m", &merge, 1),
        ("o", &Mode::Overwrite { allow_empty: false }, 1),
        ("w", &by_predicate, 0),
    ];
    assert_eq!(modes(&spec), expected);
    assert_eq!(
        spec.tables[1].files,
        [dir.path().join("b.1.csv"), dir.path().join("b.2.csv")]
    );
}

#[test]
fn a_batch_merges_a_part_replaces_a_slice_and_says_what_it_read() {
    let settings = "[tables.i]\nmode = \"insert\"\nkey = [\"a\", \"b\"]\n[tables.u]\nmode = \"update\"\n\
                    [tables.r]\nmode = \"replace\"\nwhere = \"x < 1\"\nallow_empty = true\n[require]\ni = 7\n";
    let spec = parse(&["i.csv", "r.csv", "u.csv"], settings).unwrap();
    let (insert, update, replace) = (
        Mode::Merge {
            key: Some("a,b".parse().unwrap()),
            when: When::Insert,
        },
        Mode::Merge {
            key: None,
            when: When::Update,
        },
        Mode::Replace {
            predicate: "x < 1".into(),
            allow_empty: true,
        },
    );
    let expected = [("i", &insert, 1), ("r", &replace, 1), ("u", &update, 1)];
    assert_eq!(modes(&spec), expected);
    assert_eq!(spec.require, BTreeMap::from([("i".to_owned(), 7)]));
    let reads = parse(&["t.csv"], "[require]\nt = 7\n").unwrap();
    assert!(!reads.only_appends(), "what reads goes alone");
}

#[test]
fn settings_alone_can_be_a_batch() {
    let spec = parse(&[], "[tables.t]\nmode = \"delete\"\nwhere = \"true\"\n").unwrap();
    assert_eq!(spec.tables.len(), 1);
}

#[test]
fn settings_that_are_no_text_or_too_long_are_refused() {
    let mut latin = b"# first\nmessage = \"Z".to_vec();
    latin.extend(b"\xfcrich\"\n");
    let utf_16: Vec<u8> = "message"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let utf_16 = [&b"\xff\xfe"[..], &utf_16].concat();
    let long = "#".repeat(1024 * 1024 + 1).into_bytes();
    for (bytes, parts) in [
        (latin, ["batch.toml:2:", "UTF-8"]),
        (utf_16, ["batch.toml:1:", "UTF-8"]),
        (long, ["batch.toml:1:", "larger than 1048576 bytes"]),
    ] {
        let dir = directory(&["t.csv"], None);
        fs::write(dir.path().join(BATCH_FILE), bytes).unwrap();
        let error = BatchSpec::parse(dir.path()).unwrap_err();
        assert!(
            !matches!(error, BatchError::Io { .. }),
            "nothing to wait for"
        );
        let message = error.to_string();
        assert!(parts.iter().all(|part| message.contains(part)), "{message}");
    }
}

#[test]
fn a_message_is_no_book() {
    let message = |length| format!("message = \"{}\"\n", "y".repeat(length));
    assert!(parse(&["t.csv"], &message(4096)).is_ok());
    refused(
        &["t.csv"],
        &message(4097),
        &["batch.toml:1: message: is longer than 4096 bytes"],
    );
}

#[test]
fn what_people_and_tools_put_beside_data_is_passed_over() {
    let files = [
        "t.csv",
        "batch.toml~",
        "batch.toml.bak",
        "t.csv.asc",
        "README.md",
        "SHA256SUMS",
    ];
    let dir = directory(&files, Some("message = \"x\"\n"));
    let spec = BatchSpec::parse(dir.path()).unwrap();
    assert_eq!(modes(&spec), [("t", &Mode::Append, 1)]);
}

#[test]
fn wrong_toml_names_file_and_line() {
    refused(&["t.csv"], "message = \n", &["batch.toml:1:"]);
    refused(
        &["t.csv"],
        "\nmesage = \"x\"\n",
        &["batch.toml:2:", "mesage"],
    );
    refused(
        &["t.csv"],
        "[tables.t]\nmode = \"append\"\nkye = \"id\"\n",
        &["batch.toml:3:", "kye"],
    );
    refused(
        &["t.csv"],
        "[tables.t]\nmode = \"upsert\"\n",
        &["batch.toml:2:", "upsert", "merge"],
    );
    refused(
        &["t.csv"],
        "[tables.t]\nkey = 1\n",
        &["batch.toml:2:", "the name of a column, or a list"],
    );
    refused(&["t.csv"], "[tables.t]\n[tables.t]\n", &["batch.toml:2:"]);
}

#[test]
fn senseless_settings_name_the_key() {
    let at = |line: usize, key: &str| format!("batch.toml:{line}: {key}: ");
    refused(
        &["t.csv"],
        "message = \" \"\n",
        &[&at(1, "message"), "is empty"],
    );
    refused(&["t.csv"], "\nbatch_id = \"\"\n", &[&at(2, "batch_id")]);
    refused(
        &["t.csv"],
        "[tables.t]\nmode = \"merge\"\nkey = \"\"\n",
        &[&at(3, "tables.t.key"), "is empty"],
    );
    refused(
        &["t.csv"],
        "[tables.t]\nkey = \"id\"\n",
        &[&at(2, "tables.t.key"), "merge, insert, update and delete"],
    );
    refused(
        &["t.csv"],
        "[tables.t]\nmode = \"merge\"\nwhere = \"a\"\n",
        &[
            &at(3, "tables.t.where"),
            "only for the modes delete and replace",
        ],
    );
    refused(
        &["t.csv"],
        "[tables.t]\nmode = \"delete\"\nwhere = \"a\"\n",
        &[&at(3, "tables.t.where"), "by itself"],
    );
    refused(
        &[],
        "[tables.t]\nmode = \"delete\"\nkey = \"id\"\nwhere = \"a\"\n",
        &[&at(4, "tables.t.where"), "by itself"],
    );
    refused(
        &["t.csv"],
        "\n\n[tables.u]\nmode = \"merge\"\n",
        &[&at(3, "tables.u"), "no data file"],
    );
    refused(
        &["t.csv"],
        "[tables.\"a b\"]\n",
        &[&at(1, "tables.a b"), "is no table name"],
    );
}

#[test]
fn keys_slices_and_changes_that_make_no_sense_are_named() {
    let at = |line: usize, key: &str| format!("batch.toml:{line}: {key}: ");
    for (key, detail) in [("[]", "a key is"), ("[\"a\", \"a\"]", "stands twice")] {
        let settings = format!("[tables.t]\nmode = \"update\"\nkey = {key}\n");
        refused(&["t.csv"], &settings, &[&at(3, "tables.t.key"), detail]);
    }
    refused(
        &["t.csv"],
        "\n[tables.t]\nmode = \"replace\"\n",
        &[&at(2, "tables.t"), "needs a where"],
    );
    refused(
        &[],
        "[tables.t]\nmode = \"replace\"\nwhere = \"a\"\n",
        &[&at(1, "tables.t"), "no data file"],
    );
    refused(
        &["t.csv"],
        "[tables.t]\nmode = \"overwrite\"\nschema = \"add\"\n",
        &[
            &at(3, "tables.t.schema"),
            "append, merge, insert and update",
        ],
    );
    refused(
        &["t.csv"],
        "[tables.t]\nschema = \"grow\"\n",
        &["batch.toml:2", "grow", "widen"],
    );
    refused(
        &["t.csv"],
        "[require]\n\"a b\" = 1\n",
        &[&at(2, "require.a b"), "is no table name"],
    );
}

#[test]
fn wrong_files_are_named() {
    let refused = |file: &str, part: &str| {
        let dir = directory(&[file], None);
        for path in [dir.path().to_path_buf(), dir.path().join(file)] {
            let message = BatchSpec::parse(&path).unwrap_err().to_string();
            assert!(
                message.contains(file) && message.contains(part),
                "{message}"
            );
        }
    };
    refused("orders.txt", "unsupported extension");
    refused("orders", "unsupported extension");
    refused("1orders.csv", "`1orders` is no table name");
    refused("my orders.csv", "is no table name");
    refused("orders.csv.PART", "still being written");
    refused("orders.csv._COPYING_", "still being written");
}

#[test]
fn wrong_layouts_are_named() {
    let empty = directory(&[], None);
    assert!(
        BatchSpec::parse(empty.path())
            .unwrap_err()
            .to_string()
            .contains("holds no data file")
    );
    let nested = directory(&["t.csv"], None);
    fs::create_dir(nested.path().join("u.csv")).unwrap();
    let message = BatchSpec::parse(nested.path()).unwrap_err().to_string();
    assert!(
        message.contains("u.csv") && message.contains("inside a batch"),
        "{message}"
    );
    let gone = BatchSpec::parse(&nested.path().join("v.csv")).unwrap_err();
    assert!(matches!(gone, BatchError::Io { .. }), "{gone}");
}

#[test]
fn table_names() {
    let longest = "a".repeat(LONGEST_TABLE_NAME);
    for good in ["a", "_", "A-1_b", &longest] {
        assert!(is_table_name(good), "{good}");
    }
    for bad in [
        "",
        "1a",
        "-a",
        "a.b",
        "a/b",
        "é",
        "a b",
        &format!("{longest}a"),
    ] {
        assert!(!is_table_name(bad), "{bad}");
    }
}

#[test]
fn a_batch_says_how_columns_become_the_tables() {
    let settings = "[tables.a]\nnulls = [\"note\"]\ncoerce = [\"trim\", \"dates-dmy\"]\n[tables.a.columns]\nid = \"Order No.\"\n\
                    [tables.a.defaults]\nplant = 7\n\"two words\" = \"x\"\n[tables.b]\n";
    let spec = parse(&["a.csv", "b.csv", "c.csv"], settings).unwrap();
    let [a, b, c] = spec.tables.as_slice() else {
        panic!("{spec:?}");
    };
    assert_eq!(a.shape.coerce, [Coercion::Trim, Coercion::DatesDmy]);
    let column = &a.shape.columns[0];
    assert_eq!(
        (column.column.as_str(), column.value.as_str()),
        ("id", "Order No.")
    );
    assert!(
        column.at.ends_with("batch.toml:5: tables.a.columns.id"),
        "{}",
        column.at
    );
    let defaults: Vec<_> = a
        .shape
        .defaults
        .iter()
        .map(|d| (d.column.as_str(), &d.value))
        .collect();
    let (seven, x) = (Given::Number("7".into()), Given::Text("x".into()));
    let null = Given::Field(String::new());
    assert_eq!(
        defaults,
        [("plant", &seven), ("two words", &x), ("note", &null)]
    );
    assert!(a.says_coerce && !b.says_coerce && !c.says_coerce);
    assert_eq!((&b.shape, &c.shape), (&Shape::default(), &Shape::default()));
}

#[test]
fn what_a_batch_says_of_columns_must_have_files_and_be_known() {
    let of = |settings: &str, parts: &[&str]| refused(&["a.csv"], settings, parts);
    of(
        "[tables.a]\ncoerce = [\"round\"]\n",
        &["batch.toml:2", "round", "trim"],
    );
    of(
        "[tables.a]\ncoerce = [\"dates-dmy\", \"dates-mdy\"]\n",
        &["batch.toml:2", "tables.a.coerce", "keep one"],
    );
    of("[tables.a.columns]\nid = 7\n", &["batch.toml:2"]);
    of(
        "[tables.b]\nmode = \"delete\"\nwhere = \"x < 1\"\nnulls = [\"id\"]\n",
        &["batch.toml:4", "tables.b.nulls", "is about files"],
    );
    for section in ["columns]\nid = \"a\"", "defaults]\nid = 1"] {
        let settings =
            format!("[tables.b]\nmode = \"delete\"\nwhere = \"x < 1\"\n[tables.b.{section}\n");
        of(&settings, &["batch.toml:5", "tables.b.", "is about files"]);
    }
}

/// Of Delta, Spark or Hudi: its log says which of the files are rows of it.
#[test]
fn a_table_of_another_format_is_no_batch() {
    for log in ["_delta_log", "_spark_metadata", ".hoodie"] {
        let dir = directory(&["a.parquet"], None);
        fs::create_dir(dir.path().join(log)).unwrap();
        let refused = BatchSpec::parse(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("which alone says"), "{refused}");
    }
}
