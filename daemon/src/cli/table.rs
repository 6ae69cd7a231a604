//! What people read: lines of coloured spans, and rows laid out as a table. Colours are given by meaning; whether they are
//! shown is the writer's business.

use crate::input::printable;
pub(crate) use crate::units::rough_size as size;

/// What a text means to whoever looks for problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tone {
    Plain,
    Faint,
    Good,
    Due,
    Bad,
}

/// A piece of a line: one line by itself, whatever texts of others it holds.
#[derive(Debug, Clone)]
pub(crate) struct Span {
    text: String,
    tone: Tone,
}

/// A line for people.
#[derive(Debug, Clone)]
pub(crate) struct Line(Vec<Span>);

impl Span {
    pub(crate) fn new(tone: Tone, text: impl AsRef<str>) -> Self {
        Self {
            text: printable(text.as_ref()),
            tone,
        }
    }

    fn width(&self) -> usize {
        self.text.chars().count()
    }
}

impl From<String> for Line {
    fn from(text: String) -> Self {
        Self(vec![Span::new(Tone::Plain, text)])
    }
}

impl From<Span> for Line {
    fn from(span: Span) -> Self {
        Self(vec![span])
    }
}

impl Line {
    /// The line, with the colours of a terminal if `colour`.
    pub(crate) fn render(&self, colour: bool) -> String {
        let mut text = String::new();
        for span in &self.0 {
            let code = match span.tone {
                Tone::Plain => "",
                Tone::Faint => "2",
                Tone::Good => "32",
                Tone::Due => "33",
                Tone::Bad => "1;31",
            };
            if colour && !code.is_empty() {
                text.push_str(&format!("\u{1b}[{code}m{}\u{1b}[0m", span.text));
            } else {
                text.push_str(&span.text);
            }
        }
        text.trim_end().to_owned()
    }
}

/// A column: its title, and whether it holds numbers, which end at one edge.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column(pub(crate) &'static str, pub(crate) bool);

/// Lays out `rows` under their titles, each column as wide as its widest cell.
pub(crate) fn lay_out(columns: &[Column], rows: Vec<Vec<Span>>) -> Vec<Line> {
    let titles = columns.iter().map(|c| Span::new(Tone::Faint, c.0));
    let mut all = vec![titles.collect::<Vec<_>>()];
    all.extend(rows);
    let wide = |i: usize| {
        all.iter()
            .filter_map(move |row| row.get(i))
            .map(Span::width)
    };
    let widths: Vec<usize> = (0..columns.len())
        .map(|i| wide(i).max().unwrap_or(0))
        .collect();
    let line = |row: Vec<Span>| {
        let mut spans = Vec::new();
        for (i, (cell, column)) in row.into_iter().zip(columns).enumerate() {
            let gap = " ".repeat(widths[i].saturating_sub(cell.width()));
            let (before, after) = if column.1 {
                (gap, String::new())
            } else {
                (String::new(), gap)
            };
            spans.push(Span::new(Tone::Plain, before));
            spans.push(cell);
            spans.push(Span::new(Tone::Plain, format!("{after}  ")));
        }
        Line(spans)
    };
    all.into_iter().map(line).collect()
}

/// A number with its thousands apart.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An age in its largest unit, for people.
pub(crate) fn age(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("m", 60)];
    for (unit, of) in units {
        if seconds >= 2 * of {
            return format!("{}{unit}", seconds / of);
        }
    }
    format!("{seconds}s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_for_people() {
        let counts = [0, 999, 1_000, 1_048_576].map(count);
        assert_eq!(counts, ["0", "999", "1,000", "1,048,576"]);
        let sizes = [0, 1_023, 1_536, 20 << 20, 3 << 40].map(size);
        assert_eq!(sizes, ["0 B", "1023 B", "1.5 KiB", "20 MiB", "3.0 TiB"]);
        let ages = [0, 119, 120, 7_200, 172_800].map(age);
        assert_eq!(ages, ["0s", "119s", "2m", "2h", "2d"]);
    }

    #[test]
    fn columns_stand_under_each_other_and_colour_takes_no_room() {
        let rows = vec![
            vec![
                Span::new(Tone::Bad, "a\u{1b}[2J"),
                Span::new(Tone::Plain, "7"),
            ],
            vec![Span::new(Tone::Good, "b"), Span::new(Tone::Plain, "1,000")],
        ];
        let lines = lay_out(&[Column("TABLE", false), Column("ROWS", true)], rows);
        let plain: Vec<String> = lines.iter().map(|l| l.render(false)).collect();
        assert_eq!(
            plain,
            [
                "TABLE        ROWS",
                r"a\u{1b}[2J      7",
                "b           1,000"
            ]
        );
        assert!(lines[2].render(true).starts_with("\u{1b}[32mb\u{1b}[0m"));
    }
}
