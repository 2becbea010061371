//! Who replicates: a leader makes every node a member, and chooses who votes.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use godwit_control_plane::raft::{ChangeError, Member, Role};
use godwit_control_plane::voters::{self, MAX_VOTERS, Situation, Step};
use godwit_proto::id::NodeId;

use super::node::Node;

/// How often is looked whether members are right.
const LOOK: Duration = Duration::from_millis(500);

/// A node that lacks more entries than this does not have the log.
const MAX_LAG: u64 = 100;

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
    let admitted = node.replica.with_state(|state| {
        let admitted = state.nodes().map(|found| Admitted {
            member: Member {
                id: found.id,
                address: found.address.clone(),
            },
            failure_domain: found.failure_domain.clone(),
            is_alive: state.holds_lease(found.id),
        });
        admitted.collect::<Vec<_>>()
    });
    let known: BTreeSet<NodeId> = admitted.iter().map(|found| found.member.id).collect();
    // A cluster whose first node is not admitted yet has a member without a node.
    if !known.contains(&node.id) {
        return Ok(());
    }
    for found in &admitted {
        // One that is reached elsewhere now.
        let old = role.members.iter().find(|old| old.id == found.member.id);
        if old.is_some_and(|old| old.address != found.member.address) {
            node.replica.add_learner(found.member.clone()).await?;
        }
    }
    for member in &role.members {
        if !known.contains(&member.id) && !role.voters.contains(&member.id) {
            node.replica.remove(member.id).await?;
        }
    }
    match next(node.id, &admitted, &role) {
        None => Ok(()),
        Some(Step::AddLearner(id)) => {
            let newcomer = admitted.iter().find(|found| found.member.id == id);
            let newcomer = newcomer.ok_or(ChangeError::NotMember(id))?;
            node.replica.add_learner(newcomer.member.clone()).await
        }
        Some(Step::SetVoters(voters)) => node.replica.set_voters(voters).await,
        Some(Step::TransferLeader(to)) => node.replica.transfer_leader(to).await,
    }
}

/// A node of the cluster.
struct Admitted {
    member: Member,
    failure_domain: String,
    is_alive: bool,
}

fn next(leader: NodeId, admitted: &[Admitted], role: &Role) -> Option<Step> {
    let last = role.last_log.unwrap_or(0);
    let has_log = |id: &NodeId| {
        let matched = role.progress.get(id).copied().flatten();
        *id == leader || matched.is_some_and(|matched| last.saturating_sub(matched) <= MAX_LAG)
    };
    let nodes: Vec<voters::Node> = admitted
        .iter()
        .map(|found| voters::Node {
            id: found.member.id,
            failure_domain: found.failure_domain.clone(),
            is_alive: found.is_alive,
            is_leaving: false,
            has_log: has_log(&found.member.id),
        })
        .collect();
    voters::next_step(&Situation {
        nodes: &nodes,
        members: &role.members.iter().map(|member| member.id).collect(),
        voters: &role.voters,
        leader,
        is_changing: role.is_changing,
        most: MAX_VOTERS,
    })
}
