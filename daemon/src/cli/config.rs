//! Commands about the configuration file.

use super::args::{ConfigArgs, ConfigCommand, ConfigInitArgs};
use super::output::Output;
use super::table::{Line, Span, Tone};
use crate::config::{Config, ConfigError, SHIPPED, render};
use crate::http::{Grant, Token};
use crate::place::Place;
use serde_json::{Value, json};
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::store::StoreOptions;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What the built-in defaults are called where a file's name would stand.
const DEFAULTS: &str = "the built-in defaults";

/// `EX_CONFIG` of sysexits: the file is fine, and what it names cannot be used from here.
const ENVIRONMENT: u8 = 78;

pub(super) async fn config(
    out: Output,
    options: StoreOptions,
    command: ConfigCommand,
    given: Option<PathBuf>,
) -> Result<ExitCode> {
    match command {
        ConfigCommand::Check(args) => {
            let source = Source::of(args.config, given)?;
            check(out, options, &source, args.probe).await
        }
        ConfigCommand::Show(args) => show(out, &Source::of(args, given)?),
        ConfigCommand::Init(args) => init(out, &args),
    }
}

/// The text that is asked about, and what to call it.
struct Source {
    file: Option<PathBuf>,
    name: String,
    text: String,
}

fn refused(e: ConfigError) -> Error {
    Error::invalid(e.to_string())
}

impl Source {
    fn of(args: ConfigArgs, given: Option<PathBuf>) -> Result<Self> {
        let file = args.file.or(given);
        let name = match &file {
            Some(file) => file.display().to_string(),
            None => DEFAULTS.to_owned(),
        };
        let text = match &file {
            Some(file) => Config::read(file).map_err(refused)?,
            None => String::new(),
        };
        Ok(Self { file, name, text })
    }
}

fn show(out: Output, source: &Source) -> Result<ExitCode> {
    let config = Config::parse(&source.text, &source.name).map_err(refused)?;
    let settings = config
        .settings(&source.text, &source.name)
        .map_err(refused)?;
    let document = json!({ "file": source.file, "settings": settings });
    out.print(&document, &render(&settings));
    Ok(ExitCode::SUCCESS)
}

async fn check(
    out: Output,
    options: StoreOptions,
    source: &Source,
    probe: bool,
) -> Result<ExitCode> {
    let Source { file, name, text } = source;
    let config = match Config::parse(text, name) {
        Ok(config) => config,
        // Whether it would be valid with every variable set tells the file's fault from the environment's.
        Err(e) if probe && Config::parse_with(text, name, &|_| Some(String::from("x"))).is_ok() => {
            let document =
                json!({ "file": file, "valid": true, "probed": [], "error": e.to_string() });
            let line = Span::new(Tone::Bad, format!("the file is fine, and {e}"));
            out.print_lines(&document, &[line.into()]);
            return Ok(ExitCode::from(ENVIRONMENT));
        }
        Err(e) => return Err(refused(e)),
    };
    if !probe {
        config.check_tokens(text, name).map_err(refused)?;
    }
    let tables = config.table_sections();
    let mut lines: Vec<Line> = vec![
        format!(
            "{name}: valid; {} locations to watch, {tables} tables with settings of their own",
            config.watches.len()
        )
        .into(),
    ];
    let mut document =
        json!({ "file": file, "valid": true, "watches": config.watches.len(), "tables": tables });
    let mut failed = false;
    if probe {
        let (probed, known) = probes(&config, &options).await;
        failed = probed.iter().any(|(_, error)| error.is_some());
        lines.extend(probed.iter().map(|(what, error)| match error {
            None => Span::new(Tone::Good, format!("{what}: opens")).into(),
            Some(e) => Line::from(Span::new(Tone::Bad, format!("{what}: failed: {e}"))),
        }));
        let probed: Vec<Value> = probed
            .iter()
            .map(|(what, error)| json!({ "what": what, "error": error }))
            .collect();
        document["probed"] = Value::Array(probed);
        // Only all locations together know whether a name is nobody's.
        let unknown = match failed || config.watches.is_empty() {
            true => Vec::new(),
            false => config.unknown_tables(&known),
        };
        lines.extend(unknown.iter().map(|name| {
            let told = format!("warning: [[table]] name = \"{name}\" fits no table");
            Line::from(Span::new(Tone::Due, told))
        }));
        document["unknown_tables"] = json!(unknown);
    }
    out.print_lines(&document, &lines);
    Ok(if failed {
        ExitCode::from(ENVIRONMENT)
    } else {
        ExitCode::SUCCESS
    })
}

/// Opens everything that the configuration names, as a daemon would: each location with its own credentials, and the
/// token's file. Gives the tables of the locations, too.
async fn probes(
    config: &Config,
    options: &StoreOptions,
) -> (Vec<(String, Option<String>)>, Vec<String>) {
    let (mut probed, mut known) = (Vec::new(), Vec::new());
    for watch in &config.watches {
        let look = async {
            let place = Place::open(watch, options.clone()).await?;
            place.targets().await
        };
        let looked = look.await;
        let error = looked.as_ref().err().map(ToString::to_string);
        known.extend(looked.into_iter().flatten().map(|table| table.to_string()));
        probed.push((watch.uri.clone(), error));
    }
    for Grant { file, .. } in config.grants() {
        let error = Token::load(&file).err().map(|e| e.to_string());
        probed.push((format!("token_file {}", file.display()), error));
    }
    (probed, known)
}

/// Writes the commented defaults; nothing that stands there is touched.
fn init(out: Output, args: &ConfigInitArgs) -> Result<ExitCode> {
    let at = args.file.display();
    let failed = |e: std::io::Error| {
        if e.kind() == std::io::ErrorKind::AlreadyExists {
            let what = format!("{at} is there already and stays as it is; name another file");
            return Error::new(ErrorKind::Refused, what);
        }
        Error::internal(format!("cannot write {at}")).caused_by(e)
    };
    let written = File::create_new(&args.file).and_then(|mut file| {
        file.write_all(SHIPPED.as_bytes())?;
        file.sync_all()
    });
    written.map_err(failed)?;
    sync_parent(&args.file).map_err(failed)?;
    let line = format!(
        "{at}: every setting with its default, as comments; edit it, then `squire config check {at}`"
    );
    out.print(&json!({ "file": args.file }), &[line]);
    Ok(ExitCode::SUCCESS)
}

/// A new name is durable when its folder is.
fn sync_parent(file: &Path) -> std::io::Result<()> {
    let parent = file.parent().filter(|p| !p.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
