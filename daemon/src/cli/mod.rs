//! The command line: arguments in, engine calls, one document or a few lines out, an exit code.

mod alter;
mod args;
mod bugreport;
mod check;
mod cleanup;
mod config;
mod control;
mod debug;
mod generate;
mod history;
mod index;
mod ingest;
mod inputs;
mod inspect;
mod keep;
mod lease;
mod maintain;
mod output;
mod progress;
mod repair;
mod replay;
mod results;
mod spool;
mod status;
mod table;
mod verify;
mod waits;
mod worker;
mod write;

use crate::config::{Config, log_filter};
use crate::daemon::priority;
use crate::exit::exit_code;
use crate::memory;
use crate::place::{Place, watch_of};
use args::{Cli, Command};
use clap::Parser;
use output::Output;
use squire_engine::clock::{Clock, SystemClock};
use squire_engine::error::{Error, ErrorKind, Result, caught, panic_text};
use squire_engine::store::location::check_lasting;
use squire_engine::store::{Durability, Memory, Store, StoreOptions};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How long threads that are in a system call may take when the command is over. They are given up after that: a disk that does not
/// answer must not keep a process from ending.
const SHUTDOWN: Duration = Duration::from_secs(2);

/// The stack of each thread: address space, of which what is touched takes memory. Expressions are walked by recursion, and
/// the deepest predicate that the engine takes needs a third of this in a debug build.
const STACK: usize = 64 << 20;

/// What every command gets.
pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) options: StoreOptions,
    pub(crate) out: Output,
}

impl Context {
    async fn store(&self, uri: &str) -> Result<Arc<Store>> {
        check_lasting(uri)?;
        let mut options = self.options.clone();
        options.storage_options = watch_of(&self.config, uri)
            .storage_options
            .into_iter()
            .collect();
        Store::open(uri, options).await
    }

    /// The same, for a command on `uri`: the configuration may know its tables by other names.
    fn seen_from(&self, uri: &str) -> Self {
        Self {
            config: self.config.seen_from(uri),
            options: self.options.clone(),
            out: self.out,
        }
    }

    async fn place(&self, uri: &str) -> Result<Place> {
        Place::open(&watch_of(&self.config, uri), self.options.clone()).await
    }
}

/// Runs the command on a thread with a stack of a known size: the main thread's is the shell's to choose.
pub(crate) fn main() -> ExitCode {
    let command = std::thread::Builder::new().stack_size(STACK).spawn(run);
    match command.map(std::thread::JoinHandle::join) {
        Ok(Ok(code)) => code,
        Ok(Err(panic)) => std::panic::resume_unwind(panic),
        Err(error) => {
            let out = Output { json: false };
            out.fail(&Error::internal("starting a thread").caused_by(error))
        }
    }
}

/// Parses, runs, and turns the outcome into an exit code.
fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return usage_error(&error),
    };
    let out = Output {
        json: cli.common.json,
    };
    let _armed = match squire_failpoints::arm_from_env() {
        Ok(armed) => armed,
        Err(message) => return out.fail(&Error::invalid(message)),
    };
    let wrapper = match squire_engine::store::faults::from_env() {
        Ok(wrapper) => wrapper,
        Err(error) => return out.fail(&error),
    };
    // What judges a file reads it itself.
    let judges = matches!(cli.command, Command::Config(_));
    let file = cli.common.config.as_deref().filter(|_| !judges);
    let config = match load_config(file) {
        Ok(config) => config,
        Err(error) => match &cli.command {
            Command::Check(args) if args.nagios => return check::unknown(out, &error),
            _ => return out.fail(&error),
        },
    };
    let memory = match begin(&cli, &config) {
        Ok(memory) => memory,
        Err(error) => return out.fail(&error),
    };
    let runtime = match runtime(&cli.command) {
        Ok(runtime) => runtime,
        Err(error) => return out.fail(&Error::internal("starting the runtime").caused_by(error)),
    };
    let clock = Arc::new(SystemClock::default());
    let events = match squire_engine::trace::from_env(clock.now_ms()) {
        Ok(events) => events,
        Err(error) => return out.fail(&error),
    };
    let durability = match durability(&config) {
        Ok(durability) => durability,
        Err(error) => return out.fail(&error),
    };
    let options = StoreOptions {
        clock,
        events,
        grace: cli.common.grace.unwrap_or(config.daemon.grace),
        durability,
        memory,
        actor: cli.common.actor.clone().unwrap_or_else(default_actor),
        wrapper,
        state_dir: state_directory(),
        ..StoreOptions::default()
    };
    let context = Context {
        config,
        options,
        out,
    };
    let ended = runtime.block_on(caught("this command", dispatch(cli, context)));
    // Everything is awaited by now but what hangs in a system call and was given up.
    runtime.shutdown_timeout(SHUTDOWN);
    match ended {
        Ok(code) => out.end(code),
        Err(error) => out.fail(&error),
    }
}

