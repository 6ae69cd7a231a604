//! `squire pause`, `resume`, `cancel`, `drain`: what a running daemon is asked over its HTTP port.

use super::Context;
use super::args::{CancelArgs, DaemonArg, KindArg, PauseArgs, WorkArgs};
use crate::config::location_of;
use crate::http::{ControlVerb, Token, What};
use serde_json::Value;
use squire_engine::error::{Error, ErrorKind, Result};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a daemon that lives takes to answer: it answers from memory.
const PATIENCE: Duration = Duration::from_secs(10);

/// An answer is a page at most.
const MOST: u64 = 1 << 20;

impl KindArg {
    fn word(self) -> &'static str {
        match self {
            Self::Compact => "compact",
            Self::Reindex => "reindex",
            Self::Cleanup => "cleanup",
        }
    }
}

/// A location as another process knows it.
fn as_told(location: &str) -> String {
    location_of(location).unwrap_or_else(|_| location.to_owned())
}

impl WorkArgs {
    /// As the daemon is told it.
    fn what(&self) -> What {
        What {
            // The daemon stands in another directory.
            store: self.store.as_deref().map(as_told),
            table: self.table.clone(),
            kind: self.kind.map(|kind| kind.word().to_owned()),
            ..What::default()
        }
    }
}

pub(super) async fn pause(context: &Context, args: PauseArgs) -> Result<ExitCode> {
    let what = What {
        reason: args.reason,
        ..args.work.what()
    };
    let answer = ask(context, &args.work.daemon, ControlVerb::Pause, &what).await?;
    let line = match answer["survives_restart"].as_bool() {
        Some(true) => "paused until `squire resume`; what runs goes on (`squire cancel` stops it)",
        _ => {
            "paused until `squire resume` or until the daemon ends: it has no state directory (STATE_DIRECTORY); what runs goes on (`squire cancel` stops it)"
        }
    };
    context.out.print(&answer, &[line.to_owned()]);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn resume(context: &Context, args: WorkArgs) -> Result<ExitCode> {
    let answer = ask(context, &args.daemon, ControlVerb::Resume, &args.what()).await?;
    let of = |name: &str| answer[name].as_array().cloned().unwrap_or_default();
    let told = |pause: &Value| {
        let named = ["store", "table", "kind", "reason"].into_iter();
        let named = named.filter_map(|name| Some(format!("{name} {}", pause[name].as_str()?)));
        match named.collect::<Vec<_>>() {
            all if all.is_empty() => String::from("everything"),
            some => some.join(", "),
        }
    };
    let mut lines: Vec<String> = of("lifted")
        .iter()
        .map(|pause| format!("resumed: {}", told(pause)))
        .collect();
    if lines.is_empty() {
        lines.push(String::from("nothing was paused there"));
    }
    let wider = of("still_paused_by");
    lines.extend(
        wider
            .iter()
            .map(|p| format!("still paused by: {}", told(p))),
    );
    context.out.print(&answer, &lines);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn cancel(context: &Context, args: CancelArgs) -> Result<ExitCode> {
    let what = What {
        attempt: args.attempt,
        ..args.work.what()
    };
    let answer = ask(context, &args.work.daemon, ControlVerb::Cancel, &what).await?;
    let line = "what is named stops at its next safe point and keeps what it has finished";
    context.out.print(&answer, &[line.to_owned()]);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn drain(context: &Context, daemon: DaemonArg) -> Result<ExitCode> {
    let answer = ask(context, &daemon, ControlVerb::Drain, &What::default()).await?;
    let work = answer["handed_back"].as_array().cloned();
    let told = |w: &Value| {
        let of = |name: &str| w[name].as_str().unwrap_or_default().to_owned();
        let (kind, table) = (of("kind"), of("table"));
        format!(
            "handed back: {kind} {table} in {} ({})",
            of("location"),
            of("was")
        )
    };
    let mut lines: Vec<String> = work.iter().flatten().map(told).collect();
    lines.push(String::from(
        "the daemon begins nothing any more; stop it when `drain.done` is true in its /status",
    ));
    context.out.print(&answer, &lines);
    Ok(ExitCode::SUCCESS)
}

/// Asks the daemon, and gives its answer.
async fn ask(
    context: &Context,
    daemon: &DaemonArg,
    verb: ControlVerb,
    what: &What,
) -> Result<Value> {
    let configured = &context.config.daemon;
    let address = daemon.daemon.or(configured.listen).ok_or_else(|| {
        Error::invalid(
            "daemon.listen is off: a daemon cannot be asked; name its address with --daemon",
        )
    })?;
    let file = daemon
        .token_file
        .as_ref()
        .or(configured.token_file.as_ref());
    let file = file.ok_or_else(|| {
        Error::invalid("a daemon obeys who shows its token; name the file with --token-file, or the daemon's configuration with --config")
    })?;
    let token = Token::load(file).map_err(|e| Error::invalid(e.to_string()))?;
    let token = token.shown();
    let body = serde_json::to_string(what)
        .map_err(|e| Error::internal("encoding a request").caused_by(e))?;
    let request = format!(
        "POST /api/v1/{verb} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let asked = tokio::time::timeout(PATIENCE, exchange(address, &request, MOST)).await;
    let away = |e: std::io::Error| {
        let text = format!("no daemon answers on {address}; name its address with --daemon");
        Error::new(ErrorKind::Storage, text).caused_by(e)
    };
    let late = || std::io::Error::from(std::io::ErrorKind::TimedOut);
    let (code, answer) = asked.map_err(|_| away(late()))?.map_err(away)?;
    if code == 200 {
        return Ok(answer);
    }
    let why = answer["error"].as_str().unwrap_or("no reason was given");
    let kind = match code {
        404 => ErrorKind::NotFound,
        409 => ErrorKind::Refused,
        400 | 401 | 403 => ErrorKind::InvalidInput,
        _ => ErrorKind::Internal,
    };
    Err(Error::new(kind, format!("the daemon on {address}: {why}")))
}

/// What the daemon on `address` tells of itself, in at most so many bytes. Where the configuration names a token that can be read,
/// it is shown: reading may be for those alone who have one.
pub(super) async fn status_of(
    context: &Context,
    address: SocketAddr,
    most: u64,
) -> std::io::Result<(u16, Value)> {
    let file = context.config.daemon.token_file.as_ref();
    let token = file.and_then(|file| Token::load(file).ok());
    let header = token.map(|token| format!("Authorization: Bearer {}\r\n", token.shown()));
    let header = header.unwrap_or_default();
    let request =
        format!("GET /status HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{header}\r\n");
    exchange(address, &request, most).await
}

/// The status code and the document of an answer of at most so many bytes.
async fn exchange(address: SocketAddr, request: &str, most: u64) -> std::io::Result<(u16, Value)> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(most).read_to_end(&mut answer).await?;
    let text = String::from_utf8_lossy(&answer);
    let strange = || std::io::Error::other("something else does");
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(strange)?;
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let document = serde_json::from_str(body).map_err(|_| strange())?;
    Ok((code.ok_or_else(strange)?, document))
}
