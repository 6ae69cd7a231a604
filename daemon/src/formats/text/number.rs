//! Numbers as texts write them -> numbers as columns hold them, exactly.
//!
//! Whole numbers and decimals keep every digit: `2.0` and `2e3` are whole, `2.5` is not, and `1.2300` fits a scale of 2. A float
//! is the one nearest to the text, as everywhere else; but a plain integer (no point, no exponent) must be the float it becomes,
//! because someone counts or identifies with it.

use std::cmp::Ordering;

use arrow::datatypes::{DecimalType, Float16Type, i256};

use super::cell::{Misfit, NOT_A_NUMBER};

/// Exponents beyond this are no different: no type holds such a number, and zero stays zero.
const LARGEST_EXPONENT: i64 = 100_000;

/// Digits that tell any two doubles apart.
const DOUBLE_DIGITS: usize = 17;

const FRACTION: Misfit = "is no whole number";
const RANGE: Misfit = "is out of the range of the type";
const DIGITS: Misfit = "has more digits after the point than the type holds";
const INEXACT: Misfit = "is an integer that this float type cannot hold exactly";

/// The half float of Arrow.
type Half = <Float16Type as arrow::datatypes::ArrowPrimitiveType>::Native;

/// A number in parts, no digit lost: (`whole` `fraction`) as one integer, times ten to the power of `exponent` less the digits
/// of `fraction`.
#[derive(Debug, Clone, Copy)]
struct Number<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
    /// Neither point nor exponent.
    plain: bool,
}

