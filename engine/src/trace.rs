//! The protocol trace: with `SQUIRE_TRACE=DIR` each process appends what it did to `DIR/<pid>-<start>.ndjson`.

use crate::error::{Error, Result};
use crate::events::{EventSink, ProtocolEvent};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

/// One process's file. Each event is one write, so what was recorded outlives a kill.
#[derive(Debug)]
struct TraceFile(File);

impl EventSink for TraceFile {
    fn record(&self, event: &ProtocolEvent) {
        let written = serde_json::to_vec(event)
            .map_err(std::io::Error::from)
            .and_then(|mut line| {
                line.push(b'\n');
                (&self.0).write_all(&line)
            });
        if let Err(error) = written {
            tracing::warn!(%error, "an event is missing from the trace");
        }
    }
}

/// The trace that `SQUIRE_TRACE` asks for. `started_ms` tells apart processes that get one pid after another.
///
/// # Errors
/// `InvalidInput` when the file cannot be made.
pub fn from_env(started_ms: u64) -> Result<Option<Arc<dyn EventSink>>> {
    let Some(dir) = std::env::var_os("SQUIRE_TRACE") else {
        return Ok(None);
    };
    let path = Path::new(&dir).join(format!("{}-{started_ms}.ndjson", std::process::id()));
    let file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .map_err(|e| {
            Error::invalid(format!(
                "SQUIRE_TRACE: {} cannot be written",
                path.display()
            ))
            .caused_by(e)
        })?;
    Ok(Some(Arc::new(TraceFile(file))))
}
