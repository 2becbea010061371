//! The way to whoever leads.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use godwit_control_plane::raft::{BoxFuture, LinkError, Member, PeerLink, Replica};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::NodeId;
use godwit_proto::peer::{Peer, PeerRequest, PeerResponse};
use tokio::time::Instant;

use crate::peers::Peers;

/// Between two tries to find a leader: an election takes a moment.
const PAUSE: Duration = Duration::from_millis(30);

/// Carries the messages of replicas.
pub(super) struct RaftLink(pub(super) Peers);

impl PeerLink for RaftLink {
    fn call(
        &self,
        to: &Member,
        request: Vec<u8>,
        within: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, LinkError>> {
        let (peers, to) = (self.0.clone(), peer(to));
        Box::pin(async move {
            let request = PeerRequest::Raft(request);
            match peers.call(&to, &request, within).await {
                Ok(PeerResponse::Raft(bytes)) => Ok(bytes),
                Ok(PeerResponse::Error(error)) => Err(LinkError::Refused(error.to_string())),
                Ok(_) => Err(LinkError::Refused("it answers something else".into())),
                Err(error) if error.unsent => Err(LinkError::Unreachable(error.to_string())),
                Err(_) => Err(LinkError::TimedOut(within)),
            }
        })
    }
}

/// Finds the leader.
pub(super) struct Guide {
    me: NodeId,
    peers: Peers,
    replica: Replica,
    /// Who was said to lead, or did, last.
    hint: Mutex<Option<Peer>>,
    /// Those that were there when this node joined: all that it knows before it has a state.
    first: Vec<Peer>,
}

/// Who leads, as somebody says.
pub(super) enum Leader {
    Me,
    Other(Peer),
}

impl Guide {
    pub(super) fn new(me: NodeId, peers: Peers, replica: Replica, first: Vec<Peer>) -> Self {
        Self {
            me,
            peers,
            replica,
            hint: Mutex::default(),
            first,
        }
    }

    /// Asks whoever leads, until `deadline`. A request that is not sent again when it may have arrived
    /// (`once`) fails then.
    ///
    /// # Errors
    /// Nobody is known to lead, or can be asked.
    pub(super) async fn ask<'a, F>(
        &self,
        request: &PeerRequest,
        once: bool,
        deadline: Instant,
        answer_here: impl Fn() -> F,
    ) -> Result<PeerResponse, CodedError>
    where
        F: Future<Output = PeerResponse> + 'a,
    {
        let mut reason = "no node is known to lead".to_owned();
        let mut next = 0;
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Err(no_leader(&reason));
            }
            let response = match self.candidate(&mut next) {
                Some(Leader::Me) => Ok(answer_here().await),
                Some(Leader::Other(peer)) => {
                    let asked = self.peers.call(&peer, request, deadline - now).await;
                    asked.inspect_err(|_| self.forget(&peer))
                }
                None => Ok(PeerResponse::NotLeader(None)),
            };
            match response {
                Ok(PeerResponse::NotLeader(leader)) => {
                    *self.hint() = leader.filter(|leader| leader.id != self.me);
                    if self.hint().is_none() {
                        tokio::time::sleep(PAUSE).await;
                    }
                }
                Ok(response) => return Ok(response),
                Err(error) if error.unsent || !once => {
                    reason = error.to_string();
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    let text = format!("it is not known whether it was done: {error}");
                    return Err(CodedError::new(ErrorCode::NoQuorum, text)
                        .with_fix("look, and ask again with the same idempotency key"));
                }
            }
        }
    }

    /// Who to ask: the leader that the replica knows, the one that was named last, and then everybody
    /// in turn.
    fn candidate(&self, next: &mut usize) -> Option<Leader> {
        let role = self.replica.role().borrow().clone();
        if role.am_leader {
            return Some(Leader::Me);
        }
        if let Some(hint) = self.hint().clone() {
            return Some(Leader::Other(hint));
        }
        if *next == 0
            && let Some(leader) = &role.leader
            && leader.id != self.me
            && !leader.address.is_empty()
        {
            *next = 1;
            return Some(Leader::Other(peer(leader)));
        }
        let members = role.members.iter().map(peer);
        let mut others: Vec<Peer> = members.chain(self.first.iter().cloned()).collect();
        others.retain(|other| other.id != self.me);
        others.dedup_by_key(|other| other.id);
        *next += 1;
        let index = (*next - 1).checked_rem(others.len())?;
        Some(Leader::Other(others.swap_remove(index)))
    }

    fn forget(&self, peer: &Peer) {
        let mut hint = self.hint();
        if hint.as_ref() == Some(peer) {
            *hint = None;
        }
    }

    fn hint(&self) -> std::sync::MutexGuard<'_, Option<Peer>> {
        self.hint.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A member as peers are called.
pub(super) fn peer(member: &Member) -> Peer {
    Peer {
        id: member.id,
        address: member.address.clone(),
    }
}

fn no_leader(reason: &str) -> CodedError {
    let text = format!("the cluster has no leader that can be reached ({reason})");
    CodedError::new(ErrorCode::NoQuorum, text).with_fix(
        "start the nodes that vote, or look at the network between them; `--stale` reads what this \
         node knows",
    )
}
