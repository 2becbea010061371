//! Who replicates: a leader makes every node a member, and chooses who votes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use godwit_control_plane::raft::{ChangeError, Member, Role};
use godwit_control_plane::state::State;
use godwit_proto::id::NodeId;

use super::node::Node;

/// How often is looked whether members are right.
const LOOK: Duration = Duration::from_millis(500);

/// Keeps the members of the log those of the cluster, while this node leads.
pub(super) async fn keep(node: Arc<Node>) {
    loop {
        tokio::time::sleep(LOOK).await;
        if !node.replica.role().borrow().am_leader {
            continue;
        }
        if let Err(error) = look(&node).await {
            tracing::info!(%error, "the members are not changed yet");
        }
    }
}

async fn look(node: &Node) -> Result<(), ChangeError> {
    let role = node.replica.role().borrow().clone();
    let nodes: Vec<Member> = node.replica.with_state(|state| {
        let nodes = state.nodes().map(|node| Member {
            id: node.id,
            address: node.address.clone(),
        });
        nodes.collect()
    });
    for member in &nodes {
        if !role.members.contains(member) {
            node.replica.add_learner(member.clone()).await?;
        }
    }
    let known: BTreeSet<NodeId> = nodes.iter().map(|member| member.id).collect();
    // A cluster whose first node is not admitted yet has a member without a node.
    if known.contains(&node.id) {
        for member in &role.members {
            if !known.contains(&member.id) {
                node.replica.remove(member.id).await?;
            }
        }
    }
    if let Some(voters) = node.replica.with_state(|state| next_voters(state, &role)) {
        node.replica.set_voters(voters).await?;
    }
    Ok(())
}

/// The voters that there should be, if they differ from those that there are.
fn next_voters(state: &State, role: &Role) -> Option<BTreeSet<NodeId>> {
    if role.is_changing {
        return None;
    }
    let lives = |node: &NodeId| state.holds_lease(*node);
    let members: BTreeSet<NodeId> = role.members.iter().map(|member| member.id).collect();
    let alive: BTreeSet<NodeId> = members.iter().copied().filter(lives).collect();
    let most = match alive.len() {
        0 => return None,
        count => (count - (count + 1) % 2).min(5),
    };
    let kept = role
        .voters
        .iter()
        .copied()
        .filter(|node| alive.contains(node));
    let mut voters: BTreeSet<NodeId> = kept.take(most).collect();
    for node in &alive {
        if voters.len() >= most {
            break;
        }
        voters.insert(*node);
    }
    (voters != role.voters).then_some(voters)
}
