//! Mutated files of every format: each is read or refused in a few words and a few seconds, whatever it claims.
//!
//! Half of the changes are blind, the others know the format: the metadata of Parquet is Thrift, a line of NDJSON is a value, a
//! line of CSV has fields. Some are packed then, and the packing is changed as well. `SQUIRE_FUZZ_SEED` is the seed of the first case, `SQUIRE_FUZZ_CASES` how many follow. `SQUIRE_FUZZ_DIR` keeps the file of
//! a case that fails, under its seed's name: after an abort, which no test outlives, it is the one that is left.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use arrow::array::{Array, RecordBatch};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::fuzz_tests::seeds;

use super::{
    Files, FormatError, InputLimits,
    by_hand::with_footer,
    compressed::packed,
    good::{flat, good},
    thrift::Thrift,
};

/// Longer than any case should take on a busy machine. One that does is stuck, and so would be whoever reads such a file.
const MOST_SECONDS: Duration = Duration::from_secs(20);

/// Longer than any message should be, paths apart.
const MESSAGE_CHARS: usize = 700;

/// Longer than this no text is made.
const MOST_BYTES: usize = 10 << 20;

/// What a claimed size is most likely to be wrong by.
const NUMBERS: [u64; 10] = [
    0,
    1,
    0x7f,
    0xff,
    0xffff,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 40,
    u64::MAX,
];

/// What text is made of where parsers differ.
const TOKENS: [&str; 20] = [
    "\"",
    "\"\"",
    ",",
    "\n",
    "\r",
    "\r\n",
    "\0",
    "{",
    "}",
    "[",
    "]",
    "[[[[[[[[",
    ":",
    "null",
    "1e999",
    "-0",
    "99999999999999999999",
    "\\u0000",
    "\u{feff}",
    "2024-02-30T25:61:00+99:99",
];

fn pick<'v, T>(from: &'v [T], random: &mut StdRng) -> &'v T {
    &from[random.random_range(0..from.len())]
}

/// Changes one value within a tree of Thrift.
fn mutate_thrift(tree: &mut Thrift, random: &mut StdRng) {
    let mut count = 0;
    tree.walk(&mut |_| count += 1);
    let mut left: usize = random.random_range(0..count);
    let mut change = |value: &mut Thrift| match value {
        Thrift::Int(value) => *value = pick(&NUMBERS, random).cast_signed(),
        Thrift::Binary(text) => {
            let times: usize = *pick(&[0, 2, 10_000], random);
            *text = text.repeat(times.min(MOST_BYTES / text.len().max(1)));
        }
        Thrift::List(_, length, items) => match random.random_range(0..4) {
            0 => *length = *pick(&NUMBERS, random),
            1 => drop(items.pop()),
            2 => items.reverse(),
            // A node of a schema within itself, over and over.
            _ => {
                let times = *pick(&[1, 10, 1_000], random);
                let times = if items.len() < 1_000 { times } else { 1 };
                let at = random.random_range(0..=items.len());
                let inner = items.get(at).cloned();
                items.splice(at..at, inner.into_iter().cycle().take(times));
                *length = items.len() as u64;
            }
        },
        Thrift::Struct(fields) if !fields.is_empty() => {
            let at = random.random_range(0..fields.len());
            match random.random_range(0..3) {
                0 => drop(fields.remove(at)),
                1 => fields[at].0 = random.random_range(0..20),
                _ => fields.push(fields[at].clone()),
            }
        }
        other => *other = Thrift::Int(*pick(&[0, 1, i64::MAX], random)),
    };
    tree.walk(&mut |value| {
        if left == 0 {
            change(value);
        }
        left = left.wrapping_sub(1);
    });
}

/// Changes the footer of a Parquet file, or the header of a page.
fn mutate_parquet(bytes: &mut Vec<u8>, random: &mut StdRng) -> Option<()> {
    let tail = bytes.len().checked_sub(8)?;
    let length = bytes[tail..tail + 4].try_into().map(u32::from_le_bytes);
    let start = tail.checked_sub(length.ok()? as usize)?;
    let (mut footer, _) = Thrift::parse(&bytes[start..tail])?;
    if random.random_bool(0.5) {
        mutate_thrift(&mut footer, random);
        *bytes = with_footer(bytes[..start].to_vec(), &footer);
        return Some(());
    }
    // Wherever a number of the footer leads to.
    let mut starts = Vec::new();
    footer.walk(&mut |value| {
        if let Thrift::Int(at) = value {
            starts.extend(
                usize::try_from(*at)
                    .ok()
                    .filter(|at| (4..start).contains(at)),
            );
        }
    });
    let at = (!starts.is_empty()).then(|| *pick(&starts, random))?;
    let (mut header, rest) = Thrift::parse(&bytes[at..])?;
    let end = bytes.len() - rest.len();
    mutate_thrift(&mut header, random);
    bytes.splice(at..end, header.bytes());
    Some(())
}

