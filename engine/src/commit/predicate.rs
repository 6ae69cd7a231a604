//! Predicates of deletes: what is checked is what runs.
//!
//! Lance's parser reads one expression and ignores what stands behind it, and takes double quotes for text where SQL has
//! names. A delete that means something else than its author cannot be taken back, so both are refused here.

use crate::error::{Error, Result};

/// Operators of a predicate at most. A chain of them is a tree as deep as it is long, which the parser builds in a loop and
/// everything behind it walks by recursion, until the stack ends and with it the process; a level takes some 20 KiB of it
/// in a debug build. A list in `IN (...)` is one.
const OPERATORS: usize = 1_000;

/// Words and signs that make an expression of another: between two, behind one.
const OPERATOR_WORDS: [&str; 15] = [
    "and", "or", "xor", "not", "is", "in", "between", "like", "ilike", "rlike", "regexp",
    "similar", "collate", "at", "div",
];
const OPERATOR_SIGNS: &str = "+-*/%&|^<>=~!?@#:[.";

/// The text that is checked and run: `predicate` as one expression in parentheses, with nothing behind it.
///
/// # Errors
/// `InvalidInput` when it is not one whole expression, quotes something with double quotes, or has too many operators.
pub(super) fn whole(predicate: &str) -> Result<String> {
    let mut rest = predicate;
    let mut open = 0_usize;
    let mut operators = 0_usize;
    while let Some(c) = rest.chars().next() {
        rest = match c {
            '\'' | '`' => behind_quoted(rest, c)?,
            '"' => return Err(double_quoted(behind_quoted(rest, c).ok(), rest)),
            '-' if rest.starts_with("--") => rest.split_once('\n').map_or("", |(_, next)| next),
            '/' if rest.starts_with("/*") => rest
                .split_once("*/")
                .map(|(_, next)| next)
                .ok_or_else(|| Error::invalid("the predicate has a comment without an end"))?,
            '(' => {
                open += 1;
                &rest[1..]
            }
            ')' => {
                open = open.checked_sub(1).ok_or_else(unbalanced)?;
                &rest[1..]
            }
            letter if letter.is_alphanumeric() => {
                let (word, behind) = word(rest);
                operators +=
                    usize::from(OPERATOR_WORDS.iter().any(|o| word.eq_ignore_ascii_case(o)));
                behind
            }
            other => {
                operators += usize::from(OPERATOR_SIGNS.contains(other));
                &rest[other.len_utf8()..]
            }
        };
    }
    if operators > OPERATORS {
        return Err(Error::invalid(format!(
            "the predicate has {operators} operators, and {OPERATORS} are the most; \
             write `column IN (...)` for many values, or delete in several steps"
        )));
    }
    if open > 0 {
        return Err(unbalanced());
    }
    // The line ends first: the predicate may close with a comment.
    Ok(format!("({predicate}\n)"))
}

/// The most digits behind the second of a point in time that the predicate quotes, trailing zeros left out: `'2024-01-31 12:00:00.000001'`
/// has six. Lance cuts off those that a column does not keep before it compares.
pub(super) fn digits_of_second(predicate: &str) -> usize {
    let quoted = predicate.split('\'').skip(1).step_by(2);
    let fraction = |text: &str| {
        let is_time =
            text.split(':').count() >= 3 && text.starts_with(|c: char| c.is_ascii_digit());
        let (_, behind) = text.rsplit_once('.').filter(|_| is_time)?;
        let end = behind
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(behind.len());
        Some(behind[..end].trim_end_matches('0').len())
    };
    quoted.filter_map(fraction).max().unwrap_or(0)
}

/// The points in time and days that the predicate quotes as they stand: what `arrow_cast` takes is of the type that it names.
fn times(predicate: &str) -> impl Iterator<Item = &str> {
    let mut before = "";
    predicate
        .split('\'')
        .enumerate()
        .filter_map(move |(at, text)| {
            if at % 2 == 0 {
                before = text;
                return None;
            }
            let year = text.bytes().take_while(u8::is_ascii_digit).count();
            let is_time = year == 4 && text[year..].starts_with('-');
            let call = before.trim_end().to_ascii_lowercase();
            (is_time && !call.ends_with("arrow_cast(")).then_some(text)
        })
}

