//! What others say of an error, as people read it: without what is for programmers, and what the disk says first.

use std::borrow::Cow;

/// What a disk refuses, by what Rust puts behind the system's own words, with what to do.
const DISK: [(&str, &str); 4] = [
    ("(os error 28)", "free some space"),
    (
        "(os error 122)",
        "free some of what this user may use, or have the quota raised",
    ),
    ("(os error 30)", "it is mounted for reading alone"),
    ("(os error 13)", "check who may read and write there"),
];

/// How Lance begins what it calls internal. Who may be at fault is not known.
const BUG_REPORT: &str = "Encountered internal error. Please file a bug report at https://github.com/lance-format/lance/issues. ";

/// How it begins what it calls invalid, which mostly is what stands on storage.
const INVALID: &str = "Invalid user input: ";

/// What may stand behind a path in a message.
const PATH_ENDS: [&str; 6] = [": ", " failed", "\"", "'", ", ", " ("];

/// The text of a cause.
pub(super) fn for_people(text: &str) -> String {
    disk_first(text).unwrap_or_else(|| {
        let text = without_names(&without_answers(text));
        without_debug(&without_places(&without_tries(&text)))
    })
}

/// What Lance and the storage's client put before what they say: which of their own kinds of errors it is.
fn without_names(text: &str) -> String {
    let mut kept = text.replace(BUG_REPORT, "").replace(INVALID, "");
    for (before, behind) in [("LanceError(", "): "), ("Generic ", " error: ")] {
        let mut from = 0;
        while let Some(at) = kept[from..].find(before).map(|at| from + at) {
            let name = at + before.len();
            let end = kept[name..].find(behind).map(|end| name + end);
            let is_name = |end: &usize| {
                kept[name..*end]
                    .chars()
                    .all(|c| c.is_alphanumeric() || c == '/')
            };
            match end.filter(is_name) {
                Some(end) => kept.replace_range(at..end + behind.len(), ""),
                None => from = name,
            }
        }
    }
    kept
}

/// A request that failed is its method and its address, not how often and how long it was tried:
/// `Error performing GET http://s3/b?list-type=2 in 3ms, after 2 retries, max_retries: 3, retry_timeout: 20s  - refused`.
fn without_tries(text: &str) -> Cow<'_, str> {
    let found = text
        .split_once("Error performing ")
        .and_then(|(before, rest)| {
            let (request, why) = rest.split_once(" - ")?;
            let (request, _) = request.split_once(" in ")?;
            let (address, _) = request.split_once('?').unwrap_or((request, ""));
            Some(format!("{before}{address}: {why}"))
        });
    found.map_or(Cow::Borrowed(text), Cow::Owned)
}

/// That a disk refused something, and the file: what was under way around it is a page of numbers.
fn disk_first(text: &str) -> Option<String> {
    let found = |(number, remedy)| Some((text.split_once(number)?.0.trim_end(), remedy));
    let (before, remedy) = DISK.into_iter().find_map(found)?;
    let words = before.rsplit([':', '"', '{']).next()?.trim();
    let file = path_in(before).map_or_else(String::new, |path| format!(": {path}"));
    Some(format!("{words}{file}; {remedy}"))
}

/// The first path in a text. Lance's own, and those of the storage below it, are without the slash before them.
fn path_in(text: &str) -> Option<String> {
    let is_path =
        |word: &&str| word.contains('/') && !word.contains("://") && !word.contains(".rs:");
    let word = text.split_whitespace().find(is_path)?;
    let rest = word.trim_start_matches(['"', '\'', '(']);
    let rest = &text[text.find(rest)?..];
    let ends = PATH_ENDS.iter().filter_map(|end| rest.find(end));
    let path = rest[..ends.min().unwrap_or(rest.len())].trim_end_matches([':', ',', '.']);
    let is_object = ["LanceError", "LocalFileSystem"]
        .iter()
        .any(|of| text.contains(of));
    let slash = match path.starts_with(['/', '.']) || !is_object {
        true => "",
        false => "/",
    };
    Some(format!("{slash}{path}"))
}