/// Changes one value within a line of NDJSON.
fn mutate_json(value: &mut Value, random: &mut StdRng) {
    match value {
        Value::Object(members) if !members.is_empty() && random.random_bool(0.8) => {
            let at = random.random_range(0..members.len());
            let name = members.keys().nth(at).cloned().unwrap_or_default();
            match random.random_range(0..4) {
                0 => drop(members.remove(&name)),
                1 => drop(members.insert(
                    name.repeat(1_000.min(MOST_BYTES / 100 / name.len().max(1))),
                    json!(1),
                )),
                _ => mutate_json(&mut members[&name], random),
            }
        }
        Value::Array(items) if !items.is_empty() && random.random_bool(0.8) => {
            let at = random.random_range(0..items.len());
            mutate_json(&mut items[at], random);
        }
        value => {
            let deep = (0..*pick(&[2, 100], random)).fold(json!(1), |inner, _| json!([inner]));
            let others = [
                json!(null),
                json!(true),
                json!(-1),
                json!(u64::MAX),
                json!(1e300),
                json!("NaN"),
                json!({"x": {}}),
                json!(vec![0; 1_000]),
                deep,
            ];
            *value = pick(&others, random).clone();
        }
    }
}

/// Changes a line of a text: a value, a field, or which lines there are.
fn mutate_text(extension: &str, bytes: &mut Vec<u8>, random: &mut StdRng) -> Option<()> {
    let text = std::str::from_utf8(bytes).ok()?;
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at = (!lines.is_empty()).then(|| random.random_range(0..lines.len()))?;
    match random.random_range(0..4) {
        0 => drop(lines.remove(at)),
        1 => lines.insert(at, lines[at].clone()),
        _ if extension == "csv" => {
            let mut fields: Vec<&str> = lines[at].split(',').collect();
            let field = random.random_range(0..fields.len());
            match random.random_range(0..4) {
                0 => drop(fields.remove(field)),
                1 => fields.insert(field, fields[field]),
                _ => fields[field] = *pick(&TOKENS, random),
            }
            lines[at] = fields.join(",");
        }
        _ => {
            let mut value = serde_json::from_str(&lines[at]).ok()?;
            mutate_json(&mut value, random);
            lines[at] = value.to_string();
        }
    }
    *bytes = lines.join("\n").into_bytes();
    Some(())
}

/// Changes `bytes` in one way.
fn mutate(extension: &str, bytes: &mut Vec<u8>, other: &[u8], random: &mut StdRng) {
    let structured = random.random_bool(0.5);
    let changed = match extension {
        "parquet" if structured => mutate_parquet(bytes, random),
        "csv" | "ndjson" | "json" if structured => mutate_text(extension, bytes, random),
        _ => None,
    };
    if changed.is_none() {
        mutate_bytes(bytes, other, random);
    }
}

fn mutate_bytes(bytes: &mut Vec<u8>, other: &[u8], random: &mut StdRng) {
    let length = bytes.len();
    if length < 16 {
        bytes.extend(other.iter().take(64));
        return;
    }
    // What a file says of itself stands at its ends more often than not.
    let at = match random.random_range(0..4) {
        0 => random.random_range(0..length.min(256)),
        1 => length - 1 - random.random_range(0..length.min(256)),
        _ => random.random_range(0..length),
    };
    let end = (at + random.random_range(1..64)).min(length);
    match random.random_range(0..8) {
        0 => bytes[at] ^= 1 << random.random_range(0..8),
        1 => bytes[at] = random.next_u32() as u8,
        2 => {
            let number = NUMBERS[random.random_range(0..NUMBERS.len())].to_le_bytes();
            let width = [4, 8][random.random_range(0..2)].min(length - at);
            bytes[at..at + width].copy_from_slice(&number[..width]);
        }
        3 => bytes.truncate(at.max(1)),
        4 => drop(bytes.drain(at..end)),
        5 => {
            let twice = bytes[at..end].to_vec();
            bytes.splice(at..at, twice);
        }
        6 => {
            let token = TOKENS[random.random_range(0..TOKENS.len())];
            let times = [1, 1, 1, 300][random.random_range(0..4)];
            bytes.splice(at..at, token.repeat(times).into_bytes());
        }
        _ => {
            let from = random.random_range(0..other.len());
            let part = &other[from..(from + 64).min(other.len())];
            bytes.splice(at..end, part.iter().copied());
        }
    }
}

