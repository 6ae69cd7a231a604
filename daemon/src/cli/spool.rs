//! `squire spool`: what lies in a spool and why, and rejected entries back to `incoming`.

use super::Context;
use super::args::{SpoolCommand, SpoolExplainArgs, SpoolRetryArgs};
use crate::agent::Reason;
use crate::agent::spool::{ClaimState, Listing, Owner, Rejected, Spool, SpoolError};
use crate::exit::exit_code;
use crate::input::{Named, shown};
use jiff::Timestamp;
use serde_json::{Value, json};
use squire_engine::error::{Error, ErrorKind, Result};
use std::collections::{BTreeMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How many entries of one state are named to people; `--json` names all.
const SHOWN: usize = 20;

pub(super) fn spool(context: &Context, command: SpoolCommand) -> Result<ExitCode> {
    match command {
        SpoolCommand::Status { dir } => status(context, &dir),
        SpoolCommand::Retry(args) => retry(context, &args),
        SpoolCommand::Explain(args) => explain(context, &args),
    }
}

fn open(dir: &Path) -> Result<Spool> {
    Spool::existing(dir).map_err(|e| {
        let why = format!("{} is no spool: {e}", shown(dir));
        Error::new(ErrorKind::NotFound, why)
            .advice("name the directory that an agent has as --spool")
    })
}

fn failed(error: SpoolError) -> Error {
    Error::new(ErrorKind::Storage, error.to_string())
}

/// What lies in a spool at one time.
struct Seen {
    now: SystemTime,
    incoming: Listing,
    /// Of the incoming, what a process has open for writing.
    open: HashSet<OsString>,
    claims: Vec<ClaimState>,
    rejected: Vec<Rejected>,
}

impl Seen {
    fn look(context: &Context, spool: &Spool) -> Result<Self> {
        let (incoming, open) = spool.incoming_state().map_err(failed)?;
        Ok(Self {
            now: UNIX_EPOCH + Duration::from_millis(context.options.clock.now_ms()),
            incoming,
            open,
            claims: spool.claim_states().map_err(failed)?,
            rejected: spool.list_rejected().map_err(failed)?,
        })
    }

    fn age(&self, since: SystemTime) -> u64 {
        self.now.duration_since(since).unwrap_or_default().as_secs()
    }

    fn age_of_ms(&self, since_ms: u64) -> u64 {
        self.age(UNIX_EPOCH + Duration::from_millis(since_ms))
    }
}

fn status(context: &Context, dir: &Path) -> Result<ExitCode> {
    let spool = open(dir)?;
    let seen = Seen::look(context, &spool)?;
    let done = spool.list_done().map_err(failed)?;
    let mut lines = Vec::new();
    let tables = incoming_by_table(&seen, &mut lines);
    let ignored = ignored(&seen, &mut lines);
    let claims = claims(&seen, &mut lines);
    let bytes: u64 = done.iter().map(|entry| entry.bytes).sum();
    let oldest = done.first().map(|entry| seen.age(entry.since));
    let newest = done.last().map(|entry| seen.age(entry.since));
    lines.push(match (oldest, newest) {
        (Some(oldest), Some(newest)) => format!(
            "done: {} ({bytes} bytes; the last {} ago, the first {} ago)",
            done.len(),
            in_words(newest),
            in_words(oldest)
        ),
        _ => "done: 0".to_owned(),
    });
    let rejected = rejected_by_cause(&seen, &mut lines);
    let document = json!({
        "incoming": tables,
        "ignored": ignored,
        "claimed": claims,
        "done": { "entries": done.len(), "bytes": bytes, "oldest_seconds": oldest, "newest_seconds": newest },
        "rejected": rejected,
    });
    context.out.print(&document, &lines);
    Ok(ExitCode::SUCCESS)
}

/// The table that a file is for; a directory may be for several.
fn table_of(name: &OsStr) -> String {
    let name = shown(name);
    let is_file = crate::formats::Format::of(Path::new(&name)).is_ok();
    let table = name.split('.').next().filter(|_| is_file);
    table.map_or_else(|| "(batches)".to_owned(), str::to_owned)
}

fn incoming_by_table(seen: &Seen, lines: &mut Vec<String>) -> Vec<Value> {
    let mut tables: BTreeMap<String, (usize, usize, u64)> = BTreeMap::new();
    for entry in &seen.incoming.entries {
        let (count, open, oldest) = tables.entry(table_of(&entry.name)).or_default();
        *count += 1;
        *open += usize::from(seen.open.contains(&entry.name));
        *oldest = (*oldest).max(seen.age(entry.modified));
    }
    lines.push(format!("incoming: {}", seen.incoming.entries.len()));
    let tables = tables.into_iter();
    tables
        .map(|(table, (count, open, oldest))| {
            let age = in_words(oldest);
            lines.push(format!(
                "  {table}: {count}, the oldest written {age} ago{}",
                match open {
                    0 => String::new(),
                    open => format!("; {open} still being written"),
                }
            ));
            json!({ "table": table, "entries": count, "open": open, "oldest_seconds": oldest })
        })
        .collect()
}

fn why_ignored(named: Named) -> &'static str {
    match named {
        Named::Unfinished => "unfinished",
        Named::Beside => "no input",
        Named::Data | Named::Unknown => "no known format",
    }
}

