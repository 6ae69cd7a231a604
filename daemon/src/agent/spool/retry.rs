//! Rejected entries go back to `incoming`, because a person says so.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::ErrorKind,
    os::unix::ffi::OsStrExt,
    path::Path,
};

use rustix::{
    fs::{CWD, RenameFlags, renameat_with},
    io::Errno,
};
use ulid::Ulid;

use super::{
    REASON_SUFFIXES, Spool, SpoolError,
    moves::{sync_dir, with_suffix},
    require_plain,
    state::Rejected,
};

impl Spool {
    /// Moves a rejected entry back to `incoming` under the name that it had there, never over another one, and gives that name.
    /// Durable when it returns. Its reasons go: they were those of the attempt that is repeated.
    ///
    /// A crash behind the move leaves the reasons without their entry, harmless: a later entry of that name is rejected as
    /// `<name>~<ULID>`.
    pub(crate) fn take_back(&self, rejected: &Rejected) -> Result<OsString, SpoolError> {
        let name = &rejected.entry.name;
        require_plain(name)?;
        let original = original_name(rejected);
        let (from, to) = (self.rejected.join(name), self.incoming.join(&original));
        // A name that is reserved must stay so: its agent is about to put the entry over it.
        if is_empty(&from)? {
            return Err(SpoolError::Nothing { name: name.clone() });
        }
        match renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                return Err(SpoolError::Taken {
                    path: to,
                    name: name.clone(),
                });
            }
            Err(e) => return Err(SpoolError::io("move", &from)(e.into())),
        }
        // The new home first: should the power fail in between, an entry is rather in two places than in none.
        sync_dir(&self.incoming)?;
        sync_dir(&self.rejected)?;
        for suffix in REASON_SUFFIXES {
            let reason = with_suffix(&from, suffix);
            match fs::remove_file(&reason) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    return Err(SpoolError::io("remove", &reason)(e));
                }
                _ => {}
            }
        }
        sync_dir(&self.rejected)?;
        Ok(original)
    }
}

/// Whether a file has no bytes, or a directory no files. A pipe or a device has none to count.
fn is_empty(path: &Path) -> Result<bool, SpoolError> {
    let meta = fs::symlink_metadata(path).map_err(SpoolError::io("read", path))?;
    if !meta.is_dir() {
        return Ok(meta.is_file() && meta.len() == 0);
    }
    let mut files = fs::read_dir(path).map_err(SpoolError::io("list", path))?;
    Ok(files.next().is_none())
}

/// The name of a rejected entry before it was rejected: without `~<ULID>`, and whole where it had to be cut.
fn original_name(rejected: &Rejected) -> OsString {
    let name = without_operation(&rejected.entry.name);
    match &rejected.reason {
        Some(reason) if reason.entry.as_bytes().starts_with(name.as_bytes()) => {
            OsString::from(&reason.entry)
        }
        _ => name.to_os_string(),
    }
}

/// `name` without the `~<ULID>` or `~<ULID>~<number>` that told it from another one.
fn without_operation(name: &OsStr) -> &OsStr {
    let bytes = name.as_bytes();
    let is_id = |part: &[u8]| {
        let text = std::str::from_utf8(part).ok();
        part.len() == 26 && text.is_some_and(|text| Ulid::from_string(text).is_ok())
    };
    let parts: Vec<&[u8]> = bytes.split(|byte| *byte == b'~').collect();
    let cut = match parts.as_slice() {
        [_, .., id] if is_id(id) => id.len() + 1,
        [_, .., id, number] if is_id(id) && number.iter().all(u8::is_ascii_digit) => {
            id.len() + number.len() + 2
        }
        _ => 0,
    };
    OsStr::from_bytes(&bytes[..bytes.len() - cut])
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn reject(spool: &Spool, name: &str, op: u64) {
        fs::write(spool.incoming.join(name), op.to_string()).unwrap();
        let taken = spool.claim(Ulid::from_parts(op, 7), &[name]).unwrap();
        let mut claim = taken.claim.unwrap();
        let say = |_: &Path| ["why".to_owned(), "{}".to_owned()];
        spool.reject(&mut claim, OsStr::new(name), say).unwrap();
        spool.finish(claim).unwrap();
    }

    #[test]
    fn an_entry_goes_back_under_its_name_and_over_nobody() {
        let root = TempDir::new().unwrap();
        let spool = Spool::open(root.path()).unwrap();
        reject(&spool, "a.csv", 1);
        reject(&spool, "a.csv", 2);
        reject(&spool, "b.reason.txt", 3);
        let rejected = spool.list_rejected().unwrap();
        let names: Vec<_> = rejected.iter().map(|r| r.entry.name.clone()).collect();
        let second = format!("a.csv~{}", Ulid::from_parts(2, 7));
        assert_eq!(rejected.len(), 3, "reasons are no entries: {names:?}");
        let of = |name: &str| rejected.iter().find(|r| r.entry.name == *name).unwrap();
        assert_eq!(spool.take_back(of(&second)).unwrap(), "a.csv");
        let refused = spool.take_back(of("a.csv")).unwrap_err();
        assert!(matches!(refused, SpoolError::Taken { .. }), "{refused}");
        assert_eq!(fs::read(spool.incoming.join("a.csv")).unwrap(), b"2");
        assert_eq!(fs::read(spool.rejected.join("a.csv")).unwrap(), b"1");
        assert_eq!(spool.take_back(of("b.reason.txt")).unwrap(), "b.reason.txt");
        fs::remove_file(spool.incoming.join("a.csv")).unwrap();
        for (name, is_dir) in [("file.csv", false), ("dir", true)] {
            let path = spool.rejected.join(name);
            let made = if is_dir {
                fs::create_dir(&path)
            } else {
                fs::write(&path, "")
            };
            made.unwrap();
            let reserved = spool.list_rejected().unwrap();
            let reserved = reserved.iter().find(|r| r.entry.name == name).unwrap();
            let refused = spool.take_back(reserved).unwrap_err();
            assert!(matches!(refused, SpoolError::Nothing { .. }), "{refused}");
            assert!(
                fs::remove_file(&path)
                    .or_else(|_| fs::remove_dir(&path))
                    .is_ok()
            );
        }
        let pipe = spool.rejected.join("pipe.csv");
        let mode = rustix::fs::Mode::RUSR;
        rustix::fs::mkfifoat(CWD, &pipe, mode).unwrap();
        let rejected_pipe = spool.list_rejected().unwrap();
        let pipe = rejected_pipe.iter().find(|r| r.entry.name == "pipe.csv");
        assert_eq!(spool.take_back(pipe.unwrap()).unwrap(), "pipe.csv");
        assert_eq!(spool.take_back(of("a.csv")).unwrap(), "a.csv");
        assert_eq!(fs::read_dir(&spool.rejected).unwrap().count(), 0);
    }

    #[test]
    fn only_what_told_it_apart_is_cut_off() {
        let id = Ulid::from_parts(1, 7);
        for (name, original) in [
            (format!("a.csv~{id}"), "a.csv"),
            (format!("a.csv~{id}~2"), "a.csv"),
            (format!("a~b.csv~{id}"), "a~b.csv"),
            ("a~1.csv".to_owned(), "a~1.csv"),
            (id.to_string(), &id.to_string()),
        ] {
            assert_eq!(without_operation(OsStr::new(&name)), original, "{name}");
        }
    }
}
