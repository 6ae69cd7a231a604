//! The data: each operation, each time that it passes a seam, and what must come of it there.
//!
//! `killed X`: what becomes of it when it is killed there, and, as far as it can be told, when it is stopped there and
//! others go on. `fails S X`: what it says when the step fails there once, and what becomes of it then. What each
//! word means stands at [`Fate`](crate::Fate) and [`Says`](crate::Says).

use crate::plain::PlainSubject;
use crate::stories::{fails_for_good, passes_its_seams, play};
use crate::{Action, Fate, LeftOut, Operation, Row, Says, Subject};

/// Makes the rows of one operation and a test for each of its cells.
macro_rules! operation {
    ($operation:ident of $subject:ident$(($plain:ident))? {
        $($row:ident: $seam:literal #$nth:literal killed $killed:ident, fails $says:ident $fate:ident;)*
    } $(left out { $($out_seam:literal #$out_nth:literal: $reason:literal;)* })?) => {
        pub mod $operation {
            use super::*;

            pub const OPERATION: Operation = Operation {
                name: stringify!($operation),
                subject: Subject::$subject$((PlainSubject::$plain))?,
                rows: &[$(Row {
                    seam: $seam,
                    nth: $nth,
                    killed: Fate::$killed,
                    failed: (Says::$says, Fate::$fate),
                }),*],
                left_out: &[$($(LeftOut { seam: $out_seam, nth: $out_nth, reason: $reason }),*)?],
            };

            #[derive(Clone, Copy)]
            #[expect(non_camel_case_types, reason = "the names of the tests")]
            enum At { $($row),* }

            async fn cell(action: Action, at: At) {
                play(&OPERATION, action, &OPERATION.rows[at as usize]).await;
            }

            #[tokio::test]
            async fn passes_the_seams_of_its_rows() {
                passes_its_seams(&OPERATION).await;
            }

            mod killed {
                $(#[tokio::test] async fn $row() {
                    super::cell(super::Action::Killed, super::At::$row).await;
                })*
            }

            mod stopped_while_others_commit {
                $(#[tokio::test] async fn $row() {
                    super::cell(super::Action::StoppedWhileOthersCommit, super::At::$row).await;
                })*
            }

            mod stopped_while_others_resolve {
                $(#[tokio::test] async fn $row() {
                    super::cell(super::Action::StoppedWhileOthersResolve, super::At::$row).await;
                })*
            }

            mod stopped_until_cleaned_up {
                $(#[tokio::test] async fn $row() {
                    super::cell(super::Action::StoppedUntilCleanedUp, super::At::$row).await;
                })*
            }

            mod failed {
                $(#[tokio::test] async fn $row() {
                    super::cell(super::Action::Failed, super::At::$row).await;
                })*
            }
        }
    };
}

/// Writes of one table: the second put is the manifest's.
macro_rules! one_table_writes {
    ($($operation:ident of $subject:ident;)*) => {$(
        operation! { $operation of $subject {
            write_after_stage_1: "write.after_stage" #1 killed Nothing, fails Failure Nothing;
            write_after_scan_1: "write.after_scan" #1 killed Nothing, fails Failure Nothing;
            sidecar_before_put_1: "sidecar.before_put" #1 killed Nothing, fails Failure Nothing;
            sidecar_after_put_1: "sidecar.after_put" #1 killed Dropped, fails Failure Nothing;
            write_before_commit_table_1: "write.before_commit_table" #1 killed Dropped, fails Failure Nothing;
            commit_before_put_1: "commit.before_put" #1 killed Dropped, fails Failure Nothing;
            commit_after_put_1: "commit.after_put" #1 killed Done, fails Success Done;
            write_after_commit_table_1: "write.after_commit_table" #1 killed Done, fails Success Done;
            write_after_phase_b_1: "write.after_phase_b" #1 killed Done, fails Success Done;
            publish_before_commit_1: "publish.before_commit" #1 killed Done, fails Success Done;
            commit_before_put_2: "commit.before_put" #2 killed Done, fails Success Done;
            commit_after_put_2: "commit.after_put" #2 killed Done, fails Success Done;
            publish_after_commit_1: "publish.after_commit" #1 killed Done, fails Success Done;
            sidecar_before_delete_1: "sidecar.before_delete" #1 killed Done, fails Success Done;
            sidecar_after_delete_1: "sidecar.after_delete" #1 killed Done, fails Success Done;
        } }
    )*};
}

