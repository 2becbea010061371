//! The fast choice says what the slow check says, in any cluster.

use godwit_proto::cluster::{
    ClusterCommand, Command, Desired, Guest, GuestCommand, NodeCommand, ObservedState, Strategy,
};
use godwit_proto::id::{NodeId, OperationId};
use proptest::prelude::*;

use super::super::choose::has_room;
use super::super::explain::order;
use super::super::{Demand, Inventory, Purpose, Scheduler, check};
use crate::state::State;
use crate::workload::{Random, Size, Workload};

/// A cluster that has seen something: nodes cordoned, drained, lost; guests stopped; some full.
pub(super) fn cluster(seed: u64) -> Workload {
    let mut random = Random::new(seed);
    let size = Size {
        nodes: 1 + random.below(60) as u32,
        guests: random.below(300) as u32,
        services: random.below(12) as u32,
    };
    let mut workload = Workload::full(size, seed);
    let strategy = random.one_of(&[Strategy::Pack, Strategy::Spread, Strategy::Balanced]);
    let settings = workload.state.settings().clone();
    let settings = Desired {
        name: settings.meta.name,
        overcommit: settings.overcommit,
        strategy,
        migrations_per_node: 1,
        migrations_per_cluster: 1000,
        lease: settings.lease,
    };
    workload
        .apply(Command::Cluster(ClusterCommand::Configure {
            settings,
            expected: None,
        }))
        .unwrap();
    let nodes: Vec<NodeId> = workload.state.nodes().map(|node| node.id).collect();
    for node in nodes {
        let command = match random.below(12) {
            0 => NodeCommand::Cordon {
                node,
                reason: "test".into(),
            },
            1 => NodeCommand::Drain {
                node,
                operation: OperationId::from_bytes(*node.as_bytes()),
            },
            2 => NodeCommand::LapseLease {
                node,
                incarnation: workload.state.lease(node).unwrap().incarnation,
                reign: workload.state.reign(),
            },
            _ => continue,
        };
        workload.apply(Command::Node(command)).unwrap();
    }
    let guests: Vec<_> = workload.state.guests().map(|guest| guest.id).collect();
    for guest in guests {
        if random.one_in(4) {
            let _ = workload.report(guest, ObservedState::Stopped);
        }
        if random.one_in(9) {
            let _ = workload.apply(Command::Guest(GuestCommand::Delete {
                guest,
                expected: None,
            }));
        }
    }
    workload
}

/// The best node by asking each one everything.
fn choose_slowly(state: &State, inventory: &Inventory, demand: &Demand<'_>) -> Option<NodeId> {
    let open = state
        .nodes()
        .filter(|node| check(state, inventory, demand, node).is_empty());
    let slots = open.map(|node| inventory.slot(node.id).unwrap());
    let best = slots.min_by_key(|slot| order(inventory, demand, *slot));
    best.map(|slot| inventory.id(slot))
}

/// Answers whether a node was found.
fn assert_agreement(state: &State, guest: &Guest, purpose: Purpose) -> bool {
    let inventory = state.inventory();
    let demand = Demand::new(state, inventory, guest, purpose);
    let chosen = Scheduler::new().choose(inventory, &demand);
    assert_eq!(
        chosen,
        choose_slowly(state, inventory, &demand),
        "guest {} for {purpose:?}",
        guest.meta.name
    );
    if let Some(node) = chosen {
        assert!(has_room(inventory, &demand, inventory.slot(node).unwrap()));
    }
    chosen.is_some()
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_chosen_node_is_the_best_of_those_that_nothing_speaks_against(seed in any::<u64>()) {
        let mut workload = cluster(seed);
        let guests: Vec<Guest> = workload.state.guests().cloned().collect();
        for guest in &guests {
            let is_placed = guest.ownership.hosts().next().is_some();
            let purpose = if is_placed { Purpose::Move } else { Purpose::Start };
            assert_agreement(&workload.state, guest, purpose);
        }
        for _ in 0..20 {
            let mut new = workload.guest();
            new.template.volumes.clear();
            let guest = workload.state.preview(&new);
            assert_agreement(&workload.state, &guest, Purpose::Start);
        }
    }

    #[test]
    fn the_choice_does_not_depend_on_how_the_state_came_about(seed in any::<u64>()) {
        let mut workload = cluster(seed);
        let restored = crate::state::tests::restored(&workload.state);
        let mut scheduler = Scheduler::new();
        for _ in 0..20 {
            let mut new = workload.guest();
            new.template.volumes.clear();
            let guest = workload.state.preview(&new);
            let mut choose = |state: &State| {
                let demand = Demand::new(state, state.inventory(), &guest, Purpose::Start);
                scheduler.choose(state.inventory(), &demand)
            };
            prop_assert_eq!(choose(&workload.state), choose(&restored));
        }
    }
}

#[test]
fn the_clusters_of_these_tests_have_guests_that_fit_and_guests_that_do_not() {
    let (mut fit, mut do_not) = (0, 0);
    for seed in 0..20 {
        let workload = cluster(seed);
        for guest in workload.state.guests() {
            match assert_agreement(&workload.state, guest, Purpose::Move) {
                true => fit += 1,
                false => do_not += 1,
            }
        }
    }
    assert!(fit > 100 && do_not > 20, "{fit} fit, {do_not} do not");
}
