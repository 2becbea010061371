//! A drain ends when its node is empty, and a node that is drained has a drain under way.

use godwit_proto::cluster::{OperationKind, Scheduling};

use crate::state::State;

pub(super) fn check(state: &State) -> Vec<String> {
    let mut wrong = Vec::new();
    for node in state.nodes() {
        let Scheduling::Draining { operation } = node.scheduling else {
            continue;
        };
        let name = &node.meta.name;
        if state.guests_on(node.id).next().is_none() {
            wrong.push(format!("node {name} is empty and still drained"));
        }
        if state
            .operation(operation)
            .is_none_or(|o| o.state.is_finished())
        {
            wrong.push(format!("node {name} is drained by nothing"));
        }
    }
    for operation in state.operations().filter(|o| !o.state.is_finished()) {
        let OperationKind::Drain { node } = operation.kind;
        let scheduling = state.node(node).map(|node| &node.scheduling);
        let operation = operation.id;
        if scheduling != Some(&Scheduling::Draining { operation }) {
            wrong.push(format!(
                "operation {operation} drains a node that is not drained"
            ));
        }
    }
    wrong
}
