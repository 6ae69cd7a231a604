//! The producer's side of the spool: puts hours in, sees them come out.
//!
//! An hour is prepared beside `incoming/` and renamed into it, so that no agent sees half of one.
//! Nothing is synced: an hour that a power cut takes is not in the store either, and is fed again.

use crate::error::{Context, Result};
use crate::site::absent_is_fine;
use crate::source::{Hour, Source, utc};
use arrow::array::RecordBatch;
use parquet::arrow::ArrowWriter;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

/// One spool directory.
#[derive(Debug)]
pub(crate) struct Spool {
    incoming: PathBuf,
    claimed: PathBuf,
    done: PathBuf,
    rejected: PathBuf,
    preparing: PathBuf,
}

impl Spool {
    /// Makes the directories that are missing, and clears what a killed run was preparing.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let at = |name: &str| root.join(name);
        let spool = Self {
            incoming: at("incoming"),
            claimed: at("claimed"),
            done: at("done"),
            rejected: at("rejected"),
            preparing: at("preparing"),
        };
        let make = || -> io::Result<()> {
            absent_is_fine(fs::remove_dir_all(&spool.preparing))?;
            let dirs = [
                &spool.incoming,
                &spool.claimed,
                &spool.done,
                &spool.rejected,
            ];
            for dir in dirs.into_iter().chain([&spool.preparing]) {
                fs::create_dir_all(dir)?;
            }
            Ok(())
        };
        make().context(|| format!("cannot make the spool {}", root.display()))?;
        Ok(spool)
    }

    /// Puts one hour in.
    pub(crate) fn put(&self, source: &Source, hour: &Hour) -> Result<()> {
        let what = || format!("cannot spool {}", hour.name);
        let draft = self.preparing.join(format!("{}.tmp", hour.name));
        fs::create_dir(&draft).context(what)?;
        for (table, rows) in [
            ("flights", source.flights_of(hour)),
            ("weather", source.weather_of(hour)),
        ] {
            if rows.num_rows() > 0 {
                write_parquet(&draft.join(format!("{table}.parquet")), &rows)?;
            }
        }
        let message = utc(hour.start_ms, "%Y-%m-%d %H:00 UTC")?;
        let settings = format!("batch_id = \"{}\"\nmessage = \"{message}\"\n", hour.name);
        fs::write(draft.join("batch.toml"), settings)
            .and_then(|()| fs::rename(&draft, self.incoming.join(&hour.name)))
            .context(what)
    }

    /// How many hours wait in `incoming/`.
    pub(crate) fn depth(&self) -> Result<usize> {
        Ok(names_in(&self.incoming)?.len())
    }

    /// The hours that wait or are claimed.
    pub(crate) fn outstanding(&self) -> Result<Vec<String>> {
        let mut names = names_in(&self.incoming)?;
        for claim in names_in(&self.claimed)? {
            names.extend(names_in(&self.claimed.join(claim))?);
        }
        Ok(names)
    }

    /// The hours that agents acknowledged since the last call. They are removed here: the spool's
    /// owner empties `done/`.
    pub(crate) fn take_done(&self) -> Result<Vec<String>> {
        let mut hours = Vec::new();
        for name in names_in(&self.done)? {
            let entry = self.done.join(&name);
            // An agent reserves the name with an empty directory first, then moves the batch over it.
            if !entry.join("batch.toml").try_exists().unwrap_or(false) {
                continue;
            }
            fs::remove_dir_all(&entry).context(|| format!("cannot remove {}", entry.display()))?;
            hours.push(plain(&name));
        }
        Ok(hours)
    }

    /// The names of what agents refused.
    pub(crate) fn rejected(&self) -> Result<Vec<String>> {
        let mut names = names_in(&self.rejected)?;
        names.retain(|name| name.ends_with(".reason.txt"));
        Ok(names)
    }

    /// Why a batch was refused.
    pub(crate) fn reason(&self, name: &str) -> String {
        let path = self.rejected.join(name);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| e.to_string());
        format!("{}: {}", path.display(), text.trim())
    }
}

/// The name that the producer gave, without the suffix that an agent adds to a taken one.
fn plain(name: &str) -> String {
    name.split('~').next().unwrap_or(name).to_owned()
}

fn names_in(dir: &Path) -> Result<Vec<String>> {
    let list = || -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(dir)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        Ok(names)
    };
    match list() {
        // A claim that ended while we looked.
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other.context(|| format!("cannot list {}", dir.display())),
    }
}

/// Writes rows as one Parquet file.
pub(crate) fn write_parquet(path: &Path, rows: &RecordBatch) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let file = File::create(path).context(what)?;
    let mut writer = ArrowWriter::try_new(file, rows.schema(), None).context(what)?;
    writer.write(rows).context(what)?;
    writer.close().context(what)?;
    Ok(())
}
