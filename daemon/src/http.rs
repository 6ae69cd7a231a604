//! The HTTP server of the daemon and the agent.
//!
//! `/metrics`, `/healthz`, `/readyz`, `/status` and `/` (a page for people) only read; what they say of tables may be kept for those
//! who show a token. `POST /api/v1/<verb>` asks for something and needs a bearer token; without a configured one these
//! calls are off. `/api/v1/openapi.json` describes them all; a test holds it against the routes. The server owns no state: it asks a [`StatusSource`], whose methods return at
//! once (a snapshot, or a wish put into a queue), so a slow table cannot make the server slow.
//!
//! Limits: connections, and time without an answer (`connection`), body size and time per request (here). Parts:
//! `token` (constant-time comparison), `access` (who may ask and see what), `page` (what stands in the binary: the page, and the description of the API).

mod access;
mod connection;
mod page;
#[cfg(test)]
mod tests;
mod token;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use squire_engine::error::{Error, ErrorKind};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use access::Caller;
pub(crate) use access::{Access, Grant, Scope, bearer};
pub(crate) use connection::LimitedListener;
pub(crate) use token::{Guesses, Token, TokenError};

/// The largest body read. A request names a store and a table; more is a mistake, and is answered
/// 413.
const MAX_BODY: usize = 64 * 1024;

/// The longest time between complete headers and the answer; then 408. Every answer is made from
/// memory, so ten seconds mean a slow sender.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// How long open requests may finish after cancellation. A request cannot outlive its own limit, so
/// more would only wait for the dead.
const SHUTDOWN_TIMEOUT: Duration = REQUEST_TIMEOUT;

/// Where the server gets its answers. Every method must return at once.
pub(crate) trait StatusSource: Send + Sync + 'static {
    /// The document of `/status`, as far as `scope` reaches.
    fn status(&self, scope: &Scope) -> Value;
    /// Whether recovery and the first look are done, and there is something to work on.
    fn ready(&self) -> bool;
    /// What keeps it from being ready, for people.
    fn unready(&self) -> &'static str;
    /// Whether the loops still turn.
    fn healthy(&self) -> bool;
    /// The document of `/metrics`, in the Prometheus text format.
    fn metrics(&self) -> String;
    /// Asks for something.
    fn request(&self, ask: Ask) -> Result<Value, Refusal>;
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) verb: ControlVerb,
    pub(crate) what: What,
}

/// What a changing call may name, in its query (`?store=S&table=T`), in a JSON body, or some of it in each; without a store or
/// table, all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct What {
    /// A place, as it is watched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) store: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) table: Option<String>,
    /// Of a pause, its end, or a cancellation: one kind of work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) kind: Option<String>,
    /// Of a cancellation: one attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) attempt: Option<u64>,
    /// Of a pause: why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

impl What {
    /// Whether it is about the place at `uri`.
    pub(crate) fn is_about(&self, uri: &str) -> bool {
        self.store
            .as_deref()
            .is_none_or(|store| access::same_location(store, uri))
    }
}

/// Why nothing was done: a sentence for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// No such store or table; answered 404.
    Unknown(String),
    /// Not as things are; answered 409.
    NotNow(String),
    /// Never; answered 400.
    Wrong(String),
    /// Not for this token; answered 403.
    Beyond(String),
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (code, why) = match self {
            Self::Unknown(why) => (StatusCode::NOT_FOUND, why),
            Self::NotNow(why) => (StatusCode::CONFLICT, why),
            Self::Wrong(why) => (StatusCode::BAD_REQUEST, why),
            Self::Beyond(why) => (StatusCode::FORBIDDEN, why),
        };
        failure(code, &why)
    }
}

/// What can be asked for by `POST /api/v1/<verb>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ControlVerb {
    /// Compact, whatever the thresholds say.
    Optimize,
    /// Extend indexes, whatever the thresholds say.
    Reindex,
    /// Delete what the retention allows.
    Cleanup,
    /// Resolve unfinished operations.
    Recover,
    /// Start nothing new of what is named, until it is resumed.
    Pause,
    /// End a pause.
    Resume,
    /// Stop running attempts at their next safe point.
    Cancel,
    /// Begin nothing any more, stop what runs, and say what is handed back.
    Drain,
}

impl ControlVerb {
    /// Every verb, in the order of the documentation.
    pub(crate) const ALL: [Self; 8] = [
        Self::Optimize,
        Self::Reindex,
        Self::Cleanup,
        Self::Recover,
        Self::Pause,
        Self::Resume,
        Self::Cancel,
        Self::Drain,
    ];

