//! Room on the disk of a location, and what is left of it to write into. Pure.

use super::planning::OperationKind;
use super::waits::Held;
use crate::config::MinFree;

/// The file system of a local location, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// What an ordinary process may still write.
    pub(crate) free: u64,
    pub(crate) all: u64,
}

impl Room {
    /// Whether less is free than `least` says.
    pub(crate) fn is_short(self, least: MinFree) -> bool {
        self.free < least.of(self.all)
    }

    /// Whether so little is left that what runs ends, too: others need it more.
    pub(crate) fn is_ending(self, least: MinFree) -> bool {
        self.free < least.of(self.all) / 2
    }

    /// That work of `kind` which may write `needs` would leave less than `least`. A cleanup frees room.
    pub(crate) fn holds(self, least: MinFree, kind: OperationKind, needs: u64) -> Option<Held> {
        let least = least.of(self.all);
        let fits = self.free.saturating_sub(needs) >= least;
        (kind != OperationKind::Cleanup && !fits).then_some(Held::NoRoom {
            free: self.free,
            needs,
            least,
        })
    }
}
