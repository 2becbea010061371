//! The library's types, and what they are in records.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use godwit_proto::cluster::Response;
use godwit_proto::id::{NodeId, Revision};
use godwit_proto::raft as record;
use openraft::impls::leader_id_adv::LeaderId;

use crate::store::{Command, Logged, Payload};

openraft::declare_raft_types!(
    /// What the library is told of us.
    pub(super) TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = Peer,
        Node = Address,
);

pub(super) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(super) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(super) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(super) type EntryPayload = openraft::alias::PayloadOf<TypeConfig>;
pub(super) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(super) type Membership = openraft::Membership<Peer, Address>;
pub(super) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(super) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, super::machine::Image>;

/// A node, as the library knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Peer(pub(super) NodeId);

/// Where a node is reached, as the library knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Address(pub(super) String);

/// What became of an applied entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The state's revision after it.
    pub(super) revision: Revision,
    /// None of an entry that is not a command.
    pub(super) response: Option<Response>,
}

/// A membership in which a voter is no member, or none votes.
#[derive(Debug, thiserror::Error)]
#[error("a membership of {voters} voters and {members} members does not fit together")]
pub(super) struct BadMembership {
    voters: usize,
    members: usize,
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

pub(super) fn log_id(id: record::LogId) -> LogId {
    LogId::new(
        LeaderId {
            term: id.term,
            node_id: Peer(id.leader),
        },
        id.index,
    )
}

pub(super) fn log_id_record(id: &LogId) -> record::LogId {
    record::LogId {
        term: id.leader_id.term,
        leader: id.leader_id.node_id.0,
        index: id.index,
    }
}

pub(super) fn vote(vote: record::Vote) -> Vote {
    match vote.committed {
        true => Vote::new_committed(vote.term, Peer(vote.node)),
        false => Vote::new(vote.term, Peer(vote.node)),
    }
}

pub(super) fn vote_record(vote: &Vote) -> record::Vote {
    record::Vote {
        term: vote.leader_id.term,
        node: vote.leader_id.node_id.0,
        committed: vote.committed,
    }
}

pub(super) fn membership(from: &record::Membership) -> Result<Membership, BadMembership> {
    let configs: Vec<BTreeSet<Peer>> = from
        .configs
        .iter()
        .map(|voters| voters.iter().copied().map(Peer).collect())
        .collect();
    let members = from.members.iter();
    let nodes: BTreeMap<Peer, Address> = members
        .map(|member| (Peer(member.id), Address(member.address.clone())))
        .collect();
    let bad = BadMembership {
        voters: configs.iter().map(BTreeSet::len).sum(),
        members: nodes.len(),
    };
    // Nobody at all is how a membership begins.
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, nodes).map_err(|_| bad)
}

pub(super) fn membership_record(from: &Membership) -> record::Membership {
    let configs = from.get_joint_config().iter();
    let nodes = from.nodes();
    record::Membership {
        configs: configs
            .map(|voters| voters.iter().map(|peer| peer.0).collect())
            .collect(),
        members: nodes
            .map(|(peer, address)| record::Member {
                id: peer.0,
                address: address.0.clone(),
            })
            .collect(),
    }
}

pub(super) fn stored_membership(
    from: &record::StoredMembership,
) -> Result<StoredMembership, BadMembership> {
    let membership = membership(&from.membership)?;
    Ok(StoredMembership::new(from.log.map(log_id), membership))
}

pub(super) fn stored_membership_record(from: &StoredMembership) -> record::StoredMembership {
    record::StoredMembership {
        log: from.log_id().as_ref().map(log_id_record),
        membership: membership_record(from.membership()),
    }
}

pub(super) fn entry(logged: Logged) -> Result<Entry, BadMembership> {
    let payload = match logged.payload {
        Payload::Blank => EntryPayload::Blank,
        Payload::Command(command) => EntryPayload::Normal(command),
        Payload::Membership(found) => EntryPayload::Membership(membership(&found)?),
    };
    Ok(Entry {
        log_id: log_id(logged.id),
        payload,
    })
}

pub(super) fn logged(entry: Entry) -> Logged {
    Logged {
        id: log_id_record(&entry.log_id),
        payload: match entry.payload {
            EntryPayload::Blank => Payload::Blank,
            EntryPayload::Normal(command) => Payload::Command(command),
            EntryPayload::Membership(found) => {
                Payload::Membership(Arc::new(membership_record(&found)))
            }
        },
    }
}
