//! Columns of other names, values for columns that are missing, and values that are changed because it was asked for.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, Float64Array, Int64Array, StringArray},
    datatypes::{DataType, Field, Schema, TimeUnit},
    util::display::array_value_to_string,
};

use super::{Files, FormatError, Input, InputLimits, batch};
use crate::formats::{Coerced, Coercion, Given, Rows, Setting, Shape, read};

fn table() -> Schema {
    Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("day", DataType::Date32, true),
        Field::new("at", DataType::Timestamp(TimeUnit::Second, None), true),
    ])
}

fn set<T>(column: &str, value: T) -> Setting<T> {
    Setting {
        column: column.to_owned(),
        value,
        at: format!("--x {column}"),
        line: None,
    }
}

fn called(columns: &[(&str, &str)]) -> Shape {
    let columns = columns.iter();
    Shape {
        columns: columns.map(|(c, s)| set(c, (*s).to_owned())).collect(),
        ..Shape::default()
    }
}

fn with_default(mut shape: Shape, column: &str, value: Given) -> Shape {
    shape.defaults.push(set(column, value));
    shape
}

fn field(text: &str) -> Given {
    Given::Field(text.to_owned())
}

fn coercing(coerce: &[Coercion]) -> Shape {
    Shape {
        coerce: coerce.to_vec(),
        ..Shape::default()
    }
}

fn rows(path: &std::path::Path, shape: &Shape) -> Result<Rows, FormatError> {
    let reading = shape.reading(&table())?;
    read(&Input::file(path), Some(&reading), &InputLimits::default())
}

/// The rows as Arrow shows them, nulls as `-`.
fn shown(rows: &Rows) -> Vec<String> {
    let mut lines = Vec::new();
    for batch in &rows.batches {
        assert_eq!(batch.schema().as_ref(), &table());
        for row in 0..batch.num_rows() {
            let values = batch
                .columns()
                .iter()
                .map(|column| match column.is_null(row) {
                    true => "-".to_owned(),
                    false => array_value_to_string(column, row).unwrap(),
                });
            lines.push(values.collect::<Vec<_>>().join(" "));
        }
    }
    lines
}

fn refused(result: Result<impl std::fmt::Debug, FormatError>, parts: &[&str]) {
    let message = result.expect_err("must be refused").to_string();
    for part in parts {
        assert!(message.contains(part), "`{part}` not in: {message}");
    }
}

#[test]
fn columns_are_found_under_their_other_names_in_every_format() {
    let files = Files::new();
    let shape = called(&[("id", "Order No."), ("name", "id")]);
    let binary = || {
        batch(vec![
            ("id", Arc::new(StringArray::from(vec!["a", "b"]))),
            ("Order No.", Arc::new(Int64Array::from(vec![1, 2]))),
        ])
    };
    let paths = [
        files.text("t.csv", "Order No.,id\n1,a\n2,b\n"),
        files.text(
            "t.jsonl",
            "{\"Order No.\":1,\"id\":\"a\"}\n{\"id\":\"b\",\"Order No.\":2}\n",
        ),
        files.binary("t.parquet", &binary()),
        files.binary("t.arrow", &binary()),
    ];
    for path in &paths {
        let rows = rows(path, &shape).unwrap();
        assert_eq!(shown(&rows), ["1 a - -", "2 b - -"], "{}", path.display());
    }
    // Its own name is another column's now, or nobody's.
    let path = files.text("own.csv", "name,id,Order No.\nx,a,1\n");
    refused(
        rows(&path, &shape),
        &["own.csv", "`name`", "read from `id`"],
    );
    let path = files.text("bad.csv", "Order No.\nx\n");
    refused(rows(&path, &shape), &["bad.csv:2", "`Order No.`", "\"x\""]);
}

