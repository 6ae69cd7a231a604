//! The catalogue: one variant for each seam, with what is durable when it is reached.

/// The part of the protocol that a seam belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// A logical commit: stage, scan, sidecar, table commits.
    Write,
    /// The put of one version of one table or of the manifest.
    Commit,
    /// The compare-and-swap of the manifest.
    Publish,
    /// Recovery, helping and self-abort of one operation.
    Resolve,
    /// Compaction, reindexing and index building.
    Maintain,
    /// Drift repair.
    Repair,
    /// Removal of old versions.
    Cleanup,
    /// A reader's lease.
    Lease,
    /// Copying the commit log out of the manifest.
    Archive,
    /// The agent's spool.
    Agent,
}

macro_rules! seams {
    ($($variant:ident, $name:literal, $phase:ident, $durable:literal, $crash:literal;)*) => {
        /// A named point between two durable steps.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Seam {
            $(#[doc = concat!("`", $name, "`: ", $durable, ".")] $variant,)*
        }

        impl Seam {
            /// Every seam, in the order in which the protocol passes them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// `<area>.<step>`, as used in `FAILPOINTS`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// The part of the protocol it stands in.
            pub const fn phase(self) -> Phase {
                match self { $(Self::$variant => Phase::$phase,)* }
            }

            /// What is durable when the seam is reached.
            pub const fn durable(self) -> &'static str {
                match self { $(Self::$variant => $durable,)* }
            }

            /// What a crash here must lead to.
            pub const fn after_crash(self) -> &'static str {
                match self { $(Self::$variant => $crash,)* }
            }

            /// The seam of that name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|seam| seam.name() == name)
            }
        }
    };
}