fn ignored(seen: &Seen, lines: &mut Vec<String>) -> Vec<Value> {
    let all = &seen.incoming.ignored;
    if !all.is_empty() {
        lines.push(format!("left in incoming for their names: {}", all.len()));
    }
    let named = all.iter().take(SHOWN);
    lines.extend(named.map(|(name, named)| format!("  {}: {}", shown(name), why_ignored(*named))));
    all.iter()
        .map(|(name, named)| json!({ "entry": shown(name), "why": why_ignored(*named) }))
        .collect()
}

fn claims(seen: &Seen, lines: &mut Vec<String>) -> Vec<Value> {
    lines.push(format!("claimed: {}", seen.claims.len()));
    let described = seen.claims.iter().map(|claim| describe(seen, claim));
    lines.extend(described.take(SHOWN).map(|line| format!("  {line}")));
    let documents = seen.claims.iter().map(|claim| {
        let (held, process) = match claim.owner {
            Owner::Nobody => (false, None),
            Owner::Process(process) => (true, process),
        };
        json!({
            "operation": claim.operation.to_string(),
            "entries": claim.entries.iter().map(shown).collect::<Vec<_>>(),
            "age_seconds": seen.age_of_ms(claim.operation.timestamp_ms()),
            "held": held,
            "process": process,
            "waiting": claim.waiting,
        })
    });
    documents.collect()
}

fn describe(seen: &Seen, claim: &ClaimState) -> String {
    let entries: Vec<String> = claim.entries.iter().map(shown).collect();
    let age = in_words(seen.age_of_ms(claim.operation.timestamp_ms()));
    let what = match (claim.owner, &claim.waiting) {
        (Owner::Process(Some(process)), _) => format!("process {process} works on it"),
        (Owner::Process(None), _) => "a process works on it".to_owned(),
        (Owner::Nobody, Some(wait)) => format!(
            "waits ({}), tried {} times, next {}: {}",
            wait.cause,
            wait.tries,
            at(wait.next_ms),
            wait.reason
        ),
        (Owner::Nobody, None) => "nobody works on it: the next agent takes it over".to_owned(),
    };
    let (operation, entries) = (claim.operation, entries.join(", "));
    format!("{entries} (operation {operation}, {age} old): {what}")
}

