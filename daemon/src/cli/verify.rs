//! `squire verify`: whatever is referred to is there.

use super::Context;
use super::args::VerifyArgs;
use super::maintain::cancel_on_signal;
use super::results::Results;
use crate::exit::code;
use crate::place::step;
use serde_json::{Map, json};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::maintenance::audit::{Audit, AuditOptions, Auditor, Finding};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Duration;

/// How often it is told how far a long audit has come.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// How a command ends that found something missing or torn.
const FOUND: u8 = 1;

pub(super) async fn verify(context: &Context, args: VerifyArgs) -> Result<ExitCode> {
    let place = context.place(&args.target.store).await?;
    let selection = place.select(&args.target.tables).await?;
    let cancel = cancel_on_signal();
    let clock = context.options.clock.clone();
    let told = Mutex::new(clock.monotonic());
    let progress = |table: &str, done: u64, total: u64| {
        let now = clock.monotonic();
        let Ok(mut last) = told.lock() else { return };
        if now.saturating_sub(*last) >= TELL_EVERY {
            *last = now;
            tracing::info!(table, done, total, "verifying");
        }
    };
    let options = AuditOptions {
        deep: args.deep,
        cancel: &cancel,
        progress: &progress,
    };
    let mut auditor = Auditor::new(&place.store, options);
    let mut results = Results::of(&selection);
    if place.managed {
        // Also where single tables are asked for: it is what says which versions they must have.
        let audit = auditor.records().await?;
        add(&mut results, audit);
    }
    for target in selection {
        match step("verify", &target, auditor.table(&target)).await {
            Ok(audit) => add(&mut results, audit),
            Err(e) if e.kind() == ErrorKind::Cancelled => {
                let name = target.to_string();
                let left = Error::new(
                    ErrorKind::Cancelled,
                    "cancelled; what follows was not verified",
                );
                results.fail(&name, &left, json!({ "findings": [] }));
                break;
            }
            Err(e) => results.fail(&target.to_string(), &e, json!({ "findings": [] })),
        }
    }
    Ok(results.finish(context, Map::new()))
}

fn add(results: &mut Results, audit: Audit) {
    let read = match audit.read {
        0 => String::new(),
        read => format!(", {read} files and indexes read"),
    };
    let found = match audit.findings.len() {
        0 if !audit.unreadable.is_empty() => String::from("whole as far as it can be read"),
        0 => String::from("whole"),
        found => format!("{found} missing or torn"),
    };
    let table = &audit.table;
    let mut lines = vec![format!(
        "{table}: {found}; {} versions, {} files{read}",
        audit.versions, audit.files
    )];
    lines.extend(
        audit
            .findings
            .iter()
            .map(|f| format!("{table}: {}", told(f))),
    );
    lines.extend(audit.unreadable.iter().map(|unreadable| {
        format!(
            "{table}: column {} ({}) is of a type that this release of Lance cannot read, so its rows were not looked at; nothing is known to be damaged: read it with the release that wrote it, or write it anew in another type",
            unreadable.column, unreadable.data_type
        )
    }));
    if !audit.findings.is_empty() {
        results.exits(FOUND);
    }
    if !audit.unreadable.is_empty() {
        results.exits(code(ErrorKind::Unfit));
    }
    results.add(json!(audit), lines);
}

fn told(finding: &Finding) -> String {
    let of = match (&finding.branch, finding.versions.is_empty()) {
        (_, true) => String::new(),
        (None, false) => format!(" (versions {})", super::cleanup::in_runs(&finding.versions)),
        (Some(branch), false) => format!(
            " (branch {branch}, versions {})",
            super::cleanup::in_runs(&finding.versions)
        ),
    };
    format!("{}{of} {}: {}", finding.file, finding.what, finding.remedy)
}