one_table_writes! {
    append of Append;
    merge of Merge;
    delete of Delete;
    delete_by_key of DeleteByKey;
    overwrite of Overwrite;
    replace of Replace;
    create of Create;
    alter_add of AlterAdd;
    alter_drop of AlterDrop;
    alter_widen of AlterWiden;
    evolve of Evolve;
}

// One publish, and nothing beside it that others would have to finish. A failed put is tried again.
operation! { drop_table of Drop {
    publish_after_load_1: "publish.after_load" #1 killed Nothing, fails Failure Nothing;
    publish_before_commit_1: "publish.before_commit" #1 killed Nothing, fails Failure Nothing;
    commit_before_put_1: "commit.before_put" #1 killed Nothing, fails Success Done;
    commit_after_put_1: "commit.after_put" #1 killed Done, fails Success Done;
    publish_after_commit_1: "publish.after_commit" #1 killed Done, fails Failure Done;
} }

// Table a, table b, the manifest. Complete, and so committed by whoever meets it, as soon as b has landed.
operation! { two_tables of TwoTables {
    write_after_stage_1: "write.after_stage" #1 killed Nothing, fails Failure Nothing;
    write_after_scan_1: "write.after_scan" #1 killed Nothing, fails Failure Nothing;
    sidecar_before_put_1: "sidecar.before_put" #1 killed Nothing, fails Failure Nothing;
    sidecar_after_put_1: "sidecar.after_put" #1 killed Dropped, fails Failure Nothing;
    write_before_commit_table_1: "write.before_commit_table" #1 killed Dropped, fails Failure Nothing;
    commit_before_put_1: "commit.before_put" #1 killed Dropped, fails Failure Nothing;
    commit_after_put_1: "commit.after_put" #1 killed Dropped, fails Success Done;
    write_after_commit_table_1: "write.after_commit_table" #1 killed Dropped, fails Failure Nothing;
    write_before_commit_table_2: "write.before_commit_table" #2 killed Dropped, fails Failure Nothing;
    commit_before_put_2: "commit.before_put" #2 killed Dropped, fails Failure Nothing;
    commit_after_put_2: "commit.after_put" #2 killed Done, fails Success Done;
    write_after_commit_table_2: "write.after_commit_table" #2 killed Done, fails Success Done;
    write_after_phase_b_1: "write.after_phase_b" #1 killed Done, fails Success Done;
    publish_before_commit_1: "publish.before_commit" #1 killed Done, fails Success Done;
    commit_before_put_3: "commit.before_put" #3 killed Done, fails Success Done;
    commit_after_put_3: "commit.after_put" #3 killed Done, fails Success Done;
    publish_after_commit_1: "publish.after_commit" #1 killed Done, fails Success Done;
    sidecar_before_delete_1: "sidecar.before_delete" #1 killed Done, fails Success Done;
    sidecar_after_delete_1: "sidecar.after_delete" #1 killed Done, fails Success Done;
} }

