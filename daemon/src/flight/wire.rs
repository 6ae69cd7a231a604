//! The messages of Arrow Flight and Flight SQL that are spoken here, as their `.proto` files number their fields. What is not named
//! is passed over, as in every protocol of this kind.

use prost::Message;
use prost::bytes::Bytes;
use std::collections::HashMap;

/// What the service is called in paths.
pub(super) const SERVICE: &str = "/arrow.flight.protocol.FlightService/";

/// What the commands of Flight SQL are called in an [`Any`].
const SQL: &str = "type.googleapis.com/arrow.flight.protocol.sql.";

/// What is asked for, or written to.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FlightDescriptor {
    /// 1: `path`; 2: `cmd`.
    #[prost(int32, tag = "1")]
    pub(super) kind: i32,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) cmd: Bytes,
    #[prost(string, repeated, tag = "3")]
    pub(super) path: Vec<String>,
}

impl FlightDescriptor {
    pub(super) const PATH: i32 = 1;
    pub(super) const CMD: i32 = 2;
}

/// One message of a stream: metadata and body of one of Arrow IPC.
#[derive(Clone, PartialEq, Message)]
pub(super) struct FlightData {
    #[prost(message, optional, tag = "1")]
    pub(super) flight_descriptor: Option<FlightDescriptor>,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) data_header: Bytes,
    #[prost(bytes = "bytes", tag = "1000")]
    pub(super) data_body: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct PutResult {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) app_metadata: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Ticket {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) ticket: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FlightEndpoint {
    #[prost(message, optional, tag = "1")]
    pub(super) ticket: Option<Ticket>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct FlightInfo {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) schema: Bytes,
    #[prost(message, optional, tag = "2")]
    pub(super) flight_descriptor: Option<FlightDescriptor>,
    #[prost(message, repeated, tag = "3")]
    pub(super) endpoint: Vec<FlightEndpoint>,
    #[prost(int64, tag = "4")]
    pub(super) total_records: i64,
    #[prost(int64, tag = "5")]
    pub(super) total_bytes: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Action {
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) body: Bytes,
}

/// What an action answers.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ActionResult {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) body: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ActionType {
    #[prost(string, tag = "1")]
    pub(super) kind: String,
    #[prost(string, tag = "2")]
    pub(super) description: String,
}

/// A message with the name of its type.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Any {
    #[prost(string, tag = "1")]
    pub(super) type_url: String,
    #[prost(bytes = "bytes", tag = "2")]
    pub(super) value: Bytes,
}

impl Any {
    /// `message`, which Flight SQL calls `name`.
    pub(super) fn of(name: &str, message: &impl Message) -> Self {
        Self {
            type_url: format!("{SQL}{name}"),
            value: message.encode_to_vec().into(),
        }
    }

    /// What Flight SQL calls it.
    pub(super) fn name(&self) -> &str {
        self.type_url.strip_prefix(SQL).unwrap_or(&self.type_url)
    }
}

/// Rows that are put into a table.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CommandStatementIngest {
    #[prost(message, optional, tag = "1")]
    pub(super) definition: Option<TableDefinition>,
    #[prost(string, tag = "2")]
    pub(super) table: String,
    #[prost(string, optional, tag = "3")]
    pub(super) schema: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(super) catalog: Option<String>,
    #[prost(bool, tag = "5")]
    pub(super) temporary: bool,
    #[prost(bytes = "bytes", optional, tag = "6")]
    pub(super) transaction_id: Option<Bytes>,
    #[prost(map = "string, string", tag = "1000")]
    pub(super) options: HashMap<String, String>,
}

impl CommandStatementIngest {
    pub(super) const NAME: &str = "CommandStatementIngest";
}

/// What becomes of a table that is there, or is not.
#[derive(Clone, PartialEq, Message)]
pub(super) struct TableDefinition {
    /// 1: create; 2: fail.
    #[prost(int32, tag = "1")]
    pub(super) if_not_exist: i32,
    /// 1: fail; 2: append; 3: replace.
    #[prost(int32, tag = "2")]
    pub(super) if_exists: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct DoPutUpdateResult {
    #[prost(int64, tag = "1")]
    pub(super) record_count: i64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct BeginTransactionResult {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) transaction_id: Bytes,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct EndTransactionRequest {
    #[prost(bytes = "bytes", tag = "1")]
    pub(super) transaction_id: Bytes,
    /// 1: commit; 2: roll back.
    #[prost(int32, tag = "2")]
    pub(super) action: i32,
}

impl EndTransactionRequest {
    pub(super) const COMMIT: i32 = 1;
    pub(super) const ROLLBACK: i32 = 2;
}

/// The answer to the end of a session, of which there is nothing to end.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CloseSessionResult {
    /// 1: closed.
    #[prost(int32, tag = "1")]
    pub(super) status: i32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct CommandGetSqlInfo {
    #[prost(uint32, repeated, tag = "1")]
    pub(super) info: Vec<u32>,
}

impl CommandGetSqlInfo {
    pub(super) const NAME: &str = "CommandGetSqlInfo";
}
