//! Small files that people write: configuration, tokens, schemas. Only regular files are opened, since a pipe or a device may
//! never end, and none is read further than it can be long.

use std::fs::{File, FileType};
use std::io::{self, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

/// Bytes of the longest file.
const MOST_BYTES: u64 = 1 << 20;

/// What stands where a regular file should.
pub(crate) fn name_of(kind: FileType) -> &'static str {
    if kind.is_dir() {
        "a directory"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

fn check_kind(kind: FileType) -> io::Result<()> {
    if kind.is_file() {
        return Ok(());
    }
    let what = format!("it is {}, not a regular file", name_of(kind));
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}

/// The text of a small regular file.
pub(crate) fn read(path: &Path) -> io::Result<String> {
    // Opening a pipe waits for its other end.
    check_kind(std::fs::metadata(path)?.file_type())?;
    let file = File::open(path)?;
    check_kind(file.metadata()?.file_type())?;
    let mut text = String::new();
    let read = file.take(MOST_BYTES + 1).read_to_string(&mut text)?;
    if read as u64 > MOST_BYTES {
        let what = "it is longer than 1 MiB; is it the file that was meant?";
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::{MOST_BYTES, read};
    use std::path::Path;

    #[test]
    fn only_small_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let whole = usize::try_from(MOST_BYTES).unwrap();
        std::fs::write(at("most"), vec![b'a'; whole]).unwrap();
        std::fs::write(at("more"), vec![b'a'; whole + 1]).unwrap();
        std::fs::create_dir(at("dir")).unwrap();
        let pipe = std::process::Command::new("mkfifo")
            .arg(at("pipe"))
            .status();
        assert!(pipe.unwrap().success());
        assert_eq!(read(&at("most")).unwrap().len(), whole);
        let told = |path: &Path| read(path).unwrap_err().to_string();
        assert!(told(&at("more")).contains("1 MiB"));
        assert!(told(&at("dir")).contains("a directory"));
        assert!(told(&at("pipe")).contains("a pipe"));
        assert!(told(Path::new("/dev/zero")).contains("a device"));
    }
}