/// Lance ends its messages in the places of its source code, as paths of the machine that built us: `, /…/io.rs:15:12`.
fn without_places(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    for (i, part) in text.split(", ").enumerate() {
        let place = part.strip_prefix("location: ").unwrap_or(part);
        let rest = place
            .split_once(".rs:")
            .map(|(path, rest)| (path.contains('/'), behind_position(rest)));
        match rest {
            Some((true, rest)) if i > 0 => kept.push_str(rest),
            _ => {
                if i > 0 {
                    kept.push_str(", ");
                }
                kept.push_str(part);
            }
        }
    }
    kept
}

/// S3 answers with a document; its code and its message are for people. `<Error><Code>AccessDenied</Code>...</Error>`.
fn without_answers(text: &str) -> Cow<'_, str> {
    let Some(start) = text.find("<Error>") else {
        return Cow::Borrowed(text);
    };
    let end = text[start..].find("</Error>");
    let end = end.map_or(text.len(), |end| start + end + "</Error>".len());
    let of = |tag: &str| {
        let (_, inner) = text[start..end].split_once(&format!("<{tag}>"))?;
        Some(inner.split_once('<')?.0)
    };
    let Some(code) = of("Code") else {
        return Cow::Borrowed(text);
    };
    let before = text[..start].trim_end();
    let before = before
        .rfind("<?xml")
        .map_or(before, |at| before[..at].trim_end());
    let remedy = match code {
        "NoSuchBucket" => "; make the bucket, or correct its name",
        "AccessDenied" => "; check the credentials, and what they may do in this bucket",
        "ExpiredToken" => "; get new credentials",
        "InvalidAccessKeyId" | "SignatureDoesNotMatch" => "; check the credentials",
        "PermanentRedirect" => "; check the region and the endpoint",
        _ => "",
    };
    let message = of("Message").map_or_else(String::new, |said| format!(" ({said})"));
    Cow::Owned(format!("{before} {code}{message}{remedy}{}", &text[end..]))
}

/// Arrow and Lance print types and bytes as programmers see them: a line for each field of a struct, a number for each
/// byte. Nobody else reads them.
fn without_debug(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = behind_fields(rest)
            .or_else(|| behind_numbers(rest))
            .or_else(|| behind_bytes(rest));
        match after {
            Some(next) => {
                kept.push_str("...");
                rest = next;
            }
            None => {
                kept.push(c);
                rest = &rest[c.len_utf8()..];
            }
        }
    }
    kept
}

/// What stands behind `[Field { name: "a", ... }, ...]`.
fn behind_fields(text: &str) -> Option<&str> {
    if !text.starts_with("[Field {") {
        return None;
    }
    let mut open = 0_usize;
    let end = text.char_indices().find_map(|(at, c)| {
        match c {
            '[' => open += 1,
            ']' => open -= 1,
            _ => {}
        }
        (open == 0).then_some(at + 1)
    });
    Some(end.map_or("", |end| &text[end..]))
}

/// What stands behind `[76, 65, 78, 67]`.
fn behind_numbers(text: &str) -> Option<&str> {
    let inner = text.strip_prefix('[')?;
    let (numbers, behind) = inner.split_once(']').unwrap_or((inner, ""));
    let is_byte = |number: &str| number.parse::<u8>().is_ok();
    let are_bytes = numbers.matches(", ").count() >= 3 && numbers.split(", ").all(is_byte);
    are_bytes.then_some(behind)
}

/// What stands behind `bytes: b"LANC\x00"`.
fn behind_bytes(text: &str) -> Option<&str> {
    let inner = text.strip_prefix("bytes: b\"")?;
    let mut is_escaped = false;
    let end = inner.find(|c: char| {
        let ends = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        ends
    });
    Some(end.map_or("", |end| &inner[end + 1..]))
}

