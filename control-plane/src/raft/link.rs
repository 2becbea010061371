//! The way to other replicas, and what is said on it.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use godwit_proto::id::{ClusterId, NodeId};
use godwit_proto::raft::{
    LogEntry, MAX_MESSAGE_BYTES, Member, RaftCall, RaftReply, RaftRequest, SnapshotPiece,
};
use godwit_proto::record::{Record, RecordError};

use super::types::{Entry, logged};

/// A future in a box.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The way to other replicas. It proves to each end who the other is, and keeps nothing in order.
pub trait PeerLink: Send + Sync + 'static {
    /// Sends a request and waits for the reply, `within` at most. What is dropped is given up.
    ///
    /// The other end hands the request to [`Replica::handle`](super::Replica::handle) and sends
    /// back what that answers. Both are at most [`MAX_MESSAGE_BYTES`] long; what is longer is not
    /// read.
    fn call(
        &self,
        to: &Member,
        request: Vec<u8>,
        within: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, LinkError>>;
}

/// Why there is no reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// There is no way to the node now; trying again at once is of no use.
    #[error("cannot reach the node: {0}")]
    Unreachable(String),
    /// No reply came in time.
    #[error("no reply within {0:?}")]
    TimedOut(Duration),
    /// The node refused the request.
    #[error("the node refused the request: {0}")]
    Refused(String),
}

/// Why a message of a peer is refused.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// It is too long.
    #[error("a message of {length} bytes is longer than {MAX_MESSAGE_BYTES}")]
    TooLong {
        /// Its bytes.
        length: usize,
    },
    /// It is none.
    #[error("malformed message")]
    Record(#[from] RecordError),
    /// It claims to come from somebody else.
    #[error("node {proved} speaks for {claimed}")]
    Sender {
        /// Who sent it.
        proved: NodeId,
        /// Who it says sent it.
        claimed: NodeId,
    },
    /// It is for another node.
    #[error("the message is for node {0}")]
    Addressee(NodeId),
    /// It is of another cluster.
    #[error("the message is of cluster {0}")]
    Cluster(ClusterId),
    /// What it says does not fit together.
    #[error("the message's {0}")]
    Content(String),
}

/// The request in `bytes` that `from`, as the transport has proved, sent to `me`.
pub(super) fn decode_request(
    bytes: &[u8],
    from: NodeId,
    me: NodeId,
    cluster: ClusterId,
) -> Result<RaftCall, MessageError> {
    check_length(bytes)?;
    let request = RaftRequest::decode(bytes)?;
    if request.cluster != cluster {
        return Err(MessageError::Cluster(request.cluster));
    }
    if request.to != me {
        return Err(MessageError::Addressee(request.to));
    }
    // A node speaks for itself, and leads or stands for election itself.
    let candidate = match &request.call {
        RaftCall::Append(append) => append.vote.node,
        RaftCall::Vote(vote) | RaftCall::PreVote(vote) => vote.vote.node,
        RaftCall::Snapshot(piece) => piece.vote.node,
        RaftCall::Transfer(transfer) => transfer.vote.node,
    };
    for claimed in [request.from, candidate] {
        if claimed != from {
            return Err(MessageError::Sender {
                proved: from,
                claimed,
            });
        }
    }
    check_content(&request.call)?;
    Ok(request.call)
}

/// The reply in `bytes`.
pub(super) fn decode_reply(bytes: &[u8]) -> Result<RaftReply, MessageError> {
    check_length(bytes)?;
    Ok(RaftReply::decode(bytes)?)
}

/// `message` as bytes.
pub(super) fn encode(message: &impl Record) -> Result<Vec<u8>, MessageError> {
    let bytes = message.encode()?;
    check_length(&bytes)?;
    Ok(bytes)
}

/// Entries as they are sent.
pub(super) fn entries(entries: Vec<Entry>) -> Vec<LogEntry> {
    let entries = entries.into_iter().map(logged);
    entries.map(|entry| entry.to_record()).collect()
}

fn check_length(bytes: &[u8]) -> Result<(), MessageError> {
    match bytes.len() {
        length if length > MAX_MESSAGE_BYTES => Err(MessageError::TooLong { length }),
        _ => Ok(()),
    }
}

fn check_content(call: &RaftCall) -> Result<(), MessageError> {
    match call {
        RaftCall::Append(append) => {
            if !append.vote.committed {
                return Err(MessageError::Content("sender does not lead".into()));
            }
            let mut next = append
                .previous
                .map_or(Some(0), |id| id.index.checked_add(1));
            let mut term = append.previous.map_or(0, |id| id.term);
            for LogEntry { id, .. } in &append.entries {
                if next != Some(id.index) || id.term < term || id.term > append.vote.term {
                    let index = id.index;
                    return Err(MessageError::Content(format!("entry {index} follows none")));
                }
                next = id.index.checked_add(1);
                term = id.term;
            }
            Ok(())
        }
        RaftCall::Snapshot(SnapshotPiece { vote, .. }) if !vote.committed => {
            Err(MessageError::Content("sender does not lead".into()))
        }
        _ => Ok(()),
    }
}
