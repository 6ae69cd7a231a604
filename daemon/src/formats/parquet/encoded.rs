//! Encodings that stand for more bytes than they have: runs of a dictionary's indices, and texts that begin like the one before.
//! They are counted here without being written out.

/// The bytes are not what their encoding says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// A cursor over little-endian numbers.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for place in 0..10 {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << (7 * place);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }

    fn zigzag(&mut self) -> Result<i64, Malformed> {
        let zigzag = self.varint()?;
        Ok((zigzag >> 1).cast_signed() ^ -(zigzag & 1).cast_signed())
    }
}

/// `width` bits of `bytes` from the bit at `index * width`, the lowest first.
fn bits(bytes: &[u8], index: usize, width: usize) -> Option<u64> {
    let first = index * width;
    let mut value = 0;
    for bit in 0..width {
        let byte = *bytes.get((first + bit) / 8)?;
        value |= u64::from(byte >> ((first + bit) % 8) & 1) << bit;
    }
    Some(value)
}

/// Tells `each` a value and how often it stands in a row, for `count` values of the hybrid of runs and packed bits.
pub(super) fn runs(
    bytes: &[u8],
    width: u8,
    count: u64,
    mut each: impl FnMut(u64, u64),
) -> Result<(), Malformed> {
    let width = usize::from(width);
    if width > 32 {
        return Err(Malformed);
    }
    let (mut bytes, mut left) = (Bytes(bytes), count);
    while left > 0 && !bytes.0.is_empty() {
        let head = bytes.varint()?;
        let length = u32::try_from(head >> 1).map_err(|_| Malformed)?;
        if head & 1 == 0 {
            let value = bits(bytes.take(width.div_ceil(8))?, 0, width);
            let times = left.min(u64::from(length));
            each(value.ok_or(Malformed)?, times);
            left -= times;
        } else {
            // The last group may be cut off after its last value.
            let size = (length as usize).checked_mul(width).ok_or(Malformed)?;
            let packed = bytes.take(size.min(bytes.0.len()))?;
            let values = u64::from(length) * 8;
            for index in 0..values.min(left) {
                let index = usize::try_from(index).map_err(|_| Malformed)?;
                let Some(value) = bits(packed, index, width) else {
                    break;
                };
                each(value, 1);
            }
            left -= values.min(left);
        }
    }
    Ok(())
}

/// How many numbers `DELTA_BINARY_PACKED` holds.
pub(super) fn delta_count(bytes: &[u8]) -> Result<u64, Malformed> {
    let mut bytes = Bytes(bytes);
    bytes.varint()?;
    bytes.varint()?;
    bytes.varint()
}

/// The sum of the lengths that `DELTA_BINARY_PACKED` holds, of which it has `most` at most, and what follows them.
pub(super) fn delta_sum(bytes: &[u8], most: u64) -> Result<(u64, &[u8]), Malformed> {
    let mut bytes = Bytes(bytes);
    let (block, parts) = (bytes.varint()?, bytes.varint()?);
    let (total, mut value) = (bytes.varint()?, bytes.zigzag()?);
    let part = block.checked_div(parts).ok_or(Malformed)?;
    if total > most || part == 0 || block % 128 != 0 || part % 32 != 0 {
        return Err(Malformed);
    }
    let (part, parts) = (to_usize(part)?, to_usize(parts)?);
    let length = |value: i64| u64::try_from(value).map_err(|_| Malformed);
    let mut sum = if total > 0 { length(value)? } else { 0 };
    let mut left = to_usize(total.saturating_sub(1))?;
    while left > 0 {
        let least = bytes.zigzag()?;
        for width in bytes.take(parts)? {
            if left == 0 {
                break;
            }
            let width = usize::from(*width);
            if width > 32 {
                return Err(Malformed);
            }
            let size = width.checked_mul(part / 8).ok_or(Malformed)?;
            let packed = bytes.take(size)?;
            for index in 0..part.min(left) {
                let delta = bits(packed, index, width).ok_or(Malformed)?;
                value = value.wrapping_add(least).wrapping_add_unsigned(delta);
                sum = sum.saturating_add(length(value)?);
            }
            left -= part.min(left);
        }
    }
    Ok((sum, bytes.0))
}

fn to_usize(value: u64) -> Result<usize, Malformed> {
    usize::try_from(value).map_err(|_| Malformed)
}
