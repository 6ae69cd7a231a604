//! What was committed a moment ago: somebody may still write to it, unseen, and those rows are in no table.
//!
//! Most late writers are known before (`Unfinished`). Those of other users are not, so that what they wrote to is looked at
//! once more after a while. It cannot be taken back; a person has to know.

use super::spool::Contents;
use crate::input::shown;
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long after its commit a file is looked at again: long enough for a producer that pauses between two writes. One that
/// pauses longer is not noticed.
const FOLLOWED_FOR: Duration = Duration::from_secs(60);

/// How many are followed at most: some megabytes of memory. Beyond this the oldest is looked at early.
const MOST: usize = 10_000;

/// What is followed, oldest first.
#[derive(Debug, Default)]
pub(super) struct Followed(VecDeque<(Duration, PathBuf, Contents)>);

impl Followed {
    /// What lies at `path` now was committed as it was `read`.
    pub(super) fn add(&mut self, path: PathBuf, read: Contents, now: Duration) {
        if grew(&path, &read) {
            return;
        }
        self.0.push_back((now + FOLLOWED_FOR, path, read));
        if self.0.len() > MOST
            && let Some((_, path, read)) = self.0.pop_front()
        {
            grew(&path, &read);
        }
    }

    /// Looks at what has been followed long enough at `now`.
    pub(super) fn look(&mut self, now: Duration) {
        while let Some((_, path, read)) = self.0.pop_front_if(|(until, ..)| *until <= now) {
            grew(&path, &read);
        }
    }
}

/// Whether it is not as it was read, which is told. What is gone was taken away by whoever tidies `done`.
fn grew(path: &Path, read: &Contents) -> bool {
    let grew = Contents::of(path).is_ok_and(|now| !now.holds_the_same_as(read));
    if grew {
        tracing::error!(
            file = shown(path),
            "this was written to after it had been committed, and what came later is in no table; put the missing rows into incoming as a new file, and have its producer rename finished files into incoming"
        );
    }
    grew
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::io::Write;
    use tempfile::TempDir;

    #[test]
    fn what_grows_after_its_commit_is_noticed_and_a_move_is_no_growth() {
        let root = TempDir::new().unwrap();
        let [was, is] = ["was.csv", "is.csv"].map(|name| root.path().join(name));
        fs::write(&was, "id\n1\n").unwrap();
        let read = Contents::of(&was).unwrap();
        fs::rename(&was, &is).unwrap();
        let mut followed = Followed::default();
        followed.add(is.clone(), read.clone(), Duration::ZERO);
        followed.look(FOLLOWED_FOR - Duration::from_millis(1));
        assert_eq!(followed.0.len(), 1, "not yet");
        assert!(!grew(&is, &read));
        let mut late = fs::File::options().append(true).open(&is).unwrap();
        late.write_all(b"2\n").unwrap();
        assert!(grew(&is, &read));
        followed.look(FOLLOWED_FOR);
        assert!(followed.0.is_empty(), "told once");
        followed.add(is.clone(), read.clone(), Duration::ZERO);
        assert!(followed.0.is_empty(), "told at once");
        fs::remove_file(&is).unwrap();
        assert!(!grew(&is, &read), "gone is not grown");
    }
}