/// What stands behind `15:12`, a line and a column.
fn behind_position(text: &str) -> &str {
    let digit = |c: char| c.is_ascii_digit();
    let rest = text.trim_start_matches(digit);
    match rest.strip_prefix(':') {
        Some(column) if column.starts_with(digit) => column.trim_start_matches(digit),
        _ => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::{
        for_people, without_answers, without_debug, without_names, without_places, without_tries,
    };

    #[test]
    fn what_a_disk_says_comes_first_with_the_file() {
        for (text, told) in [
            (
                "LanceError(IO): multipart upload of part 0 of tmp/two words/lake/t.lance/data/a.lance failed after 3.1ms (5242880 bytes, part_size=5242880 bytes): Generic LocalFileSystem error: Unable to write to file: No space left on device (os error 28), /x/lance-io-14/src/object_writer.rs:1:2",
                "No space left on device: /tmp/two words/lake/t.lance/data/a.lance; free some space",
            ),
            (
                "Unable to open file /lake/_squire/recovery/x.json#1: Disk quota exceeded (os error 122)",
                "Disk quota exceeded: /lake/_squire/recovery/x.json#1; free some of what this user may use, or have the quota raised",
            ),
            (
                "Read-only file system (os error 30)",
                "Read-only file system; it is mounted for reading alone",
            ),
            (
                "Unable to create dir \"/lake/t.lance\": Permission denied (os error 13)",
                "Permission denied: /lake/t.lance; check who may read and write there",
            ),
            (
                "cannot move sp/claimed/1/t.csv: Permission denied (os error 13); check its permissions",
                "Permission denied: sp/claimed/1/t.csv; check who may read and write there",
            ),
        ] {
            assert_eq!(for_people(text), told);
        }
        assert_eq!(for_people("gone (os error 2)"), "gone (os error 2)");
    }

    #[test]
    fn kinds_of_errors_are_not_told() {
        for (text, told) in [
            ("LanceError(IO): Generic S3 error: refused", "refused"),
            ("Generic N/A error: Invalid user input: x", "x"),
            (
                "x: LanceError(Arrow): Schema error: y",
                "x: Schema error: y",
            ),
            (
                "Encountered internal error. Please file a bug report at https://github.com/lance-format/lance/issues. it is odd",
                "it is odd",
            ),
            (
                "Generic advice is no error: x",
                "Generic advice is no error: x",
            ),
            ("LanceError(", "LanceError("),
        ] {
            assert_eq!(without_names(text), told);
        }
    }

    #[test]
    fn a_request_is_told_without_its_tries() {
        let text = "Error performing GET http://s3:1/b?list-type=2&prefix=x in 3.1ms, after 2 retries, max_retries: 3, retry_timeout: 20s  - Server returned non-2xx status code: 403 Forbidden: ";
        assert_eq!(
            without_tries(text),
            "GET http://s3:1/b: Server returned non-2xx status code: 403 Forbidden: "
        );
        let other = "Error performing magic";
        assert_eq!(without_tries(other), other);
    }

    #[test]
    fn places_of_source_code_are_not_told() {
        let told = "LanceError(IO): no such file: a.rs, b, /home/x/.cargo/registry/src/x/lance-14/src/io.rs:15:12";
        assert_eq!(
            without_places(told),
            "LanceError(IO): no such file: a.rs, b"
        );
        let inner = "x: y, /a/b.rs:1:2: z, location: src/c.rs:3:4";
        assert_eq!(without_places(inner), "x: y: z");
        assert_eq!(without_places("a.rs:1:2"), "a.rs:1:2");
    }

    #[test]
    fn an_answer_of_s3_is_its_code_and_what_to_do() {
        let said = "status 404 Not Found: <?xml version=\"1.0\"?>\n<Error><Code>NoSuchBucket</Code>\n<Message>It is not there</Message><BucketName>b</BucketName></Error>, tried 3 times";
        assert_eq!(
            without_answers(said),
            "status 404 Not Found: NoSuchBucket (It is not there); make the bucket, or correct its name, tried 3 times"
        );
        let cut = "403: <Error><Code>AccessDenied</Code><Mess";
        assert!(without_answers(cut).starts_with("403: AccessDenied; check the cred"));
        for other in ["<Error> of mine", "a < b", "<Error><Code>"] {
            assert_eq!(without_answers(other), other);
        }
    }

    #[test]
    fn types_and_bytes_are_told_in_short() {
        for (text, told) in [
            (
                r#"cannot cast 'Struct([Field { name: "a", data_type: List([Field { name: "i" }]) }, Field { name: "b" }])' to Int64"#,
                "cannot cast 'Struct(...)' to Int64",
            ),
            (
                "no Lance file (invalid magic: [76, 65, 78, 67])",
                "no Lance file (invalid magic: ...)",
            ),
            (r#"len: 3, bytes: b"a\"\xff""#, "len: 3, ..."),
            (
                r#"web"site [0.1, 2] [7] of [a, b] größe"#,
                r#"web"site [0.1, 2] [7] of [a, b] größe"#,
            ),
            ("cut: [Field { name: [", "cut: ..."),
        ] {
            assert_eq!(without_debug(text), told);
        }
    }
}