/// The stack of a worker's threads. It parses no predicate, and what all of them map counts for its limit.
const WORKERS_STACK: usize = 4 << 20;

/// Threads of a worker that wait for files at one time; for the same reason.
const WORKERS_BLOCKING: usize = 64;

fn runtime(command: &Command) -> std::io::Result<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.thread_stack_size(STACK).enable_all();
    if matches!(command, Command::Worker(_)) {
        builder
            .thread_stack_size(WORKERS_STACK)
            .max_blocking_threads(WORKERS_BLOCKING);
    }
    builder.build()
}

/// Bounds the process, and starts its log.
fn begin(cli: &Cli, config: &Config) -> Result<Memory> {
    let memory = match &cli.command {
        Command::Worker(args) => Memory::new(args.memory.unwrap_or(config.budget.memory), 1),
        _ => memory::of(&config.budget),
    };
    let bounded = match cli.command {
        Command::Daemon(_) | Command::Optimize(_) | Command::Reindex(_) | Command::Worker(_) => {
            memory::bound(&memory)
        }
        _ => Ok(()),
    };
    init_logging(config, cli.common.log.as_deref())?;
    if let Err(error) = bounded {
        tracing::warn!(%error, "cannot start anew with what bounds memory in the environment; sorts and index builds are not bounded");
    }
    // Threads take over the priority of the one that starts them, so before the first.
    if matches!(cli.command, Command::Daemon(_)) {
        priority::step_back(config.daemon.nice);
    }
    Ok(memory)
}

/// Help and version are answers; anything else is bad usage, as a document where one was asked for.
fn usage_error(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().any(|arg| arg == "--json");
    let out = Output { json };
    if error.use_stderr() && json {
        return out.fail(&Error::invalid(error.render().to_string()));
    }
    let printed = error.print();
    if error.use_stderr() {
        return exit_code(ErrorKind::InvalidInput);
    }
    out.printed(printed);
    out.end(ExitCode::SUCCESS)
}

fn load_config(path: Option<&Path>) -> Result<Config> {
    match path {
        Some(path) => Config::load(path).map_err(|e| Error::invalid(e.to_string())),
        None => Ok(Config::default()),
    }
}

/// The environment comes before the file, as with `SQUIRE_LOG`: most writers have no file.
fn durability(config: &Config) -> Result<Durability> {
    match std::env::var("SQUIRE_DURABILITY") {
        Ok(text) => text
            .parse()
            .map_err(|e: Error| e.context("SQUIRE_DURABILITY")),
        Err(_) => Ok(config.daemon.durability),
    }
}

/// The state directory that the service manager gives, the first of several.
fn state_directory() -> Option<PathBuf> {
    let given = std::env::var_os("STATE_DIRECTORY")?;
    let first = std::env::split_paths(&given).next()?;
    Some(first).filter(|path| path.is_absolute())
}

