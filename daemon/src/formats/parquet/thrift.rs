//! Thrift's compact protocol, read over before anyone believes it.
//!
//! The Parquet reader allocates by the lengths of lists, calls itself for what is nested, and reads a field as the type that it
//! should have instead of the one that it says. So a text is walked here first, along its [`Shape`]: every list has its items,
//! every known field its type, and nothing is nested without end. What is known then is told to a visitor.

/// Structs and lists within each other, where no shape says how many.
const MOST_DEPTH: usize = 32;

/// Bytes of the longest number.
const VARINT_BYTES: u32 = 10;

/// What a field or an item should be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Shape {
    Bool,
    Byte,
    /// 16, 32 or 64 bits.
    Int,
    Double,
    Binary,
    List(&'static Shape),
    /// Fields by their numbers; others may stand there, too.
    Struct(&'static [(i16, Shape)]),
}

/// What a walk meets, with the numbers of the fields that lead there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Int(i64),
    /// Bytes of a text.
    Binary(usize),
    /// Items of a list, before they are walked.
    List(usize),
    /// The end of a struct.
    End,
}

/// Why a walk ended early.
#[derive(Debug)]
pub(super) enum Stop<E> {
    /// The bytes end.
    CutOff,
    /// They are not what they should be.
    Damaged,
    /// The visitor says so.
    Visitor(E),
}

pub(super) type Walked<T, E> = Result<T, Stop<E>>;

/// Whoever is told what a walk meets, and may end it.
type Visitor<'a, E> = dyn FnMut(&[i16], Part) -> Result<(), E> + 'a;

/// Walks a struct at the front of `bytes`; its length.
pub(super) fn walk<E>(
    bytes: &[u8],
    fields: &'static [(i16, Shape)],
    visit: &mut Visitor<'_, E>,
) -> Walked<usize, E> {
    let mut walk = Walk {
        bytes,
        at: 0,
        path: Vec::new(),
        visit,
    };
    walk.fields(fields)?;
    Ok(walk.at)
}

/// Types as the protocol numbers them.
mod kind {
    pub(super) const TRUE: u8 = 1;
    pub(super) const FALSE: u8 = 2;
    pub(super) const BYTE: u8 = 3;
    pub(super) const I16: u8 = 4;
    pub(super) const I64: u8 = 6;
    pub(super) const DOUBLE: u8 = 7;
    pub(super) const BINARY: u8 = 8;
    pub(super) const LIST: u8 = 9;
    pub(super) const STRUCT: u8 = 12;
}

/// A struct of which nothing is known.
const ANY: &[(i16, Shape)] = &[];

struct Walk<'a, 'v, E> {
    bytes: &'a [u8],
    at: usize,
    path: Vec<i16>,
    visit: &'a mut Visitor<'v, E>,
}

impl<E> Walk<'_, '_, E> {
    fn fields(&mut self, known: &'static [(i16, Shape)]) -> Walked<(), E> {
        let mut last = 0_i16;
        loop {
            let head = self.byte()?;
            let (delta, kind) = (head >> 4, head & 0xf);
            if kind == 0 {
                return self.tell(Part::End);
            }
            let id = match delta {
                0 => i16::try_from(self.int()?).ok(),
                delta => last.checked_add(delta.into()),
            };
            last = id.ok_or(Stop::Damaged)?;
            self.path.push(last);
            match known.iter().find(|(id, _)| *id == last) {
                Some((_, shape)) => self.value(*shape, kind)?,
                None => self.unknown(kind)?,
            }
            self.path.pop();
        }
    }

    fn value(&mut self, shape: Shape, kind: u8) -> Walked<(), E> {
        match (shape, kind) {
            // A field's type is its value.
            (Shape::Bool, kind::TRUE | kind::FALSE) => Ok(()),
            (Shape::Byte, kind::BYTE) => self.skip(1),
            (Shape::Int, kind::I16..=kind::I64) => {
                let value = self.int()?;
                self.tell(Part::Int(value))
            }
            (Shape::Double, kind::DOUBLE) => self.skip(8),
            (Shape::Binary, kind::BINARY) => {
                let length = self.length()?;
                self.tell(Part::Binary(length))?;
                self.skip(length)
            }
            (Shape::List(item), kind::LIST) => {
                let (length, kind) = self.list()?;
                self.tell(Part::List(length))?;
                (0..length).try_for_each(|_| self.value(*item, kind))
            }
            (Shape::Struct(fields), kind::STRUCT) => self.fields(fields),
            _ => Err(Stop::Damaged),
        }
    }

    /// A field of a later release of the format.
    fn unknown(&mut self, kind: u8) -> Walked<(), E> {
        if self.path.len() > MOST_DEPTH {
            return Err(Stop::Damaged);
        }
        match kind {
            kind::TRUE | kind::FALSE => Ok(()),
            kind::BYTE => self.skip(1),
            kind::I16..=kind::I64 => self.int().map(drop),
            kind::DOUBLE => self.skip(8),
            kind::BINARY => {
                let length = self.length()?;
                self.skip(length)
            }
            kind::LIST => {
                let (length, kind) = self.list()?;
                self.path.push(0);
                (0..length).try_for_each(|_| self.unknown(kind))?;
                self.path.pop();
                Ok(())
            }
            kind::STRUCT => self.fields(ANY),
            _ => Err(Stop::Damaged),
        }
    }

    /// Items of a list and their type. Each takes a byte at least; readers differ about booleans, which no list of the format has.
    fn list(&mut self) -> Walked<(usize, u8), E> {
        let head = self.byte()?;
        let (length, kind) = (usize::from(head >> 4), head & 0xf);
        let length = match length {
            15 => self.length()?,
            length => length,
        };
        if length > 0 && matches!(kind, kind::TRUE | kind::FALSE) {
            return Err(Stop::Damaged);
        }
        match length > self.bytes.len() - self.at {
            true => Err(Stop::CutOff),
            false => Ok((length, kind)),
        }
    }

    fn length(&mut self) -> Walked<usize, E> {
        usize::try_from(self.varint()?).map_err(|_| Stop::Damaged)
    }

    fn int(&mut self) -> Walked<i64, E> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }

    fn varint(&mut self) -> Walked<u64, E> {
        let mut value = 0_u64;
        for place in 0..VARINT_BYTES {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Stop::Damaged)
    }

    fn byte(&mut self) -> Walked<u8, E> {
        let byte = *self.bytes.get(self.at).ok_or(Stop::CutOff)?;
        self.at += 1;
        Ok(byte)
    }

    fn skip(&mut self, bytes: usize) -> Walked<(), E> {
        let end = self.at.checked_add(bytes).ok_or(Stop::CutOff)?;
        self.at = end;
        match end > self.bytes.len() {
            true => Err(Stop::CutOff),
            false => Ok(()),
        }
    }

    fn tell(&mut self, part: Part) -> Walked<(), E> {
        (self.visit)(&self.path, part).map_err(Stop::Visitor)
    }
}
