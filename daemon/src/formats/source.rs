//! Opening an input: only a regular, finished, non-empty file that begins as its name says, or standard input.

use std::{
    fs::{self, File, Metadata},
    io::{self, Cursor, Read, Write},
    ops::Range,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use crate::text_file::name_of;

use super::{
    Format, FormatError, InputLimits,
    compressed::{Bounded, Compression, Trailing},
    limits::Exceeded,
    meter::{Counted, Meter},
};

/// Enough of a file to know what it is.
pub(super) const HEAD_BYTES: u64 = 512;

/// What files begin with that are often found under another name.
const MAGICS: [(&[u8], &str); 10] = [
    (b"PK\x03\x04", "a zip archive (or a spreadsheet)"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\xff\xfe\x00\x00", "text in UTF-32"),
    (b"\x00\x00\xfe\xff", "text in UTF-32"),
    (b"\xff\xfe", "text in UTF-16"),
    (b"\xfe\xff", "text in UTF-16"),
    (b"PAR1", "Parquet"),
    (b"ARROW1", "an Arrow file"),
    (b"%PDF-", "PDF"),
    (b"SQLite format 3", "an SQLite database"),
];

/// What is to be read.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    path: PathBuf,
    /// What is said of it; `None`: its name says it, or, of standard input, its first bytes.
    format: Option<Format>,
    is_stdin: bool,
    /// What came on standard input, once it was put aside.
    aside: Option<Aside>,
    /// Is told what is read.
    meter: Meter,
}

/// Bytes that were put aside.
#[derive(Debug, Clone)]
struct Aside {
    file: Arc<File>,
    from: u64,
    /// `None`: up to the end.
    length: Option<u64>,
}

impl From<File> for Aside {
    fn from(file: File) -> Self {
        Self {
            file: Arc::new(file),
            from: 0,
            length: None,
        }
    }
}

impl Input {
    /// The file at `path`.
    pub(crate) fn file(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            format: None,
            is_stdin: false,
            aside: None,
            meter: Meter::default(),
        }
    }

    /// What comes on standard input. It can be read once, unless it is put aside.
    pub(crate) fn stdin() -> Self {
        Self {
            path: PathBuf::from(STDIN),
            format: None,
            is_stdin: true,
            aside: None,
            meter: Meter::default(),
        }
    }

    /// A piece of standard input that lies in `file`, under a name of its own.
    pub(crate) fn piece(name: impl Into<PathBuf>, file: File) -> Self {
        Self {
            path: name.into(),
            aside: Some(file.into()),
            ..Self::stdin()
        }
    }

    /// What lies in a `range` of `file`, under a name of its own.
    pub(crate) fn part(name: impl Into<PathBuf>, file: Arc<File>, range: Range<u64>) -> Self {
        let aside = Aside {
            file,
            from: range.start,
            length: Some(range.end - range.start),
        };
        Self {
            path: name.into(),
            aside: Some(aside),
            ..Self::stdin()
        }
    }

    /// The same in `format`, whatever its name says.
    pub(crate) fn in_format(self, format: Option<Format>) -> Self {
        Self { format, ..self }
    }

    /// The same, counted by `meter` when it is read.
    pub(crate) fn metered(self, meter: &Meter) -> Self {
        let meter = meter.clone();
        Self { meter, ..self }
    }

    /// Its bytes as they lie there; `None` where that is not known yet.
    pub(super) fn length(&self) -> Option<u64> {
        let metadata = match &self.aside {
            Some(Aside {
                length: Some(length),
                ..
            }) => return Some(*length),
            Some(aside) => aside.file.metadata(),
            None if self.is_stdin => return None,
            None => fs::metadata(&self.path),
        };
        Some(metadata.ok()?.len())
    }

    /// The same input where it can be read again: standard input in a file without a name.
    pub(crate) fn put_aside(mut self, limits: &InputLimits) -> Result<Self, FormatError> {
        if self.is_stdin && self.aside.is_none() {
            let mut file = tempfile::tempfile().map_err(io_error(&self.path))?;
            let mut bytes = self.counted(at_most(io::stdin(), limits));
            let copied = io::copy(&mut bytes, &mut file);
            copied.map_err(|e| match e.downcast::<Exceeded>() {
                Ok(exceeded) => FormatError::limit(&self.path)(exceeded),
                Err(e) => io_error(&self.path)(e),
            })?;
            self.aside = Some(file.into());
        }
        Ok(self)
    }

    /// The same file after `from`, in which or as which it lay, was moved to `to`.
    pub(crate) fn moved(&self, from: &Path, to: &Path) -> Self {
        let mut moved = self.clone();
        if let Ok(below) = self.path.strip_prefix(from) {
            moved.path = match below.as_os_str().is_empty() {
                true => to.to_path_buf(),
                false => to.join(below),
            };
        }
        moved
    }

    /// What it is called in messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn counted<R: Read>(&self, inner: R) -> Counted<R> {
        let meter = self.meter.clone();
        Counted { inner, meter }
    }
}

