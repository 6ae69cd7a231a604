//! What may be called, and how it is answered.

use super::Flight;
use super::commit::Done;
use super::failure::{refused, told};
use super::info;
use super::intent::Asked;
use super::put::Caller;
use super::received::most_bytes;
use super::transactions::Batch;
use super::wire::{
    Action, ActionResult, ActionType, Any, BeginTransactionResult, CloseSessionResult,
    CommandGetSqlInfo, DoPutUpdateResult, EndTransactionRequest, FlightData, FlightDescriptor,
    FlightEndpoint, FlightInfo, PutResult, SERVICE, Ticket,
};
use crate::http::bearer;
use hyper::body::Incoming;
use prost::Message;
use prost::bytes::Bytes;
use squire_engine::error::ErrorKind;
use std::sync::Arc;
use std::time::Duration;
use tonic::body::Body;
use tonic::codec::{Codec, EncodeBody, SingleMessageCompressionOverride};
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response, header};
use tonic::codegen::tokio_stream;
use tonic::{Code, Status, Streaming};
use tonic_prost::ProstCodec;

/// How long the one message of a call without a stream may take.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);

/// The largest one.
const MESSAGE_BYTES: usize = 64 << 10;

/// What ADBC's driver calls itself.
const ADBC: &str = "ADBC Flight SQL Driver";

/// The answer to a call: its messages, and what stands in its headers.
struct Answer<M> {
    messages: Vec<M>,
    done: Option<Done>,
}

impl<M> From<Vec<M>> for Answer<M> {
    fn from(messages: Vec<M>) -> Self {
        Self {
            messages,
            done: None,
        }
    }
}