/// Whether the predicate names a point in time whose type Lance's planner chooses.
pub(super) fn has_time(predicate: &str) -> bool {
    times(predicate).next().is_some() || predicate.to_ascii_lowercase().contains("to_timestamp")
}

/// Whether it quotes one with an offset.
pub(super) fn has_offset(predicate: &str) -> bool {
    times(predicate).any(|text| {
        let clock = text.get(10..).unwrap_or_default();
        clock.contains(['+', '-']) || clock.trim_end().ends_with(['Z', 'z'])
    })
}

/// The word that `text` begins with, and what follows it.
fn word(text: &str) -> (&str, &str) {
    let in_word = |c: char| c.is_alphanumeric() || c == '_';
    let end = text.find(|c| !in_word(c)).unwrap_or(text.len());
    text.split_at(end)
}

/// Whether the predicate says itself that it means every row.
pub(super) fn means_every_row(predicate: &str) -> bool {
    predicate.trim().eq_ignore_ascii_case("true")
}

fn unbalanced() -> Error {
    Error::invalid("the predicate's parentheses do not match; give one whole expression")
}

fn double_quoted(behind: Option<&str>, quoted: &str) -> Error {
    let length = behind.map_or(quoted.len(), |rest| quoted.len() - rest.len());
    let shown: String = quoted[..length].chars().take(40).collect();
    Error::invalid(format!(
        "{shown}: double quotes are ambiguous in a predicate; write a column as `name` and text as 'text'"
    ))
}

/// What follows the quoted text that `text` begins with. A doubled quote stands for the quote itself.
fn behind_quoted(text: &str, quote: char) -> Result<&str> {
    let mut rest = &text[quote.len_utf8()..];
    loop {
        let Some((_, behind)) = rest.split_once(quote) else {
            return Err(Error::invalid(format!(
                "the predicate has a {quote} without its second one"
            )));
        };
        match behind.strip_prefix(quote) {
            Some(next) => rest = next,
            None => return Ok(behind),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_whole_expression_is_taken_as_it_stands() {
        for text in [
            "a = 1",
            "(a = 1) OR (b = 2)",
            "name = 'it''s (not) \"odd\"'",
            "`odd \"column` > 3 -- why )",
            "a /* ( */ = 1",
            "true",
        ] {
            assert_eq!(whole(text).unwrap(), format!("({text}\n)"));
        }
    }

    #[test]
    fn what_would_be_read_in_part_is_refused() {
        for text in [
            "a=1) OR (b=2",
            "a = (1",
            "a = 1)",
            "a = 'open",
            "`open = 1",
            "a = 1 /* open",
            "\"name\" <> 'a'",
            "id > 5 AND \"name\" <> 'a'",
            "name = \"a",
        ] {
            let refused = whole(text).unwrap_err();
            assert_eq!(
                refused.kind(),
                crate::error::ErrorKind::InvalidInput,
                "{text}"
            );
        }
    }

    #[test]
    fn a_chain_without_end_is_refused_and_a_list_is_not() {
        let chain = |n: usize, of: &str| vec!["a"; n].join(of);
        assert!(whole(&chain(1_001, " Or ")).is_ok());
        for of in [" Or ", "+", "\tAND\n", "=", " - ", " IS NULL OR "] {
            let refused = whole(&chain(1_002, of)).unwrap_err().to_string();
            assert!(refused.contains(" operators, and 1000 are"), "{refused}");
        }
        let list = format!("a IN ({})", chain(20_000, ", "));
        assert!(whole(&list).is_ok());
        let texts = format!("a = '{}' -- {}", chain(3_000, " or "), chain(3_000, " or "));
        assert!(whole(&texts).is_ok());
    }

    #[test]
    fn digits_behind_the_second_are_counted() {
        for (text, digits) in [
            ("t = timestamp '1970-01-01T00:00:00.000000999'", 9),
            ("t = timestamp '1970-01-01 00:00:00.500000000Z'", 1),
            (
                "t > '2024-01-31T12:00:00' and u < '2024-01-31T12:00:00.123+01:00'",
                3,
            ),
            ("name = 'a: b: c.1234' and p = '0.123456789'", 0),
            ("true", 0),
        ] {
            assert_eq!(digits_of_second(text), digits, "{text}");
        }
    }

    #[test]
    fn every_row_is_meant_only_by_the_word() {
        assert!(means_every_row(" TRUE "));
        assert!(!means_every_row("1 = 1"));
    }
}
