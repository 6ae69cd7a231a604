//! Values that are not written as their column takes them, changed where that was asked for, and counted.

use std::{borrow::Cow, collections::BTreeMap};

use super::cell::Value;
use crate::formats::shape::{Coerced, Coercion, Holds, Reading};

/// What programs write for a null.
const NULLS: [&str; 4] = ["NULL", "null", "NA", "N/A"];

/// Changes values of one input.
pub(super) struct Coercer<'r> {
    reading: &'r Reading,
    holds: Vec<Holds>,
    trim: bool,
    null: bool,
    /// The order in which a date has its day; `None`: dates stay.
    dates: Option<Coercion>,
    counts: BTreeMap<(usize, Coercion), Coerced>,
}

impl<'r> Coercer<'r> {
    /// `None` where nothing is to be changed.
    pub(super) fn new(reading: &'r Reading) -> Option<Self> {
        let orders = [Coercion::DatesDmy, Coercion::DatesMdy];
        let coercer = Self {
            reading,
            holds: reading
                .target
                .fields()
                .iter()
                .map(|field| Holds::of(field.data_type()))
                .collect(),
            trim: reading.coerces(Coercion::Trim),
            null: reading.coerces(Coercion::Null),
            dates: orders.into_iter().find(|order| reading.coerces(*order)),
            counts: BTreeMap::new(),
        };
        (coercer.trim || coercer.null || coercer.dates.is_some()).then_some(coercer)
    }

    /// What `value` of a column is to be read as. `is_bare`: a field of CSV without quotes.
    pub(super) fn apply<'v>(
        &mut self,
        column: usize,
        value: Value<'v>,
        is_bare: bool,
        line: u64,
    ) -> Value<'v> {
        let holds = self.holds[column];
        let written = match &value {
            Value::Field(text) => Cow::Borrowed(*text),
            Value::Text(text) => text.clone(),
            _ => return value,
        };
        let trimmed = match holds {
            Holds::Text => written.as_ref(),
            _ if self.trim => written.trim_matches([' ', '\t']),
            _ => written.as_ref(),
        };
        if self.null && (is_bare || holds != Holds::Text) && NULLS.contains(&trimmed) {
            self.count(column, Coercion::Null, &written, line);
            return Value::Null;
        }
        let is_trimmed = trimmed.len() != written.len();
        if is_trimmed {
            self.count(column, Coercion::Trim, &written, line);
        }
        let order = self
            .dates
            .filter(|_| matches!(holds, Holds::Date | Holds::Timestamp));
        if let Some(order) = order
            && let Some(iso) = iso_date(trimmed, order)
        {
            self.count(column, order, &written, line);
            return Value::Dated {
                iso,
                written: written.clone(),
                order,
            };
        }
        match value {
            Value::Field(text) if is_trimmed => Value::Field(text.trim_matches([' ', '\t'])),
            Value::Text(_) if is_trimmed && trimmed.is_empty() => Value::Null,
            Value::Text(_) if is_trimmed => Value::Text(trimmed.to_owned().into()),
            value => value,
        }
    }

    fn count(&mut self, column: usize, coercion: Coercion, written: &str, line: u64) {
        let reading = self.reading;
        let coerced = self.counts.entry((column, coercion));
        let coerced = coerced.or_insert_with(|| Coerced {
            column: reading.target.field(column).name().clone(),
            coercion,
            count: 0,
            first: written.to_owned(),
            at: line,
        });
        coerced.count += 1;
    }

    /// What was changed.
    pub(super) fn finish(self) -> Vec<Coerced> {
        self.counts.into_values().collect()
    }
}

/// A date with day and month in `order`, and whatever time stands behind it, as ISO 8601 has them; `None` for anything else, which
/// is left to the parser of the column's type.
fn iso_date(text: &str, order: Coercion) -> Option<String> {
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (first, rest) = text.split_at(digits(text));
    let separator = rest.chars().next()?;
    let is_known = match order {
        Coercion::DatesMdy => matches!(separator, '/' | '-'),
        _ => matches!(separator, '.' | '/' | '-'),
    };
    let rest = rest.strip_prefix(separator).filter(|_| is_known)?;
    let (second, rest) = rest.split_at(digits(rest));
    let rest = rest.strip_prefix(separator)?;
    let (year, time) = rest.split_at(digits(rest));
    let is_short = |part: &str| (1..=2).contains(&part.len());
    if !is_short(first) || !is_short(second) || year.len() != 4 {
        return None;
    }
    let (day, month) = match order {
        Coercion::DatesMdy => (second, first),
        _ => (first, second),
    };
    Some(format!("{year}-{month:0>2}-{day:0>2}{time}"))
}
