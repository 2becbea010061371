//! Objects by name or id.

use std::fmt::Display;

use godwit_control_plane::state::State;
use godwit_proto::cluster::{
    Guest, Migration, Network, Node, Operation, PlacementRule, Pool, Volume,
};
use godwit_proto::codes::{CodedError, ErrorCode};

/// The most of a name that is told back.
const MAX_TOLD: usize = 80;

macro_rules! find {
    ($(#[$doc:meta])* $find:ident: $type:ty, $what:literal, $by_id:ident, $by_name:expr) => {
        $(#[$doc])*
        pub(super) fn $find<'a>(state: &'a State, name: &str) -> Result<&'a $type, CodedError> {
            // A name may look like an id. The id goes before, for it stays the same.
            let by_id = name.parse().ok().and_then(|id| state.$by_id(id));
            by_id
                .or_else(|| $by_name(state, name))
                .ok_or_else(|| missing($what, name))
        }
    };
}

find!(
    /// A guest.
    guest: Guest, "guest", guest, State::guest_named
);
find!(
    /// A node.
    node: Node, "node", node, State::node_named
);
find!(
    /// A pool.
    pool: Pool, "pool", pool, State::pool_named
);
find!(
    /// A volume.
    volume: Volume, "volume", volume, State::volume_named
);
find!(
    /// A network.
    network: Network, "network", network, State::network_named
);
find!(
    /// A placement rule.
    rule: PlacementRule, "placement rule", rule, State::rule_named
);
find!(
    /// A migration; of several with a name the latest.
    migration: Migration, "migration", migration, |state: &'a State, name: &str| {
        let named = state.migrations().filter(|m| m.meta.name == name);
        named.max_by_key(|m| m.meta.created)
    }
);
find!(
    /// An operation; of several with a name the latest.
    operation: Operation, "operation", operation, |state: &'a State, name: &str| {
        let named = state.operations().filter(|o| o.meta.name == name);
        named.max_by_key(|o| o.meta.created)
    }
);

fn missing(what: &str, name: impl Display) -> CodedError {
    let name: String = name.to_string().chars().take(MAX_TOLD).collect();
    CodedError::new(ErrorCode::NotFound, format!("there is no {what} {name:?}"))
}
