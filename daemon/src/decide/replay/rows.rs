//! The rows of one table in two worlds: in the fragments that happened, and in those that would be there under another policy.
//!
//! Users' rows are the same in both, and stand in the same order, since rewrites keep it. So rows are followed as cells: neighbours that
//! lie in one fragment of either world. What users delete from a fragment that happened is spread over its cells, since a
//! manifest says how many rows went and not which.

use squire_engine::maintenance::tasks::{FragmentFacts, Task};
use squire_engine::maintenance::{Change, PastVersion};
use std::collections::{BTreeMap, BTreeSet, HashMap};

#[derive(Debug, Clone, Copy, PartialEq)]
struct Cell {
    rows: u64,
    /// Its fragment in what happened.
    happened: u64,
    /// Its fragment in what would be.
    would: u64,
}

/// A fragment that would be.
#[derive(Debug, Clone, Copy)]
struct Would {
    id: u64,
    deleted: u64,
    bytes: u64,
    touched: u64,
}

/// Both worlds.
#[derive(Debug, Default)]
pub(super) struct Rows {
    cells: Vec<Cell>,
    happened: BTreeMap<u64, FragmentFacts>,
    /// In table order.
    would: Vec<Would>,
    next: u64,
}

/// `part` of `whole` in `of`.
fn share(of: u64, part: u64, whole: u64) -> u64 {
    let share = u128::from(of) * u128::from(part) / u128::from(whole.max(1));
    u64::try_from(share).unwrap_or(of)
}

impl Rows {
    /// The fragments that happened.
    pub(super) fn happened(&self) -> impl Iterator<Item = &FragmentFacts> {
        self.happened.values()
    }

    /// The fragments that would be, in table order.
    pub(super) fn would(&self) -> Vec<FragmentFacts> {
        let mut live: HashMap<u64, u64> = HashMap::new();
        for cell in &self.cells {
            *live.entry(cell.would).or_default() += cell.rows;
        }
        let facts = |would: &Would| {
            // Lance drops a fragment without rows.
            let live = live.get(&would.id).copied().filter(|rows| *rows > 0)?;
            Some(FragmentFacts {
                id: would.id,
                rows: live + would.deleted,
                deleted: would.deleted,
                bytes: would.bytes,
                touched: would.touched,
                ..FragmentFacts::default()
            })
        };
        self.would.iter().filter_map(facts).collect()
    }

    /// The fragments that would be and hold rows of one of `happened`.
    pub(super) fn beside(&self, happened: &[u64]) -> BTreeSet<u64> {
        let cells = self.cells.iter();
        let beside = cells.filter(|cell| happened.contains(&cell.happened));
        beside.map(|cell| cell.would).collect()
    }

    /// Takes over what a version did: to what would be, as far as users did it.
    pub(super) fn apply(&mut self, version: &PastVersion) {
        let removed: BTreeSet<u64> = version.removed.iter().copied().collect();
        // The oldest version that is left is where the story begins, whatever made it.
        if version.change == Change::Rewritten && !removed.is_empty() {
            let rooms = version.added.iter().map(|f| (f.id, f.live())).collect();
            let of = |cell: &Cell| removed.contains(&cell.happened);
            let left = self.regroup(of, rooms, |cell, id| cell.happened = id);
            // Rows were deleted while others were moved.
            for cell in left {
                self.lose(cell.would, cell.rows, version.version);
            }
        } else {
            for cell in std::mem::take(&mut self.cells) {
                if removed.contains(&cell.happened) {
                    self.lose(cell.would, cell.rows, version.version);
                } else {
                    self.cells.push(cell);
                }
            }
            version.added.iter().for_each(|f| self.append(f));
        }
        for fragment in &version.changed {
            self.change(fragment, version.version);
        }
        for id in &removed {
            self.happened.remove(id);
        }
        for fragment in version.added.iter().chain(&version.changed) {
            self.happened.insert(fragment.id, fragment.clone());
        }
        self.cells.retain(|cell| cell.rows > 0);
        let held: BTreeSet<u64> = self.cells.iter().map(|cell| cell.would).collect();
        self.would.retain(|would| held.contains(&would.id));
    }

