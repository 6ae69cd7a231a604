//! `squire keep` and `squire unkeep`: named snapshots.

use super::Context;
use super::args::{KeepArgs, UnkeepArgs};
use serde_json::json;
use squire_engine::error::Result;
use squire_engine::maintenance::Hold;
use std::process::ExitCode;

pub(super) async fn keep(context: &Context, args: KeepArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let version = store.keep(&args.name, args.at).await?;
    let name = &args.name;
    let document = json!({ "name": name, "manifest_version": version });
    let line = format!("{name} holds manifest version {version}");
    context.out.print(&document, &[line]);
    Ok(ExitCode::SUCCESS)
}

pub(super) async fn unkeep(context: &Context, args: UnkeepArgs) -> Result<ExitCode> {
    let store = context.store(&args.store).await?;
    let version = store.unkeep(&args.name).await?;
    let name = &args.name;
    let document = json!({ "name": name, "manifest_version": version });
    let line = format!("{name} is let go; the next cleanup may remove manifest version {version}");
    context.out.print(&document, &[line]);
    Ok(ExitCode::SUCCESS)
}

/// A held snapshot as a person reads it.
pub(super) fn told(hold: &Hold) -> String {
    let by = match hold.by.as_str() {
        "" => String::new(),
        by => format!(", by {by}"),
    };
    format!(
        "{} {} holds manifest version {}{by}",
        hold.kind, hold.name, hold.manifest_version
    )
}
