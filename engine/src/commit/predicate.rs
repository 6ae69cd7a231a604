//! Predicates of deletes: what is checked is what runs.
//!
//! Lance's parser reads one expression and ignores what stands behind it, and takes double quotes for text where SQL has
//! names. A delete that means something else than its author cannot be taken back, so both are refused here.

use crate::error::{Error, Result};

/// The text that is checked and run: `predicate` as one expression in parentheses, with nothing behind it.
///
/// # Errors
/// `InvalidInput` when it is not one whole expression, or quotes something with double quotes.
pub(super) fn whole(predicate: &str) -> Result<String> {
    let mut rest = predicate;
    let mut open = 0_usize;
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
            other => &rest[other.len_utf8()..],
        };
    }
    if open > 0 {
        return Err(unbalanced());
    }
    // The line ends first: the predicate may close with a comment.
    Ok(format!("({predicate}\n)"))
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
    fn every_row_is_meant_only_by_the_word() {
        assert!(means_every_row(" TRUE "));
        assert!(!means_every_row("1 = 1"));
    }
}