    /// Rewrites fragments that would be, as `task` says. Gives the ids of the new ones.
    pub(super) fn rewrite(&mut self, task: &Task) -> Vec<u64> {
        let sources: BTreeSet<u64> = task.fragments.iter().copied().collect();
        let of = |cell: &Cell| sources.contains(&cell.would);
        let live: u64 = self.cells.iter().filter(|c| of(c)).map(|c| c.rows).sum();
        let outputs = task.outputs.max(1);
        let room = live.div_ceil(outputs).max(1);
        let ids: Vec<u64> = (self.next..self.next + outputs).collect();
        self.next += outputs;
        let rooms = ids.iter().map(|id| (*id, room)).collect();
        self.regroup(of, rooms, |cell, id| cell.would = id);
        let at = self.would.iter().position(|w| sources.contains(&w.id));
        self.would.retain(|w| !sources.contains(&w.id));
        let new = ids.iter().map(|id| {
            let cells = self.cells.iter().filter(|cell| cell.would == *id);
            let rows: u64 = cells.map(|cell| cell.rows).sum();
            Would {
                id: *id,
                deleted: 0,
                bytes: share(task.written, rows, live),
                touched: 0,
            }
        });
        let new: Vec<Would> = new.collect();
        let at = at.unwrap_or(0);
        self.would.splice(at..at, new);
        ids
    }

    /// Rows that somebody wrote.
    fn append(&mut self, fragment: &FragmentFacts) {
        let id = self.next;
        self.next += 1;
        self.cells.push(Cell {
            rows: fragment.live(),
            happened: fragment.id,
            would: id,
        });
        self.would.push(Would {
            id,
            deleted: fragment.deleted,
            bytes: fragment.bytes,
            touched: fragment.touched,
        });
    }

    fn lose(&mut self, would: u64, rows: u64, version: u64) {
        if let Some(would) = self.would.iter_mut().find(|w| w.id == would)
            && rows > 0
        {
            would.deleted += rows;
            would.touched = version;
        }
    }

    /// `fragment` has other rows or files than before.
    fn change(&mut self, fragment: &FragmentFacts, version: u64) {
        let of = |cell: &Cell| cell.happened == fragment.id;
        let total: u64 = self.cells.iter().filter(|c| of(c)).map(|c| c.rows).sum();
        let before = self.happened.get(&fragment.id).map_or(0, |f| f.bytes);
        let (mut left, mut lost) = (total, total.saturating_sub(fragment.live()));
        let mut back = fragment.live().saturating_sub(total);
        for at in 0..self.cells.len() {
            let cell = self.cells[at];
            if !of(&cell) {
                continue;
            }
            let goes = share(cell.rows, lost, left);
            (left, lost) = (left - cell.rows, lost - goes);
            // Deletions that were taken back.
            let comes = std::mem::take(&mut back);
            self.cells[at].rows = cell.rows - goes + comes;
            self.lose(cell.would, goes, version);
            if let Some(would) = self.would.iter_mut().find(|w| w.id == cell.would) {
                would.deleted = would.deleted.saturating_sub(comes);
                let (more, fewer) = (
                    share(fragment.bytes.saturating_sub(before), cell.rows, total),
                    share(before.saturating_sub(fragment.bytes), cell.rows, total),
                );
                would.bytes = would.bytes.saturating_add(more).saturating_sub(fewer);
            }
        }
    }