#[test]
fn rows_to_merge_have_every_column_or_a_default_for_it() {
    let files = Files::new();
    let merged = |path: &std::path::Path, shape: &Shape| {
        let reading = shape.reading(&table())?.merged_into("people");
        read(&Input::file(path), Some(&reading), &InputLimits::default())
    };
    let some = || batch(vec![("id", Arc::new(Int64Array::from(vec![1, 2])))]);
    let shape = called(&[("at", "When")]);
    for (path, whole) in [
        (
            files.text("t.csv", "id\n1\n2\n"),
            "t.csv: lacks `name`, `day`, `When` of table people",
        ),
        (
            files.binary("t.parquet", &some()),
            "t.parquet: lacks `name`, `day`, `When` of",
        ),
        (
            files.binary("t.arrow", &some()),
            "t.arrow: lacks `name`, `day`, `When` of",
        ),
        (
            files.text(
                "t.jsonl",
                "{\"id\":1,\"name\":null,\"day\":null,\"When\":null}\n{\"id\":2,\"When\":null}\n",
            ),
            "t.jsonl:2: lacks `name`, `day` of table people",
        ),
    ] {
        let told = "--default name=VALUE, or [tables.people.defaults] in batch.toml";
        refused(merged(&path, &shape), &[whole, told]);
        // Whoever adds rows loses nothing.
        assert_eq!(shown(&rows(&path, &shape).unwrap()), ["1 - - -", "2 - - -"]);
        let defaults = with_default(shape.clone(), "name", field("x"));
        let defaults = with_default(defaults, "day", field("2026-01-31"));
        let defaults = with_default(defaults, "at", field(""));
        let read = shown(&merged(&path, &defaults).unwrap());
        assert_eq!(read[1], "2 x 2026-01-31 -", "{}", path.display());
    }
    let nulls = files.text("null.csv", "id,name,day,When\n1,,,\n");
    assert_eq!(shown(&merged(&nulls, &shape).unwrap()), ["1 - - -"]);
}

#[test]
fn a_default_stands_in_for_what_is_missing_and_not_for_a_null() {
    let files = Files::new();
    let shape = with_default(Shape::default(), "id", Given::Number("7".to_owned()));
    let shape = with_default(shape, "name", field("plant"));
    let shape = with_default(shape, "day", field("2026-01-31"));
    let binary = batch(vec![(
        "name",
        Arc::new(StringArray::from(vec![Some("a"), None])) as _,
    )]);
    for (path, expected) in [
        (
            files.text("t.csv", "name,at\na,\n,2026-01-01T00:00:00\n"),
            ["7 a 2026-01-31 -", "7 - 2026-01-31 2026-01-01T00:00:00"],
        ),
        (
            files.text("t.jsonl", "{\"id\":1,\"name\":null}\n{\"day\":null}\n"),
            ["1 - 2026-01-31 -", "7 plant - -"],
        ),
        (
            files.binary("t.parquet", &binary),
            ["7 a 2026-01-31 -", "7 - 2026-01-31 -"],
        ),
    ] {
        let rows = rows(&path, &shape).unwrap();
        assert_eq!(shown(&rows), expected, "{}", path.display());
    }
    let null = files.text("null.jsonl", "{\"id\":null}\n");
    refused(rows(&null, &shape), &["null.jsonl:1", "`id`", "required"]);
}

#[test]
fn what_does_not_go_with_the_table_is_refused_where_it_stands() {
    let of = |shape: Shape| shape.reading(&table());
    refused(
        of(called(&[("zz", "a")])),
        &["--x zz", "`zz`", "id, name, day, at"],
    );
    refused(
        of(called(&[("id", "a"), ("id", "b")])),
        &["--x id", "mapped already"],
    );
    let twice = called(&[("id", "a"), ("name", "a")]);
    refused(of(twice), &["--x name", "`a`", "`id`", "`name`"]);
    let taken = called(&[("id", "name")]);
    refused(
        of(taken),
        &["--x id", "`name`", "map the other one as well"],
    );
    let default = |column: &str, value: Given| with_default(Shape::default(), column, value);
    refused(of(default("zz", field("1"))), &["--x zz", "`zz`"]);
    for value in [
        field("x"),
        Given::Text("x".to_owned()),
        Given::Bool(true),
        field(""),
        Given::List(vec![field("1")]),
        Given::Number("1.5".to_owned()),
    ] {
        refused(
            of(default("id", value)),
            &["--x id", "`id` (Int64) does not take it"],
        );
    }
    let twice = with_default(default("id", field("1")), "id", field("2"));
    refused(of(twice), &["--x id", "a default already"]);
}

fn told(coerced: &[Coerced]) -> Vec<(&str, Coercion, u64, &str, u64)> {
    let told = coerced.iter();
    told.map(|c| {
        (
            c.column.as_str(),
            c.coercion,
            c.count,
            c.first.as_str(),
            c.at,
        )
    })
    .collect()
}

