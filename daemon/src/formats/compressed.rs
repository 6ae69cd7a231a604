//! Compressed inputs: one stream of bytes, whatever it is packed in.
//!
//! What is compressed is known by its first bytes, whatever its name says; a name that promises gzip, zstd or bzip2 must keep
//! that promise. Members behind one another (`cat a.gz b.gz`) are one input, and zeros behind them are what tapes and blocks were
//! filled up with. A stream that ends early, is damaged or goes on with something else is refused where a reader meets it, so
//! that the error still names the line.

use std::{
    ffi::OsStr,
    io::{self, BufRead, Read},
    path::Path,
};

use bzip2::bufread::BzDecoder;
use flate2::bufread::GzDecoder;
use zstd::stream::read::Decoder as ZstdDecoder;

use super::limits::Exceeded;

/// Bytes that are read of a file at once.
const CHUNK: usize = 1 << 16;

/// Enough of a member to know what it is packed with.
const MAGIC_BYTES: usize = 10;

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
    pub(super) fn unpack(self, packed: impl Read + 'static) -> io::Result<impl Read> {
        let packed = Packed {
            inner: Box::new(packed),
            buffer: Vec::with_capacity(CHUNK),
            at: 0,
        };
        let member = self.member(packed)?;
        Ok(Members {
            compression: self,
            member,
        })
    }

    fn member(self, packed: Packed) -> io::Result<Member> {
        Ok(match self {
            Self::Gzip => Member::Gzip(Box::new(GzDecoder::new(packed))),
            // Windows of more than 128 MiB are refused by the decoder.
            Self::Zstd => Member::Zstd(ZstdDecoder::with_buffer(packed)?.single_frame()),
            Self::Bzip2 => Member::Bzip2(BzDecoder::new(packed)),
        })
    }
}

/// What the bytes are packed in that begin with `head`.
pub(crate) fn compression_of(head: &[u8]) -> Option<&'static str> {
    Compression::of_head(head).map(Compression::name)
}

/// Bytes come behind the last member that are neither another one nor zeros.
#[derive(Debug, thiserror::Error)]
#[error("something else comes behind the packed data")]
pub(super) struct Trailing;

/// What is packed in members behind one another. The decoders that read on by themselves take zeros for a member that is cut off.
struct Members {
    compression: Compression,
    member: Member,
}

enum Member {
    Gzip(Box<GzDecoder<Packed>>),
    Zstd(ZstdDecoder<'static, Packed>),
    Bzip2(BzDecoder<Packed>),
    /// There is no further one.
    End,
    /// What comes is none.
    Trailing,
}

impl Members {
    fn next(&mut self) -> io::Result<()> {
        let mut packed = match std::mem::replace(&mut self.member, Member::Trailing) {
            Member::Gzip(decoder) => decoder.into_inner(),
            Member::Zstd(decoder) => decoder.into_inner(),
            Member::Bzip2(decoder) => decoder.into_inner(),
            Member::End | Member::Trailing => return Ok(()),
        };
        let head = packed.behind_zeros()?;
        self.member = match Compression::of_head(head) {
            _ if head.is_empty() => Member::End,
            Some(found) if found == self.compression => found.member(packed)?,
            _ => Member::Trailing,
        };
        Ok(())
    }
}

impl Read for Members {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = match &mut self.member {
                Member::Gzip(decoder) => decoder.read(buffer)?,
                Member::Zstd(decoder) => decoder.read(buffer)?,
                Member::Bzip2(decoder) => decoder.read(buffer)?,
                Member::End => return Ok(0),
                Member::Trailing => return Err(io::Error::other(Trailing)),
            };
            // A member may be empty.
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            self.next()?;
        }
    }
}

/// Packed bytes, of which more than one can be looked at before they are read.
struct Packed {
    inner: Box<dyn Read>,
    buffer: Vec<u8>,
    at: usize,
}

impl Packed {
    /// The next bytes, at least so many unless they end.
    fn peek(&mut self, least: usize) -> io::Result<&[u8]> {
        if self.buffer.len() - self.at < least {
            self.buffer.drain(..self.at);
            self.at = 0;
            let mut more = self.inner.by_ref().take(CHUNK as u64);
            more.read_to_end(&mut self.buffer)?;
        }
        Ok(&self.buffer[self.at..])
    }

    /// The next bytes that are not zeros, enough to know a member.
    fn behind_zeros(&mut self) -> io::Result<&[u8]> {
        loop {
            let next = self.peek(1)?;
            let zeros = next.iter().take_while(|byte| **byte == 0).count();
            let is_over = zeros < next.len() || next.is_empty();
            self.consume(zeros);
            if is_over {
                return self.peek(MAGIC_BYTES);
            }
        }
    }
}

impl Read for Packed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.peek(1)?.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl BufRead for Packed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.peek(1)
    }

    fn consume(&mut self, bytes: usize) {
        self.at += bytes;
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
