//! Completions for shells and man pages, from the commands themselves.

use super::args::{Cli, CompletionsArgs, ManArgs};
use super::output::Output;
use clap::CommandFactory;
use serde_json::json;
use squire_engine::error::{Error, Result};
use std::process::ExitCode;

pub(super) fn completions(out: Output, args: &CompletionsArgs) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "squire", &mut script);
    let script = String::from_utf8(script)
        .map_err(|e| Error::internal("the completions are no text").caused_by(e))?;
    out.print_text(&json!({ "script": script }), script.trim_end());
    Ok(ExitCode::SUCCESS)
}

pub(super) fn man(out: Output, args: &ManArgs) -> Result<ExitCode> {
    let at = args.directory.display();
    let failed = |e| Error::internal(format!("cannot write to {at}")).caused_by(e);
    std::fs::create_dir_all(&args.directory).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), &args.directory).map_err(failed)?;
    let line = format!("{at}: squire.1 and a page for every command; see `man -l {at}/squire.1`");
    out.print(&json!({ "directory": args.directory }), &[line]);
    Ok(ExitCode::SUCCESS)
}
