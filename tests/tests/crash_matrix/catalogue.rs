//! What is in the matrix, and which seams are armed elsewhere.

use crate::Operation;
use crate::crash_matrix::{
    alter_add, alter_drop, alter_widen, append, carry, cleanup, compact, create, daemon_pass,
    delete, delete_by_key, drop_table, evolve, merge, overwrite, plain_carry, plain_compact,
    plain_reclaim, plain_reindex, reclaim, reindex, repair_discard, repair_force, repair_publish,
    replace, resolve_complete, resolve_create, resolve_half, two_tables,
};

/// The matrix.
pub const OPERATIONS: &[&Operation] = &[
    &append::OPERATION,
    &two_tables::OPERATION,
    &merge::OPERATION,
    &delete::OPERATION,
    &delete_by_key::OPERATION,
    &overwrite::OPERATION,
    &replace::OPERATION,
    &create::OPERATION,
    &alter_add::OPERATION,
    &alter_drop::OPERATION,
    &alter_widen::OPERATION,
    &evolve::OPERATION,
    &drop_table::OPERATION,
    &resolve_half::OPERATION,
    &resolve_complete::OPERATION,
    &resolve_create::OPERATION,
    &reclaim::OPERATION,
    &compact::OPERATION,
    &carry::OPERATION,
    &reindex::OPERATION,
    &plain_compact::OPERATION,
    &plain_carry::OPERATION,
    &plain_reindex::OPERATION,
    &plain_reclaim::OPERATION,
    &cleanup::OPERATION,
    &repair_publish::OPERATION,
    &repair_force::OPERATION,
    &repair_discard::OPERATION,
    &daemon_pass::OPERATION,
];

/// Seams that no operation of the matrix passes, and where they are armed.
pub const ELSEWHERE: &[(&str, &str)] = &[
    ("lease.before_put", "surface::holds kills holders there"),
    ("lease.after_put", "surface::holds kills holders there"),
    ("lease.before_delete", "surface::holds kills holders there"),
    (
        "cleanup.before_lease",
        "surface::holds kills cleanups there",
    ),
    (
        "agent.after_claim",
        "surface::agent kills, stops and fails agents there",
    ),
    (
        "worker.after_rewrite",
        "races::workers kills, stops and repeats workers there",
    ),
    (
        "worker.after_result",
        "races::workers kills and repeats workers there",
    ),
    (
        "claim.after_put",
        "external::shared kills and stops daemons there; a single pass claims nothing",
    ),
    (
        "claim.before_remove",
        "external::shared kills daemons there; a single pass claims nothing",
    ),
    ("agent.after_count", "surface::agent kills agents there"),
    (
        "agent.while_claiming",
        "surface::agent kills agents of a group there",
    ),
    (
        "agent.while_parting",
        "surface::agent kills agents of a group there",
    ),
    (
        "agent.while_finishing",
        "surface::agent kills agents of a group there",
    ),
    (
        "agent.before_commit",
        "surface::agent kills, stops and fails agents there",
    ),
    (
        "agent.after_commit",
        "surface::agent kills, stops and fails agents there",
    ),
];
