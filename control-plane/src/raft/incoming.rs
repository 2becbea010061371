//! Requests of other replicas.

use godwit_proto::id::NodeId;
use godwit_proto::raft::{
    AppendReply, AppendRequest, RaftCall, RaftReply, SnapshotPiece, SnapshotReply, TransferReply,
    TransferRequest, VoteReply, VoteRequest,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteResponse,
};
use tokio::sync::Mutex;

use super::Engine;
use super::error::HandleError;
use super::link::MessageError;
use super::machine::Image;
use super::types::{
    self, BadMembership, Snapshot, SnapshotMeta, TypeConfig, log_id, log_id_record,
    stored_membership, vote, vote_record,
};
use crate::store::Logged;

/// The most bytes of a snapshot that comes in.
const MAX_SNAPSHOT_BYTES: usize = 1 << 30;
/// The most chunks of one.
const MAX_SNAPSHOT_CHUNKS: usize = 1 << 16;

/// Answers requests.
#[derive(Debug)]
pub(super) struct Incoming {
    /// The one snapshot that is coming, if one is.
    arriving: Mutex<Option<Arriving>>,
}

/// A snapshot of which parts have come.
#[derive(Debug)]
struct Arriving {
    from: NodeId,
    /// The first part, without its bytes: the others say the same.
    first: SnapshotPiece,
    next: u32,
    chunks: Vec<Vec<u8>>,
    open_chunk: Vec<u8>,
    bytes: usize,
}

impl Incoming {
    pub(super) fn new() -> Self {
        Self {
            arriving: Mutex::new(None),
        }
    }

    /// Answers a request that was checked.
    pub(super) async fn answer(
        &self,
        raft: &Engine,
        from: NodeId,
        call: RaftCall,
    ) -> Result<RaftReply, HandleError> {
        Ok(match call {
            RaftCall::Append(request) => RaftReply::Append(append(raft, request).await?),
            RaftCall::Vote(request) => {
                let response = raft.vote(vote_request(&request)).await?;
                RaftReply::Vote(vote_reply(&response))
            }
            RaftCall::PreVote(request) => {
                let response = raft.pre_vote(vote_request(&request)).await?;
                RaftReply::Vote(vote_reply(&response))
            }
            RaftCall::Snapshot(piece) => RaftReply::Snapshot(self.piece(raft, from, piece).await?),
            RaftCall::Transfer(request) => RaftReply::Transfer(transfer(raft, &request).await?),
        })
    }

    /// Takes a part of a snapshot; installs the whole when it was the last.
    async fn piece(
        &self,
        raft: &Engine,
        from: NodeId,
        piece: SnapshotPiece,
    ) -> Result<SnapshotReply, HandleError> {
        let mut arriving = self.arriving.lock().await;
        if piece.number == 0 {
            *arriving = Some(Arriving::begin(from, &piece));
        }
        let Some(current) = arriving
            .as_mut()
            .filter(|a| a.is_continued_by(from, &piece))
        else {
            return Ok(SnapshotReply::Taken { next: 0 });
        };
        let ends = piece.ends;
        let next = match current.add(piece) {
            Ok(next) => next,
            Err(error) => {
                *arriving = None;
                return Err(error.into());
            }
        };
        if !ends {
            return Ok(SnapshotReply::Taken { next });
        }
        let whole = arriving.take().expect("a part was just added");
        drop(arriving);
        let bad = |error: BadMembership| MessageError::Content(error.to_string());
        let meta = SnapshotMeta {
            last_log_id: whole.first.last.map(log_id),
            last_membership: stored_membership(&whole.first.membership).map_err(bad)?,
        };
        // It is read before Raft is told of it: one that cannot be is refused, not fatal.
        let snapshot = Image::restore(whole.chunks).await?;
        let snapshot = Snapshot { meta, snapshot };
        let leader = vote(whole.first.vote);
        let response = raft.install_full_snapshot(leader, snapshot).await?;
        Ok(SnapshotReply::Done(vote_record(&response.vote)))
    }
}

