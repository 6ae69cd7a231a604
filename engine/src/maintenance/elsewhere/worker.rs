//! What a worker does with an envelope.
//!
//! 1. It looks whether the run's record stands, and whether the task has a result already: then there is nothing to do.
//! 2. It opens the table at the version that is to be rewritten, and makes sure that it is that table.
//! 3. It rewrites and reads back, as the run itself would. Each file is named in the run's journal before its first byte.
//! 4. It puts the result, unless another attempt has put one: then its own files belong to nobody, and the run reclaims them.
//! 5. Once more it looks whether the record stands. Where it does not, whoever ended the run may have looked for files before
//!    the last was finished: they are named again, for the next recovery pass. It lands nothing, and says so.

use super::envelope::Envelope;
use super::outcome::{Made, Outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::ids::OpId;
use crate::journal::Journal;
use crate::maintenance::rewrite::Rewriter;
use crate::oversight::Oversight;
use crate::store::{SlotChoice, Store, fragment_bytes, transaction_id};
use lance::Dataset;
use object_store::ObjectStoreExt;
use serde::Serialize;
use squire_failpoints::{Seam, hit};
use std::sync::Arc;

/// What a worker did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Executed {
    /// `rewritten`, `unfit`, or `done before`: another attempt came first.
    pub outcome: &'static str,
    /// The attempt whose result counts.
    pub attempt: OpId,
    /// Why nothing was made of it, if it is unfit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Fragments that were read.
    pub fragments_read: usize,
    /// Fragments that were written.
    pub fragments_written: usize,
    /// Bytes of those.
    pub bytes_written: u64,
}

impl Executed {
    fn of(outcome: &Outcome, is_own: bool) -> Self {
        let (fragments_read, written, why) = match &outcome.made {
            Made::Rewritten(result) => (
                result.original_fragments.len(),
                result.new_fragments.as_slice(),
                None,
            ),
            Made::Unfit(why) => (0, Default::default(), Some(why.clone())),
        };
        Self {
            outcome: match (is_own, &why) {
                (false, _) => "done before",
                (true, None) => "rewritten",
                (true, Some(_)) => "unfit",
            },
            attempt: outcome.attempt,
            why,
            fragments_read,
            fragments_written: written.len(),
            bytes_written: written.iter().map(fragment_bytes).sum(),
        }
    }
}

fn another_table(envelope: &Envelope) -> Error {
    let (path, version) = (&envelope.path, envelope.read_version);
    let gone = format!(
        "version {version} of {path} is gone, or another table stands there; nothing is written"
    );
    Error::new(ErrorKind::Refused, gone)
}

impl Store {
    /// Executes the task of `envelope`, whose location this is. It commits nothing.
    ///
    /// # Errors
    /// `Refused` when the run has ended or was taken for dead, when the table is another one, and when this is another location;
    /// those of the storage.
    pub async fn execute_task(
        &self,
        envelope: &Envelope,
        oversight: &Oversight,
    ) -> Result<Executed> {
        if self.uri() != envelope.location {
            let why = format!("the task is of {}", envelope.location);
            return Err(Error::new(ErrorKind::Refused, why));
        }
        let records = self.records_of(envelope.records);
        let journal = self.workers_journal(
            envelope.attempt,
            envelope.run,
            envelope.run_table(),
            records.clone(),
        );
        journal.check_run().await?;
        if let Some(before) = records.result_of(envelope.run, envelope.task).await? {
            return Ok(Executed::of(&Outcome::parse(&before, envelope)?, false));
        }
        let done = tokio::select! {
            done = self.execute_named(envelope, &journal, oversight) => done,
            never = journal.beat(self.clock()) => match never {},
        };
        // Whatever came of it: what was written is nobody's once the record is gone.
        if let Err(ended) = journal.check_run().await {
            if ended.kind() == ErrorKind::Refused {
                journal.name_again().await?;
            }
            return Err(ended);
        }
        done
    }

    async fn execute_named(
        &self,
        envelope: &Envelope,
        journal: &Arc<Journal>,
        oversight: &Oversight,
    ) -> Result<Executed> {
        let read = self.open_to_rewrite(envelope).await?;
        let handle = self.journalled_handle(&read, journal, oversight);
        let rewriter = Rewriter {
            store: self,
            oversight,
            options: &envelope.options,
            verify: envelope.verify,
        };
        let rewritten = tokio::select! {
            biased;
            () = oversight.cancelled() => {
                return Err(Error::new(ErrorKind::Cancelled, "cancelled"));
            }
            rewritten = rewriter.rewrite(&handle, &envelope.work) => rewritten,
        };
        let made = match rewritten {
            Ok(result) => Made::Rewritten(result),
            Err(e) if e.kind() == ErrorKind::Unfit => Made::Unfit(e.to_string()),
            Err(e) => return Err(e),
        };
        let outcome = Outcome {
            attempt: envelope.attempt,
            made,
        };
        hit(Seam::WorkerAfterRewrite)?;
        journal.check_run().await?;
        let records = self.records_of(envelope.records);
        let bytes = outcome.to_bytes(envelope)?;
        let is_first = records
            .put_result(envelope.run, envelope.task, bytes)
            .await?;
        hit(Seam::WorkerAfterResult)?;
        if is_first {
            return Ok(Executed::of(&outcome, true));
        }
        match records.result_of(envelope.run, envelope.task).await? {
            Some(first) => Ok(Executed::of(&Outcome::parse(&first, envelope)?, false)),
            None => {
                let taken = "what came of the task was taken away meanwhile";
                Err(Error::new(ErrorKind::Refused, taken))
            }
        }
    }

    /// The table at the version that is to be rewritten, through a handle by which nothing can be committed.
    async fn open_to_rewrite(&self, envelope: &Envelope) -> Result<Dataset> {
        let guard = self.guard().at_chosen(SlotChoice::default());
        let opened = self
            .builder(&envelope.path)
            .with_commit_handler(Arc::new(guard))
            .with_version(envelope.read_version)
            .load()
            .await;
        let read = match opened {
            Ok(read) => read,
            Err(
                lance::Error::NotFound { .. }
                | lance::Error::DatasetNotFound { .. }
                | lance::Error::VersionNotFound { .. },
            ) => return Err(another_table(envelope)),
            Err(e) => return Err(Error::from(e).of_what_stands()),
        };
        let manifest = &read.manifest_location().path;
        let e_tag = self.objects.inner.head(manifest).await?.e_tag;
        // Where a storage tells none, the transaction alone does.
        let is_same = match (&envelope.e_tag, &e_tag) {
            (Some(was), Some(is)) => was == is,
            _ => true,
        };
        if !is_same || transaction_id(read.manifest()) != envelope.transaction {
            return Err(another_table(envelope));
        }
        let ids = read.manifest().fragments.iter().map(|f| f.id);
        let ids: std::collections::HashSet<u64> = ids.collect();
        match envelope.work.fragments.iter().all(|id| ids.contains(id)) {
            true => Ok(read),
            false => Err(another_table(envelope)),
        }
    }
}
