//! Plans are carried out by commands that are not refused, and do what they are for.

use std::collections::BTreeSet;

use godwit_proto::cluster::{
    Command, FailoverPolicy, MigrationCommand, MigrationReason, NodeCommand, ObservedState,
    OperationState, Owner, RunIntent,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{MigrationId, NodeId, OperationId};
use proptest::prelude::*;

use super::{drain, fail_over, rebalance, restart};
use crate::invariants;
use crate::state::State;
use crate::workload::{Random, Size, Workload};

const SMALL: Size = Size {
    nodes: 8,
    guests: 60,
    services: 4,
};

fn lapse(workload: &mut Workload, node: NodeId) {
    let incarnation = workload.state.lease(node).unwrap().incarnation;
    let lapse = NodeCommand::LapseLease {
        node,
        incarnation,
        reign: workload.state.reign(),
    };
    workload.apply(Command::Node(lapse)).unwrap();
}

fn busiest(state: &State) -> NodeId {
    let nodes = state.nodes().map(|node| node.id);
    nodes
        .max_by_key(|node| state.inventory().guests_on(*node))
        .unwrap()
}

fn priority(state: &State, guest: godwit_proto::id::GuestId) -> u8 {
    match state.guest(guest).unwrap().failover {
        FailoverPolicy::Restart { priority } => priority,
        FailoverPolicy::Never => 0,
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 16,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_guest_of_a_lost_node_is_started_elsewhere_or_says_why_not(seed in any::<u64>()) {
        let mut workload = Workload::full(SMALL, seed);
        let node = busiest(&workload.state);
        prop_assert!(fail_over(&workload.state).steps.is_empty());
        lapse(&mut workload, node);
        let owned: BTreeSet<_> = workload.state.guests_on(node).map(|guest| guest.id).collect();
        let plan = fail_over(&workload.state);
        let mut told: BTreeSet<_> = plan.steps.iter().map(|step| step.guest).collect();
        let priorities = plan.steps.iter().map(|step| priority(&workload.state, step.guest));
        let priorities: Vec<u8> = priorities.collect();
        prop_assert!(priorities.is_sorted_by(|a, b| a >= b), "{priorities:?}");
        told.extend(plan.blocked.iter().map(|blocked| blocked.guest));
        prop_assert_eq!(told, owned);
        prop_assert_eq!(plan.waiting, 0);
        for step in plan.steps {
            prop_assert_ne!(step.node, node);
            let applied = workload.apply(Command::Guest(step.to_fail_over()));
            prop_assert!(applied.is_ok(), "{:?}", applied);
        }
        prop_assert_eq!(invariants::check(&workload.state), []);
    }

    #[test]
    fn a_drain_in_rounds_empties_the_node_or_says_what_holds_it_up(seed in any::<u64>()) {
        let mut workload = Workload::full(SMALL, seed);
        let node = busiest(&workload.state);
        let operation = OperationId::from_bytes([1; 16]);
        let drain_node = NodeCommand::Drain { node, operation };
        workload.apply(Command::Node(drain_node)).unwrap();
        let mut round = 0_u32;
        let blocked = loop {
            let plan = drain(&workload.state, node);
            if plan.steps.is_empty() {
                break plan.blocked;
            }
            for step in plan.steps {
                round += 1;
                prop_assert!(round < 1000, "it comes to an end");
                let mut bytes = [0; 16];
                bytes[..4].copy_from_slice(&round.to_le_bytes());
                let migration = MigrationId::from_bytes(bytes);
                let reason = MigrationReason::Drain(operation);
                let prepare = step.to_migration(migration, reason);
                prop_assert!(workload.apply(Command::Migration(prepare)).is_ok());
                let open = MigrationCommand::OpenWindow { migration };
                workload.apply(Command::Migration(open)).unwrap();
                let epoch = workload.state.migration(migration).unwrap().successor;
                let receipt = None;
                let complete = MigrationCommand::Complete { migration, epoch, receipt };
                workload.apply(Command::Migration(complete)).unwrap();
            }
        };
        let left = workload.state.guests_on(node).count();
        prop_assert_eq!(left, blocked.len());
        let state = &workload.state.operation(operation).unwrap().state;
        prop_assert_eq!(left == 0, matches!(state, OperationState::Done { .. }));
        let running = workload.state.guests().filter(|g| g.intent == RunIntent::Running);
        let owned = running.filter(|guest| guest.ownership.owner != Owner::Nobody).count();
        prop_assert!(owned > 0, "nobody was stopped");
    }

    #[test]
    fn rebalancing_evens_out_and_then_has_nothing_to_do(seed in any::<u64>()) {
        let mut workload = Workload::full(SMALL, seed);
        // Two nodes come back empty from a repair.
        let nodes: Vec<NodeId> = workload.state.nodes().map(|node| node.id).collect();
        for node in &nodes[..2] {
            let guests: Vec<_> = workload.state.guests_on(*node).map(|guest| guest.id).collect();
            for guest in guests {
                workload.report(guest, ObservedState::Stopped).unwrap();
            }
        }
        let loads = |state: &State| {
            let loads = nodes.iter().map(|node| state.inventory().load(*node).unwrap());
            let mut loads: Vec<u32> = loads.collect();
            loads.sort_unstable_by_key(|load| std::cmp::Reverse(*load));
            loads
        };
        let mut number = 0_u32;
        for _ in 0..200 {
            let plan = rebalance(&workload.state, 4, 50);
            if plan.steps.is_empty() {
                return Ok(());
            }
            prop_assert!(plan.steps.len() <= 4);
            let before = loads(&workload.state);
            for step in plan.steps {
                number += 1;
                let mut bytes = [9; 16];
                bytes[..4].copy_from_slice(&number.to_le_bytes());
                let migration = MigrationId::from_bytes(bytes);
                let prepare = step.to_migration(migration, MigrationReason::Rebalance);
                prop_assert!(workload.apply(Command::Migration(prepare)).is_ok());
                let open = MigrationCommand::OpenWindow { migration };
                workload.apply(Command::Migration(open)).unwrap();
                let epoch = workload.state.migration(migration).unwrap().successor;
                let receipt = None;
                let complete = MigrationCommand::Complete { migration, epoch, receipt };
                workload.apply(Command::Migration(complete)).unwrap();
            }
            let after = loads(&workload.state);
            prop_assert!(after < before, "{before:?} to {after:?}");
        }
        prop_assert!(false, "it never ends");
    }
}

#[test]
fn guests_that_crashed_are_started_again_and_those_that_were_stopped_are_not() {
    let mut workload = Workload::full(SMALL, 3);
    let guests: Vec<_> = workload.state.guests().map(|guest| guest.id).collect();
    let crash = CodedError::new(ErrorCode::GuestCrashed, "triple fault");
    workload
        .report(guests[0], ObservedState::Failed(crash))
        .unwrap();
    workload.report(guests[1], ObservedState::Stopped).unwrap();
    let plan = restart(&workload.state);
    let wanted: Vec<_> = plan.steps.iter().map(|step| step.guest).collect();
    assert_eq!(wanted, [guests[0]]);
    for step in plan.steps {
        workload.apply(Command::Guest(step.to_start())).unwrap();
    }
    assert!(restart(&workload.state).steps.is_empty());
}

#[test]
fn a_plan_that_is_out_of_date_is_refused_step_by_step_and_does_no_harm() {
    let mut random = Random::new(5);
    let mut workload = Workload::full(SMALL, 5);
    let node = busiest(&workload.state);
    let operation = OperationId::from_bytes([1; 16]);
    let drain_node = NodeCommand::Drain { node, operation };
    workload.apply(Command::Node(drain_node)).unwrap();
    let plan = drain(&workload.state, node);
    assert!(!plan.steps.is_empty());
    for step in &plan.steps {
        // Its guest says something meanwhile.
        workload.report(step.guest, ObservedState::Running).unwrap();
    }
    for step in plan.steps {
        let migration = MigrationId::from_bytes([random.below(200) as u8; 16]);
        let prepare = step.to_migration(migration, MigrationReason::Asked);
        let refused = workload.apply(Command::Migration(prepare)).unwrap_err();
        assert_eq!(refused.code(), ErrorCode::Conflict);
    }
    assert_eq!(invariants::check(&workload.state), []);
}

#[test]
fn a_drain_keeps_within_the_limits_on_migrations() {
    let workload = {
        let mut workload = Workload::full(SMALL, 4);
        let node = busiest(&workload.state);
        let operation = OperationId::from_bytes([1; 16]);
        let drain_node = NodeCommand::Drain { node, operation };
        workload.apply(Command::Node(drain_node)).unwrap();
        workload
    };
    let node = busiest(&workload.state);
    let plan = drain(&workload.state, node);
    let limit = workload.state.settings().migrations_per_node as usize;
    assert_eq!(plan.steps.len(), limit);
    let guests = workload.state.guests_on(node).count();
    assert_eq!(plan.steps.len() + plan.blocked.len() + plan.waiting, guests);
}
