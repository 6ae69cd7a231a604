//! What one operation commits: one batch, or several that append and read nothing.
//!
//! Batches that are committed together share the operation and its fate, and the appends to one table become one write,
//! in the order of the batches. Each keeps its id, digest, actor and message. Whatever reads rows stays alone: what it does
//! depends on what came before it.

use super::batch::digest;
use super::logical::{AttemptHook, CommitRequest, TableWrite};
use super::stage::Write;
use super::streamed::Rows;
use crate::error::{Error, Result};
use crate::ids::TableName;
use crate::store::{Member, Snapshot};
use std::collections::{BTreeMap, HashSet};

pub(super) struct Joined<'a> {
    /// The writes, sorted by table; each table once.
    pub(super) writes: Vec<TableWrite>,
    /// Tables that must not have changed since the snapshot at this manifest version.
    pub(super) reads: &'a BTreeMap<TableName, u64>,
    /// The batches; at least one.
    pub(super) batches: Vec<Member>,
    pub(super) retries: u32,
    pub(super) before_attempt: Option<&'a AttemptHook>,
    pub(super) read_for: Option<&'a Snapshot>,
}

impl<'a> Joined<'a> {
    /// Joins `requests`; those of the store's own actor are `actor`'s.
    pub(super) fn of(requests: &'a [CommitRequest], actor: &str) -> Result<Self> {
        let Some(first) = requests.first() else {
            return Err(Error::invalid("a commit needs at least one batch"));
        };
        let mut batches = Vec::with_capacity(requests.len());
        let mut writes: BTreeMap<&TableName, Write> = BTreeMap::new();
        let mut ids = HashSet::new();
        for request in requests {
            let mut sorted = request.writes.clone();
            sorted.sort_by(|a, b| a.table.cmp(&b.table));
            check_request(request, &sorted)?;
            if requests.len() > 1 && !request.only_appends() {
                return Err(Error::invalid(
                    "only batches that append what they hold and read nothing are committed together",
                ));
            }
            if let Some(id) = &request.batch
                && !ids.insert(id)
            {
                let twice = format!("batch id {id:?} stands twice in one commit");
                return Err(Error::invalid(twice));
            }
            batches.push(Member {
                batch: request.batch.clone(),
                digest: match request.batch {
                    Some(_) => Some(digest(&sorted)?),
                    None => None,
                },
                actor: request.actor.as_deref().unwrap_or(actor).to_owned(),
                message: request.message.clone(),
            });
            for TableWrite { table, write } in &request.writes {
                match (writes.get_mut(table), write) {
                    (Some(Write::Append(Rows::Held(rows))), Write::Append(more)) => {
                        rows.extend(more.held().iter().cloned());
                    }
                    _ => drop(writes.insert(table, write.clone())),
                }
            }
        }
        let writes = writes.into_iter().map(|(table, write)| TableWrite {
            table: table.clone(),
            write,
        });
        Ok(Self {
            writes: writes.collect(),
            reads: &first.reads,
            batches,
            retries: first.retries,
            before_attempt: first.before_attempt.as_ref(),
            read_for: first.read_for.as_ref(),
        })
    }
}

fn check_request(request: &CommitRequest, sorted: &[TableWrite]) -> Result<()> {
    if sorted.is_empty() {
        return Err(Error::invalid("a commit needs at least one table"));
    }
    if let Some(twice) = sorted.windows(2).find(|w| w[0].table == w[1].table) {
        return Err(Error::invalid(format!(
            "table {} stands twice in one commit",
            twice[0].table
        )));
    }
    if sorted.len() > 1
        && sorted
            .iter()
            .any(|w| matches!(w.write, Write::Create { .. }))
    {
        return Err(Error::invalid("a table is created by a commit of its own"));
    }
    if request
        .batch
        .as_ref()
        .is_some_and(|b| b.is_empty() || b.len() > 256)
    {
        return Err(Error::invalid("a batch id has 1 to 256 bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::logical::is_blind;
    use arrow_array::{Int64Array, RecordBatch};
    use std::sync::Arc;

    fn append(tables: &[&str], id: Option<&str>, rows: i64) -> CommitRequest {
        let column: arrow_array::ArrayRef = Arc::new(Int64Array::from_iter_values(0..rows));
        let rows = RecordBatch::try_from_iter([("id", column)]).unwrap();
        let writes = tables.iter().map(|table| TableWrite {
            table: table.parse().unwrap(),
            write: Write::Append(vec![rows.clone()].into()),
        });
        let mut request = CommitRequest::new(writes.collect());
        request.batch = id.map(str::to_owned);
        request
    }

    #[test]
    fn appends_to_one_table_become_one_write_and_each_batch_keeps_its_name() {
        let mut requests = [
            append(&["b", "a"], Some("x"), 1),
            append(&["b"], None, 2),
            append(&["b"], Some("y"), 2),
        ];
        requests[1].message = "second".to_owned();
        let joined = Joined::of(&requests, "me").unwrap();
        let rows: Vec<_> = joined
            .writes
            .iter()
            .map(|w| (w.table.as_str(), w.write.rows()))
            .collect();
        assert_eq!(rows, [("a", 1), ("b", 5)]);
        assert!(is_blind(joined.reads, &joined.writes));
        let digests: Vec<bool> = joined.batches.iter().map(|b| b.digest.is_some()).collect();
        assert_eq!(digests, [true, false, true]);
        assert_eq!(joined.batches[1].message, "second");
        assert_eq!(joined.batches[1].actor, "me");
        let alone = Joined::of(&requests[2..], "me").unwrap();
        assert_eq!(alone.batches[0], joined.batches[2], "whoever it is with");
    }

    #[test]
    fn what_reads_stays_alone() {
        let mut reads = append(&["a"], None, 1);
        reads.reads.insert("b".parse().unwrap(), 1);
        let mut merges = append(&["a"], None, 1);
        merges.writes[0].write = Write::Delete {
            predicate: "true".to_owned(),
        };
        for other in [reads, merges, append(&["a"], Some("x"), 1)] {
            assert!(Joined::of(std::slice::from_ref(&other), "me").is_ok());
            let both = [append(&["a"], Some("x"), 1), other];
            assert!(Joined::of(&both, "me").is_err());
        }
        assert!(Joined::of(&[], "me").is_err());
    }
}
