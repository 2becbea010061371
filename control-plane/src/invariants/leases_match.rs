//! A node is ready exactly while it holds its lease, and each node has one.

use godwit_proto::cluster::{LeaseState, NodeState};

use crate::state::State;

pub(super) fn check(state: &State) -> Vec<String> {
    let mut wrong = Vec::new();
    for node in state.nodes() {
        let name = &node.meta.name;
        let Some(lease) = state.lease(node.id) else {
            wrong.push(format!("node {name} has no lease"));
            continue;
        };
        let held = lease.state == LeaseState::Held;
        if held != (node.state == NodeState::Ready) {
            wrong.push(format!(
                "node {name} is {:?}, its lease {:?}",
                node.state, lease.state
            ));
        }
    }
    if state.leases().len() != state.nodes().len() {
        wrong.push("a lease belongs to no node".into());
    }
    wrong
}