// The decision, the undo of table a, the settled pin. A failed step is reported; a put that failed is tried again. What was
// decided is taken back by the same pass, which heals dead versions after the sidecars.
operation! { resolve_half of ResolveHalf {
    resolve_after_load_1: "resolve.after_load" #1 killed Dropped, fails Failure Dropped;
    resolve_before_decide_1: "resolve.before_decide" #1 killed Dropped, fails Failure Dropped;
    publish_before_commit_1: "publish.before_commit" #1 killed Dropped, fails Failure Dropped;
    commit_before_put_1: "commit.before_put" #1 killed Dropped, fails Success Nothing;
    commit_after_put_1: "commit.after_put" #1 killed Dropped, fails Success Nothing;
    publish_after_commit_1: "publish.after_commit" #1 killed Dropped, fails Failure Nothing;
    resolve_after_decide_1: "resolve.after_decide" #1 killed Dropped, fails Failure Nothing;
    resolve_after_load_2: "resolve.after_load" #2 killed Dropped, fails Failure Nothing;
    resolve_before_undo_1: "resolve.before_undo" #1 killed Dropped, fails Failure Nothing;
    commit_before_put_2: "commit.before_put" #2 killed Dropped, fails Success Nothing;
    commit_after_put_2: "commit.after_put" #2 killed Dropped, fails Success Nothing;
    resolve_after_undo_1: "resolve.after_undo" #1 killed Dropped, fails Failure Nothing;
    resolve_after_load_3: "resolve.after_load" #3 killed Dropped, fails Failure Nothing;
    resolve_before_settle_1: "resolve.before_settle" #1 killed Dropped, fails Failure Nothing;
    publish_before_commit_2: "publish.before_commit" #2 killed Dropped, fails Failure Nothing;
    commit_before_put_3: "commit.before_put" #3 killed Dropped, fails Success Nothing;
    commit_after_put_3: "commit.after_put" #3 killed Dropped, fails Success Nothing;
    publish_after_commit_2: "publish.after_commit" #2 killed Dropped, fails Failure Dropped;
    resolve_after_settle_1: "resolve.after_settle" #1 killed Dropped, fails Failure Dropped;
    resolve_after_load_4: "resolve.after_load" #4 killed Dropped, fails Failure Dropped;
    sidecar_before_delete_1: "sidecar.before_delete" #1 killed Dropped, fails Success Dropped;
    sidecar_after_delete_1: "sidecar.after_delete" #1 killed Nothing, fails Success Nothing;
} }

operation! { resolve_complete of ResolveComplete {
    resolve_after_load_1: "resolve.after_load" #1 killed Done, fails Failure Done;
    resolve_before_forward_1: "resolve.before_forward" #1 killed Done, fails Failure Done;
    publish_before_commit_1: "publish.before_commit" #1 killed Done, fails Failure Done;
    commit_before_put_1: "commit.before_put" #1 killed Done, fails Success Done;
    commit_after_put_1: "commit.after_put" #1 killed Done, fails Success Done;
    publish_after_commit_1: "publish.after_commit" #1 killed Done, fails Failure Done;
    resolve_after_load_2: "resolve.after_load" #2 killed Done, fails Failure Done;
    sidecar_before_delete_1: "sidecar.before_delete" #1 killed Done, fails Success Done;
    sidecar_after_delete_1: "sidecar.after_delete" #1 killed Done, fails Success Done;
} }

// A create that landed after it had been aborted has no sidecar left: the decision says where its dataset is.
operation! { resolve_create of ResolveCreate {
    resolve_before_remove_1: "resolve.before_remove" #1 killed Done, fails Failure Done;
} }

// The fence, the manifest. Whoever comes next reclaims what is left.
operation! { reclaim of Reclaim {
    publish_after_load_1: "publish.after_load" #1 killed Done, fails Failure Done;
    sidecar_before_delete_1: "sidecar.before_delete" #1 killed Done, fails Success Done;
    sidecar_after_delete_1: "sidecar.after_delete" #1 killed Done, fails Success Done;
    reclaim_before_fence_1: "reclaim.before_fence" #1 killed Done, fails Failure Done;
    commit_before_put_1: "commit.before_put" #1 killed Done, fails Failure Done;
    commit_after_put_1: "commit.after_put" #1 killed Done, fails Success Done;
    reclaim_before_delete_1: "reclaim.before_delete" #1 killed Done, fails Failure Done;
    publish_after_load_2: "publish.after_load" #2 killed Done, fails Failure Done;
    maintain_before_publish_1: "maintain.before_publish" #1 killed Done, fails Failure Done;
    publish_before_commit_1: "publish.before_commit" #1 killed Done, fails Failure Done;
    commit_before_put_2: "commit.before_put" #2 killed Done, fails Success Done;
    commit_after_put_2: "commit.after_put" #2 killed Done, fails Success Done;
    publish_after_commit_1: "publish.after_commit" #1 killed Done, fails Failure Done;
} }

