//! What a file's name says of it, and how names are shown.

use std::{
    ffi::OsStr,
    fmt::Write,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::formats::Format;

/// What producers and their tools put behind a name while they write the file: downloads, uploads, editors, copies.
const UNFINISHED: [&str; 28] = [
    "~",
    ".!qb",
    ".!ut",
    ".aria2",
    ".bc!",
    ".copying",
    ".crdownload",
    ".dctmp",
    ".download",
    ".downloading",
    ".filepart",
    ".kate-swp",
    ".in-progress",
    ".incomplete",
    ".inprogress",
    ".lock",
    ".opdownload",
    ".part",
    ".partial",
    ".swo",
    ".swp",
    ".swx",
    ".temp",
    ".tmp",
    ".upload",
    ".uploading",
    ".writing",
    "._copying_",
];

/// What file managers leave where they looked, whole names.
const BESIDE: [&str; 8] = [
    "$recycle.bin",
    "@eadir",
    "__macosx",
    "desktop.ini",
    "ehthumbs.db",
    "icon\r",
    "lost+found",
    "thumbs.db",
];

/// Where tables of other formats say which of the files beside it count. It is their writers', who fail when it is moved.
const LOGS: [&str; 3] = [".hoodie", "_delta_log", "_spark_metadata"];

/// Checksums that tools put beside each file.
const CHECKSUMS: [&str; 5] = [".crc", ".md5", ".sha1", ".sha256", ".sha512"];

/// Checksums of all files beside them, whole names; with or without `.txt`.
const CHECKSUM_LISTS: [&str; 5] = [
    "checksums",
    "md5sums",
    "sha1sums",
    "sha256sums",
    "sha512sums",
];

/// Signatures, notes and older copies that people and tools put beside data.
const NOTES: [&str; 5] = [".asc", ".bak", ".md", ".orig", ".sig"];

/// What a name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Named {
    /// Input, or a directory of it.
    Data,
    /// Its producer is still writing it.
    Unfinished,
    /// No data: what people and tools leave beside data (`_SUCCESS`, `Thumbs.db`, checksums, signatures, notes, an editor's older
    /// copy, hidden files in a directory).
    Beside,
    /// A file in no format that can be read, as far as its name says.
    Unknown,
}

impl Named {
    /// What `name` says; nothing is opened.
    pub(crate) fn of(name: &OsStr, is_dir: bool) -> Self {
        let lower = name.to_string_lossy().to_lowercase();
        if BESIDE.contains(&lower.as_str()) || lower.starts_with("~$") || (is_dir && is_log(name)) {
            return Self::Beside;
        }
        // `_temporary` is where Hadoop and Spark write until their job is done.
        if lower.starts_with('.')
            || (is_dir && lower == "_temporary")
            || UNFINISHED.iter().any(|end| lower.ends_with(end))
        {
            return Self::Unfinished;
        }
        if is_dir || Format::of(Path::new(name)).is_ok() {
            return Self::Data;
        }
        // `_SUCCESS`, `_metadata`, `_committed_17`: words of the tools that wrote the files beside it.
        let list = lower.strip_suffix(".txt").unwrap_or(&lower);
        if lower.starts_with('_')
            || CHECKSUM_LISTS.contains(&list)
            || CHECKSUMS
                .iter()
                .chain(&NOTES)
                .any(|end| lower.ends_with(end))
        {
            return Self::Beside;
        }
        Self::Unknown
    }

    /// What the name of the file at `path` says inside a directory, where hidden files never were data, and `x~` beside `x` is
    /// an editor's older copy rather than a file that is being written.
    pub(crate) fn inside(path: &Path, is_dir: bool) -> Self {
        let name = path.file_name().unwrap_or_default().as_bytes();
        let original = name.strip_suffix(b"~").map(OsStr::from_bytes);
        let is_copy = original.is_some_and(|name| path.with_file_name(name).is_file());
        // It must not be passed over: not all of the files beside it are rows of its table.
        if is_dir && is_log(OsStr::from_bytes(name)) {
            return Self::Data;
        }
        if name.starts_with(b".") || is_copy {
            return Self::Beside;
        }
        Self::of(OsStr::from_bytes(name), is_dir)
    }
}

