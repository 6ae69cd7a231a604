//! `squire bugreport`: what a maintainer asks for first, in one text that can be shown to strangers.
//!
//! It is made of what may be shown, and then every secret that this process knows of is struck out of the whole text:
//! messages of storage may quote what they were given.

use super::Context;
use super::args::BugreportArgs;
use super::check;
use super::control::status_of;
use crate::config::{Config, render};
use crate::text_file;
use serde_json::{Value, json};
use squire_engine::error::Result;
use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// A value shorter than this is no secret, and striking it out would make the text unreadable.
const SHORTEST: usize = 4;

/// How long a daemon may take to tell its status, and how much of it is read.
const PATIENCE: Duration = Duration::from_secs(3);
const MOST: u64 = 8 << 20;

/// What the names of variables and options that hold secrets have in them.
const SECRET_NAMES: [&str; 7] = [
    "KEY",
    "SECRET",
    "TOKEN",
    "PASSWORD",
    "PASSWD",
    "CREDENTIAL",
    "SAS",
];

const STRUCK: &str = "***";

pub(super) async fn bugreport(
    context: &Context,
    args: BugreportArgs,
    file: Option<&Path>,
) -> Result<ExitCode> {
    let mut sections = vec![("versions", versions())];
    sections.push(("configuration", configuration(context, file)));
    let health = check::health(context, &args.locations).await;
    sections.push(("health", health));
    sections.push(("last errors of the daemon", last_errors(context).await));
    let secrets = secrets(&context.config);
    let mut text = String::from(
        "squire bugreport: names of locations and tables, no rows, no credentials. Read it before you send it.",
    );
    let mut document = serde_json::Map::new();
    for (name, lines) in sections {
        let body = without(&lines.join("\n"), &secrets);
        text.push_str(&format!("\n\n== {name}\n{body}"));
        document.insert(
            name.replace(' ', "_"),
            json!(body.lines().collect::<Vec<_>>()),
        );
    }
    context.out.print_text(&Value::Object(document), &text);
    Ok(ExitCode::SUCCESS)
}

fn versions() -> Vec<String> {
    let build = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let seams = squire_failpoints::ENABLED;
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let release = read("/etc/os-release");
    let named = release.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    vec![
        format!(
            "squire {} ({build} build, failpoints: {seams})",
            env!("CARGO_PKG_VERSION")
        ),
        format!("{} {}", std::env::consts::OS, std::env::consts::ARCH),
        format!("system: {}", named.unwrap_or("unknown").trim_matches('"')),
        format!("kernel: {}", read("/proc/version").trim()),
    ]
}

/// The whole configuration with its origins; values of storage options are masked by the configuration itself.
fn configuration(context: &Context, file: Option<&Path>) -> Vec<String> {
    let name = file.map_or_else(|| String::from("defaults"), |f| f.display().to_string());
    let text = file.map(Config::read).transpose();
    let settings = text.and_then(|text| context.config.settings(&text.unwrap_or_default(), &name));
    match settings {
        Ok(settings) => render(&settings),
        Err(e) => vec![e.to_string()],
    }
}

/// The errors that a daemon of this configuration remembers.
async fn last_errors(context: &Context) -> Vec<String> {
    let Some(address) = context.config.daemon.listen else {
        return vec![String::from("listen is off: a daemon cannot be asked")];
    };
    let asked = tokio::time::timeout(PATIENCE, status_of(context, address, MOST)).await;
    let status = match asked {
        Ok(Ok((200, status))) => status,
        Ok(Ok((code, said))) => {
            let why = said["error"].as_str().unwrap_or_default();
            return vec![format!("{address} answers {code}: {why}")];
        }
        Ok(Err(e)) => return vec![format!("no daemon answers on {address}: {e}")],
        Err(_) => return vec![format!("{address} gave no answer in time")],
    };
    let errors = status["last_errors"].as_array();
    let errors = errors.map(|e| e.iter().filter_map(Value::as_str).map(str::to_owned));
    let errors: Vec<String> = errors.map(Iterator::collect).unwrap_or_default();
    if errors.is_empty() {
        return vec![String::from("none")];
    }
    errors
}

/// Every secret that this process could have shown.
fn secrets(config: &Config) -> BTreeSet<String> {
    let options = config.watches.iter().flat_map(|w| w.storage_options.iter());
    // A region is no secret, and hides nothing when it is struck out; a key that is shown cannot be taken back.
    let mut secrets: BTreeSet<String> = options.map(|(_, value)| value.clone()).collect();
    let secret_name = |name: &str| {
        let name = name.to_uppercase();
        SECRET_NAMES.iter().any(|part| name.contains(part))
    };
    let variables = std::env::vars_os().filter_map(|(name, value)| {
        let (name, value) = (name.into_string().ok()?, value.into_string().ok()?);
        secret_name(&name).then_some(value)
    });
    secrets.extend(variables);
    let tokens = config.grants().into_iter();
    let tokens = tokens.filter_map(|grant| text_file::read(&grant.file).ok());
    secrets.extend(tokens.map(|token| token.trim().to_owned()));
    secrets.retain(|secret| secret.len() >= SHORTEST && secret.parse::<bool>().is_err());
    secrets
}

/// `text` with every secret struck out, and whatever a URL carries for logging in.
fn without(text: &str, secrets: &BTreeSet<String>) -> String {
    let mut longest_first: Vec<&String> = secrets.iter().collect();
    longest_first.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    let mut text = text.to_owned();
    for secret in longest_first {
        text = text.replace(secret.as_str(), STRUCK);
    }
    let lines: Vec<String> = text.lines().map(without_logins).collect();
    lines.join("\n")
}

/// `scheme://user:password@host?signature` without what stands before the `@` and behind the `?`.
fn without_logins(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let ends = |c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '`' | '<' | '>' | ')');
        let (url, further) = after.split_at(after.find(ends).unwrap_or(after.len()));
        let (url, signed) = match url.split_once('?') {
            Some((url, _)) => (url, true),
            None => (url, false),
        };
        let host = url.find('/').unwrap_or(url.len());
        match url[..host].rfind('@') {
            Some(login) => shown.push_str(&format!("{STRUCK}{}", &url[login..])),
            None => shown.push_str(url),
        }
        if signed {
            shown.push_str(&format!("?{STRUCK}"));
        }
        rest = further;
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_logins_are_struck_out_wherever_they_stand() {
        let secrets = ["hunter2", "hunter2-long"].map(str::to_owned);
        let text = "a hunter2-long b\nopen az://u:pw@host/x?sig=1 and \"s3://bucket/p\": hunter2";
        assert_eq!(
            without(text, &BTreeSet::from(secrets)),
            "a *** b\nopen az://***@host/x?*** and \"s3://bucket/p\": ***"
        );
    }
}
