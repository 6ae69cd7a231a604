//! Commands about the configuration file.

use super::args::ConfigCommand;
use super::output::Output;
use crate::config::{Config, render};
use serde_json::json;
use squire_engine::error::{Error, Result};
use std::path::PathBuf;
use std::process::ExitCode;

/// What the built-in defaults are called where a file's name would stand.
const DEFAULTS: &str = "the built-in defaults";

pub(super) fn config(
    out: Output,
    command: ConfigCommand,
    given: Option<PathBuf>,
) -> Result<ExitCode> {
    let (args, shows) = match command {
        ConfigCommand::Check(args) => (args, false),
        ConfigCommand::Show(args) => (args, true),
    };
    let file = args.file.or(given);
    let name = file
        .as_ref()
        .map_or_else(|| DEFAULTS.to_owned(), |file| file.display().to_string());
    let refused = |e: crate::config::ConfigError| Error::invalid(e.to_string());
    let text = match &file {
        Some(file) => Config::read(file).map_err(refused)?,
        None => String::new(),
    };
    let config = Config::parse(&text, &name).map_err(refused)?;
    if shows {
        let settings = config.settings(&text, &name).map_err(refused)?;
        out.print(
            &json!({ "file": file, "settings": settings }),
            &render(&settings),
        );
        return Ok(ExitCode::SUCCESS);
    }
    let tables = config.table_policies().count();
    let line = format!(
        "{name}: valid; {} locations to watch, {tables} tables with settings of their own",
        config.watches.len()
    );
    let document =
        json!({ "file": file, "valid": true, "watches": config.watches.len(), "tables": tables });
    out.print(&document, &[line]);
    Ok(ExitCode::SUCCESS)
}