    /// Gives the cells that `of` accepts to new fragments of `rooms` rows, in order, and divides those that span two. What has
    /// no room is taken out and returned.
    fn regroup(
        &mut self,
        of: impl Fn(&Cell) -> bool,
        rooms: Vec<(u64, u64)>,
        give: impl Fn(&mut Cell, u64),
    ) -> Vec<Cell> {
        let mut rooms = rooms.into_iter().filter(|(_, room)| *room > 0);
        let (mut room, mut left) = (rooms.next(), Vec::new());
        for mut cell in std::mem::take(&mut self.cells) {
            if !of(&cell) {
                self.cells.push(cell);
                continue;
            }
            while cell.rows > 0 {
                let Some((id, free)) = &mut room else {
                    left.push(cell);
                    break;
                };
                let mut part = Cell {
                    rows: cell.rows.min(*free),
                    ..cell
                };
                cell.rows -= part.rows;
                *free -= part.rows;
                give(&mut part, *id);
                self.cells.push(part);
                if *free == 0 {
                    room = rooms.next();
                }
            }
        }
        self.cells.dedup_by(|next, cell| {
            let one = (next.happened, next.would) == (cell.happened, cell.would);
            if one {
                cell.rows += next.rows;
            }
            one
        });
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(id: u64, rows: u64, deleted: u64) -> FragmentFacts {
        FragmentFacts {
            id,
            rows,
            deleted,
            bytes: rows * 10,
            ..FragmentFacts::default()
        }
    }

    fn version(change: Change, version: u64) -> PastVersion {
        PastVersion {
            version,
            at_ms: version,
            change,
            is_ours: false,
            added: Vec::new(),
            removed: Vec::new(),
            changed: Vec::new(),
            indexes: Vec::new(),
        }
    }

    fn of(rows: &Rows) -> Vec<(u64, u64, u64)> {
        let facts = rows.would().into_iter();
        facts.map(|f| (f.live(), f.deleted, f.bytes)).collect()
    }

    fn written(rows: &mut Rows, ids: std::ops::Range<u64>) {
        let mut first = version(Change::Written, 1);
        first.added = ids.map(|id| fragment(id, 100, 0)).collect();
        rows.apply(&first);
    }

    #[test]
    fn what_users_delete_goes_from_the_fragments_that_would_hold_it() {
        let mut rows = Rows::default();
        written(&mut rows, 0..4);
        // What happened: two of them became one. What would be: nothing, so far.
        let mut moved = version(Change::Rewritten, 2);
        (moved.removed, moved.added) = (vec![1, 2], vec![fragment(7, 200, 0)]);
        rows.apply(&moved);
        assert_eq!(of(&rows), [(100, 0, 1_000); 4]);
        let mut deleted = version(Change::Written, 3);
        deleted.changed = vec![fragment(7, 200, 50), fragment(3, 100, 1)];
        rows.apply(&deleted);
        let half = (75, 25, 1_000);
        assert_eq!(of(&rows), [(100, 0, 1_000), half, half, (99, 1, 1_000)]);
        // All of a fragment: the one that would be shrinks to what it has of others.
        let mut all = version(Change::Written, 4);
        all.removed = vec![7];
        rows.apply(&all);
        assert_eq!(of(&rows), [(100, 0, 1_000), (99, 1, 1_000)]);
        assert_eq!(rows.happened().count(), 2);
    }

    #[test]
    fn a_rewrite_that_would_be_follows_what_happens_to_its_sources() {
        let mut rows = Rows::default();
        written(&mut rows, 0..3);
        let task = Task {
            fragments: vec![0, 1, 2],
            outputs: 2,
            written: 3_000,
            ..Task::default()
        };
        assert_eq!(rows.rewrite(&task), [3, 4]);
        assert_eq!(of(&rows), [(150, 0, 1_500), (150, 0, 1_500)]);
        let mut deleted = version(Change::Written, 2);
        deleted.changed = vec![fragment(1, 100, 50)];
        rows.apply(&deleted);
        assert_eq!(of(&rows), [(125, 25, 1_500), (125, 25, 1_500)]);
        assert_eq!(rows.beside(&[0]), BTreeSet::from([3]));
        // A restore brings them back, and a new column more bytes.
        let mut back = version(Change::Written, 3);
        back.changed = vec![FragmentFacts {
            bytes: 3_000,
            ..fragment(1, 100, 0)
        }];
        rows.apply(&back);
        let rows_now: u64 = rows.would().iter().map(FragmentFacts::live).sum();
        let bytes: u64 = rows.would().iter().map(|f| f.bytes).sum();
        assert_eq!((rows_now, bytes), (300, 5_000));
    }
}
