//! Objects of the state as the API shows them: with the names of what they refer to.

mod guest;
mod node;
mod placement;
mod resource;
mod under_way;

use godwit_control_plane::state::State;
use godwit_proto::api::Named;
use godwit_proto::id::{GuestId, NetworkId, NodeId, PoolId, VolumeId};

pub(super) use guest::guest;
pub(super) use node::node;
pub(super) use placement::explanation;
pub(super) use resource::{network, pool, volume};
pub(super) use under_way::{migration, operation};

macro_rules! named {
    ($name:ident, $id:ty, $find:ident) => {
        /// The object with its name; with its id once it is gone.
        pub(super) fn $name(state: &State, id: $id) -> Named {
            let found = state.$find(id);
            let name = found.map_or_else(|| id.to_string(), |object| object.meta.name.clone());
            Named {
                id: id.to_string(),
                name,
            }
        }
    };
}

named!(named_node, NodeId, node);
named!(named_guest, GuestId, guest);
named!(named_pool, PoolId, pool);
named!(named_volume, VolumeId, volume);
named!(named_network, NetworkId, network);
