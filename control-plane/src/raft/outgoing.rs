//! Requests to other replicas.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::{Either, select};
use godwit_proto::id::{ClusterId, NodeId};
use godwit_proto::raft::{
    self as record, AppendReply, AppendRequest, MAX_PIECE_BYTES, Member, RaftCall, RaftReply,
    RaftRequest, SnapshotPiece, SnapshotReply, TransferReply, TransferRequest, VoteRequest,
};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderError,
    TransferLeaderRequest, TransferLeaderResponse, VoteResponse,
};

use super::link::{self, LinkError, MessageError, PeerLink};
use super::machine::Image;
use super::types::{
    self, Address, Peer, Snapshot, TypeConfig, Vote, log_id, log_id_record,
    stored_membership_record, vote, vote_record,
};

/// How long entries may take to be on a follower's disk. A sign of life has less.
const APPEND_WITHIN: Duration = Duration::from_secs(2);
/// How long a part of a snapshot may take; the last is answered when the whole is installed.
const PIECE_WITHIN: Duration = Duration::from_secs(60);

/// Makes the ways to other replicas.
#[derive(Clone)]
pub(super) struct Network {
    pub(super) link: Arc<dyn PeerLink>,
    pub(super) cluster: ClusterId,
    pub(super) me: NodeId,
    pub(super) stored: Stored,
}

/// The last entry that each follower has said to have on disk, and to whom it said so.
///
/// A follower that lacks what it had has lost its disk, and with it its vote. The library takes
/// such an answer for a bug of ours; here it ends as a follower that cannot be reached, which is
/// what it is until it joins anew.
#[derive(Clone, Default)]
pub(super) struct Stored(Arc<Mutex<BTreeMap<NodeId, (record::Vote, u64)>>>);

impl Stored {
    fn note(&self, node: NodeId, leader: record::Vote, index: u64) {
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = stored.entry(node).or_insert((leader, index));
        if found.0 != leader || found.1 < index {
            *found = (leader, index);
        }
    }

    /// Whether the follower once told this leader that it has the entry.
    fn has(&self, node: NodeId, leader: record::Vote, index: u64) -> bool {
        let stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = stored.get(&node);
        found.is_some_and(|(to, last)| *to == leader && index <= *last)
    }
}

/// The way to one replica.
pub(super) struct Way {
    network: Network,
    to: Member,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Way;

    async fn new_client(&mut self, target: Peer, address: &Address) -> Way {
        Way {
            network: self.clone(),
            to: Member {
                id: target.0,
                address: address.0.clone(),
            },
        }
    }
}

/// Why a call came to nothing.
enum CallError {
    Link(LinkError),
    Message(MessageError),
    /// The reply is to another call.
    Mismatch,
    /// It lacks entries that it had.
    Lost,
}

impl CallError {
    fn into_rpc(self) -> RPCError<TypeConfig> {
        match self {
            Self::Link(error @ LinkError::TimedOut(_)) => NetworkError::new(&error).into(),
            Self::Link(error) => Unreachable::new(&error).into(),
            Self::Message(error) => Unreachable::new(&error).into(),
            Self::Mismatch => Unreachable::from_string("the reply is to another request").into(),
            Self::Lost => Unreachable::from_string("the node has lost its log").into(),
        }
    }
}

impl Way {
    async fn call(&self, call: RaftCall, within: Duration) -> Result<RaftReply, CallError> {
        let request = RaftRequest {
            cluster: self.network.cluster,
            from: self.network.me,
            to: self.to.id,
            call,
        };
        let request = link::encode(&request).map_err(CallError::Message)?;
        let reply = self.network.link.call(&self.to, request, within);
        // The link is told how long it has; one that does not keep to it is cut off.
        let reply = tokio::time::timeout(within, reply).await;
        let reply = reply.unwrap_or(Err(LinkError::TimedOut(within)));
        link::decode_reply(&reply.map_err(CallError::Link)?).map_err(CallError::Message)
    }

    async fn ask_for_vote(
        &self,
        request: openraft::raft::VoteRequest<TypeConfig>,
        wrap: fn(VoteRequest) -> RaftCall,
        option: &RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        let call = wrap(VoteRequest {
            vote: vote_record(&request.vote),
            last: request.last_log_id.as_ref().map(log_id_record),
            transfer: request.leadership_transfer,
        });
        match self.call(call, option.hard_ttl()).await {
            Ok(RaftReply::Vote(reply)) => Ok(VoteResponse {
                vote: vote(reply.vote),
                vote_granted: reply.granted,
                last_log_id: reply.last.map(log_id),
            }),
            Ok(_) => Err(CallError::Mismatch.into_rpc()),
            Err(error) => Err(error.into_rpc()),
        }
    }