// Rewrite, the manifest. What was rewritten is published even when a later step fails.
operation! { compact of Compact {
    sidecar_before_put_1: "sidecar.before_put" #1 killed Nothing, fails Failure Nothing;
    sidecar_after_put_1: "sidecar.after_put" #1 killed Dropped, fails Failure Nothing;
    maintain_before_compact_1: "maintain.before_compact" #1 killed Dropped, fails Failure Nothing;
    maintain_after_plan_1: "maintain.after_plan" #1 killed Dropped, fails Failure Nothing;
    maintain_before_journal_1: "maintain.before_journal" #1 killed Dropped, fails Failure Nothing;
    maintain_after_journal_1: "maintain.after_journal" #1 killed Dropped, fails Failure Nothing;
    maintain_after_rewrite_1: "maintain.after_rewrite" #1 killed Dropped, fails Failure Nothing;
    commit_before_put_1: "commit.before_put" #1 killed Dropped, fails Failure Nothing;
    commit_after_put_1: "commit.after_put" #1 killed Done, fails Success Done;
    maintain_after_compact_1: "maintain.after_compact" #1 killed Done, fails Failure Done;
    publish_after_load_1: "publish.after_load" #1 killed Done, fails Failure Done;
    maintain_before_publish_1: "maintain.before_publish" #1 killed Done, fails Failure Done;
    publish_before_commit_1: "publish.before_commit" #1 killed Done, fails Failure Done;
    commit_before_put_2: "commit.before_put" #2 killed Done, fails Success Done;
    commit_after_put_2: "commit.after_put" #2 killed Done, fails Success Done;
    publish_after_commit_1: "publish.after_commit" #1 killed Done, fails Failure Done;
    sidecar_before_delete_1: "sidecar.before_delete" #1 killed Done, fails Success Done;
    sidecar_after_delete_1: "sidecar.after_delete" #1 killed Done, fails Success Done;
} left out {
    "maintain.inject_conflict" #1: "it can only report a conflict, and does in races::maintenance";
} }

// The same when others change and delete rows under the rewrite: it has deletion files.
operation! { carry of Carry {
    maintain_before_journal_2: "maintain.before_journal" #2 killed Dropped, fails Failure Nothing;
    maintain_after_journal_2: "maintain.after_journal" #2 killed Dropped, fails Failure Nothing;
    maintain_after_carry_1: "maintain.after_carry" #1 killed Dropped, fails Failure Nothing;
    commit_before_put_1: "commit.before_put" #1 killed Dropped, fails Failure Nothing;
    commit_after_put_1: "commit.after_put" #1 killed Done, fails Success Done;
    maintain_after_compact_1: "maintain.after_compact" #1 killed Done, fails Failure Done;
    publish_after_load_1: "publish.after_load" #1 killed Done, fails Failure Done;
    maintain_before_publish_1: "maintain.before_publish" #1 killed Done, fails Failure Done;
    publish_before_commit_1: "publish.before_commit" #1 killed Done, fails Failure Done;
    commit_before_put_2: "commit.before_put" #2 killed Done, fails Success Done;
    commit_after_put_2: "commit.after_put" #2 killed Done, fails Success Done;
    publish_after_commit_1: "publish.after_commit" #1 killed Done, fails Failure Done;
    sidecar_before_delete_1: "sidecar.before_delete" #1 killed Done, fails Success Done;
    sidecar_after_delete_1: "sidecar.after_delete" #1 killed Done, fails Success Done;
} left out {
    "sidecar.before_put" #1: "nothing was rewritten before: compact has it";
    "sidecar.after_put" #1: "nothing was rewritten before: compact has it";
    "maintain.before_compact" #1: "nothing was rewritten before: compact has it";
    "maintain.after_plan" #1: "nothing was rewritten before: compact has it";
    "maintain.before_journal" #1: "nothing was rewritten before: compact has it";
    "maintain.after_journal" #1: "nothing was rewritten before: compact has it";
    "maintain.after_rewrite" #1: "it stops there, for others to write: compact has it";
    "maintain.inject_conflict" #1: "it can only report a conflict, and does in races::maintenance";
} }

