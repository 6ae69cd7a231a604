//! What gRPC calls an error: the engine's kinds, with the same words, and what only a server says.

use super::commit::Exists;
use crate::input::Place;
use squire_engine::error::{Error, ErrorKind};
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Code, Status};

/// The code of an error. `ABORTED` and `UNAVAILABLE`: nothing was committed, and trying again is right. `UNKNOWN`: it may be committed.
fn code_of(error: &Error) -> Code {
    let is_limit = || error.attached::<Place>().is_some_and(Place::is_of_limit);
    match error.kind() {
        ErrorKind::Refused if error.attached::<Exists>().is_some() => Code::AlreadyExists,
        ErrorKind::InvalidInput if is_limit() => Code::ResourceExhausted,
        ErrorKind::InvalidInput => Code::InvalidArgument,
        ErrorKind::NotFound => Code::NotFound,
        ErrorKind::Conflict | ErrorKind::Stale => Code::Aborted,
        ErrorKind::Unknown => Code::Unknown,
        ErrorKind::Drift
        | ErrorKind::Refused
        | ErrorKind::Expired
        | ErrorKind::FormatTooNew
        | ErrorKind::Unfit => Code::FailedPrecondition,
        ErrorKind::Storage => Code::Unavailable,
        ErrorKind::Cancelled => Code::Cancelled,
        _ => Code::Internal,
    }
}

/// `error` as a client is told it: its kind and its operation stand beside its words, in `squire-error` and `squire-op`.
pub(super) fn told(error: &Error) -> Status {
    let mut metadata = MetadataMap::new();
    let kind = format!("{:?}", error.kind());
    if let Ok(kind) = MetadataValue::try_from(kind) {
        metadata.insert("squire-error", kind);
    }
    let op = error.op().map(|op| MetadataValue::try_from(op.to_string()));
    if let Some(Ok(op)) = op {
        metadata.insert("squire-op", op);
    }
    Status::with_metadata(code_of(error), error.to_string(), metadata)
}

/// The same for `?`.
pub(super) fn refused(error: Error) -> Status {
    told(&error)
}

/// Beyond a limit, which `setting` names.
pub(super) fn beyond(what: impl std::fmt::Display, setting: &str) -> Status {
    Status::resource_exhausted(format!("{what} (agent.{setting})"))
}

/// What a stream of messages failed with. One that is too large is told with the setting that says so.
pub(super) fn unreadable(status: Status, most: u64) -> Status {
    match status.code() {
        Code::OutOfRange => beyond(
            format_args!("a message is larger than {most} bytes: send batches of fewer rows"),
            "flight_message_bytes",
        ),
        _ => status,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use squire_engine::ids::OpId;

    #[test]
    fn a_client_sees_from_the_code_whether_to_send_it_again() {
        let limit = Error::invalid("too many rows").with(Place::limit());
        assert_eq!(told(&limit).code(), Code::ResourceExhausted);
        let exists = Error::new(ErrorKind::Refused, "exists").with(Exists);
        assert_eq!(told(&exists).code(), Code::AlreadyExists);
        for (kind, code) in [
            (ErrorKind::InvalidInput, Code::InvalidArgument),
            (ErrorKind::NotFound, Code::NotFound),
            (ErrorKind::Conflict, Code::Aborted),
            (ErrorKind::Stale, Code::Aborted),
            (ErrorKind::Unknown, Code::Unknown),
            (ErrorKind::Drift, Code::FailedPrecondition),
            (ErrorKind::Refused, Code::FailedPrecondition),
            (ErrorKind::Storage, Code::Unavailable),
            (ErrorKind::Internal, Code::Internal),
        ] {
            assert_eq!(told(&Error::new(kind, "why")).code(), code, "{kind:?}");
        }
    }

    #[test]
    fn the_kind_and_the_operation_stand_beside_the_words() {
        let op = OpId::parse("01JD2Q3V5W6X7Y8Z9A0B1C2D3E").unwrap();
        let status = told(&Error::new(ErrorKind::Unknown, "lost").of(op));
        let stands = |name: &str| {
            status
                .metadata()
                .get(name)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        assert_eq!(stands("squire-error"), "Unknown");
        assert_eq!(stands("squire-op"), op.to_string());
    }
}
