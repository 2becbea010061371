//! What one node is to do, as it follows from the state.

use godwit_proto::cluster::{
    CpuChoice, DesiredGuest, DesiredState, FailoverPolicy, Guest, GuestMachine, LeaseState,
    MachineCpu, MachineDisk, MachineNet, Move, Owner, PoolKind, Role,
};
use godwit_proto::id::{Epoch, NodeId};

use crate::state::State;

/// All that `node` is to do, as of the state's revision.
#[must_use]
pub fn desired(state: &State, node: NodeId) -> DesiredState {
    let held = state.lease(node);
    let held = held.filter(|lease| lease.state == LeaseState::Held);
    let guests = state.guests_on(node);
    DesiredState {
        node,
        revision: state.revision(),
        incarnation: held.map(|lease| lease.incarnation),
        guests: guests
            .filter_map(|guest| desired_guest(state, node, guest))
            .collect(),
    }
}

fn desired_guest(state: &State, node: NodeId, guest: &Guest) -> Option<DesiredGuest> {
    let (epoch, role) = role(state, node, guest)?;
    let leased = guest.failover != FailoverPolicy::Never;
    let machine = machine(state, guest);
    let mut shared = machine.disks.iter().filter(|disk| disk.shared);
    Some(DesiredGuest {
        id: guest.id,
        name: guest.meta.name.clone(),
        generation: guest.meta.generation,
        epoch,
        revives: guest.ownership.revives,
        role,
        intent: guest.intent,
        leased,
        // Whatever the policy is now: who had the guest before may hold that lease still.
        lease_pool: shared.next().map(|disk| disk.pool.clone()),
        observed: guest.observed.state.clone(),
        observed_generation: guest.observed.generation,
        machine,
    })
}

fn role(state: &State, node: NodeId, guest: &Guest) -> Option<(Epoch, Role)> {
    let handoff = match guest.ownership.owner {
        Owner::Node { node: owner, epoch } if owner == node => return Some((epoch, Role::Owner)),
        Owner::Moving(handoff) => handoff,
        Owner::Node { .. } | Owner::Nobody => return None,
    };
    let migration = state.migration(handoff.migration);
    let with = |peer, peer_epoch| Move {
        migration: handoff.migration,
        peer,
        peer_epoch,
        window: handoff.window,
        token: migration.and_then(|migration| migration.token.clone()),
    };
    match node {
        _ if node == handoff.source => {
            let role = Role::Source(with(handoff.target, handoff.successor));
            Some((handoff.epoch, role))
        }
        _ if node == handoff.target => {
            let role = Role::Target(with(handoff.source, handoff.epoch));
            Some((handoff.successor, role))
        }
        _ => None,
    }
}

/// What a guest is made of, with everything looked up. The state refuses templates that name what it
/// does not have, and keeps what a guest uses.
fn machine(state: &State, guest: &Guest) -> GuestMachine {
    let template = &guest.template;
    let disks = template.volumes.iter().filter_map(|attachment| {
        let volume = state.volume(attachment.volume)?;
        let pool = state.pool(volume.pool)?;
        Some(MachineDisk {
            id: attachment.id.clone(),
            volume: volume.id,
            pool: pool.path.clone(),
            shared: pool.kind == PoolKind::Shared,
            size_bytes: volume.size_bytes,
            read_only: attachment.read_only,
        })
    });
    let nets = template.networks.iter().filter_map(|attachment| {
        let network = state.network(attachment.network)?;
        Some(MachineNet {
            id: attachment.id.clone(),
            bridge: network.bridge.clone(),
            mac: attachment.mac,
        })
    });
    let promised = guest.baseline.and_then(|id| state.baseline(id));
    GuestMachine {
        vcpus: template.vcpus,
        memory_bytes: template.memory_bytes,
        huge_pages: template.huge_pages,
        cpu: match (promised, template.cpu) {
            (Some(baseline), _) => MachineCpu::Features(baseline.features.clone()),
            (None, CpuChoice::Level(level)) => MachineCpu::Level(level),
            (None, CpuChoice::Cluster | CpuChoice::Host) => MachineCpu::Host,
        },
        boot: template.boot.clone(),
        disks: disks.collect(),
        nets: nets.collect(),
        rng: template.rng,
    }
}