impl Flight {
    /// Answers one call.
    pub(super) async fn call(
        self: Arc<Self>,
        connection: u64,
        request: Request<Incoming>,
    ) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let name = parts.uri.path().strip_prefix(SERVICE).unwrap_or_default();
        if let Err(status) = self.admit(&parts.headers, parts.uri.path()) {
            return status.into_http();
        }
        let agent = parts.headers.get(header::USER_AGENT);
        let is_adbc = agent.is_some_and(|a| a.as_bytes().starts_with(ADBC.as_bytes()));
        let caller = Caller {
            connection,
            is_adbc,
        };
        match name {
            "DoPut" => {
                let stream = stream_of(body, most_bytes(&self.config.flight));
                let ended = self.put(caller, &parts.headers, stream).await;
                self.show();
                self.count(ended.as_ref().map(|(done, _)| done));
                respond(ended.map(|(done, is_sql)| put_result(done, is_sql)))
            }
            "DoAction" => {
                let ended = match one_of(body).await {
                    Ok(action) => self.act(caller, &parts.headers, action).await,
                    Err(status) => Err(status),
                };
                self.show();
                respond(ended)
            }
            "GetFlightInfo" => {
                let asked = one_of::<FlightDescriptor>(body).await;
                respond(asked.and_then(|descriptor| Ok(vec![flight_info(descriptor)?].into())))
            }
            "DoGet" => {
                let ticket = one_of::<Ticket>(body).await;
                respond(ticket.and_then(|ticket| Ok(rows_of(&ticket.ticket)?.into())))
            }
            "ListActions" => respond(Ok(actions().into())),
            _ => not_spoken(&parts.uri.path()).into_http(),
        }
    }

    /// Shows what is open, and what it takes.
    pub(super) fn show(&self) {
        let (open, bytes) = (self.transactions.count(), self.room.taken());
        self.metrics.agent.flight.shows(open, bytes);
    }

    /// Whether a call may be made at all.
    fn admit(&self, headers: &HeaderMap, path: &str) -> Result<(), Status> {
        if let Some(token) = &self.token
            && !bearer(headers).is_some_and(|presented| token.matches(presented))
        {
            self.guesses.tell(path);
            return Err(Status::unauthenticated(
                "missing or wrong token: send the header authorization: Bearer <token>",
            ));
        }
        if self.stop.is_cancelled() {
            return Err(Status::unavailable(
                "the agent is stopping; send it to the next one",
            ));
        }
        Ok(())
    }

    async fn act(
        self: &Arc<Self>,
        caller: Caller,
        headers: &HeaderMap,
        action: Action,
    ) -> Result<Answer<ActionResult>, Status> {
        let one = |body: Vec<u8>| {
            let body = Bytes::from(body);
            vec![ActionResult { body }]
        };
        match action.kind.as_str() {
            "BeginTransaction" => {
                let name = self.begin(caller, headers)?;
                let transaction_id = name.into_bytes().into();
                let begun = BeginTransactionResult { transaction_id };
                let begun = Any::of("ActionBeginTransactionResult", &begun);
                Ok(one(begun.encode_to_vec()).into())
            }
            "EndTransaction" => {
                let request = Any::decode(action.body)
                    .and_then(|any| EndTransactionRequest::decode(any.value));
                let request = request.map_err(|e| {
                    Status::invalid_argument(format!("the action cannot be read: {e}"))
                })?;
                let name = String::from_utf8_lossy(&request.transaction_id).into_owned();
                match request.action {
                    EndTransactionRequest::COMMIT => {
                        let ended = self.end(&name, headers).await;
                        self.count(ended.as_ref());
                        let done = ended?;
                        let messages = one(document(&done));
                        let done = Some(done);
                        Ok(Answer { messages, done })
                    }
                    EndTransactionRequest::ROLLBACK => {
                        self.transactions.roll_back(&name);
                        Ok(Vec::new().into())
                    }
                    _ => Err(Status::invalid_argument("commit or roll back")),
                }
            }
            "CloseSession" => {
                let closed = CloseSessionResult { status: 1 };
                Ok(one(closed.encode_to_vec()).into())
            }
            other => Err(not_spoken(&other)),
        }
    }

    fn begin(&self, caller: Caller, headers: &HeaderMap) -> Result<String, Status> {
        let asked = Asked::of(headers)?;
        let name = self.store.new_op().to_string();
        let batch = Batch {
            id: asked.owned("batch_id"),
            message: asked.owned("message"),
            ..Batch::default()
        };
        let of = (caller.connection, caller.is_adbc);
        self.transactions.begin(name.clone(), of, batch)?;
        Ok(name)
    }

    /// Commits a transaction. One that may be tried again stays open.
    async fn end(self: &Arc<Self>, name: &str, headers: &HeaderMap) -> Result<Done, Status> {
        let asked = Asked::of(headers)?;
        let (mut batch, ended) = self.transactions.end(name)?;
        if let Err(status) = batch.name(asked.owned("batch_id")) {
            self.transactions.reopen(name, batch, ended);
            return Err(status);
        }
        batch.message = asked.owned("message").or(batch.message);
        let (batch, done) = self.commit(batch).await;
        done.map_err(|e| {
            let again = match e.kind() {
                ErrorKind::Conflict | ErrorKind::Storage => true,
                ErrorKind::Unknown => batch.id.is_some(),
                _ => false,
            };
            if again {
                self.transactions.reopen(name, batch, ended);
            }
            told(&e)
        })
    }

    fn count(&self, ended: Result<&Done, &Status>) {
        let outcome = match ended {
            Ok(done) => done.outcome,
            Err(status) => match status.code() {
                Code::Aborted => "conflict",
                Code::Unknown => "unknown",
                Code::Unavailable | Code::Internal | Code::DeadlineExceeded | Code::Cancelled => {
                    "failed"
                }
                _ => "rejected",
            },
        };
        let rows = match ended {
            Ok(done) if done.outcome == "committed" => done.rows,
            _ => 0,
        };
        self.metrics.agent.flight.ended(outcome, rows);
        if let Err(status) = ended {
            let (code, why) = (status.code(), status.message());
            tracing::info!(?code, why, "a call of Flight was refused");
        }
    }
}

