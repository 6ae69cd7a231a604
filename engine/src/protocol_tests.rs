use super::*;

fn op(n: u128) -> OpId {
    OpId::from_parts(1, n)
}

fn chain(from: u64, classes: &[Class]) -> Chain {
    Chain {
        from,
        classes: classes.to_vec(),
    }
}

fn table(pin: u64, classes: &[Class]) -> WrittenTable {
    WrittenTable {
        pin: Some(pin),
        floor: 0,
        chain: chain(pin, classes),
        replaced: false,
    }
}

fn view(op: OpId, aborted: bool, writes: Vec<WrittenTable>) -> OperationView {
    OperationView {
        op,
        aborted,
        logged: false,
        writes,
        valid: true,
    }
}

const M: Class = Class::Maintenance;

#[test]
fn classes_follow_the_transaction_not_the_maker() {
    let mark = |kind| Some(Marks { op: op(1), kind });
    assert_eq!(classify(Effect::PreservesContent, None), M);
    assert_eq!(classify(Effect::PreservesContent, mark(Kind::Logical)), M);
    assert_eq!(classify(Effect::Config, None), Class::Foreign);
    assert_eq!(classify(Effect::Config, mark(Kind::Maintenance)), M);
    assert_eq!(classify(Effect::Restore, None), Class::Foreign);
    assert_eq!(
        classify(Effect::Restore, mark(Kind::Undo)),
        Class::Undo(op(1))
    );
    assert_eq!(classify(Effect::ChangesContent, None), Class::Foreign);
    assert_eq!(
        classify(Effect::ChangesContent, mark(Kind::Maintenance)),
        Class::Foreign
    );
    assert_eq!(
        classify(Effect::ChangesContent, mark(Kind::Logical)),
        Class::Logical(op(1))
    );
}

#[test]
fn the_prefix_stops_below_an_undecided_version() {
    let c = chain(3, &[M, M, Class::Logical(op(1)), M]);
    assert_eq!(clean_prefix(&c, 3), 5);
    assert_eq!(obstacle(&c, 3), Some(Obstacle::Operation(op(1))));
    assert_eq!(
        obstacle(&chain(3, &[M, Class::Foreign]), 3),
        Some(Obstacle::Foreign(5))
    );
    assert_eq!(obstacle(&chain(3, &[M]), 3), None);
}

#[test]
fn a_complete_operation_goes_forward_whoever_meets_it() {
    let x = op(1);
    let tables = vec![
        table(1, &[M, Class::Logical(x)]),
        table(7, &[Class::Logical(x), M]),
    ];
    for role in [Role::Owner, Role::Helper, Role::Expired] {
        assert_eq!(
            next_step(&view(x, false, tables.clone()), role),
            Step::Forward(vec![3, 8])
        );
    }
}

#[test]
fn an_incomplete_operation_is_decided_before_anything_is_undone() {
    let x = op(1);
    let tables = vec![table(1, &[Class::Logical(x)]), table(7, &[])];
    assert_eq!(
        next_step(&view(x, false, tables.clone()), Role::Helper),
        Step::Wait
    );
    assert_eq!(
        next_step(&view(x, false, tables.clone()), Role::Expired),
        Step::Decide
    );
    assert_eq!(
        next_step(&view(x, true, tables), Role::Expired),
        Step::Undo {
            table: 0,
            target: 1,
            slot: 3
        }
    );
}

#[test]
fn a_changed_read_set_aborts_a_landed_operation() {
    let x = op(1);
    let mut v = view(x, false, vec![table(1, &[Class::Logical(x)])]);
    v.valid = false;
    assert_eq!(next_step(&v, Role::Owner), Step::Decide);
}

#[test]
fn an_undone_operation_is_settled_then_aborted() {
    let x = op(1);
    let dead = vec![table(1, &[Class::Logical(x), M, Class::Undo(x)])];
    assert_eq!(
        next_step(&view(x, true, dead), Role::Helper),
        Step::Settle(vec![(0, 4)])
    );
    assert_eq!(
        next_step(&view(x, true, vec![table(4, &[])]), Role::Helper),
        Step::Aborted
    );
}

