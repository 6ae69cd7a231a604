//! What it means that a write could not be staged: whether its rows or its predicate are at fault, which will fail the same way
//! tomorrow, or something that may be better then.

use super::stage::Write;
use crate::error::{Error, ErrorKind};

/// Rows that Lance cannot give back are bad input, not a bad table.
pub(super) fn unreadable(e: Error) -> Error {
    match e.kind() {
        ErrorKind::Unfit | ErrorKind::Internal => bad_rows(&e),
        _ => e,
    }
}

fn bad_rows(why: &Error) -> Error {
    Error::invalid(format!(
        "these rows cannot be kept: {}; nothing was committed",
        why.brief()
    ))
}

/// What it means that `write` could not be staged. Added rows are all that Lance looks at for it: what it cannot do with them
/// is their fault, and it cannot do it tomorrow. A merge and a delete read the table, too.
pub(super) fn unkept(e: Error, write: &Write) -> Error {
    let of_rows = || matches!(e.kind(), ErrorKind::Unfit | ErrorKind::Internal) || computed(&e);
    match write {
        Write::Append(_) | Write::Overwrite(_) if of_rows() => bad_rows(&e),
        Write::Merge { .. } | Write::Replace { .. } | Write::DeleteKeys { .. }
            if e.kind() == ErrorKind::Unfit =>
        {
            bad_rows(&e)
        }
        _ if e.kind() == ErrorKind::Internal => {
            e.advice("nothing was committed; `squire verify` says whether the table can be read")
        }
        _ => e,
    }
}

/// Whether Lance failed at a computation, with no storage behind it.
fn computed(e: &Error) -> bool {
    let lance = std::error::Error::source(e).and_then(|e| e.downcast_ref::<lance::Error>());
    e.kind() == ErrorKind::Storage && lance.is_some_and(is_of_evaluation)
}

/// Length to which a predicate is cut where it is told why it cannot run, in characters.
const PREDICATE_CHARS: usize = 200;

/// A predicate that fits may still fail over the rows, or be nothing that a delete can run: a cast of a text that is no
/// number, a division by zero, a pattern that is none, an aggregate. That is the predicate's fault, and no storage's.
pub(super) fn unless_it_cannot_run(e: lance::Error, predicate: &str) -> Error {
    if !is_of_evaluation(&e) {
        return e.into();
    }
    let told = match predicate.char_indices().nth(PREDICATE_CHARS) {
        Some((cut, _)) => format!("{}...", &predicate[..cut]),
        None => predicate.to_owned(),
    };
    Error::invalid(format!(
        "the predicate {told} cannot be evaluated over the rows"
    ))
    .caused_by(e)
}

fn is_of_evaluation(e: &lance::Error) -> bool {
    use lance::Error as L;
    match e {
        L::Execution { .. }
        | L::Arrow { .. }
        | L::NotSupported { .. }
        | L::InvalidInput { .. }
        | L::Schema { .. } => true,
        L::Shared { source } => is_of_evaluation(source),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::unkept;
    use crate::commit::{When, Write};
    use crate::error::{Error, ErrorKind};

    #[test]
    fn rows_that_lance_cannot_stage_do_not_wait_for_the_storage() {
        let append = || Write::Append(Vec::new().into());
        let merge = || Write::Merge {
            key: "id".parse().unwrap(),
            when: When::default(),
            rows: Vec::new(),
        };
        let away = object_store::Error::Generic {
            store: "s3",
            source: "away".into(),
        };
        for (of_lance, write, kind) in [
            (
                lance::Error::arrow("no JSON"),
                append(),
                ErrorKind::InvalidInput,
            ),
            (
                lance::Error::execution("overflow"),
                append(),
                ErrorKind::InvalidInput,
            ),
            (
                lance::Error::not_supported("a type"),
                append(),
                ErrorKind::InvalidInput,
            ),
            (lance::Error::from(away), append(), ErrorKind::Storage),
            (lance::Error::timeout("slow"), append(), ErrorKind::Storage),
            (
                lance::Error::not_supported("a key"),
                merge(),
                ErrorKind::InvalidInput,
            ),
            // It may be the table that cannot be read.
            (
                lance::Error::arrow("no footer"),
                merge(),
                ErrorKind::Storage,
            ),
        ] {
            let told = of_lance.to_string();
            assert_eq!(unkept(of_lance.into(), &write).kind(), kind, "{told}");
        }
        let panicked = || Error::internal("appending rows: panicked: not implemented");
        assert_eq!(
            unkept(panicked(), &append()).kind(),
            ErrorKind::InvalidInput
        );
        let of_merge = unkept(panicked(), &merge());
        assert_eq!(of_merge.kind(), ErrorKind::Internal);
        assert!(of_merge.to_string().contains("squire verify"), "{of_merge}");
    }
}
