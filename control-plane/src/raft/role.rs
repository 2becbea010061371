//! What a replica is to the others just now.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use godwit_proto::id::NodeId;
use godwit_proto::raft::Member;
use openraft::alias::InstantOf;
use openraft::{Instant as _, RaftMetrics, ServerState};

use super::error::Stopped;
use super::types::{Peer, TypeConfig};

/// What a replica is to the others just now, as far as it knows.
#[derive(Clone, Debug, Default)]
pub struct Role {
    /// The highest term that it has seen.
    pub term: u64,
    /// Who leads.
    pub leader: Option<Member>,
    /// Whether it leads itself, as far as it knows: see `confirmed_at`.
    pub am_leader: bool,
    /// Who votes; of both sets while voters change.
    pub voters: BTreeSet<NodeId>,
    /// Members that do not vote.
    pub learners: BTreeSet<NodeId>,
    /// Every member.
    pub members: Vec<Member>,
    /// Whether voters are changing.
    pub is_changing: bool,
    /// Of a leader: the beginning of the last round of messages that a majority answered. Until
    /// [`Timing::election_max`](super::Timing::election_max) after it, less what clocks may be off,
    /// nobody else leads. Kept up without telling those who wait for changes.
    pub confirmed_at: Option<Instant>,
    /// The index of the last entry of its log. Kept up silently.
    pub last_log: Option<u64>,
    /// The index of the last entry that is applied. Kept up silently.
    pub applied: Option<u64>,
    /// The index of the last entry that its snapshot has in it. Kept up silently.
    pub snapshot: Option<u64>,
    /// Of a leader: how far the log of each other member agrees with its own. Kept up silently.
    pub progress: BTreeMap<NodeId, Option<u64>>,
    /// Why it has stopped, if it has.
    pub stopped: Option<Stopped>,
}

impl Role {
    pub(super) fn of(metrics: &RaftMetrics<TypeConfig>) -> Self {
        let membership = metrics.membership_config.membership();
        let members = membership.nodes();
        let members: Vec<Member> = members
            .map(|(peer, address)| Member {
                id: peer.0,
                address: address.0.clone(),
            })
            .collect();
        let is_running = metrics.running_state.is_ok();
        let leader = metrics.current_leader.filter(|_| is_running);
        let leader = leader.map(|Peer(id)| {
            let found = members.iter().find(|member| member.id == id).cloned();
            found.unwrap_or(Member {
                id,
                address: String::new(),
            })
        });
        let progress = metrics.replication.iter().flatten();
        Self {
            term: metrics.current_term,
            am_leader: is_running && metrics.state == ServerState::Leader,
            leader,
            voters: membership.voter_ids().map(|peer| peer.0).collect(),
            learners: membership.learner_ids().map(|peer| peer.0).collect(),
            members,
            is_changing: membership.get_joint_config().len() > 1,
            confirmed_at: metrics
                .last_quorum_acked
                .and_then(|at| std_time(at.into_inner())),
            last_log: metrics.last_log_index,
            applied: metrics.last_applied.map(|id| id.index),
            snapshot: metrics.snapshot.map(|id| id.index),
            progress: progress
                .map(|(peer, matched)| (peer.0, matched.map(|id| id.index)))
                .collect(),
            stopped: metrics.running_state.clone().err().map(Stopped::from),
        }
    }

    /// Whether those who wait for changes are told of the difference.
    pub(super) fn differs(&self, other: &Self) -> bool {
        (self.term, self.am_leader, self.is_changing)
            != (other.term, other.am_leader, other.is_changing)
            || self.leader != other.leader
            || self.voters != other.voters
            || self.members != other.members
            || self.stopped != other.stopped
    }
}

/// The library's time as the standard library's: that time, or a little before it.
fn std_time(at: InstantOf<TypeConfig>) -> Option<Instant> {
    let now = tokio::time::Instant::now().into_std();
    now.checked_sub(at.elapsed())
}
