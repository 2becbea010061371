//! Pools, volumes, networks.

use godwit_control_plane::state::State;
use godwit_proto::api;
use godwit_proto::cluster::{Network, Node, Pool, Volume};

use super::{named_guest, named_node, named_pool};

pub(in super::super) fn pool(state: &State, pool: &Pool) -> api::Pool {
    api::Pool {
        id: pool.id.to_string(),
        name: pool.meta.name.clone(),
        revision: pool.meta.revision.get(),
        created: pool.meta.created.into(),
        kind: pool.kind.into(),
        path: pool.path.clone(),
        nodes: nodes(state, |node| node.pools.contains(&pool.id)),
    }
}

pub(in super::super) fn volume(state: &State, volume: &Volume) -> api::Volume {
    api::Volume {
        id: volume.id.to_string(),
        name: volume.meta.name.clone(),
        revision: volume.meta.revision.get(),
        created: volume.meta.created.into(),
        pool: named_pool(state, volume.pool),
        node: volume.node.map(|node| named_node(state, node)),
        size_bytes: volume.size_bytes,
        attached: volume.attached.map(|guest| named_guest(state, guest)),
    }
}

pub(in super::super) fn network(state: &State, network: &Network) -> api::Network {
    api::Network {
        id: network.id.to_string(),
        name: network.meta.name.clone(),
        revision: network.meta.revision.get(),
        created: network.meta.created.into(),
        bridge: network.bridge.clone(),
        nodes: nodes(state, |node| node.networks.contains(&network.id)),
    }
}

fn nodes(state: &State, wanted: impl Fn(&Node) -> bool) -> Vec<api::Named> {
    let nodes = state.nodes().filter(|node| wanted(node));
    let named = nodes.map(|node| api::Named {
        id: node.id.to_string(),
        name: node.meta.name.clone(),
    });
    named.collect()
}
