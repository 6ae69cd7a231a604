//! The pauses that people have made. They survive a restart in the state directory that the service manager gives, as one small
//! file that is written anew as a whole; without one they end with the process, and the answer to the request says so.

use crate::decide::gate::{Pause, Paused};
use serde::{Deserialize, Serialize};
use squire_engine::error::{Error, ErrorKind, Result};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The newest format of the file that this squire reads.
const FORMAT: u32 = 1;

/// Pauses at one time. More would be a mistake of a script, and each is asked for all work that waits.
const MOST: usize = 1_000;

const NAME: &str = "pauses.json";

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    format: u32,
    pauses: Vec<Pause>,
}

/// All pauses.
#[derive(Debug, Default)]
pub(super) struct Pauses {
    file: Option<PathBuf>,
    list: Arc<Vec<Pause>>,
}

impl Pauses {
    /// Those that were kept in `state_dir`.
    ///
    /// # Errors
    /// A file that cannot be read: what was paused is not known, and must not run.
    pub(super) fn load(state_dir: Option<&Path>) -> Result<Self> {
        let Some(file) = state_dir.map(|dir| dir.join(NAME)) else {
            return Ok(Self::default());
        };
        let bytes = match fs::read(&file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Ok(Self {
                    file: Some(file),
                    list: Arc::default(),
                });
            }
            Err(e) => return Err(told(&file, "cannot be read", &e.to_string())),
        };
        #[derive(Deserialize)]
        struct Versioned {
            format: u32,
        }
        let damaged = |e: serde_json::Error| told(&file, "is damaged", &e.to_string());
        let Versioned { format } = serde_json::from_slice(&bytes).map_err(damaged)?;
        if format > FORMAT {
            let newer = format!(
                "{} has format {format}, this squire reads up to {FORMAT}; upgrade squire",
                file.display()
            );
            return Err(Error::new(ErrorKind::FormatTooNew, newer));
        }
        let Kept { pauses, .. } = serde_json::from_slice(&bytes).map_err(damaged)?;
        Ok(Self {
            file: Some(file),
            list: Arc::new(pauses),
        })
    }

    pub(super) fn list(&self) -> Arc<Vec<Pause>> {
        self.list.clone()
    }

    /// Whether they outlive this process.
    pub(super) fn are_kept(&self) -> bool {
        self.file.is_some()
    }

    /// Adds `pause`, in place of one of the same.
    ///
    /// # Errors
    /// A sentence: there are too many, or it cannot be kept, and then nothing is paused.
    pub(super) fn add(&mut self, pause: Pause) -> std::result::Result<(), String> {
        let mut list: Vec<Pause> = self.list.to_vec();
        list.retain(|p| p.what != pause.what);
        if list.len() >= MOST {
            return Err(format!(
                "{MOST} pauses are there already; resume some, or pause more at once"
            ));
        }
        list.push(pause);
        self.keep(list)
    }

    /// Lifts all that is within `what`, and gives it.
    ///
    /// # Errors
    /// A sentence: it cannot be kept, and then nothing is lifted.
    pub(super) fn lift(&mut self, what: &Paused) -> std::result::Result<Vec<Pause>, String> {
        let (lifted, left): (Vec<Pause>, Vec<Pause>) = self
            .list
            .iter()
            .cloned()
            .partition(|p| p.what.is_within(what));
        if !lifted.is_empty() {
            self.keep(left)?;
        }
        Ok(lifted)
    }

    fn keep(&mut self, list: Vec<Pause>) -> std::result::Result<(), String> {
        if let Some(file) = &self.file {
            let kept = Kept {
                format: FORMAT,
                pauses: list.clone(),
            };
            write(file, &kept).map_err(|e| format!("{} cannot be written: {e}", file.display()))?;
        }
        self.list = Arc::new(list);
        Ok(())
    }
}

fn told(file: &Path, what: &str, why: &str) -> Error {
    let text = format!(
        "{} {what}, so that it is not known what is paused: {why}; mend it, or remove it to start without pauses",
        file.display()
    );
    Error::new(ErrorKind::Refused, text)
}

/// Whoever reads sees the old file or the new one, also after a power cut.
fn write(file: &Path, kept: &Kept) -> io::Result<()> {
    let text = serde_json::to_vec(kept)?;
    let temporary = file.with_extension("json.new");
    let mut new = File::create(&temporary)?;
    new.write_all(&text)?;
    new.sync_all()?;
    fs::rename(&temporary, file)?;
    file.parent()
        .map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::{MOST, NAME, Pause, Paused, Pauses};
    use squire_engine::error::ErrorKind;

    fn pause(table: &str, reason: &str) -> Pause {
        Pause {
            what: Paused {
                table: Some(table.to_owned()),
                ..Paused::default()
            },
            reason: Some(reason.to_owned()),
            since: 7,
        }
    }

    #[test]
    fn pauses_survive_a_restart_where_there_is_a_state_directory() {
        let dir = tempfile::tempdir().unwrap();
        let load = || Pauses::load(Some(dir.path())).unwrap();
        let mut pauses = load();
        assert!(pauses.are_kept() && pauses.list().is_empty());
        pauses.add(pause("t", "first")).unwrap();
        pauses.add(pause("t", "an audit")).unwrap();
        pauses.add(pause("u", "another")).unwrap();
        let kept = [pause("t", "an audit"), pause("u", "another")];
        assert_eq!(*load().list(), kept);
        assert_eq!(load().lift(&kept[0].what).unwrap(), kept[..1]);
        assert_eq!(*load().list(), kept[1..]);
        assert_eq!(load().lift(&Paused::default()).unwrap(), kept[1..]);
        assert!(load().list().is_empty());

        let mut gone = Pauses::load(None).unwrap();
        gone.add(pause("t", "first")).unwrap();
        assert!(!gone.are_kept() && gone.list().len() == 1);
    }

    #[test]
    fn there_is_an_end_to_them() {
        let mut pauses = Pauses::default();
        for n in 0..MOST {
            pauses.add(pause(&n.to_string(), "")).unwrap();
        }
        assert!(pauses.add(pause("t", "")).is_err());
        pauses.add(pause("5", "again")).unwrap();
        assert_eq!(pauses.list().len(), MOST);
    }

    #[test]
    fn what_cannot_be_kept_is_not_done() {
        let dir = tempfile::tempdir().unwrap();
        let mut pauses = Pauses::load(Some(&dir.path().join("missing"))).unwrap();
        let refused = pauses.add(pause("t", "")).unwrap_err();
        assert!(refused.contains("missing"), "{refused}");
        assert!(pauses.list().is_empty());
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_named_and_nothing_starts() {
        let dir = tempfile::tempdir().unwrap();
        for (text, kind, said) in [
            ("{\"format\":1,", ErrorKind::Refused, "is damaged"),
            (
                "{\"format\":1,\"pauses\":[{}]}",
                ErrorKind::Refused,
                "is damaged",
            ),
            ("{\"format\":2}", ErrorKind::FormatTooNew, "upgrade squire"),
        ] {
            std::fs::write(dir.path().join(NAME), text).unwrap();
            let error = Pauses::load(Some(dir.path())).unwrap_err();
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains(said), "{error}");
            assert!(error.to_string().contains(NAME), "{error}");
        }
    }
}