// The index, the manifest. An index that cannot be built or extended is the run's failure.
operation! { reindex of Reindex {
    sidecar_before_put_1: "sidecar.before_put" #1 killed Nothing, fails Failure Nothing;
    sidecar_after_put_1: "sidecar.after_put" #1 killed Dropped, fails Failure Nothing;
    maintain_before_journal_1: "maintain.before_journal" #1 killed Dropped, fails Failure Nothing;
    maintain_after_journal_1: "maintain.after_journal" #1 killed Dropped, fails Failure Nothing;
    commit_before_put_1: "commit.before_put" #1 killed Dropped, fails Failure Nothing;
    commit_after_put_1: "commit.after_put" #1 killed Done, fails Success Done;
    maintain_after_reindex_1: "maintain.after_reindex" #1 killed Done, fails Failure Done;
    publish_after_load_1: "publish.after_load" #1 killed Done, fails Failure Done;
    maintain_before_publish_1: "maintain.before_publish" #1 killed Done, fails Failure Done;
    publish_before_commit_1: "publish.before_commit" #1 killed Done, fails Failure Done;
    commit_before_put_2: "commit.before_put" #2 killed Done, fails Success Done;
    commit_after_put_2: "commit.after_put" #2 killed Done, fails Success Done;
    publish_after_commit_1: "publish.after_commit" #1 killed Done, fails Failure Done;
    sidecar_before_delete_1: "sidecar.before_delete" #1 killed Done, fails Success Done;
    sidecar_after_delete_1: "sidecar.after_delete" #1 killed Done, fails Success Done;
} }

// The same on plain tables: nothing is published, and no failure after the last commit is the run's.
operation! { plain_compact of Plain(Compact) {
    sidecar_before_put_1: "sidecar.before_put" #1 killed Nothing, fails Failure Nothing;
    sidecar_after_put_1: "sidecar.after_put" #1 killed Dropped, fails Failure Nothing;
    maintain_before_compact_1: "maintain.before_compact" #1 killed Dropped, fails Failure Nothing;
    maintain_after_plan_1: "maintain.after_plan" #1 killed Dropped, fails Failure Nothing;
    maintain_before_journal_1: "maintain.before_journal" #1 killed Dropped, fails Failure Nothing;
    maintain_after_journal_1: "maintain.after_journal" #1 killed Dropped, fails Failure Nothing;
    maintain_after_rewrite_1: "maintain.after_rewrite" #1 killed Dropped, fails Failure Nothing;
    commit_before_put_1: "commit.before_put" #1 killed Dropped, fails Failure Nothing;
    commit_after_put_1: "commit.after_put" #1 killed Done, fails Success Done;
    maintain_after_compact_1: "maintain.after_compact" #1 killed Done, fails Failure Done;
    sidecar_before_delete_1: "sidecar.before_delete" #1 killed Done, fails Success Done;
    sidecar_after_delete_1: "sidecar.after_delete" #1 killed Done, fails Success Done;
} left out {
    "maintain.inject_conflict" #1: "it can only report a conflict, and does in races::maintenance";
} }

// The same again: an index follows once.
operation! { plain_carry of Plain(Carry) {
    maintain_before_journal_2: "maintain.before_journal" #2 killed Dropped, fails Failure Nothing;
    maintain_after_journal_2: "maintain.after_journal" #2 killed Dropped, fails Failure Nothing;
    maintain_before_journal_3: "maintain.before_journal" #3 killed Dropped, fails Failure Nothing;
    maintain_after_journal_3: "maintain.after_journal" #3 killed Dropped, fails Failure Nothing;
    maintain_after_carry_1: "maintain.after_carry" #1 killed Dropped, fails Failure Nothing;
    commit_before_put_1: "commit.before_put" #1 killed Dropped, fails Failure Nothing;
    commit_after_put_1: "commit.after_put" #1 killed Done, fails Success Done;
    maintain_after_compact_1: "maintain.after_compact" #1 killed Done, fails Failure Done;
    sidecar_before_delete_1: "sidecar.before_delete" #1 killed Done, fails Success Done;
    sidecar_after_delete_1: "sidecar.after_delete" #1 killed Done, fails Success Done;
} left out {
    "sidecar.before_put" #1: "nothing was rewritten before: plain_compact has it";
    "sidecar.after_put" #1: "nothing was rewritten before: plain_compact has it";
    "maintain.before_compact" #1: "nothing was rewritten before: plain_compact has it";
    "maintain.after_plan" #1: "nothing was rewritten before: plain_compact has it";
    "maintain.before_journal" #1: "nothing was rewritten before: plain_compact has it";
    "maintain.after_journal" #1: "nothing was rewritten before: plain_compact has it";
    "maintain.after_rewrite" #1: "it stops there, for others to write: plain_compact has it";
    "maintain.inject_conflict" #1: "it can only report a conflict, and does in races::maintenance";
} }

