//! Guests.

use godwit_control_plane::state::State;
use godwit_proto::api;
use godwit_proto::api::label_map;
use godwit_proto::cluster::{Guest, ObservedState, Owner, Window};

use super::{named_network, named_node, named_volume};

pub(in super::super) fn guest(state: &State, guest: &Guest) -> api::Guest {
    let template = &guest.template;
    let (node, epoch, moving) = match guest.ownership.owner {
        Owner::Nobody => (None, None, None),
        Owner::Node { node, epoch } => (Some(node), Some(epoch), None),
        Owner::Moving(handoff) => {
            let moving = api::Moving {
                migration: handoff.migration.to_string(),
                target: named_node(state, handoff.target),
                successor: handoff.successor.get(),
                window_open: handoff.window == Window::Open,
            };
            (Some(handoff.source), Some(handoff.epoch), Some(moving))
        }
    };
    let disks = template.volumes.iter().map(|disk| api::Disk {
        id: disk.id.clone(),
        volume: named_volume(state, disk.volume),
        read_only: disk.read_only,
    });
    let networks = template.networks.iter().map(|card| api::NetworkCard {
        id: card.id.clone(),
        network: named_network(state, card.network),
        mac: mac(card.mac),
    });
    api::Guest {
        id: guest.id.to_string(),
        name: guest.meta.name.clone(),
        labels: label_map(&guest.meta.labels),
        revision: guest.meta.revision.get(),
        generation: guest.meta.generation.get(),
        created: guest.meta.created.into(),
        intent: guest.intent.into(),
        state: (&guest.observed.state).into(),
        failure: match &guest.observed.state {
            ObservedState::Failed(error) => Some(error.into()),
            _ => None,
        },
        observed: guest.observed.at.into(),
        node: node.map(|node| named_node(state, node)),
        epoch: epoch.map(godwit_proto::id::Epoch::get),
        moving,
        dirty_pages_per_second: guest.observed.dirty_pages_per_second,
        failover: guest.failover.into(),
        vcpus: template.vcpus,
        memory_bytes: template.memory_bytes,
        huge_pages: template.huge_pages.into(),
        cpu: template.cpu.into(),
        boot: template.boot.clone().into(),
        disks: disks.collect(),
        networks: networks.collect(),
        rng: template.rng,
        node_selector: label_map(&template.node_selector),
    }
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}
