//! Moves that never overwrite, and writes that survive a power cut.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, ErrorKind, Write},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

use ulid::Ulid;

use super::SpoolError;

/// Longest name, in bytes, that is kept whole: 255, the usual limit, less `~<ULID>~<number>` and the suffix of a reason.
const LONGEST_NAME: usize = 200;

/// How many names are tried. `<name>` and `<name>~<ULID>` are enough but for crashes in between; beyond this something is broken.
const NAME_ATTEMPTS: usize = 1_000;

/// Makes the names in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), SpoolError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(SpoolError::io("sync", dir))
}

/// Writes a whole file: temporary name, sync, rename, sync of the parent.
pub(super) fn write_durable(
    temporary: &Path,
    path: &Path,
    content: &[u8],
) -> Result<(), SpoolError> {
    let written = File::create(temporary)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    written.map_err(SpoolError::io("write", temporary))?;
    fs::rename(temporary, path).map_err(SpoolError::io("write", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Moves `from` into `dir` as `name`, or as `<name>~<ULID>` where that is taken, and returns the new path.
pub(super) fn move_to_free_name(
    from: &Path,
    dir: &Path,
    name: &OsStr,
    operation: Ulid,
) -> Result<PathBuf, SpoolError> {
    let to = reserve(from, dir, name, operation, &[])?;
    match fs::rename(from, &to) {
        Ok(()) => Ok(to),
        Err(e) => {
            release(&to, from);
            Err(SpoolError::io("move", from)(e))
        }
    }
}

/// Gives back a name that was occupied for the move of `from`, which failed, so that the next try does not need another one.
/// Should that fail as well, an empty file or directory stays, harmless. If `from` is gone, the move has happened all the same.
pub(super) fn release(reserved: &Path, from: &Path) {
    if fs::symlink_metadata(from).is_err() {
        return;
    }
    let freed = fs::remove_file(reserved).or_else(|_| fs::remove_dir(reserved));
    if let Err(error) = freed {
        tracing::debug!(%error, "a reserved name in the spool stays");
    }
}

/// Occupies a free name in `dir` with an empty file or directory, of `from`'s kind, over which `from` can then be renamed.
///
/// A rename alone would overwrite, and a check before it could be overtaken by another agent; creation is atomic. The name with each of
/// the `suffixes` is occupied as well, by a file.
pub(super) fn reserve(
    from: &Path,
    dir: &Path,
    name: &OsStr,
    operation: Ulid,
    suffixes: &[&str],
) -> Result<PathBuf, SpoolError> {
    let is_dir = fs::symlink_metadata(from)
        .map_err(SpoolError::io("read", from))?
        .is_dir();
    for attempt in 0..NAME_ATTEMPTS {
        let path = dir.join(candidate(name, operation, attempt));
        let create = if is_dir {
            fs::create_dir(&path)
        } else {
            File::create_new(&path).map(drop)
        };
        if !occupied(create).map_err(SpoolError::io("create", &path))? {
            continue;
        }
        match reserve_beside(&path, suffixes) {
            Ok(true) => return Ok(path),
            Ok(false) => release(&path, from),
            Err(e) => {
                release(&path, from);
                return Err(e);
            }
        }
    }
    let full = io::Error::new(ErrorKind::AlreadyExists, "no free name");
    Err(SpoolError::io("move", from)(full))
}

/// Occupies the name with each suffix; all of them, or none and `false`.
fn reserve_beside(path: &Path, suffixes: &[&str]) -> Result<bool, SpoolError> {
    for (done, suffix) in suffixes.iter().enumerate() {
        let beside = with_suffix(path, suffix);
        let created = occupied(File::create_new(&beside).map(drop));
        if matches!(created, Ok(true)) {
            continue;
        }
        for suffix in &suffixes[..done] {
            let freed = fs::remove_file(with_suffix(path, suffix));
            freed.map_err(SpoolError::io("remove", path))?;
        }
        return created.map_err(SpoolError::io("create", &beside));
    }
    Ok(true)
}

/// `<name><suffix>`.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_path_buf().into_os_string();
    name.push(suffix);
    name.into()
}

/// Whether the creation made something new, as opposed to meeting what was there.
fn occupied(created: io::Result<()>) -> io::Result<bool> {
    match created {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
    }
}

/// `<name>`, `<name>~<ULID>`, `<name>~<ULID>~2`, ...; too long a name is cut at its end.
fn candidate(name: &OsStr, operation: Ulid, attempt: usize) -> OsString {
    let bytes = name.as_bytes();
    let mut candidate = OsString::from_vec(bytes[..bytes.len().min(LONGEST_NAME)].to_vec());
    match attempt {
        0 => {}
        1 => candidate.push(format!("~{operation}")),
        more => candidate.push(format!("~{operation}~{more}")),
    }
    candidate
}