#[test]
fn a_foreign_version_above_a_dead_one_blocks() {
    let x = op(1);
    let v = view(
        x,
        true,
        vec![table(1, &[Class::Logical(x), Class::Foreign])],
    );
    assert_eq!(next_step(&v, Role::Expired), Step::Blocked(0));
}

#[test]
fn committed_is_a_pin_above_the_version_without_an_undo_below_it() {
    let x = op(1);
    let at = |pin, classes: &[Class]| {
        view(
            x,
            false,
            vec![WrittenTable {
                pin: Some(pin),
                floor: 0,
                chain: chain(1, classes),
                replaced: false,
            }],
        )
    };
    assert!(at(2, &[Class::Logical(x)]).is_published());
    assert!(at(4, &[Class::Logical(x), M, Class::Foreign]).is_published());
    assert!(!at(1, &[Class::Logical(x)]).is_published());
    assert!(!at(3, &[Class::Logical(x), Class::Undo(x)]).is_published());
    assert_eq!(
        next_step(&at(2, &[Class::Logical(x)]), Role::Expired),
        Step::Committed
    );
}

/// A zombie's put on a version number that cleanup had freed succeeds; its operation was aborted long before.
#[test]
fn a_resurrected_version_of_an_aborted_operation_is_not_committed() {
    let x = op(1);
    let resurrected = WrittenTable {
        pin: Some(9),
        floor: 8,
        chain: chain(1, &[Class::Logical(x), Class::Foreign, Class::Foreign]),
        replaced: false,
    };
    let decided = view(x, true, vec![resurrected.clone()]);
    assert!(!decided.is_published());
    assert_eq!(next_step(&decided, Role::Owner), Step::Aborted);
    // Not decided, or the decision was forgotten: publishing it would turn the table back from 9 to 2.
    let undecided = view(x, false, vec![resurrected]);
    assert!(!undecided.is_published());
    assert_eq!(next_step(&undecided, Role::Owner), Step::Decide);
}

/// Its number was free again, and the pin is far above: a publish of it would bring old rows back.
#[test]
fn a_landed_version_at_or_below_the_pin_is_not_published() {
    let x = op(1);
    let resurrected = WrittenTable {
        pin: Some(3),
        floor: 3,
        chain: chain(1, &[Class::Logical(x), M]),
        replaced: false,
    };
    assert_eq!(
        next_step(&view(x, false, vec![resurrected]), Role::Owner),
        Step::Decide
    );
}

/// Version 2 was somebody's update until cleanup freed its number and a delayed rewrite was put there.
#[test]
fn a_chain_that_cleanup_passed_over_proves_nothing() {
    let x = op(1);
    let staged_on_1 = |floor| WrittenTable {
        pin: Some(3),
        floor,
        chain: chain(1, &[M, M, Class::Logical(x)]),
        replaced: false,
    };
    let step = |floor| next_step(&view(x, false, vec![staged_on_1(floor)]), Role::Owner);
    assert_eq!(step(2), Step::Forward(vec![4]));
    assert_eq!(step(3), Step::Decide);

    let read = chain(1, &[M, M]);
    assert!(is_unchanged(&read, 2, 3));
    assert!(!is_unchanged(&read, 3, 3));
    assert!(!is_unchanged(&read, 0, 0));
}

#[test]
fn a_refused_commit_steps_over_maintenance_only() {
    let x = op(1);
    let after = |classes: &[Class], definite| after_refusal(&chain(1, classes), x, 2, definite);
    assert_eq!(after(&[M], true), Refused::Again(3));
    assert_eq!(after(&[M], false), Refused::Lost);
    assert_eq!(after(&[], true), Refused::Lost);
    assert_eq!(after(&[Class::Logical(op(2))], true), Refused::Lost);
    assert_eq!(after(&[M, Class::Logical(x)], false), Refused::Landed(3));
}

#[test]
fn a_floor_spares_what_undecided_operations_stand_on_and_never_falls() {
    assert_eq!(cleanup_floor(7, None, 3), 7);
    assert_eq!(cleanup_floor(7, Some(5), 3), 5);
    assert_eq!(cleanup_floor(7, Some(2), 3), 3);
}