fn rejected_by_cause(seen: &Seen, lines: &mut Vec<String>) -> Vec<Value> {
    let mut causes: BTreeMap<&str, Vec<&Rejected>> = BTreeMap::new();
    for rejected in &seen.rejected {
        let cause = rejected.reason.as_ref().map(|reason| reason.cause.as_str());
        causes
            .entry(cause.unwrap_or("unknown"))
            .or_default()
            .push(rejected);
    }
    lines.push(format!("rejected: {}", seen.rejected.len()));
    let causes = causes.into_iter().map(|(cause, all)| {
        let names: Vec<String> = all.iter().map(|r| shown(&r.entry.name)).collect();
        let oldest = all.first().map(|r| seen.age(r.entry.since));
        let few = names
            .iter()
            .take(SHOWN)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        lines.push(format!("  {cause}: {}, such as {few}", names.len()));
        json!({ "cause": cause, "entries": names, "oldest_seconds": oldest })
    });
    causes.collect()
}

fn retry(context: &Context, args: &SpoolRetryArgs) -> Result<ExitCode> {
    let spool = open(&args.dir)?;
    let rejected = spool.list_rejected().map_err(failed)?;
    let is_named = |r: &Rejected| args.all || args.names.contains(&r.entry.name);
    let unknown = |name: &&OsString| !rejected.iter().any(|r| r.entry.name == **name);
    if let Some(name) = args.names.iter().find(unknown) {
        return Err(Error::invalid(format!(
            "{} is not in rejected; `squire spool status` names what is",
            shown(name)
        )));
    }
    let (mut moved, mut stayed, mut lines) = (Vec::new(), Vec::new(), Vec::new());
    for entry in rejected.iter().filter(|r| is_named(r)) {
        let name = shown(&entry.entry.name);
        match spool.take_back(entry) {
            Ok(to) => {
                let to = shown(to);
                lines.push(format!("{name}: back in incoming as {to}"));
                moved.push(json!({ "entry": name, "incoming": to }));
            }
            Err(e) => {
                lines.push(format!("{name}: failed: {e}"));
                stayed.push(json!({ "entry": name, "error": e.to_string() }));
            }
        }
    }
    if moved.is_empty() && stayed.is_empty() {
        lines.push("nothing is rejected".to_owned());
    }
    let all = stayed.is_empty();
    let document = json!({ "moved": moved, "stayed": stayed });
    context.out.print(&document, &lines);
    Ok(if all {
        ExitCode::SUCCESS
    } else {
        exit_code(ErrorKind::Storage)
    })
}

/// Where an entry is, why, and what to do about it.
struct Explained {
    state: &'static str,
    why: String,
    advice: String,
    details: Value,
}

fn explain(context: &Context, args: &SpoolExplainArgs) -> Result<ExitCode> {
    let spool = open(&args.dir)?;
    let seen = Seen::look(context, &spool)?;
    let mut all = Vec::new();
    all.extend(explain_incoming(&seen, &args.name));
    let claims = seen
        .claims
        .iter()
        .filter(|c| c.entries.contains(&args.name));
    all.extend(claims.map(|claim| explain_claim(&seen, claim)));
    let done = spool.list_done().map_err(failed)?;
    all.extend(done.iter().filter(|e| e.name == args.name).map(|entry| Explained {
        state: "done",
        why: format!("it was committed; it was moved here {} ago", in_words(seen.age(entry.since))),
        advice: "nothing; `squire log STORE` shows the commit, with its name as the message unless it gave another".to_owned(),
        details: json!({ "bytes": entry.bytes }),
    }));
    let rejected = seen.rejected.iter().filter(|r| r.entry.name == args.name);
    all.extend(rejected.map(|rejected| explain_rejected(&args.dir, rejected)));
    if all.is_empty() {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!(
                "{} is not in this spool: nobody put it there, it was removed from done, or an agent moves it at this moment",
                shown(&args.name)
            ),
        ));
    }
    let name = shown(&args.name);
    let mut lines = Vec::new();
    for explained in &all {
        lines.push(format!(
            "{name} is in {}: {}",
            explained.state, explained.why
        ));
        lines.push(format!("  what to do: {}", explained.advice));
    }
    let documents: Vec<Value> = all
        .into_iter()
        .map(|explained| {
            json!({
                "state": explained.state,
                "why": explained.why,
                "advice": explained.advice,
                "details": explained.details,
            })
        })
        .collect();
    context
        .out
        .print(&json!({ "entry": name, "places": documents }), &lines);
    Ok(ExitCode::SUCCESS)
}