operation! { plain_reindex of Plain(Reindex) {
    sidecar_before_put_1: "sidecar.before_put" #1 killed Nothing, fails Failure Nothing;
    sidecar_after_put_1: "sidecar.after_put" #1 killed Dropped, fails Failure Nothing;
    maintain_before_journal_1: "maintain.before_journal" #1 killed Dropped, fails Failure Nothing;
    maintain_after_journal_1: "maintain.after_journal" #1 killed Dropped, fails Failure Nothing;
    commit_before_put_1: "commit.before_put" #1 killed Dropped, fails Failure Nothing;
    commit_after_put_1: "commit.after_put" #1 killed Done, fails Success Done;
    maintain_after_reindex_1: "maintain.after_reindex" #1 killed Done, fails Failure Done;
    sidecar_before_delete_1: "sidecar.before_delete" #1 killed Done, fails Success Done;
    sidecar_after_delete_1: "sidecar.after_delete" #1 killed Done, fails Success Done;
} }

// Whoever comes next reclaims what is left.
operation! { plain_reclaim of Plain(Reclaim) {
    sidecar_before_delete_1: "sidecar.before_delete" #1 killed Done, fails Failure Done;
    sidecar_after_delete_1: "sidecar.after_delete" #1 killed Done, fails Failure Done;
    reclaim_before_fence_1: "reclaim.before_fence" #1 killed Done, fails Failure Done;
    commit_before_put_1: "commit.before_put" #1 killed Done, fails Failure Done;
    commit_after_put_1: "commit.after_put" #1 killed Done, fails Success Done;
    reclaim_before_delete_1: "reclaim.before_delete" #1 killed Done, fails Failure Done;
} }

// Its effect is that the floors stand; what is below them goes now or with the next cleanup. The puts: the first rows of
// the commit log, its watermark, the floors.
operation! { cleanup of Cleanup {
    cleanup_after_plan_1: "cleanup.after_plan" #1 killed Nothing, fails Failure Nothing;
    archive_after_read_1: "archive.after_read" #1 killed Nothing, fails Failure Nothing;
    commit_before_put_1: "commit.before_put" #1 killed Nothing, fails Failure Nothing;
    commit_after_put_1: "commit.after_put" #1 killed Nothing, fails Success Done;
    archive_after_append_1: "archive.after_append" #1 killed Nothing, fails Failure Nothing;
    publish_after_load_1: "publish.after_load" #1 killed Nothing, fails Failure Nothing;
    publish_before_commit_1: "publish.before_commit" #1 killed Nothing, fails Failure Nothing;
    commit_before_put_2: "commit.before_put" #2 killed Nothing, fails Success Done;
    commit_after_put_2: "commit.after_put" #2 killed Nothing, fails Success Done;
    publish_after_commit_1: "publish.after_commit" #1 killed Nothing, fails Failure Nothing;
    publish_after_load_2: "publish.after_load" #2 killed Nothing, fails Failure Nothing;
    publish_before_commit_2: "publish.before_commit" #2 killed Nothing, fails Failure Nothing;
    commit_before_put_3: "commit.before_put" #3 killed Nothing, fails Success Done;
    commit_after_put_3: "commit.after_put" #3 killed Done, fails Success Done;
    publish_after_commit_2: "publish.after_commit" #2 killed Done, fails Failure Done;
    cleanup_after_floor_1: "cleanup.after_floor" #1 killed Done, fails Failure Done;
    cleanup_before_table_1: "cleanup.before_table" #1 killed Done, fails Failure Done;
    cleanup_after_table_1: "cleanup.after_table" #1 killed Done, fails Failure Done;
    cleanup_before_table_2: "cleanup.before_table" #2 killed Done, fails Failure Done;
    cleanup_after_table_2: "cleanup.after_table" #2 killed Done, fails Failure Done;
} }

// An external compaction is published by the next daemon pass anyway.
operation! { repair_publish of RepairPublish {
    repair_before_publish_1: "repair.before_publish" #1 killed Done, fails Failure Done;
    publish_before_commit_1: "publish.before_commit" #1 killed Done, fails Failure Done;
    commit_before_put_1: "commit.before_put" #1 killed Done, fails Failure Done;
    commit_after_put_1: "commit.after_put" #1 killed Done, fails Success Done;
    publish_after_commit_1: "publish.after_commit" #1 killed Done, fails Failure Done;
} }

