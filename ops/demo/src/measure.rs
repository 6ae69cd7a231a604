//! What a store costs: fragments, versions, bytes.

use crate::error::{Context, Result};
use crate::run::{Run, blocking};
use crate::status::{TableState, tables};
use indicatif::{HumanBytes, HumanCount};
use serde_json::{Value, json};
use std::fs;
use std::io;
use std::path::Path;

/// One store at one moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Measurement {
    /// Committed hours.
    pub(crate) hours: usize,
    /// Its tables.
    pub(crate) tables: Vec<TableState>,
    /// Bytes of all files, those of older versions included.
    pub(crate) disk: u64,
    /// How many files.
    pub(crate) files: u64,
}

/// One number of a table.
type Of = fn(&TableState) -> u64;

/// Measures the store of a run.
pub(crate) async fn measure(run: &Run) -> Result<Measurement> {
    let status = run.squire.done(&["status", &run.site.uri()]).await?;
    let (disk, files) = blocking(|| usage(&run.site.store))
        .context(|| format!("cannot measure {}", run.site.store.display()))?;
    Ok(Measurement {
        hours: run.progress.prefix(),
        tables: tables(&status),
        disk,
        files,
    })
}

/// Bytes and files below `dir`. Maintenance may remove files meanwhile.
fn usage(dir: &Path) -> io::Result<(u64, u64)> {
    let (mut bytes, mut files) = (0, 0);
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(found) if found.is_dir() => open.push(entry.path()),
                Ok(found) => {
                    bytes += found.len();
                    files += 1;
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok((bytes, files))
}

impl Measurement {
    /// For the record beside the store.
    pub(crate) fn to_json(&self) -> Value {
        let table = |t: &TableState| {
            json!({"table": t.name, "fragments": t.fragments.0, "candidate_fragments": t.fragments.1,
                "versions": t.versions, "rows": t.rows, "bytes": t.bytes})
        };
        let tables: Vec<Value> = self.tables.iter().map(table).collect();
        json!({"hours": self.hours, "disk": self.disk, "files": self.files, "tables": tables})
    }

    /// Reads a record; `None` if it is not one.
    pub(crate) fn from_json(record: &Value) -> Option<Self> {
        let number = |key| record.get(key).and_then(Value::as_u64);
        Some(Self {
            hours: usize::try_from(number("hours")?).ok()?,
            tables: tables(record),
            disk: number("disk")?,
            files: number("files")?,
        })
    }

    fn table(&self, name: &str) -> TableState {
        self.tables
            .iter()
            .find(|t| t.name == name)
            .cloned()
            .unwrap_or_default()
    }

    fn total(&self, of: impl Fn(&TableState) -> u64) -> u64 {
        self.tables.iter().map(of).sum()
    }

    /// A line for each table and one for the disk.
    pub(crate) fn describe(&self) -> String {
        let mut lines = Vec::new();
        for t in &self.tables {
            lines.push(format!(
                "  {:<9} {:>5} fragments {:>6} versions {:>9} rows {:>12}",
                t.name,
                t.fragments.0,
                t.versions,
                HumanCount(t.rows).to_string(),
                HumanBytes(t.bytes).to_string()
            ));
        }
        lines.push(self.disk_line());
        lines.join("\n")
    }

    fn disk_line(&self) -> String {
        let (disk, files) = (HumanBytes(self.disk), HumanCount(self.files));
        format!("  on disk   {disk} in {files} files, older versions included")
    }

    /// This store, with a daemon, against `bare`, without one.
    pub(crate) fn against(&self, bare: &Self) -> String {
        let mut lines = vec![format!(
            "after {} hours     {:>14} {:>14}",
            HumanCount(self.hours as u64),
            "with daemon",
            "without"
        )];
        let mut row = |what: String, with: String, without: String| {
            lines.push(format!("  {what:<18} {with:>12} {without:>14}"));
        };
        for name in ["flights", "weather", "planes"] {
            let (with, without) = (self.table(name).fragments.0, bare.table(name).fragments.0);
            row(
                format!("fragments {name}"),
                with.to_string(),
                without.to_string(),
            );
        }
        let sums: [(&str, Of); 2] = [("versions", |t| t.versions), ("bytes visible", |t| t.bytes)];
        for (what, of) in sums {
            let (with, without) = (self.total(of), bare.total(of));
            let show = |n| {
                if what == "versions" {
                    HumanCount(n).to_string()
                } else {
                    HumanBytes(n).to_string()
                }
            };
            row(what.to_owned(), show(with), show(without));
        }
        let (with, without) = (HumanBytes(self.disk), HumanBytes(bare.disk));
        row(
            "bytes on disk".to_owned(),
            with.to_string(),
            without.to_string(),
        );
        row(
            "files on disk".to_owned(),
            self.files.to_string(),
            bare.files.to_string(),
        );
        lines.push(
            "  (on disk: with older versions, which are kept for an hour at least)".to_owned(),
        );
        lines.join("\n")
    }
}