seams! {
    WriteAfterStage, "write.after_stage", Write, "data files, referenced by nothing", "absent; the files fall to the 7-day rule";
    WriteAfterScan, "write.after_scan", Write, "data files, referenced by nothing", "absent; the files fall to the 7-day rule";
    SidecarBeforePut, "sidecar.before_put", Write, "data files, referenced by nothing", "absent";
    SidecarAfterPut, "sidecar.after_put", Write, "the sidecar", "aborted after the grace, content unchanged";
    WriteBeforeCommitTable, "write.before_commit_table", Write, "the sidecar and the tables before this one", "aborted; the landed tables are undone";
    CommitBeforePut, "commit.before_put", Commit, "all but this version", "as before this version";
    CommitAfterPut, "commit.after_put", Commit, "this version", "as after this version";
    WriteAfterCommitTable, "write.after_commit_table", Write, "this table's version", "aborted unless it was the last table";
    WriteAfterPhaseB, "write.after_phase_b", Write, "every table's version", "committed by whoever meets it";
    PublishAfterLoad, "publish.after_load", Publish, "every table's version", "committed by whoever meets it";
    PublishBeforeCommit, "publish.before_commit", Publish, "every table's version", "committed by whoever meets it";
    PublishAfterCommit, "publish.after_commit", Publish, "the manifest version", "committed";
    SidecarBeforeDelete, "sidecar.before_delete", Write, "the outcome, in the manifest", "the outcome stands; the sidecar is removed by the next pass";
    SidecarAfterDelete, "sidecar.after_delete", Write, "the outcome, and no sidecar", "the outcome stands";
    ResolveAfterLoad, "resolve.after_load", Resolve, "the sidecar", "the next resolver does it";
    ResolveBeforeForward, "resolve.before_forward", Resolve, "every table's version", "committed by the next resolver";
    ResolveBeforeDecide, "resolve.before_decide", Resolve, "the sidecar", "undecided; the next resolver decides";
    ResolveAfterDecide, "resolve.after_decide", Resolve, "the decision", "aborted; the next resolver undoes";
    ResolveBeforeUndo, "resolve.before_undo", Resolve, "the decision", "aborted; the next resolver undoes";
    ResolveAfterUndo, "resolve.after_undo", Resolve, "the undo version of one table", "aborted; the next resolver goes on";
    ResolveBeforeSettle, "resolve.before_settle", Resolve, "every undo version", "aborted; the next resolver settles";
    ResolveAfterSettle, "resolve.after_settle", Resolve, "the pins on the undo versions", "aborted; the sidecar is removed by the next pass";
    ResolveBeforeRemove, "resolve.before_remove", Resolve, "the decision, and the dataset of the aborted create", "aborted; the next resolver removes the dataset";
    MaintainBeforeCompact, "maintain.before_compact", Maintain, "the maintenance sidecar", "content unchanged; the sidecar is removed";
    MaintainAfterPlan, "maintain.after_plan", Maintain, "the maintenance sidecar", "content unchanged; the sidecar is removed";
    MaintainBeforeJournal, "maintain.before_journal", Maintain, "the maintenance sidecar, files named before", "content unchanged; the next pass reclaims the files";
    MaintainAfterJournal, "maintain.after_journal", Maintain, "the name of a file that is about to be written", "content unchanged; the next pass reclaims the files";
    MaintainAfterRewrite, "maintain.after_rewrite", Maintain, "rewritten files and their names", "content unchanged; the next pass reclaims the files";
    MaintainAfterCarry, "maintain.after_carry", Maintain, "rewritten files, indexes and deletion files, and their names", "content unchanged; the next pass reclaims the files";
    MaintainInjectConflict, "maintain.inject_conflict", Maintain, "the rewritten version", "the retry recognises its own HEAD";
    MaintainAfterCompact, "maintain.after_compact", Maintain, "the rewritten version", "the next pass publishes the prefix";
    MaintainAfterReindex, "maintain.after_reindex", Maintain, "the index version", "the next pass publishes the prefix";
    MaintainBeforePublish, "maintain.before_publish", Maintain, "the maintenance versions", "the next pass publishes the prefix";
    WorkerAfterRewrite, "worker.after_rewrite", Maintain, "rewritten files of one task and their names, and no result", "content unchanged; another worker executes the task, and the run reclaims the files";
    WorkerAfterResult, "worker.after_result", Maintain, "rewritten files of one task, their names, and its result", "the run commits the result";
    ReclaimBeforeFence, "reclaim.before_fence", Maintain, "the journal of a run without a sidecar", "the next pass reclaims the files";
    ReclaimBeforeDelete, "reclaim.before_delete", Maintain, "the fence and the journal", "the next pass reclaims the files";
    ClaimAfterPut, "claim.after_put", Maintain, "the claim of a daemon, and nothing of its work", "another daemon does the work when the claim has expired";
    ClaimBeforeRemove, "claim.before_remove", Maintain, "the work, and the claim", "another daemon works on the table when the claim has expired";
    RepairBeforePublish, "repair.before_publish", Repair, "the drift as it was", "nothing happened";
    RepairAfterRestore, "repair.after_restore", Repair, "the restored version above the drift", "still drift; a repeated repair finishes it";
    CleanupAfterPlan, "cleanup.after_plan", Cleanup, "nothing", "nothing happened";
    CleanupAfterFloor, "cleanup.after_floor", Cleanup, "the floors", "the next cleanup deletes below them";
    CleanupBeforeLease, "cleanup.before_lease", Cleanup, "the floors, and a lease that has expired", "the next cleanup gives the lease up and deletes below the floors";
    CleanupBeforeTable, "cleanup.before_table", Cleanup, "the floors", "the next cleanup goes on";
    CleanupAfterTable, "cleanup.after_table", Cleanup, "one table without its old versions", "the next cleanup goes on";
    LeaseBeforePut, "lease.before_put", Lease, "nothing, or the lease that is renewed", "nothing is held, or the old lease until its ttl has passed";
    LeaseAfterPut, "lease.after_put", Lease, "the lease, and the one that it renews", "cleanup spares the snapshot until the ttl has passed";
    LeaseBeforeDelete, "lease.before_delete", Lease, "the lease, of which nobody has need any more", "cleanup spares the snapshot until the ttl has passed";
    ArchiveAfterRead, "archive.after_read", Archive, "the log in the manifest", "the next pass archives it";
    ArchiveAfterAppend, "archive.after_append", Archive, "the rows of the commit log", "the next pass records the watermark";
    AgentWhileClaiming, "agent.while_claiming", Agent, "some entries of a group in their claim", "another agent resumes the claim, and claims the others";
    AgentAfterClaim, "agent.after_claim", Agent, "the claim", "another agent resumes it";
    AgentAfterCount, "agent.after_count", Agent, "the claim, with one more attempt that nobody has ended", "another agent resumes it, or rejects it when too many died";
    AgentWhileParting, "agent.while_parting", Agent, "some entries of a claim in a claim of their own", "another agent resumes both";
    AgentBeforeCommit, "agent.before_commit", Agent, "the claim, named by the operation", "another agent resumes it";
    AgentAfterCommit, "agent.after_commit", Agent, "the committed batch", "whoever resumes sees it committed and finishes the claim";
    AgentWhileFinishing, "agent.while_finishing", Agent, "the committed batches, some of them in done", "whoever resumes sees them committed and finishes the claim";
}

#[cfg(test)]
mod tests {
    use super::Seam;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_found_again() {
        let names: HashSet<_> = Seam::ALL.iter().map(|s| s.name()).collect();
        assert_eq!(names.len(), Seam::ALL.len());
        for seam in Seam::ALL {
            assert_eq!(Seam::from_name(seam.name()), Some(*seam));
        }
    }
}