    /// The verb as it stands in the path.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Optimize => "optimize",
            Self::Reindex => "reindex",
            Self::Cleanup => "cleanup",
            Self::Recover => "recover",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Cancel => "cancel",
            Self::Drain => "drain",
        }
    }
}

impl fmt::Display for ControlVerb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

type Source = Arc<dyn StatusSource>;

/// Serves until `cancel`, then lets open requests finish for a bounded time.
pub(crate) async fn serve(
    listener: TcpListener,
    source: Source,
    access: Access,
    cancel: CancellationToken,
) -> io::Result<()> {
    let listener = LimitedListener::new(listener);
    let stop = cancel.clone().cancelled_owned();
    let server = axum::serve(listener, router(source, access))
        .with_graceful_shutdown(stop)
        .into_future();
    let too_late = async {
        cancel.cancelled().await;
        tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
    };
    tokio::select! {
        biased;
        result = server => result,
        () = too_late => {
            tracing::info!("open http requests were dropped at shutdown");
            Ok(())
        }
    }
}

/// Listens on `address`, which `setting` names; says so where whoever reaches it `reads_freely`.
///
/// # Errors
/// `Storage` when it is taken or not there yet, which may pass; `InvalidInput` when it never will.
pub(crate) async fn listen(
    address: SocketAddr,
    setting: &str,
    reads_freely: bool,
) -> Result<TcpListener, Error> {
    let bound = TcpListener::bind(address).await;
    let listener = bound.map_err(|e| {
        let passes = [io::ErrorKind::AddrInUse, io::ErrorKind::AddrNotAvailable];
        let kind = match passes.contains(&e.kind()) {
            true => ErrorKind::Storage,
            false => ErrorKind::InvalidInput,
        };
        let what = format!("cannot listen on {address}; set {setting} or --listen");
        Error::new(kind, what).caused_by(e)
    })?;
    tracing::info!(address = ?listener.local_addr().ok(), "listening");
    if reads_freely && !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            setting,
            "whoever reaches this address reads the names and the state of all tables; daemon.reading = \"token\" keeps them for those who have a token"
        );
    }
    Ok(listener)
}

/// What only reads, and tells of no table.
fn reading() -> [(&'static str, MethodRouter<Source>); 4] {
    [
        ("/", get(page::page)),
        ("/healthz", get(healthz)),
        ("/readyz", get(readyz)),
        ("/api/v1/openapi.json", get(page::description)),
    ]
}

/// What only reads, and tells of tables.
fn of_tables() -> [(&'static str, MethodRouter<Source>); 2] {
    [("/metrics", get(metrics)), ("/status", get(status))]
}

/// Where something is asked for.
const CHANGING: &str = "/api/v1/{verb}";

fn router(source: Source, access: Access) -> Router {
    let gate = Gate {
        access,
        guesses: Arc::default(),
    };
    let changing = Router::new()
        .route(CHANGING, post(control))
        .route_layer(middleware::from_fn_with_state(gate.clone(), require_token));
    let told = of_tables().into_iter();
    let told = told
        .fold(Router::new(), |router, (path, answer)| {
            router.route(path, answer)
        })
        .route_layer(middleware::from_fn_with_state(gate, require_reader));
    let routes = reading().into_iter();
    routes
        .fold(Router::new(), |router, (path, answer)| {
            router.route(path, answer)
        })
        .merge(changing)
        .merge(told)
        .fallback(|| async { failure(StatusCode::NOT_FOUND, "no such page; see /") })
        .method_not_allowed_fallback(|| async {
            failure(
                StatusCode::METHOD_NOT_ALLOWED,
                "not so; see /api/v1/openapi.json",
            )
        })
        .layer(middleware::map_response(page::guarded))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn_with_state(REQUEST_TIMEOUT, limit_time))
        .with_state(source)
}

async fn metrics(State(source): State<Source>, Extension(scope): Extension<Scope>) -> Response {
    if scope != Scope::All {
        let why = "the metrics are about more than what this token is for".to_owned();
        return Refusal::Beyond(why).into_response();
    }
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], source.metrics()).into_response()
}

async fn healthz(State(source): State<Source>) -> impl IntoResponse {
    verdict(
        source.healthy(),
        "ok\n",
        "not healthy: a loop stopped turning; see the log\n",
    )
}

async fn readyz(State(source): State<Source>) -> impl IntoResponse {
    verdict(source.ready(), "ready\n", source.unready())
}

fn verdict(good: bool, yes: &'static str, no: &'static str) -> (StatusCode, &'static str) {
    if good {
        (StatusCode::OK, yes)
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, no)
    }
}