// No daemon decides about external rows: until the publish they stay drift, and a repetition finishes it.
operation! { repair_force of RepairForce {
    repair_before_publish_1: "repair.before_publish" #1 killed Nothing, fails Failure Nothing;
    publish_before_commit_1: "publish.before_commit" #1 killed Nothing, fails Failure Nothing;
    commit_before_put_1: "commit.before_put" #1 killed Nothing, fails Failure Nothing;
    commit_after_put_1: "commit.after_put" #1 killed Done, fails Success Done;
    publish_after_commit_1: "publish.after_commit" #1 killed Done, fails Failure Done;
} }

// The restore above the external rows, the manifest.
operation! { repair_discard of RepairDiscard {
    commit_before_put_1: "commit.before_put" #1 killed Nothing, fails Failure Nothing;
    commit_after_put_1: "commit.after_put" #1 killed Nothing, fails Success Done;
    repair_after_restore_1: "repair.after_restore" #1 killed Nothing, fails Failure Nothing;
    repair_before_publish_1: "repair.before_publish" #1 killed Nothing, fails Failure Nothing;
    publish_before_commit_1: "publish.before_commit" #1 killed Nothing, fails Failure Nothing;
    commit_before_put_2: "commit.before_put" #2 killed Nothing, fails Failure Nothing;
    commit_after_put_2: "commit.after_put" #2 killed Done, fails Success Done;
    publish_after_commit_1: "publish.after_commit" #1 killed Done, fails Failure Done;
} }