/// Reads one file in every way; what is wrong with what comes of it.
fn read_or_refused(path: &Path) -> Result<(), String> {
    let limits = InputLimits {
        max_decoded_bytes: 64 << 20,
        max_rows: 1_000_000,
        ..InputLimits::default()
    };
    if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        return checked(path, super::read_schema_file(path).map(|_| Vec::new()));
    }
    checked(
        path,
        super::schema_within(path, &limits).map(|_| Vec::new()),
    )?;
    let target = flat().schema();
    for target in [None, Some(target.as_ref())] {
        checked(path, super::read_within(path, target, &limits))?;
    }
    Ok(())
}

/// Whether batches are valid, and a refusal is one that a person can read.
fn checked(path: &Path, read: Result<Vec<RecordBatch>, FormatError>) -> Result<(), String> {
    match read {
        Ok(batches) => {
            for column in batches.iter().flat_map(RecordBatch::columns) {
                let valid = column.to_data().validate_full();
                valid.map_err(|e| format!("an invalid array was let in: {e}"))?;
            }
        }
        Err(error) => {
            let message = error.to_string();
            let length = message.chars().count();
            if length > MESSAGE_CHARS + path.as_os_str().len() {
                return Err(format!("a message of {length} characters"));
            }
            if message.chars().any(char::is_control) || message.contains("registry/src") {
                return Err(format!(
                    "control characters or a place in a source: {message:?}"
                ));
            }
        }
    }
    Ok(())
}

/// Reads a file in a thread of its own, which has the stack that a thread of the daemon has.
fn in_time(path: &Path) -> Result<(), String> {
    let (done, result) = mpsc::channel();
    let path = path.to_owned();
    thread::spawn(move || done.send(read_or_refused(&path)));
    match result.recv_timeout(MOST_SECONDS) {
        Ok(result) => result,
        Err(mpsc::RecvTimeoutError::Timeout) => Err("is not done after 20 seconds".to_owned()),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err("panicked".to_owned()),
    }
}

#[test]
fn mutated_files_are_read_or_refused() {
    let files = Files::new();
    let dir = std::env::var_os("SQUIRE_FUZZ_DIR").map_or(files.0.path().into(), PathBuf::from);
    let good = good();
    for (extension, bytes) in &good {
        let path = dir.join(format!("good.{extension}"));
        fs::write(&path, bytes).expect("file");
        match *extension {
            "json" => drop(super::read_schema_file(&path).expect("a good schema")),
            _ => drop(super::read(&path, None).expect("a good file")),
        }
        fs::remove_file(&path).expect("file");
    }
    for seed in seeds(1, 1_000) {
        let mut random = StdRng::seed_from_u64(seed);
        let (extension, mut bytes) = good[random.random_range(0..good.len())].clone();
        for _ in 0..random.random_range(1..5) {
            let other = &good[random.random_range(0..good.len())].1;
            mutate(extension, &mut bytes, other, &mut random);
        }
        let mut name = format!("case-{seed}.{extension}");
        if extension != "json" && random.random_bool(0.3) {
            let packing = *pick(&["gz", "zst", "bz2"], &mut random);
            name = format!("{name}.{packing}");
            bytes = packed(packing, &bytes);
            let other = &good[random.random_range(0..good.len())].1;
            for _ in 0..random.random_range(0..3) {
                mutate_bytes(&mut bytes, other, &mut random);
            }
        }
        let path = dir.join(name);
        fs::write(&path, &bytes).expect("file");
        if let Err(wrong) = in_time(&path) {
            panic!(
                "seed {seed} ({extension}): {wrong}; SQUIRE_FUZZ_SEED={seed} SQUIRE_FUZZ_CASES=1 repeats it"
            );
        }
        fs::remove_file(&path).expect("file");
    }
}
