//! `squire worker`: one task of a run, for whoever reaches the storage.

use super::Context;
use super::args::WorkerArgs;
use super::maintain::on_signal;
use crate::exit::code;
use crate::place::watch_of;
use serde_json::json;
use squire_engine::error::{Error, ErrorKind, Result};
use squire_engine::maintenance::{Envelope, Oversight, Pace};
use squire_engine::store::Store;
use std::collections::HashMap;
use std::io::Read;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// How often a worker says that it moves.
const EVERY: Duration = Duration::from_secs(1);

/// Bytes of a task with the options of its storage, at most.
const MOST_BYTES: u64 = 32 << 20;

/// A task, and the options of its storage where those are given with it.
type Given = (Envelope, Option<HashMap<String, String>>);

fn read(task: &Path) -> Result<Given> {
    let mut bytes = Vec::new();
    let opened: Box<dyn Read> = match task == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => {
            let failed = |e| Error::invalid(format!("{}", task.display())).caused_by(e);
            Box::new(std::fs::File::open(task).map_err(failed)?)
        }
    };
    let failed = |e| Error::invalid("the task cannot be read").caused_by(e);
    opened
        .take(MOST_BYTES)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    let end = bytes.iter().position(|byte| *byte == b'\n');
    let (line, rest) = bytes.split_at(end.unwrap_or(bytes.len()));
    let envelope = Envelope::parse(line)?;
    if rest.trim_ascii().is_empty() {
        return Ok((envelope, None));
    }
    let options = serde_json::from_slice(rest);
    // Not what serde says of them: they may be secrets.
    let options = options.map_err(|_| {
        Error::invalid("what follows the task is no JSON object of storage options")
    })?;
    Ok((envelope, Some(options)))
}

pub(super) async fn worker(context: &Context, args: WorkerArgs) -> Result<ExitCode> {
    let (envelope, given) = read(&args.task)?;
    let mut options = context.options.clone();
    options.storage_options = given.unwrap_or_else(|| {
        let watch = watch_of(&context.config, envelope.location());
        watch.storage_options.into_iter().collect()
    });
    let pace = Pace::new(envelope.bytes_per_second(), options.clock.clone());
    let oversight = on_signal(Oversight::paced(Arc::new(pace)));
    let store = Store::connect(envelope.location(), options).await?;
    let working = store.execute_task(&envelope, &oversight);
    let done = tokio::select! {
        done = working => done?,
        () = tell(context, &store, &oversight) => return Err(Error::internal("nobody works")),
    };
    context.out.say(&json!(done));
    Ok(ExitCode::from(match done.outcome {
        "unfit" => code(ErrorKind::Unfit),
        _ => 0,
    }))
}

/// Says for ever that the worker moves, while it does.
async fn tell(context: &Context, store: &Store, oversight: &Oversight) {
    let mut before = 0;
    loop {
        store.clock().sleep(EVERY).await;
        let steps = oversight.steps();
        if steps > before {
            before = steps;
            context.out.say(&json!({ "progress": { "steps": steps } }));
        }
    }
}