/// Whether a directory of this name is the log of a table in another format.
pub(crate) fn is_log(name: &OsStr) -> bool {
    LOGS.iter().any(|log| name == *log)
}

/// A name that is safe in a log, a reason or a terminal: what is no printable text is escaped.
pub(crate) fn shown(name: impl AsRef<OsStr>) -> String {
    let mut text = String::new();
    for chunk in name.as_ref().as_bytes().utf8_chunks() {
        text.push_str(&printable(chunk.valid()));
        for byte in chunk.invalid() {
            // Writing into a string does not fail.
            write!(text, "\\x{byte:02x}").unwrap_or_default();
        }
    }
    text
}

/// `text` with everything escaped that moves a cursor, ends a line or turns the direction of writing.
pub(crate) fn printable(text: &str) -> String {
    let unsafe_to_show = |c: char| {
        c.is_control()
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if unsafe_to_show(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    shown
}

/// Where something lies, as [`shown`], for errors.
pub(crate) fn shown_path(path: &PathBuf) -> String {
    shown(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_what_a_file_is() {
        let unfinished = [
            ".hidden.csv",
            "t.csv.TMP",
            "t.csv.filepart",
            "t.csv.CRDOWNLOAD",
            "t.csv.!qB",
            "t.csv.bc!",
            "t.csv._COPYING_",
            "t.csv~",
            "t.1.partial",
            "t.csv.gz.tmp",
        ];
        let beside = [
            "_SUCCESS",
            "Thumbs.db",
            "desktop.ini",
            "t.csv.crc",
            "~$t.csv",
            "SHA256SUMS",
            "sha256sums.txt",
            "t.csv.asc",
            "README.md",
            "batch.toml.bak",
            "batch.toml.orig",
        ];
        let unknown = ["t.csv.xz", "t.gz", "t", "t.txt", "batch.toml"];
        let data = [
            "t.csv",
            "_t.1.PARQUET",
            "t.tmp.csv",
            "t.md.csv",
            "t.1.csv.gz",
            "t.jsonl.ZST",
            "t.parquet.bz2",
        ];
        for (names, is) in [
            (&unfinished[..], Named::Unfinished),
            (&beside, Named::Beside),
            (&unknown, Named::Unknown),
            (&data, Named::Data),
        ] {
            for name in names {
                assert_eq!(Named::of(OsStr::new(name), false), is, "{name}");
            }
        }
        for (name, is) in [
            ("batch-1", Named::Data),
            ("batch.tmp", Named::Unfinished),
            ("_temporary", Named::Unfinished),
            ("__MACOSX", Named::Beside),
            ("_delta_log", Named::Beside),
            ("_spark_metadata", Named::Beside),
            ("_batch", Named::Data),
        ] {
            assert_eq!(Named::of(OsStr::new(name), true), is, "{name}");
        }
        assert_eq!(Named::inside(Path::new("b/.keep"), false), Named::Beside);
        assert_eq!(Named::inside(Path::new("b/_delta_log"), true), Named::Data);
    }

    #[test]
    fn an_older_copy_is_one_only_beside_its_original() {
        let dir = tempfile::TempDir::new().unwrap();
        std::fs::write(dir.path().join("batch.toml"), "").unwrap();
        let inside = |name: &str| Named::inside(&dir.path().join(name), false);
        assert_eq!(inside("batch.toml~"), Named::Beside);
        assert_eq!(inside("a.csv~"), Named::Unfinished);
        assert_eq!(inside("~"), Named::Unfinished);
    }

    #[test]
    fn what_a_terminal_would_obey_is_escaped() {
        let name = OsStr::from_bytes(b"a\x1b[2J\n\xff\xe2\x80\xae.csv");
        assert_eq!(shown(name), "a\\u{1b}[2J\\n\\xff\\u{202e}.csv");
        assert_eq!(shown("größe.csv"), "größe.csv");
    }
}
