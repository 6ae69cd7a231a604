//! The guards of the protocol: what each one prevents, and the test that goes red without it.
//!
//! In a build with the `failpoints` feature `SQUIRE_WITHOUT=<name>` leaves one guard out. That is how the tests show
//! that each guard is needed: the test that the catalogue names passes, and fails in a process without the guard.

macro_rules! guards {
    ($($variant:ident, $name:literal, $without:literal, $seen_by:literal;)*) => {
        /// A check without which the protocol breaks.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Guard {
            $(#[doc = concat!("Without it: ", $without, ".")] $variant,)*
        }

        impl Guard {
            /// Every guard.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// Its name in `SQUIRE_WITHOUT`.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// What goes wrong without it.
            pub const fn without(self) -> &'static str {
                match self { $(Self::$variant => $without,)* }
            }

            /// The test that fails without it, as `<test binary>::<path>`.
            pub const fn seen_by(self) -> &'static str {
                match self { $(Self::$variant => $seen_by,)* }
            }
        }
    };
}

guards! {
    Slot, "slot", "a commit lands on versions that it never saw", "crash_matrix::guards::a_lost_slot_is_not_rebased";
    Contiguity, "contiguity", "a handle older than a cleanup brings deleted rows back", "crash_matrix::guards::a_run_behind_a_cleanup_is_refused";
    CleanBase, "clean_base", "a commit stands on another operation's undecided version", "crash_matrix::guards::an_undecided_version_is_not_built_on";
    CleanPrefix, "clean_prefix", "maintenance publishes half of a multi-table commit", "crash_matrix::guards::maintenance_does_not_publish_half_a_commit";
    Sidecar, "sidecar", "nobody can finish or take back what a dead writer left", "crash_matrix::guards::a_dead_writer_leaves_a_sidecar";
    DecideFirst, "decide_first", "an undo tears an operation that still commits", "crash_matrix::guards::nothing_is_undone_before_the_decision";
    Decision, "decision", "an aborted operation is published", "crash_matrix::guards::an_aborted_operation_stays_aborted";
    ReadSet, "read_set", "two operations each read what the other writes", "crash_matrix::guards::a_stale_read_is_refused";
    BatchId, "batch_id", "a batch is committed twice", "crash_matrix::guards::a_batch_is_committed_once";
    PublishFloor, "publish_floor", "a publish at a number that cleanup freed is acknowledged and lost", "crash_matrix::guards::a_publish_at_a_freed_number_is_lost";
    CleanupMark, "cleanup_mark", "a publish at a number that cleanup freed is taken for the newest", "crash_matrix::guards::cleanup_marks_that_it_frees_numbers";
    DirectoryTime, "directory_time", "a commit lands on a number that another client's cleanup freed", "crash_matrix::guards::a_commit_lands_on_no_number_that_others_freed";
    PublishHistory, "publish_history", "a commit into an unmounted directory is acknowledged", "crash_matrix::guards::a_publish_stands_on_its_history";
    TableFloor, "table_floor", "a version at a number that cleanup freed counts as committed", "crash_matrix::guards::a_version_below_the_floor_proves_nothing";
    FloorFirst, "floor_first", "a reader meets missing files instead of hearing that its snapshot expired", "crash_matrix::guards::a_reader_hears_expired";
    HoldsAgain, "holds_again", "a cleanup that was planned before a snapshot was kept removes it", "crash_matrix::guards::a_keep_that_comes_late_is_obeyed";
    StagedFiles, "staged_files", "a published version refers to files that are gone", "crash_matrix::guards::a_version_without_its_files_is_not_published";
    Licence, "licence", "a run that was taken for dead lands a version whose files were deleted", "crash_matrix::guards::a_run_without_its_sidecar_commits_nothing";
    Standing, "standing", "a rewrite lands on a table that was made again in the place of the one that was read", "crash_matrix::guards::a_table_that_was_made_again_is_not_committed_to";
    RefsAgain, "refs_again", "a version goes that was given a tag while the cleanup ran", "crash_matrix::guards::a_version_that_is_tagged_during_a_cleanup_stays";
    SameTable, "same_table", "a cleanup removes the versions of a table that was made again meanwhile", "crash_matrix::guards::a_table_that_was_made_again_is_not_cleaned_up";
    Fence, "fence", "a delayed put lands a version whose files were deleted", "crash_matrix::guards::a_delayed_put_meets_the_fence";
    BurnedPath, "burned_path", "a create takes a path whose dataset a resolver is about to remove", "crash_matrix::guards::a_burned_path_is_not_used_again";
}