/// What standard input is called.
const STDIN: &str = "standard input";

/// The bytes of an input, unpacked, from their beginning.
pub(super) struct Source<'a> {
    pub(super) path: &'a Path,
    pub(super) format: Format,
    compression: Option<Compression>,
    /// `None` for standard input.
    stamp: Option<Stamp>,
    bytes: Box<dyn Read>,
    meter: Meter,
}

/// Standard input up to the limit of a file.
fn at_most(bytes: io::Stdin, limits: &InputLimits) -> Bounded<io::Stdin> {
    Bounded::new(bytes, limits.max_input_bytes, limits.beyond_input_bytes())
}

/// A file from some place on, whoever else reads it through the same handle.
struct FromPlace {
    file: Arc<File>,
    at: u64,
}

impl Read for FromPlace {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A file as it was when it was opened; what is written behind it meanwhile does not count.
struct Stamp {
    file: File,
    length: u64,
    modified: Option<SystemTime>,
}

impl<'a> Source<'a> {
    /// Looks before it opens: opening a pipe waits for a writer, and reading a device may never end.
    pub(super) fn open(input: &'a Input, limits: &InputLimits) -> Result<Self, FormatError> {
        let path = input.path.as_path();
        let said = match input.format {
            None if !input.is_stdin => Some(Format::of(path)?),
            said => said,
        };
        let (stamp, raw): (_, Box<dyn Read>) = if let Some(aside) = &input.aside {
            let (file, at) = (Arc::clone(&aside.file), aside.from);
            let bytes = FromPlace { file, at }.take(aside.length.unwrap_or(u64::MAX));
            (None, Box::new(input.counted(bytes)))
        } else if input.is_stdin {
            (None, Box::new(input.counted(at_most(io::stdin(), limits))))
        } else {
            let stamp = Stamp::of(path, limits)?;
            let file = stamp.file.try_clone().map_err(io_error(path))?;
            let length = stamp.length;
            (Some(stamp), Box::new(input.counted(file.take(length))))
        };
        let mut source = Self {
            path,
            // Until it is known: texts are told from nothing else.
            format: said.unwrap_or(Format::Csv),
            compression: None,
            stamp,
            bytes: raw,
            meter: input.meter.clone(),
        };
        source.unpack(input, limits)?;
        source.format = source.recognised(said)?;
        Ok(source)
    }

    /// Puts a decoder before the bytes, if they are packed.
    fn unpack(&mut self, input: &Input, limits: &InputLimits) -> Result<(), FormatError> {
        let head = self.peek()?;
        let promised = Compression::of_name(&input.path).filter(|_| !input.is_stdin);
        self.compression = Compression::of_head(&head);
        let Some(compression) = self.compression else {
            return match promised {
                Some((promised, _)) if !head.is_empty() => {
                    let detail = format!("is not {}, as its name says", promised.name());
                    Err(FormatError::content(self.path, &detail))
                }
                _ => Ok(()),
            };
        };
        let packed = std::mem::replace(&mut self.bytes, Box::new(io::empty()));
        let unpacked = compression.unpack(packed).map_err(|e| self.failed(e))?;
        let (most, exceeded) = (limits.max_decoded_bytes, limits.beyond_unpacked_bytes());
        self.bytes = Box::new(Bounded::new(unpacked, most, exceeded));
        Ok(())
    }

    /// The format, once the bytes do not contradict it.
    fn recognised(&mut self, said: Option<Format>) -> Result<Format, FormatError> {
        let head = self.peek()?;
        if head.is_empty() {
            return Err(FormatError::Empty {
                path: self.path.into(),
            });
        }
        let format = said
            .or_else(|| sniffed(&head))
            .ok_or_else(|| FormatError::Unrecognised {
                path: self.path.into(),
            })?;
        match disguised(&head, format) {
            None => Ok(format),
            Some(found) => {
                let detail = format!("is {found}, not what its extension says");
                Err(FormatError::content(self.path, &detail))
            }
        }
    }

    /// The first bytes, which stay to be read.
    fn peek(&mut self) -> Result<Vec<u8>, FormatError> {
        let mut head = Vec::new();
        let read = self.bytes.by_ref().take(HEAD_BYTES).read_to_end(&mut head);
        read.map_err(|e| self.failed(e))?;
        let rest = std::mem::replace(&mut self.bytes, Box::new(io::empty()));
        self.bytes = Box::new(Cursor::new(head.clone()).chain(rest));
        Ok(head)
    }

    /// What an error of a read means.
    pub(super) fn failed(&self, error: io::Error) -> FormatError {
        self.failed_at(None, error)
    }

