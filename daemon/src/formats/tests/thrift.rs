//! Values of Thrift's compact protocol as a tree: to write Parquet files that no writer writes, and to change those that one did.

/// A field of a struct or an item of a list, its integers of any width.
#[derive(Debug, Clone)]
pub(super) enum Thrift {
    Bool(bool),
    Byte(u8),
    Int(i64),
    Double([u8; 8]),
    Binary(Vec<u8>),
    /// Items of a type, and how many there are said to be.
    List(u8, u64, Vec<Thrift>),
    Struct(Vec<(i16, Thrift)>),
}

use Thrift as T;

impl Thrift {
    pub(super) fn list(items: Vec<Self>) -> Self {
        let kind = items.first().map_or(12, Self::kind);
        Self::List(kind, items.len() as u64, items)
    }

    pub(super) fn text(text: &str) -> Self {
        Self::Binary(text.as_bytes().to_vec())
    }

    fn kind(&self) -> u8 {
        match self {
            T::Bool(true) => 1,
            T::Bool(false) => 2,
            T::Byte(_) => 3,
            T::Int(_) => 6,
            T::Double(_) => 7,
            T::Binary(_) => 8,
            T::List(..) => 9,
            T::Struct(_) => 12,
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.write(&mut bytes);
        bytes
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            T::Bool(_) => {}
            T::Byte(byte) => out.push(*byte),
            T::Int(value) => varint(zigzag(*value), out),
            T::Double(bytes) => out.extend(bytes),
            T::Binary(bytes) => {
                varint(bytes.len() as u64, out);
                out.extend(bytes);
            }
            T::List(kind, length, items) => {
                out.push(0xf0 | kind);
                varint(*length, out);
                items.iter().for_each(|item| item.write(out));
            }
            T::Struct(fields) => {
                for (id, value) in fields {
                    out.push(value.kind());
                    varint(zigzag((*id).into()), out);
                    value.write(out);
                }
                out.push(0);
            }
        }
    }

    /// A struct at the front of `bytes`, and what follows it. Lists of booleans are not read.
    pub(super) fn parse(bytes: &[u8]) -> Option<(Self, &[u8])> {
        let mut rest = bytes;
        Some((read(12, &mut rest, 64)?, rest))
    }

    /// All values within this one, from the top.
    pub(super) fn walk(&mut self, each: &mut dyn FnMut(&mut Self)) {
        each(self);
        match self {
            T::List(_, _, items) => items.iter_mut().for_each(|item| item.walk(each)),
            T::Struct(fields) => fields.iter_mut().for_each(|(_, field)| field.walk(each)),
            _ => {}
        }
    }
}

pub(super) fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)).cast_unsigned()
}

pub(super) fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for place in 0..10 {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << (7 * place);
        if *byte < 0x80 {
            return Some(value);
        }
    }
    None
}

fn read_int(bytes: &mut &[u8]) -> Option<i64> {
    let zigzag = read_varint(bytes)?;
    Some((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
}

fn take<'b>(bytes: &mut &'b [u8], length: u64) -> Option<&'b [u8]> {
    let (taken, rest) = bytes.split_at_checked(usize::try_from(length).ok()?)?;
    *bytes = rest;
    Some(taken)
}

fn read(kind: u8, bytes: &mut &[u8], depth: usize) -> Option<Thrift> {
    let depth = depth.checked_sub(1)?;
    Some(match kind {
        1 => T::Bool(true),
        2 => T::Bool(false),
        3 => T::Byte(take(bytes, 1)?[0]),
        4..=6 => T::Int(read_int(bytes)?),
        7 => T::Double(take(bytes, 8)?.try_into().ok()?),
        8 => {
            let length = read_varint(bytes)?;
            T::Binary(take(bytes, length)?.to_vec())
        }
        9 => {
            let head = take(bytes, 1)?[0];
            let length = match head >> 4 {
                15 => read_varint(bytes)?,
                length => length.into(),
            };
            (head & 15 > 2 || length == 0).then_some(())?;
            let items: Option<Vec<Thrift>> =
                (0..length).map(|_| read(head & 15, bytes, depth)).collect();
            T::List(head & 15, length, items?)
        }
        12 => {
            let (mut fields, mut last) = (Vec::new(), 0);
            loop {
                let head = take(bytes, 1)?[0];
                if head & 15 == 0 {
                    return Some(T::Struct(fields));
                }
                last = match head >> 4 {
                    0 => i16::try_from(read_int(bytes)?).ok()?,
                    delta => i16::checked_add(last, delta.into())?,
                };
                fields.push((last, read(head & 15, bytes, depth)?));
            }
        }
        _ => return None,
    })
}
