//! The FILE arguments of `squire write`: files, directories, patterns and `-`, in an order that can be told beforehand.
//!
//! Arguments are read in their order; the files of a directory or a pattern in the order of their names, byte by byte. What a
//! producer is still writing, as far as its name says, and what is no data, is passed over as an agent does, and named.

use crate::formats::{Format, Input};
use crate::input::{Named, printable, shown};
use serde::Serialize;
use squire_engine::error::{Error, Result};
use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What is read, and what was passed over on the way.
#[derive(Debug, Default)]
pub(super) struct Inputs {
    pub(super) inputs: Vec<Input>,
    pub(super) skipped: Vec<Skipped>,
    seen: HashSet<PathBuf>,
}

/// A file of a directory or a pattern that is not read.
#[derive(Debug, Serialize)]
pub(super) struct Skipped {
    pub(super) file: String,
    pub(super) why: &'static str,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "passed over {}: {}", self.file, self.why)
    }
}

impl Inputs {
    /// Looks up what `arguments` stand for.
    ///
    /// # Errors
    /// `InvalidInput` for a pattern or a directory without data, a directory in another, and a file that is named twice.
    pub(super) fn of(arguments: &[PathBuf], format: Option<Format>) -> Result<Self> {
        let mut found = Self::default();
        for argument in arguments {
            found.argument(argument, format)?;
        }
        Ok(found)
    }

    fn argument(&mut self, argument: &Path, format: Option<Format>) -> Result<()> {
        if argument == Path::new("-") {
            if !self.seen.insert(argument.to_path_buf()) {
                return Err(Error::invalid(
                    "standard input can be read once; name - once",
                ));
            }
            self.inputs.push(Input::stdin().in_format(format));
            return Ok(());
        }
        let shown = printable(&argument.to_string_lossy());
        // A file of that very name comes before what its name would match.
        let kind = match (fs::metadata(argument), pattern_of(argument)) {
            (Err(e), Some(pattern)) if e.kind() == io::ErrorKind::NotFound => {
                return self.pattern(pattern, &shown, format);
            }
            // Whoever reads it says what is wrong with it.
            (kind, _) => kind.ok(),
        };
        if kind.is_some_and(|kind| kind.is_dir()) {
            return self.directory(argument, format);
        }
        self.file(argument.to_path_buf(), format)
    }

    fn pattern(&mut self, pattern: &str, shown: &str, format: Option<Format>) -> Result<()> {
        let matches = glob::glob(pattern)
            .map_err(|e| Error::invalid(format!("{shown}: is no pattern: {e}")))?;
        let mut paths = Vec::new();
        for path in matches {
            let path = path.map_err(|e| {
                let why = format!("{shown}: cannot be looked into: {e}; check the permissions");
                Error::invalid(why)
            })?;
            paths.push(path);
        }
        paths.sort();
        let before = self.inputs.len();
        for path in paths {
            if path.is_dir() {
                let name = printable(&path.to_string_lossy());
                return Err(Error::invalid(format!(
                    "{shown}: matches the directory {name}; let the pattern match files, as in {name}/*"
                )));
            }
            self.found(path, format)?;
        }
        if self.inputs.len() > before {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{shown}: no data file matches{}",
            self.passed_over()
        )))
    }

    fn directory(&mut self, dir: &Path, format: Option<Format>) -> Result<()> {
        let shown = printable(&dir.to_string_lossy());
        let unreadable = |e: io::Error| {
            Error::invalid(format!(
                "{shown}: cannot be read: {e}; check its permissions"
            ))
        };
        let entries = fs::read_dir(dir).map_err(unreadable)?;
        let paths: io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
        let mut paths = paths.map_err(unreadable)?;
        paths.sort();
        let before = self.inputs.len();
        for path in paths {
            if path.is_dir() && Named::inside(&path, true) == Named::Data {
                let name = printable(&path.to_string_lossy());
                return Err(Error::invalid(format!(
                    "{name}: is a directory in a directory; name what is to be read with a pattern, as in '{shown}/*/*.parquet'"
                )));
            }
            self.found(path, format)?;
        }
        if self.inputs.len() > before {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "{shown}: holds no data file{}",
            self.passed_over()
        )))
    }

    /// A file that nobody named by itself.
    fn found(&mut self, path: PathBuf, format: Option<Format>) -> Result<()> {
        let why = match Named::inside(&path, path.is_dir()) {
            Named::Data => return self.file(path, format),
            Named::Unfinished => "unfinished",
            Named::Beside => "no data",
            Named::Unknown if format.is_some() => return self.file(path, format),
            Named::Unknown => "no known format",
        };
        let file = shown(&path);
        self.skipped.push(Skipped { file, why });
        Ok(())
    }

    fn file(&mut self, path: PathBuf, format: Option<Format>) -> Result<()> {
        let place = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
        if !self.seen.insert(place) {
            return Err(Error::invalid(format!(
                "{}: is named twice, and its rows would be written twice; name it once",
                printable(&path.to_string_lossy())
            )));
        }
        self.inputs.push(Input::file(path).in_format(format));
        Ok(())
    }

    fn passed_over(&self) -> String {
        match self.skipped.as_slice() {
            [] => String::new(),
            [first, ..] => format!(
                " ({} passed over, such as {}: {})",
                self.skipped.len(),
                first.file,
                first.why
            ),
        }
    }
}

/// The argument as a pattern, if it is one.
fn pattern_of(argument: &Path) -> Option<&str> {
    argument
        .to_str()
        .filter(|text| text.contains(['*', '?', '[']))
}