/// Logs go to standard error; standard output belongs to the command's answer.
fn init_logging(config: &Config, wanted: Option<&str>) -> Result<()> {
    let variable = std::env::var("SQUIRE_LOG").ok();
    let (name, wanted) = match (&variable, wanted) {
        (Some(text), _) => ("SQUIRE_LOG", text.as_str()),
        (None, Some(text)) => ("--log", text),
        (None, None) => ("daemon.log", config.daemon.log.as_str()),
    };
    let refused = |why| Error::invalid(format!("{name} = {wanted:?}: {why}"));
    let filter = log_filter(wanted).map_err(refused)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    log_panics();
    Ok(())
}

/// A panic is caught where the work began that it ends, and reported there with the table and what to do. Here it is one
/// line, since Lance's panics come with backtraces and paths of the machine that built us.
fn log_panics() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let at = panic.location().map(|l| {
            let file = l.file().rsplit('/').next().unwrap_or_default();
            format!("{file}:{}", l.line())
        });
        tracing::warn!(
            at,
            "a panic ended some work: {}",
            panic_text(panic.payload())
        );
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|v| v == "full") {
            default(panic);
        }
    }));
}

fn default_actor() -> String {
    std::env::var("USER").map_or_else(|_| String::from("squire"), |user| format!("squire/{user}"))
}

async fn dispatch(cli: Cli, context: Context) -> Result<ExitCode> {
    match cli.command {
        Command::Init { store } => write::init(&context, &store).await,
        Command::Create(args) => write::create(&context, args).await,
        Command::Index(args) => index::index(&context, args).await,
        Command::Write(args) => write::write(&context, args).await,
        Command::Ingest(args) => ingest::ingest(&context, args).await,
        Command::Delete(args) => write::delete(&context, args).await,
        Command::Alter(args) => alter::alter(&context, args).await,
        Command::Drop(args) => alter::drop(&context, args).await,
        Command::Commit(args) => write::commit(&context, args).await,
        Command::Agent(args) => write::agent(&context, args).await,
        Command::Daemon(args) => maintain::daemon(context, args, cli.common.config).await,
        Command::Pause(args) => control::pause(&context, args).await,
        Command::Resume(args) => control::resume(&context, args).await,
        Command::Cancel(args) => control::cancel(&context, args).await,
        Command::Drain(args) => control::drain(&context, args).await,
        Command::Plan(args) => maintain::plan(&context, args).await,
        Command::Optimize(args) => maintain::optimize(&context, args).await,
        Command::Reindex(args) => maintain::reindex(&context, args).await,
        Command::Worker(args) => worker::worker(&context, args).await,
        Command::Cleanup(args) => cleanup::cleanup(&context, args).await,
        Command::Verify(args) => verify::verify(&context, args).await,
        Command::Recover(args) => maintain::recover(&context, args).await,
        Command::Repair(args) => repair::repair(&context, args).await,
        Command::Status(args) => status::status(&context, args).await,
        Command::Check(args) => check::check(&context, args).await,
        Command::Log(args) => inspect::log(&context, args).await,
        Command::History(args) => history::history(&context, args).await,
        Command::Replay(args) => replay::replay(&context, args).await,
        Command::Op(args) => inspect::op(&context, args).await,
        Command::Snapshot(args) => inspect::snapshot(&context, args).await,
        Command::Keep(args) => keep::keep(&context, args).await,
        Command::Unkeep(args) => keep::unkeep(&context, args).await,
        Command::Lease(args) => lease::lease(&context, args).await,
        Command::Spool(command) => spool::spool(&context, command),
        Command::Debug(command) => debug::debug(&context, command).await,
        Command::Bugreport(args) => {
            bugreport::bugreport(&context, args, cli.common.config.as_deref()).await
        }
        Command::Completions(args) => generate::completions(context.out, &args),
        Command::Man(args) => generate::man(context.out, &args),
        Command::Seams => inspect::seams(&context),
        Command::Config(command) => {
            config::config(context.out, context.options, command, cli.common.config).await
        }
    }
}
