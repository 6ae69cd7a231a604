//! Compressed inputs: one stream of bytes, whatever it is packed in.
//!
//! What is compressed is known by its first bytes, whatever its name says; a name that promises gzip, zstd or bzip2 must keep
//! that promise. Members behind one another (`cat a.gz b.gz`) are one input. A stream that ends early or is damaged is refused
//! where a reader meets it, so that the error still names the line.

use std::{
    ffi::OsStr,
    io::{self, BufReader, Read},
    path::Path,
};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;

use super::limits::Exceeded;

/// Bytes that are read of a file at once.
const CHUNK: usize = 1 << 16;

/// How an input is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Zstd,
    Bzip2,
}

impl Compression {
    /// What the name promises, and the name without it.
    pub(super) fn of_name(path: &Path) -> Option<(Self, &OsStr)> {
        let extension = path.extension()?.to_ascii_lowercase();
        let compression = match extension.to_str()? {
            "gz" => Self::Gzip,
            "zst" => Self::Zstd,
            "bz2" => Self::Bzip2,
            _ => return None,
        };
        Some((compression, path.file_stem()?))
    }

    /// What the first bytes say.
    pub(super) fn of_head(head: &[u8]) -> Option<Self> {
        match head {
            [0x1f, 0x8b, 8, ..] => Some(Self::Gzip),
            // A frame, or one that decoders skip.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Some(Self::Zstd),
            // A header of CSV may begin with these three letters; it has no block after them.
            [b'B', b'Z', b'h', b'1'..=b'9', block @ ..]
                if block.starts_with(b"1AY&SY") || block.starts_with(b"\x17rE8P\x90") =>
            {
                Some(Self::Bzip2)
            }
            _ => None,
        }
    }

    /// What it is called in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
        }
    }

    /// The bytes that `packed` stands for.
    pub(super) fn unpack(self, packed: impl Read + 'static) -> io::Result<Box<dyn Read>> {
        let packed = BufReader::with_capacity(CHUNK, packed);
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            // Windows of more than 128 MiB are refused by the decoder.
            Self::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
            Self::Bzip2 => Box::new(MultiBzDecoder::new(packed)),
        })
    }
}

/// Ends with an error where more bytes come than a limit allows.
pub(super) struct Bounded<R> {
    inner: R,
    left: u64,
    exceeded: Option<Exceeded>,
}

impl<R> Bounded<R> {
    /// At most `most` bytes of `inner`; with one more it fails with `exceeded`, inside an [`io::Error`].
    pub(super) fn new(inner: R, most: u64, exceeded: Exceeded) -> Self {
        Self {
            inner,
            left: most,
            exceeded: Some(exceeded),
        }
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        match self.left.checked_sub(read as u64) {
            Some(left) => self.left = left,
            None => {
                let exceeded = self.exceeded.take();
                return Err(
                    exceeded.map_or_else(|| io::ErrorKind::FileTooLarge.into(), io::Error::other)
                );
            }
        }
        Ok(read)
    }
}