impl Arriving {
    fn begin(from: NodeId, piece: &SnapshotPiece) -> Self {
        Self {
            from,
            first: SnapshotPiece {
                membership: piece.membership.clone(),
                bytes: Vec::new(),
                ..*piece
            },
            next: 0,
            chunks: Vec::new(),
            open_chunk: Vec::new(),
            bytes: 0,
        }
    }

    fn is_continued_by(&self, from: NodeId, piece: &SnapshotPiece) -> bool {
        let first = &self.first;
        (self.from, self.next) == (from, piece.number)
            && (first.vote, first.last) == (piece.vote, piece.last)
            && first.membership == piece.membership
    }

    fn add(&mut self, piece: SnapshotPiece) -> Result<u32, MessageError> {
        self.bytes += piece.bytes.len();
        if self.bytes > MAX_SNAPSHOT_BYTES || self.chunks.len() == MAX_SNAPSHOT_CHUNKS {
            return Err(MessageError::Content("snapshot is too long".into()));
        }
        match self.open_chunk.is_empty() {
            true => self.open_chunk = piece.bytes,
            false => self.open_chunk.extend_from_slice(&piece.bytes),
        }
        if piece.ends_chunk {
            self.chunks.push(std::mem::take(&mut self.open_chunk));
        }
        self.next = self.next.saturating_add(1);
        Ok(self.next)
    }
}

async fn append(raft: &Engine, request: AppendRequest) -> Result<AppendReply, HandleError> {
    let mut entries = Vec::with_capacity(request.entries.len());
    for record in request.entries {
        let index = record.id.index;
        let unreadable = |error: String| MessageError::Content(format!("entry {index}: {error}"));
        let logged = Logged::from_record(record).map_err(|error| unreadable(error.to_string()))?;
        let entry = types::entry(logged).map_err(|error| unreadable(error.to_string()))?;
        entries.push(entry);
    }
    let response = raft
        .append_entries(AppendEntriesRequest {
            vote: vote(request.vote),
            prev_log_id: request.previous.map(log_id),
            entries,
            leader_commit: request.committed.map(log_id),
        })
        .await?;
    Ok(match response {
        AppendEntriesResponse::Success => AppendReply::Stored,
        AppendEntriesResponse::PartialSuccess(upto) => {
            AppendReply::StoredUpTo(upto.as_ref().map(log_id_record))
        }
        AppendEntriesResponse::Conflict => AppendReply::Conflict,
        AppendEntriesResponse::HigherVote(found) => AppendReply::HigherVote(vote_record(&found)),
    })
}

fn vote_request(request: &VoteRequest) -> openraft::raft::VoteRequest<TypeConfig> {
    openraft::raft::VoteRequest {
        vote: vote(request.vote),
        last_log_id: request.last.map(log_id),
        leadership_transfer: request.transfer,
    }
}

fn vote_reply(response: &VoteResponse<TypeConfig>) -> VoteReply {
    VoteReply {
        vote: vote_record(&response.vote),
        granted: response.vote_granted,
        last: response.last_log_id.as_ref().map(log_id_record),
    }
}

async fn transfer(raft: &Engine, request: &TransferRequest) -> Result<TransferReply, HandleError> {
    let request = TransferLeaderRequest::new(
        vote(request.vote),
        types::Peer(request.to),
        request.last.map(log_id),
    );
    Ok(match raft.handle_transfer_leader(request).await? {
        Ok(()) => TransferReply::Begun,
        Err(TransferLeaderError::VoteChanged { expected, actual }) => TransferReply::OtherVote {
            expected: vote_record(&expected),
            found: vote_record(&actual),
        },
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => TransferReply::Behind {
            expected: expected.as_ref().map(log_id_record),
            found: actual.as_ref().map(log_id_record),
        },
    })
}