#[test]
fn values_are_changed_only_as_asked_and_told() {
    use Coercion as C;
    let files = Files::new();
    let csv = "id,name,day,at\n1, a ,2026-01-31,\n 2 ,NA,31.12.2026,1/2/2026T10:00:00\n3,\"NA\",NULL,NA\n";
    let path = files.text("t.csv", csv);
    refused(rows(&path, &Shape::default()), &["t.csv:3", "`id`"]);
    refused(rows(&path, &coercing(&[C::Trim])), &["t.csv:3", "`day`"]);
    let all = [C::Trim, C::Null, C::DatesDmy];
    let read = rows(&path, &coercing(&all)).unwrap();
    let expected = [
        "1  a  2026-01-31 -",
        "2 - 2026-12-31 2026-02-01T10:00:00",
        "3 NA - -",
    ];
    assert_eq!(shown(&read), expected);
    assert_eq!(
        told(&read.coerced),
        [
            ("id", C::Trim, 1, " 2 ", 3),
            ("name", C::Null, 1, "NA", 3),
            ("day", C::Null, 1, "NULL", 4),
            ("day", C::DatesDmy, 1, "31.12.2026", 3),
            ("at", C::Null, 1, "NA", 4),
            ("at", C::DatesDmy, 1, "1/2/2026T10:00:00", 3),
        ]
    );
    let json =
        "{\"id\":\" 4\",\"name\":\"NULL\",\"day\":\"NULL\"}\n{\"id\":5,\"day\":\"02/01/2026\"}\n";
    let path = files.text("t.jsonl", json);
    let read = rows(&path, &coercing(&[C::Trim, C::Null, C::DatesMdy])).unwrap();
    assert_eq!(shown(&read), ["4 NULL - -", "5 - 2026-02-01 -"]);
    // A day that there is not stays one.
    let path = files.text("odd.csv", "id,day\n1,31.02.2026\n");
    let odd = rows(&path, &coercing(&[C::DatesDmy]));
    refused(odd, &["odd.csv:2", "`day`"]);
}

/// What is quoted stands in the file, and the order in which it was read says what is wrong with it.
#[test]
fn a_date_that_is_none_in_its_order_is_quoted_as_written() {
    use Coercion as C;
    let files = Files::new();
    for (column, written, order) in [
        ("day", "12/31/2026", C::DatesDmy),
        ("day", "13/1/2026", C::DatesMdy),
        ("day", "12/31/2026 1:05 PM", C::DatesMdy),
        ("at", "12/31/2026 1:05 PM", C::DatesMdy),
    ] {
        let told = format!("\"{written}\", read in the order of {order}, ");
        for (name, text) in [
            ("t.csv", format!("id,{column}\n1,{written}\n")),
            (
                "t.jsonl",
                format!("{{\"id\":1,\"{column}\":\"{written}\"}}\n"),
            ),
        ] {
            let path = files.text(name, &text);
            refused(rows(&path, &coercing(&[order])), &[name, column, &told]);
        }
    }
}

#[test]
fn a_column_that_is_read_from_another_one_says_so() {
    let files = Files::new();
    let shape = called(&[("name", "nope")]);
    let binary = |with: &[&str]| {
        let id: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let text = |name| (name, Arc::new(StringArray::from(vec!["a"])) as ArrayRef);
        let texts = with.iter().map(|name| text(*name));
        batch([("id", id)].into_iter().chain(texts).collect())
    };
    let lacks = "`name` of the table is read from `nope`, which is not there";
    for path in [
        files.text("t.csv", "id,name\n1,a\n"),
        files.text("t.jsonl", "{\"id\":1,\"name\":\"a\"}\n"),
        files.binary("t.parquet", &binary(&["name"])),
    ] {
        refused(rows(&path, &shape), &[lacks]);
    }
    let both = "`name` of the table is read from `nope`, and the file's own has no place";
    for path in [
        files.text("t.csv", "id,name,nope\n1,a,a\n"),
        files.text("t.jsonl", "{\"id\":1,\"nope\":\"a\",\"name\":\"a\"}\n"),
        files.binary("t.arrow", &binary(&["name", "nope"])),
    ] {
        refused(rows(&path, &shape), &[both]);
    }
}

#[test]
fn whole_floats_become_integers_only_where_asked_and_exactly() {
    let files = Files::new();
    let ids = |values: Vec<Option<f64>>| batch(vec![("id", Arc::new(Float64Array::from(values)))]);
    let path = files.binary("t.parquet", &ids(vec![Some(1.0), Some(-2.0)]));
    refused(
        rows(&path, &Shape::default()),
        &["t.parquet", "`id`", "Float64"],
    );
    let whole = coercing(&[Coercion::Whole]);
    let read = rows(&path, &whole).unwrap();
    assert_eq!(shown(&read), ["1 - - -", "-2 - - -"]);
    assert_eq!(told(&read.coerced), [("id", Coercion::Whole, 2, "1.0", 1)]);
    for odd in [1.5, f64::NAN, 1e300, 9.3e18] {
        let path = files.binary("odd.arrow", &ids(vec![Some(1.0), Some(odd)]));
        refused(rows(&path, &whole), &["odd.arrow", "`id`", "row 2"]);
    }
}