async fn status(
    State(source): State<Source>,
    Extension(scope): Extension<Scope>,
) -> impl IntoResponse {
    let shown = Json(source.status(&scope));
    ([(header::CACHE_CONTROL, "no-store")], shown)
}

impl What {
    /// An object; serde would take a list of values, too, and an empty one as everything.
    fn of_body(body: &[u8]) -> Result<Self, String> {
        if body.is_empty() {
            return Ok(Self::default());
        }
        if !body.trim_ascii_start().starts_with(b"{") {
            return Err("the body is no JSON object".to_owned());
        }
        serde_json::from_slice(body).map_err(|error| error.to_string())
    }

    /// What both say together. What one of them names is never widened by the other.
    fn and(self, body: Self) -> Result<Self, String> {
        Ok(Self {
            store: one("store", self.store, body.store)?,
            table: one("table", self.table, body.table)?,
            kind: one("kind", self.kind, body.kind)?,
            attempt: one("attempt", self.attempt, body.attempt)?,
            reason: one("reason", self.reason, body.reason)?,
        })
    }
}

/// What the query and the body say of one thing.
fn one<T: PartialEq + fmt::Debug>(
    name: &str,
    query: Option<T>,
    body: Option<T>,
) -> Result<Option<T>, String> {
    match (query, body) {
        (Some(query), Some(body)) if query != body => Err(format!(
            "the query names the {name} {query:?} and the body {body:?}"
        )),
        (query, body) => Ok(query.or(body)),
    }
}

async fn control(
    State(source): State<Source>,
    Extension(scope): Extension<Scope>,
    Path(verb): Path<String>,
    query: Result<Query<What>, axum::extract::rejection::QueryRejection>,
    body: Bytes,
) -> Response {
    let Some(verb) = ControlVerb::ALL
        .into_iter()
        .find(|known| known.as_str() == verb)
    else {
        let known = ControlVerb::ALL.map(ControlVerb::as_str).join(", ");
        return failure(
            StatusCode::NOT_FOUND,
            &format!("no such call; use one of {known}"),
        );
    };
    let query = query.map_err(|error| error.body_text());
    let what = query.and_then(|Query(query)| query.and(What::of_body(&body)?));
    let what = match what {
        Ok(what) => what,
        Err(error) => {
            return failure(
                StatusCode::BAD_REQUEST,
                &format!("{error}; send {{\"store\": S, \"table\": T}} or nothing"),
            );
        }
    };
    tracing::info!(
        %verb,
        store = what.store,
        table = what.table,
        kind = what.kind,
        attempt = what.attempt,
        reason = what.reason,
        "change requested over http"
    );
    let asked = scope.narrow(Ask { verb, what });
    match asked.and_then(|ask| source.request(ask)) {
        Ok(answer) => Json(answer).into_response(),
        Err(refusal) => scope.tells(refusal).into_response(),
    }
}

/// Who comes in.
#[derive(Clone, Debug)]
struct Gate {
    access: Access,
    guesses: Arc<Guesses>,
}

impl Gate {
    async fn let_in(&self, caller: Caller, mut request: Request, next: Next) -> Response {
        match caller {
            Caller::May(scope) => {
                request.extensions_mut().insert(scope);
                next.run(request).await
            }
            Caller::Nobody => failure(
                StatusCode::FORBIDDEN,
                "changing calls are off: set daemon.token_file",
            ),
            Caller::Unknown => {
                self.guesses.tell(request.uri().path());
                let mut answer = failure(
                    StatusCode::UNAUTHORIZED,
                    "missing or wrong token: send Authorization: Bearer <token>",
                );
                answer
                    .headers_mut()
                    .insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
                answer
            }
        }
    }
}

/// Lets a request pass if it shows a token. Stands before the body is read, so that only known
/// callers can make the server read one.
async fn require_token(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let caller = gate.access.of_change(request.headers());
    gate.let_in(caller, request, next).await
}

/// Lets those read who may.
async fn require_reader(State(gate): State<Gate>, request: Request, next: Next) -> Response {
    let caller = gate.access.of_reading(request.headers());
    gate.let_in(caller, request, next).await
}

async fn limit_time(State(limit): State<Duration>, request: Request, next: Next) -> Response {
    match tokio::time::timeout(limit, next.run(request)).await {
        Ok(answer) => answer,
        Err(_) => failure(
            StatusCode::REQUEST_TIMEOUT,
            "the request took too long to arrive",
        ),
    }
}

fn failure(status: StatusCode, reason: &str) -> Response {
    (status, Json(json!({ "error": reason }))).into_response()
}