// A pass of the daemon that finds a half commit to abort and a table to compact, and archives in between. Rows are changed by
// neither, so a fate says only what is left behind. What recovery or maintenance fails at is the pass's failure.
operation! { daemon_pass of DaemonPass {
    resolve_after_load_1: "resolve.after_load" #1 killed Dropped, fails Failure Dropped;
    resolve_before_decide_1: "resolve.before_decide" #1 killed Dropped, fails Failure Dropped;
    publish_before_commit_1: "publish.before_commit" #1 killed Dropped, fails Failure Dropped;
    commit_before_put_1: "commit.before_put" #1 killed Dropped, fails Success Nothing;
    commit_after_put_1: "commit.after_put" #1 killed Dropped, fails Success Nothing;
    publish_after_commit_1: "publish.after_commit" #1 killed Dropped, fails Failure Nothing;
    resolve_after_decide_1: "resolve.after_decide" #1 killed Dropped, fails Failure Nothing;
    resolve_after_load_2: "resolve.after_load" #2 killed Dropped, fails Failure Nothing;
    resolve_before_undo_1: "resolve.before_undo" #1 killed Dropped, fails Failure Nothing;
    commit_before_put_2: "commit.before_put" #2 killed Dropped, fails Success Nothing;
    commit_after_put_2: "commit.after_put" #2 killed Dropped, fails Success Nothing;
    resolve_after_undo_1: "resolve.after_undo" #1 killed Dropped, fails Failure Nothing;
    resolve_after_load_3: "resolve.after_load" #3 killed Dropped, fails Failure Nothing;
    resolve_before_settle_1: "resolve.before_settle" #1 killed Dropped, fails Failure Nothing;
    publish_before_commit_2: "publish.before_commit" #2 killed Dropped, fails Failure Nothing;
    commit_before_put_3: "commit.before_put" #3 killed Dropped, fails Success Nothing;
    commit_after_put_3: "commit.after_put" #3 killed Dropped, fails Success Nothing;
    publish_after_commit_2: "publish.after_commit" #2 killed Dropped, fails Failure Dropped;
    resolve_after_settle_1: "resolve.after_settle" #1 killed Dropped, fails Failure Dropped;
    resolve_after_load_4: "resolve.after_load" #4 killed Dropped, fails Failure Dropped;
    sidecar_before_delete_1: "sidecar.before_delete" #1 killed Dropped, fails Success Dropped;
    sidecar_after_delete_1: "sidecar.after_delete" #1 killed Nothing, fails Success Nothing;
    cleanup_after_plan_1: "cleanup.after_plan" #1 killed Nothing, fails Failure Nothing;
    archive_after_read_1: "archive.after_read" #1 killed Nothing, fails Failure Nothing;
    commit_before_put_4: "commit.before_put" #4 killed Nothing, fails Failure Nothing;
    commit_after_put_4: "commit.after_put" #4 killed Nothing, fails Success Nothing;
    archive_after_append_1: "archive.after_append" #1 killed Nothing, fails Failure Nothing;
    publish_after_load_1: "publish.after_load" #1 killed Nothing, fails Failure Nothing;
    publish_before_commit_3: "publish.before_commit" #3 killed Nothing, fails Failure Nothing;
    commit_before_put_5: "commit.before_put" #5 killed Nothing, fails Success Nothing;
    commit_after_put_5: "commit.after_put" #5 killed Nothing, fails Success Nothing;
    publish_after_commit_3: "publish.after_commit" #3 killed Nothing, fails Failure Nothing;
    publish_after_load_2: "publish.after_load" #2 killed Nothing, fails Failure Nothing;
    cleanup_after_floor_1: "cleanup.after_floor" #1 killed Nothing, fails Failure Nothing;
    sidecar_before_put_1: "sidecar.before_put" #1 killed Nothing, fails Failure Nothing;
    sidecar_after_put_1: "sidecar.after_put" #1 killed Dropped, fails Failure Nothing;
    maintain_before_compact_1: "maintain.before_compact" #1 killed Dropped, fails Failure Nothing;
    maintain_after_plan_1: "maintain.after_plan" #1 killed Dropped, fails Failure Nothing;
    maintain_before_journal_1: "maintain.before_journal" #1 killed Dropped, fails Failure Nothing;
    maintain_after_journal_1: "maintain.after_journal" #1 killed Dropped, fails Failure Nothing;
    maintain_after_rewrite_1: "maintain.after_rewrite" #1 killed Dropped, fails Failure Nothing;
    commit_before_put_6: "commit.before_put" #6 killed Dropped, fails Failure Nothing;
    commit_after_put_6: "commit.after_put" #6 killed Dropped, fails Success Nothing;
    maintain_after_compact_1: "maintain.after_compact" #1 killed Dropped, fails Failure Nothing;
    publish_after_load_3: "publish.after_load" #3 killed Dropped, fails Failure Dropped;
    maintain_before_publish_1: "maintain.before_publish" #1 killed Dropped, fails Failure Dropped;
    publish_before_commit_4: "publish.before_commit" #4 killed Dropped, fails Failure Dropped;
    commit_before_put_7: "commit.before_put" #7 killed Dropped, fails Success Nothing;
    commit_after_put_7: "commit.after_put" #7 killed Dropped, fails Success Nothing;
    publish_after_commit_4: "publish.after_commit" #4 killed Dropped, fails Failure Dropped;
    sidecar_before_delete_2: "sidecar.before_delete" #2 killed Dropped, fails Success Dropped;
    sidecar_after_delete_2: "sidecar.after_delete" #2 killed Nothing, fails Success Nothing;
} left out {
    "maintain.inject_conflict" #1: "it can only report a conflict, and does in races::maintenance";
} }

/// Two-table commits whose step never works again in their process. Not for the puts themselves: a store that takes no more
/// versions is tried again for half a minute.
mod two_tables_fail_for_good {
    use super::{Subject, fails_for_good};

    macro_rules! failures {
        ($($test:ident: $failpoints:literal;)*) => {$(
            #[tokio::test]
            async fn $test() {
                fails_for_good(Subject::TwoTables, $failpoints).await;
            }
        )*};
    }

    failures! {
        sidecar_after_put: "sidecar.after_put=return(error)";
        sidecar_after_put_and_before_delete: "sidecar.after_put=return(error);sidecar.before_delete=return(error)";
        write_after_commit_table: "write.after_commit_table=return(error)";
        publish_before_commit: "publish.before_commit=return(error)";
        publish_after_commit: "publish.after_commit=return(error)";
        resolve_after_load_when_a_table_failed: "write.before_commit_table=1*off->1*return(error);resolve.after_load=return(error)";
        resolve_before_settle_when_a_table_failed: "write.before_commit_table=1*off->1*return(error);resolve.before_settle=return(error)";
    }
}