    /// Sends a snapshot in parts; answers the vote of who has installed it.
    async fn send_snapshot(&self, from: Vote, snapshot: Snapshot) -> Result<Vote, CallError> {
        let last = snapshot.meta.last_log_id.as_ref().map(log_id_record);
        let membership = stored_membership_record(&snapshot.meta.last_membership);
        let chunks = snapshot.snapshot.chunks();
        let mut number = 0_u32;
        for (at, chunk) in chunks.iter().enumerate() {
            let is_last_chunk = at + 1 == chunks.len();
            let mut rest = chunk.as_slice();
            loop {
                let (bytes, after) = rest.split_at(rest.len().min(MAX_PIECE_BYTES));
                rest = after;
                let piece = SnapshotPiece {
                    vote: vote_record(&from),
                    last,
                    membership: membership.clone(),
                    number,
                    ends_chunk: rest.is_empty(),
                    ends: rest.is_empty() && is_last_chunk,
                    bytes: bytes.to_vec(),
                };
                number += 1;
                let reply = self.call(RaftCall::Snapshot(piece), PIECE_WITHIN).await?;
                match reply {
                    RaftReply::Snapshot(SnapshotReply::Done(found)) => return Ok(vote(found)),
                    RaftReply::Snapshot(SnapshotReply::Taken { next }) if next == number => {}
                    // It lost what it had; the library begins anew.
                    _ => return Err(CallError::Mismatch),
                }
                if rest.is_empty() {
                    break;
                }
            }
        }
        // A snapshot has at least one chunk, and its last part is answered by `Done`.
        Err(CallError::Mismatch)
    }
}

impl RaftNetworkV2<TypeConfig> for Way {
    type SnapshotData = Image;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RPCError<TypeConfig>> {
        let within = match request.entries.is_empty() {
            true => option.hard_ttl(),
            false => APPEND_WITHIN,
        };
        let leader = vote_record(&request.vote);
        let previous = request.prev_log_id.as_ref().map(log_id_record);
        let last = request.entries.last().map(|entry| entry.log_id.index);
        let last = last.or(previous.map(|id| id.index));
        let call = RaftCall::Append(AppendRequest {
            vote: leader,
            previous,
            entries: link::entries(request.entries),
            committed: request.leader_commit.as_ref().map(log_id_record),
        });
        match self.call(call, within).await {
            Ok(RaftReply::Append(AppendReply::Conflict))
                if previous
                    .is_some_and(|id| self.network.stored.has(self.to.id, leader, id.index)) =>
            {
                tracing::error!(node = %self.to.id, "a member has lost its log; it must join anew");
                Err(CallError::Lost.into_rpc())
            }
            Ok(RaftReply::Append(reply)) => Ok(match reply {
                AppendReply::Stored => {
                    let stored = &self.network.stored;
                    last.inspect(|last| stored.note(self.to.id, leader, *last));
                    AppendEntriesResponse::Success
                }
                AppendReply::StoredUpTo(upto) => {
                    AppendEntriesResponse::PartialSuccess(upto.map(log_id))
                }
                AppendReply::Conflict => AppendEntriesResponse::Conflict,
                AppendReply::HigherVote(found) => AppendEntriesResponse::HigherVote(vote(found)),
            }),
            Ok(_) => Err(CallError::Mismatch.into_rpc()),
            Err(error) => Err(error.into_rpc()),
        }
    }

    async fn vote(
        &mut self,
        request: openraft::raft::VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_for_vote(request, RaftCall::Vote, &option).await
    }

    async fn pre_vote(
        &mut self,
        request: openraft::raft::VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RPCError<TypeConfig>> {
        self.ask_for_vote(request, RaftCall::PreVote, &option).await
    }

    async fn full_snapshot(
        &mut self,
        from: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let sent = Box::pin(self.send_snapshot(from, snapshot));
        match select(Box::pin(cancel), sent).await {
            Either::Left((closed, _)) => Err(closed.into()),
            Either::Right((Ok(found), _)) => Ok(SnapshotResponse::new(found)),
            Either::Right((Err(error), _)) => Err(match error.into_rpc() {
                RPCError::Network(error) => error.into(),
                RPCError::Unreachable(error) => error.into(),
                RPCError::Timeout(error) => error.into(),
            }),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RPCError<TypeConfig>> {
        let call = RaftCall::Transfer(TransferRequest {
            vote: vote_record(request.from_leader()),
            to: request.to_node_id().0,
            last: request.last_log_id().map(log_id_record),
        });
        match self.call(call, option.hard_ttl()).await {
            Ok(RaftReply::Transfer(reply)) => Ok(match reply {
                TransferReply::Begun => Ok(()),
                TransferReply::OtherVote { expected, found } => {
                    Err(TransferLeaderError::VoteChanged {
                        expected: types::vote(expected),
                        actual: types::vote(found),
                    })
                }
                TransferReply::Behind { expected, found } => {
                    Err(TransferLeaderError::LogNotFlushed {
                        expected: expected.map(log_id),
                        actual: found.map(log_id),
                    })
                }
            }),
            Ok(_) => Err(CallError::Mismatch.into_rpc()),
            Err(error) => Err(error.into_rpc()),
        }
    }
}
