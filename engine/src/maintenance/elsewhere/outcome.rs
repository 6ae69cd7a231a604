//! What came of a task: one object for each, put once, whoever executed it and however often.
//!
//! A line of JSON, and behind it the addresses of the rows that were read, as Lance serialises them: a compressed bitmap.

use super::envelope::{Envelope, FORMAT, check_release, lance_release};
use crate::error::{Error, Result};
use crate::ids::OpId;
use lance::dataset::optimize::RewriteResult;
use serde::{Deserialize, Serialize};

/// What came of a task.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Outcome {
    /// The attempt that came first.
    pub(super) attempt: OpId,
    pub(super) made: Made,
}

/// What was made of its fragments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Made {
    /// Others, which can replace them.
    Rewritten(RewriteResult),
    /// Nothing that can replace them, and why.
    Unfit(String),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    format: u32,
    lance: String,
    run: OpId,
    task: u32,
    attempt: OpId,
    made: Made,
    /// Bytes of the addresses that follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    addresses: Option<u64>,
}

impl Outcome {
    /// As it stands on storage.
    ///
    /// # Errors
    /// `Internal` when it cannot be written down.
    pub(super) fn to_bytes(&self, of: &Envelope) -> Result<Vec<u8>> {
        let mut made = self.made.clone();
        let addresses = match &mut made {
            Made::Rewritten(result) => result.row_addrs.take(),
            Made::Unfit(_) => None,
        };
        let head = Head {
            format: FORMAT,
            lance: lance_release(),
            run: of.run,
            task: of.task,
            attempt: self.attempt,
            made,
            addresses: addresses.as_ref().map(|bytes| bytes.len() as u64),
        };
        let mut bytes = serde_json::to_vec(&head)
            .map_err(|e| Error::internal("encoding what came of a task").caused_by(e))?;
        bytes.push(b'\n');
        bytes.extend(addresses.into_iter().flatten());
        Ok(bytes)
    }

    /// Reads what came of the task of `of`.
    ///
    /// # Errors
    /// Those of [`Envelope::parse`]; `Internal` when it is damaged, or another task's.
    pub(super) fn parse(bytes: &[u8], of: &Envelope) -> Result<Self> {
        let what = "what came of a task";
        let damaged = || Error::internal(format!("{what} is damaged, or is another task's"));
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (line, rest) = bytes.split_at(end.ok_or_else(damaged)?);
        let rest = &rest[1..];
        check_release(line, what)?;
        let head: Head = serde_json::from_slice(line).map_err(|e| damaged().caused_by(e))?;
        let behind = head.addresses.unwrap_or(0);
        if head.run != of.run || head.task != of.task || behind != rest.len() as u64 {
            return Err(damaged());
        }
        let mut made = head.made;
        if let Made::Rewritten(result) = &mut made {
            let ids = result.original_fragments.iter().map(|f| f.id);
            if result.read_version != of.read_version || !ids.eq(of.work.fragments.iter().copied())
            {
                return Err(damaged());
            }
            result.row_addrs = head.addresses.map(|_| rest.to_vec());
        }
        Ok(Self {
            attempt: head.attempt,
            made,
        })
    }
}