fn not_spoken(what: &impl std::fmt::Display) -> Status {
    Status::unimplemented(format!(
        "{what}: an agent takes rows (DoPut), in transactions (BeginTransaction, EndTransaction), and answers no queries"
    ))
}

/// The answer as a document: of a put to a path, and of the end of a transaction.
fn document(done: &Done) -> Vec<u8> {
    serde_json::to_vec(done).unwrap_or_default()
}

fn put_result(done: Done, is_sql: bool) -> Answer<PutResult> {
    let body = if is_sql {
        let record_count = i64::try_from(done.rows).unwrap_or(i64::MAX);
        DoPutUpdateResult { record_count }.encode_to_vec()
    } else {
        document(&done)
    };
    let result = PutResult {
        app_metadata: body.into(),
    };
    Answer {
        messages: vec![result],
        done: Some(done),
    }
}

fn flight_info(descriptor: FlightDescriptor) -> Result<FlightInfo, Status> {
    // Whether it can be answered.
    rows_of(&descriptor.cmd)?;
    let ticket = Some(Ticket {
        ticket: descriptor.cmd.clone(),
    });
    Ok(FlightInfo {
        schema: info::schema().map_err(refused)?,
        flight_descriptor: Some(descriptor),
        endpoint: vec![FlightEndpoint { ticket }],
        total_records: -1,
        total_bytes: -1,
    })
}

/// What a client asks about the server, the only thing that is read here.
fn rows_of(command: &Bytes) -> Result<Vec<FlightData>, Status> {
    let any = Any::decode(command.clone()).unwrap_or_default();
    if any.name() != CommandGetSqlInfo::NAME {
        return Err(not_spoken(&any.name()));
    }
    let asked = CommandGetSqlInfo::decode(any.value)
        .map_err(|e| Status::invalid_argument(format!("the command cannot be read: {e}")))?;
    info::rows(&asked.info).map_err(refused)
}

fn actions() -> Vec<ActionType> {
    let known = [
        (
            "BeginTransaction",
            "Begins a transaction: puts that name it are committed together",
        ),
        ("EndTransaction", "Commits a transaction, or rolls it back"),
        ("CloseSession", "Ends a session, which holds nothing"),
    ];
    let action = |(kind, description): (&str, &str)| ActionType {
        kind: kind.to_owned(),
        description: description.to_owned(),
    };
    known.map(action).into()
}

fn stream_of<M: Message + Default + 'static>(body: Incoming, most: usize) -> Streaming<M> {
    let decoder = ProstCodec::<(), M>::default().decoder();
    Streaming::new_request(decoder, body, None, Some(most))
}

/// The one message of a call.
async fn one_of<M: Message + Default + 'static>(body: Incoming) -> Result<M, Status> {
    let mut stream = stream_of::<M>(body, MESSAGE_BYTES);
    let message = tokio::time::timeout(MESSAGE_TIMEOUT, stream.message()).await;
    let late = |_| Status::deadline_exceeded("the request took too long to arrive");
    let message = message.map_err(late)??;
    message.ok_or_else(|| Status::invalid_argument("the call has no message"))
}

fn respond<M: Message + Default + 'static>(answer: Result<Answer<M>, Status>) -> Response<Body> {
    let Answer { messages, done } = match answer {
        Ok(answer) => answer,
        Err(status) => return status.into_http(),
    };
    let messages = tokio_stream::iter(messages.into_iter().map(Ok));
    let encoder = ProstCodec::<M, ()>::default().encoder();
    let each = SingleMessageCompressionOverride::default();
    let body = EncodeBody::new_server(encoder, messages, None, each, None);
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    let kind = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, kind);
    if let Some(done) = done {
        headers.insert("squire-outcome", HeaderValue::from_static(done.outcome));
        let op = done.op.map(|op| HeaderValue::from_str(&op.to_string()));
        if let Some(Ok(op)) = op {
            headers.insert("squire-op", op);
        }
        if let Some(version) = done.manifest_version {
            headers.insert("squire-manifest-version", version.into());
        }
    }
    response
}
