//! Members.

use godwit_control_plane::state::State;
use godwit_proto::api;
use godwit_proto::api::label_map;
use godwit_proto::cluster::{CpuLevel, Node};

use super::{named_network, named_pool};

pub(in super::super) fn node(state: &State, node: &Node) -> api::Node {
    let (mut guests, mut used_vcpus, mut used_memory_bytes) = (0, 0, 0);
    for guest in state.guests_on(node.id) {
        guests += 1;
        used_vcpus += u64::from(guest.template.vcpus);
        used_memory_bytes += guest.template.memory_bytes;
    }
    let capacity = &node.capacity;
    let certificate = node.certificate.map(|byte| format!("{byte:02x}")).concat();
    api::Node {
        id: node.id.to_string(),
        name: node.meta.name.clone(),
        labels: label_map(&node.meta.labels),
        revision: node.meta.revision.get(),
        generation: node.meta.generation.get(),
        created: node.meta.created.into(),
        address: node.address.clone(),
        certificate,
        state: node.state.into(),
        lease: state.lease(node.id).map(Into::into),
        scheduling: (&node.scheduling).into(),
        failure_domain: node.failure_domain.clone(),
        cpus: capacity.cpus,
        used_vcpus,
        memory_bytes: capacity
            .memory_bytes
            .saturating_sub(capacity.reserved_bytes),
        used_memory_bytes,
        guests,
        cpu_vendor: node.cpu.features.vendor.clone(),
        cpu_level: node.cpu.level.map(|level: CpuLevel| level.name().into()),
        pools: node.pools.iter().map(|id| named_pool(state, *id)).collect(),
        networks: node
            .networks
            .iter()
            .map(|id| named_network(state, *id))
            .collect(),
    }
}
