//! Exit codes.

use squire_engine::error::ErrorKind;
use std::process::ExitCode;

/// The exit code of an error, as in the design: 0 done, 1 failed, 2 bad usage, 3 refused, 75 try again.
pub(crate) fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidInput | ErrorKind::Stale => 2,
        ErrorKind::Drift | ErrorKind::Refused | ErrorKind::Unfit => 3,
        ErrorKind::Conflict | ErrorKind::Unknown => 75,
        _ => 1,
    }
}

/// [`code`], for the process.
pub(crate) fn exit_code(kind: ErrorKind) -> ExitCode {
    ExitCode::from(code(kind))
}

/// Of two exit codes, the one that asks more of a person: failed, then bad usage, then refused, then try again.
pub(crate) fn graver(a: u8, b: u8) -> u8 {
    let rank = |code: u8| match code {
        0 => 0,
        75 => 1,
        3 => 2,
        2 => 3,
        _ => 4,
    };
    if rank(a) >= rank(b) { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::graver;

    #[test]
    fn the_gravest_exit_code_decides_in_any_order() {
        for (a, b, gravest) in [(1, 75, 1), (75, 3, 3), (3, 2, 2), (2, 1, 1), (0, 75, 75)] {
            assert_eq!((graver(a, b), graver(b, a)), (gravest, gravest));
        }
    }
}
