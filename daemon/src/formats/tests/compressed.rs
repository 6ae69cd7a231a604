//! Compressed inputs: as the same bytes unpacked, or refused with what is wrong.

use std::{fs, io::Write, path::PathBuf};

use bzip2::write::BzEncoder;
use flate2::write::GzEncoder;

use super::{Files, InputLimits, good::good, read, read_within, refusal, schema_of, table};

const NAMES: [&str; 3] = ["gz", "zst", "bz2"];

/// `bytes`, packed as the extension says.
pub(super) fn packed(extension: &str, bytes: &[u8]) -> Vec<u8> {
    match extension {
        "gz" => {
            let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "zst" => {
            let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
            encoder.include_checksum(true).unwrap();
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        _ => {
            let mut encoder = BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
    }
}

fn put(files: &Files, name: &str, bytes: &[u8]) -> PathBuf {
    let path = files.0.path().join(name);
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn every_format_reads_the_same_packed_and_unpacked() {
    let files = Files::new();
    for (extension, bytes) in good().iter().filter(|(name, _)| *name != "json") {
        let plain = put(&files, &format!("t.{extension}"), bytes);
        let (rows, schema) = (read(&plain, None).unwrap(), schema_of(&plain).unwrap());
        for packing in NAMES {
            let packed = packed(packing, bytes);
            // By its name, by its first bytes alone, and in capitals.
            for name in [
                format!("t.{extension}.{packing}"),
                format!("u.{extension}"),
                format!("t.{extension}.{}", packing.to_uppercase()),
            ] {
                let path = put(&files, &name, &packed);
                assert_eq!(read(&path, None).unwrap(), rows, "{name} {packing}");
                assert_eq!(schema_of(&path).unwrap(), schema, "{name} {packing}");
            }
        }
    }
}

#[test]
fn members_behind_one_another_are_one_input() {
    let files = Files::new();
    let parts = ["id,name\n1,a\n2,", "b\n3,c\n", "", "4,d\n"];
    for packing in NAMES {
        let members: Vec<u8> = parts
            .iter()
            .flat_map(|part| packed(packing, part.as_bytes()))
            .collect();
        let path = put(&files, &format!("t.csv.{packing}"), &members);
        let rows = read(&path, Some(&table())).unwrap();
        let count: usize = rows.iter().map(|batch| batch.num_rows()).sum();
        assert_eq!(count, 4, "{packing}");
    }
}

/// Tapes and blocks are filled up with zeros; whatever else was added is said to be that.
#[test]
fn zeros_behind_the_packed_data_are_no_data_and_anything_else_is_refused() {
    let files = Files::new();
    let rows = |name: &str, bytes: &[u8]| {
        let read = read(&put(&files, name, bytes), Some(&table())).unwrap();
        read.iter().map(|batch| batch.num_rows()).sum::<usize>()
    };
    for packing in NAMES {
        let name = format!("t.csv.{packing}");
        let (one, two) = (
            packed(packing, b"id,name\n1,a\n"),
            packed(packing, b"2,b\n"),
        );
        for zeros in [1, 4, 9, 512, 200_000] {
            let padded = [&one[..], &vec![0; zeros]].concat();
            assert_eq!(rows(&name, &padded), 1, "{packing}, {zeros} zeros");
            let between = [&padded[..], &two].concat();
            assert_eq!(rows(&name, &between), 2, "{packing}, {zeros} zeros between");
            for garbage in [
                "x",
                "this is certainly no member of anything",
                "id,name\n3,c\n",
            ] {
                let bytes = [&padded[..], garbage.as_bytes()].concat();
                let path = put(&files, &name, &bytes);
                refusal(read(&path, Some(&table())), &name, &["trailing garbage"]);
            }
        }
        let path = put(&files, &name, &[&one[..], b"x"].concat());
        refusal(read(&path, Some(&table())), &name, &["trailing garbage"]);
        let cut = [&one[..], &two[..two.len() - 3]].concat();
        let path = put(&files, &name, &cut);
        refusal(read(&path, Some(&table())), &name, &["is cut off"]);
    }
    // What decoders skip is no garbage.
    let skipped = [
        &packed("zst", b"id,name\n1,a\n")[..],
        b"\x50\x2a\x4d\x18\x03\0\0\0abc",
    ]
    .concat();
    assert_eq!(rows("t.csv.zst", &skipped), 1);
}

/// Wherever it is cut, and wherever a bit flips.
#[test]
fn what_is_cut_off_or_damaged_is_refused() {
    let files = Files::new();
    let text: String = (0..500)
        .map(|id| format!("{id},name {}\n", id * 7919))
        .collect();
    let whole = format!("id,name\n{text}");
    for packing in NAMES {
        let packed = packed(packing, whole.as_bytes());
        for cut in [12, packed.len() / 2, packed.len() - 5, packed.len() - 1] {
            let path = put(&files, &format!("cut.csv.{packing}"), &packed[..cut]);
            refusal(read(&path, Some(&table())), "cut.csv", &["is cut off"]);
        }
        let mut damaged = packed.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x55;
        let path = put(&files, &format!("damaged.csv.{packing}"), &damaged);
        assert!(read(&path, Some(&table())).is_err(), "{packing}");
    }
    let path = put(&files, "plain.csv.gz", b"id,name\n1,a\n");
    refusal(
        read(&path, None),
        "plain.csv.gz",
        &["is not gzip, as its name says"],
    );
    let twice = packed("gz", &packed("gz", whole.as_bytes()));
    let path = put(&files, "twice.csv.gz", &twice);
    refusal(read(&path, None), "twice.csv.gz", &["is gzip"]);
    let nothing = put(&files, "nothing.csv.gz", &packed("gz", b""));
    refusal(read(&nothing, None), "nothing.csv.gz", &["is empty"]);
}

#[test]
fn an_error_in_what_is_packed_names_its_line() {
    let files = Files::new();
    for packing in NAMES {
        let name = format!("t.csv.{packing}");
        let path = put(&files, &name, &packed(packing, b"id,name\n1,a\nx,b\n"));
        refusal(
            read(&path, Some(&table())),
            &format!("{name}:3"),
            &["`id`", "\"x\""],
        );
        let name = format!("t.jsonl.{packing}");
        let path = put(&files, &name, &packed(packing, b"{\"id\":1}\n{\"id\":\n"));
        refusal(read(&path, Some(&table())), &format!("{name}:2"), &[]);
    }
}

/// A header that begins as bzip2 does is a header.
#[test]
fn a_header_is_not_taken_for_a_magic() {
    let files = Files::new();
    let path = files.text("t.csv", "BZh9,id\n1,2\n");
    assert_eq!(schema_of(&path).unwrap().field(0).name(), "BZh9");
}

/// Much of a text of that format.
fn bomb(format: &str) -> Vec<u8> {
    let name = "a".repeat(1 << 20);
    let (header, line) = match format {
        "csv" => ("id,name\n", format!("1,{name}\n")),
        "parquet" => ("PAR1", name),
        _ => ("", format!("{{\"id\":1,\"name\":\"{name}\"}}\n")),
    };
    format!("{header}{}", line.repeat(40)).into_bytes()
}

#[test]
fn bombs_are_refused_with_the_name_of_the_limit() {
    let files = Files::new();
    let limits = InputLimits {
        max_decoded_bytes: 8 << 20,
        ..InputLimits::default()
    };
    for packing in NAMES {
        for format in ["csv", "jsonl", "arrows", "parquet"] {
            let bytes = packed(packing, &bomb(format));
            assert!(bytes.len() < 64 << 10, "{packing}: {}", bytes.len());
            let path = put(&files, &format!("bomb.{format}.{packing}"), &bytes);
            let read = read_within(&path, Some(&table()), &limits);
            refusal(read, "bomb", &["max_decoded_bytes = 8MiB"]);
        }
    }
}