fn explain_incoming(seen: &Seen, name: &OsStr) -> Option<Explained> {
    let explained = |why: &str, advice: &str| {
        Some(Explained {
            state: "incoming",
            why: why.to_owned(),
            advice: advice.to_owned(),
            details: Value::Null,
        })
    };
    if seen.open.contains(name) {
        return explained(
            "a process has it open for writing",
            "wait for its producer, or stop it; producers should rename finished files into incoming",
        );
    }
    if seen
        .incoming
        .entries
        .iter()
        .any(|entry| entry.name == *name)
    {
        return explained(
            "no agent has taken it yet",
            "see that an agent runs: squire agent STORE --spool DIR; with agent.settle it waits until the entry has rested, and what it may not read it leaves here and says so",
        );
    }
    let (_, named) = seen
        .incoming
        .ignored
        .iter()
        .find(|(other, _)| other == name)?;
    match named {
        Named::Unfinished => explained(
            "its name, or one in it, says that it is still being written",
            "rename it when it is finished",
        ),
        Named::Beside => explained(
            "its name is one of what people and tools leave beside data",
            "remove it, or rename it if it is data",
        ),
        Named::Data | Named::Unknown => explained(
            "its name is none of an input",
            "name it <table>.<anything>.<ext>, with an extension of parquet, arrow, feather, ipc, arrows, csv, ndjson or jsonl, and gz, zst or bz2 behind it where it is compressed",
        ),
    }
}

fn explain_claim(seen: &Seen, claim: &ClaimState) -> Explained {
    let cause = claim.waiting.as_ref().map(|wait| wait.cause.as_str());
    let advice = match (claim.owner, cause) {
        (Owner::Process(_), _) => "nothing; its agent commits it now",
        (_, Some("drift")) => {
            "look at the foreign versions with `squire repair STORE`, and publish or discard them"
        }
        (_, Some("conflict")) => "nothing; others commit to its table, and it is tried again",
        (_, Some("undecided")) => {
            "nothing; it is settled when the storage answers (`squire op STORE ULID`)"
        }
        (_, Some("storage")) => "see that the storage answers; it is tried again",
        (_, Some("unfinished")) => {
            "stop whoever writes to it; it is tried again when it has rested"
        }
        (_, Some(_)) => "mend what the reason says; it is tried again",
        (_, None) => "see that an agent runs: squire agent STORE --spool DIR",
    };
    Explained {
        state: "claimed",
        why: describe(seen, claim),
        advice: advice.to_owned(),
        details: json!({ "operation": claim.operation.to_string(), "waiting": claim.waiting }),
    }
}

fn explain_rejected(dir: &Path, rejected: &Rejected) -> Explained {
    let name = shown(&rejected.entry.name);
    let retry = format!("squire spool retry {} {name}", shown(dir));
    let (why, cause) = match &rejected.reason {
        Some(Reason { reason, cause, .. }) => (reason.clone(), cause.as_str()),
        None => (format!("{name}.reason.txt says why"), "unknown"),
    };
    let advice = match cause {
        "limit" => format!("split it, or raise the limit for the agent, and then `{retry}`"),
        "killed" => format!("split or repair it, give the agent more memory, and then `{retry}`"),
        "table" => {
            format!("create the table, or name the entry for another one, and then `{retry}`")
        }
        _ => format!("correct it, and then `{retry}`; or remove it with its reasons"),
    };
    Explained {
        state: "rejected",
        why,
        advice,
        details: json!(rejected.reason),
    }
}

/// A time of day, as logs have it.
fn at(ms: u64) -> String {
    let time = i64::try_from(ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok());
    time.map_or_else(|| format!("{ms} ms"), |time| time.to_string())
}

/// Seconds in the largest units.
fn in_words(seconds: u64) -> String {
    humantime::format_duration(Duration::from_secs(seconds)).to_string()
}