    /// What an error of a read after `line` lines means: the storage failed, a limit was met, or the bytes are not what they
    /// should unpack to.
    pub(super) fn failed_at(&self, line: Option<u64>, error: io::Error) -> FormatError {
        let error = match error.downcast::<Exceeded>() {
            Ok(exceeded) => return FormatError::limit(self.path)(exceeded),
            Err(error) => error,
        };
        let Some(compression) = self.compression.filter(|_| error.raw_os_error().is_none()) else {
            return io_error(self.path)(error);
        };
        let name = compression.name();
        let detail = if error.kind() == io::ErrorKind::UnexpectedEof {
            format!("is cut off: its {name} data ends early")
        } else if error.get_ref().is_some_and(|e| e.is::<Trailing>()) {
            format!(
                "has trailing garbage: behind its {name} data come bytes that are no {name} data"
            )
        } else {
            format!("has damaged {name} data ({error})")
        };
        FormatError::Content {
            path: self.path.into(),
            line,
            detail,
        }
    }

    /// All of the bytes.
    pub(super) fn read_all(&mut self) -> Result<Vec<u8>, FormatError> {
        let mut bytes = Vec::new();
        let read = self.bytes.read_to_end(&mut bytes);
        read.map_err(|e| self.failed(e))?;
        self.check_unchanged()?;
        Ok(bytes)
    }

    /// The file itself, where it need not be unpacked.
    fn in_place(&self) -> Option<&Stamp> {
        self.stamp.as_ref().filter(|_| self.compression.is_none())
    }

    /// Tells who counts that `rows` of `all` were read by other ways than these bytes: of a file that is read where it lies.
    pub(super) fn count_share(&self, rows: u64, all: u64) {
        let share = |length: u64| u128::from(length) * u128::from(rows) / u128::from(all.max(1));
        let bytes = self.in_place().map(|stamp| share(stamp.length));
        self.meter
            .bytes(bytes.and_then(|b| b.try_into().ok()).unwrap_or(0));
    }

    /// The bytes as a file that can be read at any place: what is packed, or comes on standard input, is unpacked into one
    /// without a name, and counted meanwhile.
    pub(super) fn seekable(&mut self) -> Result<(File, u64), FormatError> {
        if let Some(Stamp { file, length, .. }) = self.in_place() {
            let file = file.try_clone().map_err(io_error(self.path))?;
            return Ok((file, *length));
        }
        let mut file = tempfile::tempfile().map_err(io_error(self.path))?;
        let mut buffer = vec![0; 1 << 16];
        let mut length = 0;
        loop {
            let read = self.bytes.read(&mut buffer).map_err(|e| self.failed(e))?;
            if read == 0 {
                break;
            }
            file.write_all(&buffer[..read])
                .map_err(io_error(self.path))?;
            length += read as u64;
        }
        Ok((file, length))
    }

    /// Refuses what was read if the file was written to meanwhile: it may be half of the old and half of the new.
    pub(super) fn check_unchanged(&self) -> Result<(), FormatError> {
        let Some(stamp) = &self.stamp else {
            return Ok(());
        };
        let now = stamp.file.metadata().map_err(io_error(self.path))?;
        if now.len() == stamp.length && now.modified().ok() == stamp.modified {
            return Ok(());
        }
        let detail = "was written to while it was read; rename finished files into place";
        Err(FormatError::content(self.path, &detail))
    }
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.bytes.read(buffer)
    }
}

impl Stamp {
    fn of(path: &Path, limits: &InputLimits) -> Result<Self, FormatError> {
        let failed = io_error(path);
        check_kind(path, &fs::metadata(path).map_err(&failed)?)?;
        let file = File::open(path).map_err(&failed)?;
        let metadata = file.metadata().map_err(&failed)?;
        check_kind(path, &metadata)?;
        let length = metadata.len();
        if length == 0 {
            return Err(FormatError::Empty { path: path.into() });
        }
        limits
            .input_bytes(length)
            .map_err(FormatError::limit(path))?;
        Ok(Self {
            file,
            length,
            modified: metadata.modified().ok(),
        })
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

/// The format that the first bytes certainly are. CSV begins with anything.
fn sniffed(head: &[u8]) -> Option<Format> {
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head);
    match head {
        head if head.starts_with(b"PAR1") => Some(Format::Parquet),
        head if head.starts_with(b"ARROW1") => Some(Format::ArrowFile),
        head if head.starts_with(b"\xff\xff\xff\xff") => Some(Format::ArrowStream),
        _ if text.trim_ascii_start().starts_with(b"{") => Some(Format::Ndjson),
        _ => None,
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
    // Unpacked, and packed still.
    if let Some(compression) = Compression::of_head(head) {
        return Some(compression.name());
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
