//! What a table holds, as a replay says it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// `(id, value)`.
pub type Row = (i64, String);

/// What one operation does to one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Adds rows, whatever their ids.
    Append(Vec<Row>),
    /// Replaces rows with these ids, adds the others.
    Merge(Vec<Row>),
    /// Adds rows with ids that are not there yet.
    Insert(Vec<Row>),
    /// Replaces rows with ids that are there.
    Update(Vec<Row>),
    /// Replaces the rows with ids from the first up to but not including the second by these, which have such ids.
    Replace(i64, i64, Vec<Row>),
    /// Deletes the rows with these ids.
    DeleteKeys(Vec<i64>),
    /// Deletes the rows with ids from the first up to but not including the second.
    DeleteRange(i64, i64),
    /// Replaces everything.
    Overwrite(Vec<Row>),
}

/// A multiset of rows in 24 bytes: their number and the sums of two independent hashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Digest {
    /// Rows.
    pub rows: u64,
    sums: [u64; 2],
}

impl Digest {
    /// The digest of `rows`, in whatever order.
    pub fn of(rows: &[Row]) -> Self {
        let mut digest = Self::default();
        for (id, value) in rows {
            digest.add(*id, value);
        }
        digest
    }

    fn hashes(id: i64, value: &str) -> [u64; 2] {
        [0u8, 1].map(|salt| {
            let mut hasher = DefaultHasher::new();
            (salt, id, value).hash(&mut hasher);
            hasher.finish()
        })
    }

    fn add(&mut self, id: i64, value: &str) {
        self.rows += 1;
        for (sum, hash) in self.sums.iter_mut().zip(Self::hashes(id, value)) {
            *sum = sum.wrapping_add(hash);
        }
    }

    fn remove(&mut self, id: i64, value: &str) {
        self.rows -= 1;
        for (sum, hash) in self.sums.iter_mut().zip(Self::hashes(id, value)) {
            *sum = sum.wrapping_sub(hash);
        }
    }
}

/// The content of one table.
#[derive(Debug, Clone, Default)]
pub struct Contents {
    rows: BTreeMap<i64, Vec<String>>,
    digest: Digest,
}

impl Contents {
    /// Its digest.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Its rows, sorted.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .rows
            .iter()
            .flat_map(|(id, values)| values.iter().map(|v| (*id, v.clone())))
            .collect();
        rows.sort_unstable();
        rows
    }

    /// Does what the operation does.
    pub fn apply(&mut self, change: &Change) {
        match change {
            Change::Append(rows) => self.insert(rows),
            Change::Merge(rows) => {
                rows.iter().for_each(|(id, _)| self.delete(*id));
                self.insert(rows);
            }
            Change::Insert(rows) => {
                let new = |(id, _): &&Row| !self.rows.contains_key(id);
                let new: Vec<Row> = rows.iter().filter(new).cloned().collect();
                self.insert(&new);
            }
            Change::Update(rows) => {
                let known = |(id, _): &&Row| self.rows.contains_key(id);
                let known: Vec<Row> = rows.iter().filter(known).cloned().collect();
                self.apply(&Change::Merge(known));
            }
            Change::Replace(from, until, rows) => {
                self.apply(&Change::DeleteRange(*from, *until));
                self.insert(rows);
            }
            Change::DeleteKeys(ids) => ids.iter().for_each(|id| self.delete(*id)),
            Change::DeleteRange(from, until) => {
                let ids: Vec<i64> = self.rows.range(*from..*until).map(|(id, _)| *id).collect();
                ids.into_iter().for_each(|id| self.delete(id));
            }
            Change::Overwrite(rows) => {
                *self = Self::default();
                self.insert(rows);
            }
        }
    }

    fn insert(&mut self, rows: &[Row]) {
        for (id, value) in rows {
            self.digest.add(*id, value);
            self.rows.entry(*id).or_default().push(value.clone());
        }
    }

    fn delete(&mut self, id: i64) {
        for value in self.rows.remove(&id).unwrap_or_default() {
            self.digest.remove(id, &value);
        }
    }
}

/// How two sorted lists of rows differ, in a few words.
pub fn difference(expected: &[Row], seen: &[Row]) -> String {
    let count = |rows: &[Row]| {
        let mut counts: BTreeMap<Row, i64> = BTreeMap::new();
        for row in rows {
            *counts.entry(row.clone()).or_default() += 1;
        }
        counts
    };
    let mut counts = count(seen);
    for (row, n) in count(expected) {
        *counts.entry(row).or_default() -= n;
    }
    let list = |sign: i64| {
        let rows: Vec<String> = counts
            .iter()
            .filter(|(_, n)| **n * sign > 0)
            .map(|((id, value), n)| format!("{}x({id}, {value})", n.abs()))
            .collect();
        let shown = rows.iter().take(10).cloned().collect::<Vec<_>>().join(" ");
        format!("{} rows: {shown}", rows.len())
    };
    format!("too much {}; missing {}", list(1), list(-1))
}

#[cfg(test)]
mod tests {
    use super::{Change, Contents, Digest, difference};

    #[test]
    fn a_replay_keeps_its_digest() {
        let row = |id: i64, value: &str| (id, value.to_owned());
        let mut table = Contents::default();
        table.apply(&Change::Append(vec![row(1, "a"), row(2, "b"), row(2, "c")]));
        table.apply(&Change::Merge(vec![row(1, "d"), row(3, "e")]));
        table.apply(&Change::DeleteKeys(vec![2]));
        table.apply(&Change::Append(vec![row(7, "x"), row(8, "y")]));
        table.apply(&Change::DeleteRange(7, 8));
        table.apply(&Change::Insert(vec![row(8, "kept"), row(9, "new")]));
        table.apply(&Change::Update(vec![row(9, "newer"), row(10, "none")]));
        table.apply(&Change::Replace(9, 11, vec![]));
        let expected = vec![row(1, "d"), row(3, "e"), row(8, "y")];
        assert_eq!(table.rows(), expected);
        assert_eq!(table.digest(), Digest::of(&expected));
        table.apply(&Change::Overwrite(vec![row(9, "z")]));
        assert_eq!(table.digest(), Digest::of(&[row(9, "z")]));
        assert_ne!(table.digest(), Digest::of(&[row(9, "y")]));
        assert_eq!(
            difference(&expected, &[row(1, "d"), row(1, "d"), row(8, "y")]),
            "too much 1 rows: 1x(1, d); missing 1 rows: 1x(3, e)"
        );
    }
}
