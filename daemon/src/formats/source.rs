//! Opening an input: only a regular, finished, non-empty file that begins as its name says.

use std::{
    fs::{self, File, FileType, Metadata},
    io::{self, Read, Seek},
    path::Path,
    time::SystemTime,
};

use super::{Format, FormatError, InputLimits};

/// Enough of a file to know what it is.
const HEAD_BYTES: u64 = 512;

/// What files begin with that are often found under another name.
const MAGICS: [(&[u8], &str); 11] = [
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "a zip archive (or a spreadsheet)"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"BZh", "bzip2"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
    (b"PAR1", "Parquet"),
    (b"ARROW1", "an Arrow file"),
    (b"%PDF-", "PDF"),
    (b"SQLite format 3", "an SQLite database"),
];

/// A file as it was when it was opened.
#[derive(Debug)]
pub(super) struct Source<'a> {
    path: &'a Path,
    length: u64,
    modified: Option<SystemTime>,
}

impl<'a> Source<'a> {
    /// Looks before it opens: opening a pipe waits for a writer, and reading a device may never end.
    pub(super) fn open(
        path: &'a Path,
        format: Format,
        limits: &InputLimits,
    ) -> Result<(Self, File), FormatError> {
        let failed = io_error(path);
        check_kind(path, &fs::metadata(path).map_err(&failed)?)?;
        let mut file = File::open(path).map_err(&failed)?;
        let metadata = file.metadata().map_err(&failed)?;
        check_kind(path, &metadata)?;
        let length = metadata.len();
        if length == 0 {
            return Err(FormatError::Empty { path: path.into() });
        }
        limits
            .input_bytes(length)
            .map_err(FormatError::limit(path))?;
        let mut head = Vec::new();
        file.by_ref()
            .take(HEAD_BYTES)
            .read_to_end(&mut head)
            .map_err(&failed)?;
        file.rewind().map_err(&failed)?;
        if let Some(found) = disguised(&head, format) {
            let detail = format!("is {found}, not what its extension says");
            return Err(FormatError::content(path, &detail));
        }
        let modified = metadata.modified().ok();
        let source = Self {
            path,
            length,
            modified,
        };
        Ok((source, file))
    }

    /// The bytes that it had; what is written behind them meanwhile does not count.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Refuses what was read if the file was written to meanwhile: it may be half of the old and half of the new.
    pub(super) fn check_unchanged(&self, file: &File) -> Result<(), FormatError> {
        let now = file.metadata().map_err(io_error(self.path))?;
        if now.len() == self.length && now.modified().ok() == self.modified {
            return Ok(());
        }
        let detail = "was written to while it was read; rename finished files into place";
        Err(FormatError::content(self.path, &detail))
    }
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<(), FormatError> {
    let kind = metadata.file_type();
    if kind.is_file() {
        return Ok(());
    }
    if kind.is_dir() {
        return Err(io_error(path)(io::ErrorKind::IsADirectory.into()));
    }
    Err(FormatError::NotAFile {
        path: path.into(),
        kind: name_of(kind),
    })
}

fn name_of(kind: FileType) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

/// What the file is instead, where it is certainly not of the format.
fn disguised(head: &[u8], format: Format) -> Option<&'static str> {
    let known = MAGICS.iter().find(|(magic, _)| head.starts_with(magic));
    let own = match format {
        Format::Parquet => &b"PAR1"[..],
        Format::ArrowFile | Format::ArrowStream => b"ARROW1",
        Format::Csv | Format::Ndjson => b"",
    };
    if !own.is_empty() && head.starts_with(own) {
        return None;
    }
    if let Some((_, name)) = known {
        return Some(name);
    }
    if !matches!(format, Format::Csv | Format::Ndjson) {
        return None;
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    let text = text.trim_ascii_start().to_ascii_lowercase();
    let is_page = text.starts_with(b"<!doctype") || text.starts_with(b"<html");
    is_page.then_some("a web page")
}

pub(super) fn io_error(path: &Path) -> impl Fn(io::Error) -> FormatError + '_ {
    move |source| FormatError::Io {
        path: path.into(),
        source,
    }
}