impl<'a> Number<'a> {
    /// `[+-] digits [. digits] [e [+-] digits]` with a digit before or after the point.
    fn parse(text: &'a str) -> Option<Self> {
        let (negative, rest) = match text.as_bytes() {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (whole, rest) = digits(rest);
        let (fraction, rest, point) = match rest {
            [b'.', rest @ ..] => {
                let (fraction, rest) = digits(rest);
                (fraction, rest, true)
            }
            rest => (&rest[..0], rest, false),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let exponent = match rest {
            [] => None,
            [b'e' | b'E', rest @ ..] => Some(exponent(rest)?),
            _ => return None,
        };
        Some(Self {
            negative,
            whole,
            fraction,
            exponent: exponent.unwrap_or(0),
            plain: !point && exponent.is_none(),
        })
    }

    /// Its digits without the zeros around them, and the power of ten that the last one stands for.
    fn significant(&self) -> (Vec<u8>, i64) {
        let mut digits: Vec<u8> = [self.whole, self.fraction].concat();
        let trailing = digits.iter().rev().take_while(|d| **d == b'0').count();
        digits.truncate(digits.len() - trailing);
        let leading = digits.iter().take_while(|d| **d == b'0').count();
        digits.drain(..leading);
        let point = i64::try_from(self.fraction.len()).unwrap_or(i64::MAX);
        let power = self.exponent.saturating_sub(point);
        let trailing = i64::try_from(trailing).unwrap_or(i64::MAX);
        (digits, power.saturating_add(trailing))
    }

    /// The number times ten to the power of `scale`, written as an integer of at most `most` digits.
    fn scaled(&self, scale: i64, most: usize, fraction: Misfit) -> Result<String, Misfit> {
        let (digits, power) = self.significant();
        if digits.is_empty() {
            return Ok("0".to_owned());
        }
        let zeros = power.saturating_add(scale);
        let zeros = usize::try_from(zeros).map_err(|_| fraction)?;
        if digits.len().saturating_add(zeros) > most {
            return Err(RANGE);
        }
        let sign = if self.negative { "-" } else { "" };
        let digits = String::from_utf8_lossy(&digits);
        Ok(format!("{sign}{digits}{}", "0".repeat(zeros)))
    }
}

fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .unwrap_or(text.len());
    text.split_at(end)
}

fn exponent(text: &[u8]) -> Option<i64> {
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (found, rest) = digits(rest);
    if found.is_empty() || !rest.is_empty() {
        return None;
    }
    let size = found.iter().fold(0_i64, |size, digit| {
        (size * 10 + i64::from(digit - b'0')).min(LARGEST_EXPONENT)
    });
    Some(if negative { -size } else { size })
}

/// A whole number of any integer type.
pub(super) fn integer<T: TryFrom<i128>>(text: &str) -> Result<T, Misfit> {
    let value = match text.parse::<i64>() {
        Ok(value) => i128::from(value),
        Err(_) => Number::parse(text)
            .ok_or(NOT_A_NUMBER)?
            .scaled(0, 20, FRACTION)?
            .parse()
            .map_err(|_| RANGE)?,
    };
    T::try_from(value).map_err(|_| RANGE)
}

/// A decimal: the number times ten to the power of `scale`.
pub(super) fn decimal<T: DecimalType>(
    text: &str,
    precision: u8,
    scale: i8,
    native: fn(i256) -> Option<T::Native>,
) -> Result<T::Native, Misfit> {
    let number = Number::parse(text).ok_or(NOT_A_NUMBER)?;
    let scaled = number.scaled(i64::from(scale), usize::from(precision), DIGITS)?;
    i256::from_string(&scaled).and_then(native).ok_or(RANGE)
}

/// The double nearest to the text.
pub(super) fn double(text: &str) -> Result<f64, Misfit> {
    nearest(text, |text| text.parse().ok())
}

/// The single nearest to the text.
pub(super) fn single(text: &str) -> Result<f32, Misfit> {
    let value = nearest(text, |text| text.parse::<f32>().ok().map(f64::from))?;
    #[expect(clippy::cast_possible_truncation, reason = "it was a single before")]
    Ok(value as f32)
}

/// The half nearest to the text.
pub(super) fn half(text: &str) -> Result<Half, Misfit> {
    let round = |text: &str| Some(f64::from(Half::from_f32(beside_tie(text)?)));
    Ok(Half::from_f64(nearest(text, round)?))
}

/// The single nearest to the text; but where that is in the middle of two halves and the text is not, the next one towards the text.
fn beside_tie(text: &str) -> Option<f32> {
    let single: f32 = text.parse().ok()?;
    let (down, up) = (single.next_down(), single.next_up());
    if Half::from_f32(down) == Half::from_f32(up) {
        return Some(single);
    }
    // The place of the first digit, and the digits. A middle of two halves has 25 of them after the point at most.
    let size = |text: &str| {
        let (digits, power) = Number::parse(text)?.significant();
        let place = i64::try_from(digits.len()).ok()?.saturating_add(power);
        Some((place, digits))
    };
    let towards_zero = if single > 0.0 { (down, up) } else { (up, down) };
    Some(match size(text)?.cmp(&size(&format!("{single:.25}"))?) {
        Ordering::Less => towards_zero.0,
        Ordering::Equal => single,
        Ordering::Greater => towards_zero.1,
    })
}

fn nearest(text: &str, round: impl Fn(&str) -> Option<f64>) -> Result<f64, Misfit> {
    let Some(number) = Number::parse(text) else {
        return special(text).ok_or(NOT_A_NUMBER);
    };
    let value = round(text).ok_or(NOT_A_NUMBER)?;
    let is_zero = |digits: &[u8]| digits.iter().all(|digit| *digit == b'0');
    if value.is_infinite() || (value == 0.0 && !(is_zero(number.whole) && is_zero(number.fraction)))
    {
        return Err(RANGE);
    }
    if number.plain && !is_exactly(value, text) {
        return Err(INEXACT);
    }
    Ok(value)
}

/// The floats that are no numbers, as C, Java, Python and SQL spell them.
pub(super) fn special(text: &str) -> Option<f64> {
    Some(match text {
        "NaN" | "nan" => f64::NAN,
        "Infinity" | "+Infinity" | "inf" | "+inf" => f64::INFINITY,
        "-Infinity" | "-inf" => f64::NEG_INFINITY,
        _ => return None,
    })
}

/// Whether the digits of an integer are those of the float that it became, all of which are written out.
fn is_exactly(value: f64, integer: &str) -> bool {
    let significant = |digits: &str| digits.trim_start_matches('0').to_owned();
    let digits = integer.trim_start_matches(['+', '-']);
    significant(digits) == significant(&format!("{:.0}", value.abs()))
}

/// Whether the type that is inferred for this text may be a float: the double says the same number again. One that is only
/// the nearest to the text would be another number for whoever reads it.
pub(super) fn fits_double(text: &str) -> bool {
    let Ok(value) = double(text) else {
        return false;
    };
    let Some(number) = Number::parse(text) else {
        return true;
    };
    // A plain integer is exactly its double. One of more digits than a double shows is an identifier.
    let (digits, power) = number.significant();
    let shown = format!("{value:e}");
    let same =
        Number::parse(&shown).is_some_and(|shown| shown.significant() == (digits.clone(), power));
    digits.is_empty() || same || (number.plain && digits.len() <= DOUBLE_DIGITS)
}

/// Whether the text is how a number is written by whoever means a number: no `+` and no zero in front, as phone numbers and
/// postal codes have them.
pub(super) fn is_written_as_number(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let padded = digits.len() > 1
        && digits.starts_with('0')
        && digits[1..].starts_with(|c: char| c.is_ascii_digit());
    digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') && !padded
}
