//! One of the replicas of the cluster's state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use godwit_proto::cluster::{Entry, Response};
use godwit_proto::id::{ClusterId, NodeId, Revision};
use godwit_proto::raft::{Member, StoreIdentity};
use openraft::alias::WatchReceiverOf;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{
    ChangeMembershipError, ClientWriteError, ForwardReason, ForwardToLeader,
    InitializeError as LibraryInitializeError, LinearizableReadError, RaftError,
};
use openraft::raft::ClientWriteResponse;
use openraft::{ChangeMembers, LinearizerOption, RaftMetrics};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::Engine;
use super::config::{ReplicaConfig, Timing};
use super::error::{
    ChangeError, HandleError, InitializeError, OpenError, ProposeError, ReadError, Stopped,
};
use super::incoming::Incoming;
use super::link::{self, PeerLink};
use super::log::Log;
use super::machine::{Machine, Shared};
use super::outgoing::{Network, Stored};
use super::role::Role;
use super::types::{Address, Peer, TypeConfig};
use crate::state::State;
use crate::store::{Command, Store, StoreConfig, StoreError};

/// Entries that a member may lack and still become a voter.
pub(super) const MAX_LAG: u64 = 1000;
/// How long a change of the members may take.
const CHANGE_WITHIN: Duration = Duration::from_secs(30);
/// How often what is in the way for a moment is tried again.
const RETRY_AFTER: Duration = Duration::from_millis(5);

/// One of the replicas of the cluster's state. Clones are the same replica.
///
/// It needs a tokio runtime with time; its store has a thread of its own.
#[derive(Clone, Debug)]
pub struct Replica {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    node: NodeId,
    cluster: ClusterId,
    timing: Timing,
    raft: Engine,
    store: Store,
    shared: Arc<Shared>,
    incoming: Incoming,
    role: watch::Sender<Role>,
}

/// What became of a proposal that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The state's revision after it.
    pub revision: Revision,
    /// What the state says to it: it may have refused it.
    pub response: Response,
}

impl Replica {
    /// Opens a replica, with what its store holds, or new.
    ///
    /// # Errors
    /// Its store cannot be opened or read.
    pub async fn open(config: ReplicaConfig, link: Arc<dyn PeerLink>) -> Result<Self, OpenError> {
        let library_config = config.to_library()?;
        let snapshot_bytes = config.limits.snapshot_bytes;
        let store = open_store(&config).await?;
        let opened = Self::with_store(config, library_config, store.clone(), link).await;
        match opened {
            Ok(replica) => {
                tokio::spawn(watch(
                    replica.inner.raft.metrics(),
                    Arc::downgrade(&replica.inner),
                    snapshot_bytes,
                ));
                Ok(replica)
            }
            Err(error) => {
                store.close().await;
                Err(error)
            }
        }
    }

    async fn with_store(
        config: ReplicaConfig,
        library_config: Arc<openraft::Config>,
        store: Store,
        link: Arc<dyn PeerLink>,
    ) -> Result<Self, OpenError> {
        let machine = Machine::open(store.clone()).await?;
        let shared = machine.shared();
        let network = Network {
            link,
            cluster: config.cluster,
            me: config.node,
            stored: Stored::default(),
        };
        let log = Log(store.clone());
        let me = Peer(config.node);
        let raft = Engine::new(me, library_config, network, log, machine).await;
        let raft = raft.map_err(|error| OpenError::Content(error.to_string()))?;
        let role = Role::of(&raft.metrics().borrow_watched());
        let (role, _) = watch::channel(role);
        Ok(Self {
            inner: Arc::new(Inner {
                node: config.node,
                cluster: config.cluster,
                timing: config.timing,
                raft,
                store,
                shared,
                incoming: Incoming::new(),
                role,
            }),
        })
    }

    /// Begins a new cluster with this node as its first voter.
    ///
    /// # Errors
    /// There is one already.
    pub async fn initialize(&self, me: Member) -> Result<(), InitializeError> {
        if me.id != self.inner.node {
            return Err(InitializeError::OtherNode(me.id));
        }
        let members = BTreeMap::from([(Peer(me.id), Address(me.address))]);
        match self.inner.raft.initialize(members).await {
            Ok(()) => Ok(()),
            Err(RaftError::APIError(LibraryInitializeError::NotAllowed(_))) => {
                Err(InitializeError::Exists)
            }
            Err(RaftError::APIError(LibraryInitializeError::NotInMembers(_))) => {
                Err(InitializeError::OtherNode(self.inner.node))
            }
            Err(RaftError::Fatal(fatal)) => Err(Stopped::from(fatal).into()),
        }
    }

    /// Answers a request of another replica. `from` is who the transport has proved the peer to be.
    ///
    /// # Errors
    /// The request is malformed, too long, not for this node, or in another's name; or the replica
    /// has stopped.
    pub async fn handle(&self, from: NodeId, request: &[u8]) -> Result<Vec<u8>, HandleError> {
        let inner = &self.inner;
        let call = link::decode_request(request, from, inner.node, inner.cluster)?;
        let reply = inner.incoming.answer(&inner.raft, from, call).await?;
        Ok(link::encode(&reply)?)
    }

    /// Has an entry committed and applied. Many at once share messages and commits.
    ///
    /// # Errors
    /// This replica does not lead, reaches no majority, or has stopped. It answers within
    /// [`Timing::deadline`].
    pub async fn propose(&self, entry: Entry) -> Result<Committed, ProposeError> {
        let command = Command::new(entry)?;
        let deadline = Instant::now() + self.inner.timing.deadline;
        let mut patience = self.patience(deadline);
        loop {
            let write = self.inner.raft.client_write(command.clone());
            let Ok(outcome) = timeout_at(deadline, write).await else {
                return Err(ProposeError::Undecided);
            };
            let forward = match outcome {
                Ok(written) => return Ok(committed(written)),
                Err(RaftError::Fatal(fatal)) => return Err(Stopped::from(fatal).into()),
                Err(RaftError::APIError(error)) => match error {
                    ClientWriteError::ForwardToLeader(forward) => forward,
                    ClientWriteError::LogEntryDiscarded(_) => return Err(ProposeError::Undecided),
                    // No change of members, no condition was asked for.
                    ClientWriteError::ChangeMembershipError(_)
                    | ClientWriteError::PreconditionFailed(_) => {
                        return Err(ProposeError::Undecided);
                    }
                },
            };
            match patience.again(&forward).await {
                Again::Yes => {}
                Again::NoQuorum => return Err(ProposeError::NoQuorum),
                Again::NotLeader(leader) => return Err(ProposeError::NotLeader { leader }),
            }
        }
    }

    /// Waits until everything that was committed anywhere when this was called is applied here.
    /// Asks a majority whether this replica still leads: no clock is relied on.
    ///
    /// # Errors
    /// This replica does not lead, reaches no majority, or has stopped.
    pub async fn linearize(&self) -> Result<(), ReadError> {
        let deadline = Instant::now() + self.inner.timing.deadline;
        let option = LinearizerOption::new(Some(Duration::ZERO), true)
            .with_wait_timeout(self.inner.timing.deadline);
        let mut patience = self.patience(deadline);
        loop {
            let read = self.inner.raft.ensure_linearizable(option.clone());
            let Ok(outcome) = timeout_at(deadline, read).await else {
                return Err(ReadError::NoQuorum);
            };
            let forward = match outcome {
                Ok(_) => return Ok(()),
                Err(RaftError::Fatal(fatal)) => return Err(Stopped::from(fatal).into()),
                Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_))) => {
                    return Err(ReadError::NoQuorum);
                }
                Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward))) => {
                    forward
                }
            };
            match patience.again(&forward).await {
                Again::Yes => {}
                Again::NoQuorum => return Err(ReadError::NoQuorum),
                Again::NotLeader(leader) => return Err(ReadError::NotLeader { leader }),
            }
        }
    }

    /// What is applied here, which may be behind. While `read` runs nothing is applied: it should
    /// be short, and must not wait.
    pub fn with_state<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        self.inner.shared.with_state(read)
    }

    /// The revision of what is applied here; told after each change.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Revision> {
        self.inner.shared.changes()
    }

    /// What this replica is to the others.
    #[must_use]
    pub fn role(&self) -> watch::Receiver<Role> {
        self.inner.role.subscribe()
    }

    /// Makes a node a member that does not vote, or tells the others where a member is reached
    /// now. Its log is brought up from here on.
    ///
    /// # Errors
    /// This replica does not lead, reaches no majority, or has stopped.
    pub async fn add_learner(&self, member: Member) -> Result<(), ChangeError> {
        let node = BTreeMap::from([(Peer(member.id), Address(member.address.clone()))]);
        let role = self.role_now();
        if role.members.contains(&member) {
            return Ok(());
        }
        let is_known = role.members.iter().any(|known| known.id == member.id);
        let change = match is_known {
            true => ChangeMembers::SetNodes(node),
            false => ChangeMembers::AddNodes(node),
        };
        self.change(change, true).await
    }

    /// Makes exactly these members the voters; who voted before stays a member.
    ///
    /// # Errors
    /// One of them is no member or lacks too much of the log; this replica does not lead, reaches
    /// no majority, or has stopped.
    pub async fn set_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), ChangeError> {
        let role = self.role_now();
        if !role.am_leader {
            return Err(ChangeError::NotLeader {
                leader: role.leader,
            });
        }
        if voters.is_empty() {
            return Err(ChangeError::LastVoter);
        }
        for node in voters.difference(&role.voters).copied() {
            if !role.learners.contains(&node) {
                return Err(ChangeError::NotMember(node));
            }
            let end = |index: Option<u64>| index.map_or(0, |index| index + 1);
            let found = end(role.progress.get(&node).copied().flatten());
            let missing = end(role.last_log).saturating_sub(found);
            if missing > MAX_LAG || found == 0 {
                return Err(ChangeError::Lagging { node, missing });
            }
        }
        if role.voters == voters && !role.is_changing {
            return Ok(());
        }
        let voters = voters.into_iter().map(Peer).collect();
        self.change(ChangeMembers::ReplaceAllVoters(voters), true)
            .await
    }

    /// Makes a node no member. Its id is never to be used again.
    ///
    /// # Errors
    /// It is the last voter; this replica does not lead, reaches no majority, or has stopped.
    pub async fn remove(&self, node: NodeId) -> Result<(), ChangeError> {
        let role = self.role_now();
        let peers = BTreeSet::from([Peer(node)]);
        if role.voters.contains(&node) {
            if role.voters.len() == 1 {
                return Err(ChangeError::LastVoter);
            }
            return self.change(ChangeMembers::RemoveVoters(peers), false).await;
        }
        if !role.learners.contains(&node) {
            return Err(ChangeError::NotMember(node));
        }
        self.change(ChangeMembers::RemoveNodes(peers), false).await
    }

    /// Has another voter lead. Returns when this one does not lead any more.
    ///
    /// # Errors
    /// This replica does not lead, the other is no voter, or nothing came of it in time.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), ChangeError> {
        let role = self.role_now();
        if !role.am_leader {
            return Err(ChangeError::NotLeader {
                leader: role.leader,
            });
        }
        if !role.voters.contains(&to) {
            return Err(ChangeError::NotMember(to));
        }
        if to == self.inner.node {
            return Ok(());
        }
        let deadline = Instant::now() + self.inner.timing.deadline;
        // A message may be lost, and the other's disk may be a little behind: asked again, then.
        while Instant::now() < deadline {
            let begun = self.inner.raft.trigger().transfer_leader(Peer(to)).await;
            begun.map_err(Stopped::from)?;
            let other_leads = self.wait_for_other_leader();
            if let Ok(outcome) = timeout(self.inner.timing.election_max * 2, other_leads).await {
                return Ok(outcome?);
            }
        }
        Err(ChangeError::Undecided)
    }

    async fn wait_for_other_leader(&self) -> Result<(), Stopped> {
        let mut metrics = self.inner.raft.metrics();
        loop {
            let role = Role::of(&metrics.borrow_and_update());
            if let Some(stopped) = role.stopped {
                return Err(stopped);
            }
            if role
                .leader
                .is_some_and(|leader| leader.id != self.inner.node)
            {
                return Ok(());
            }
            metrics.changed().await.map_err(|_| Stopped::Shutdown)?;
        }
    }

    fn role_now(&self) -> Role {
        Role::of(&self.inner.raft.metrics().borrow_watched())
    }

    /// Stops it, writes what waits and gives the store free. Every clone has stopped then.
    pub async fn shutdown(self) {
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::error!(%error, "the replica did not stop as it should");
        }
        self.inner.store.close().await;
    }

    async fn change(
        &self,
        change: ChangeMembers<Peer, Address>,
        retain: bool,
    ) -> Result<(), ChangeError> {
        let deadline = Instant::now() + CHANGE_WITHIN;
        let mut patience = self.patience(deadline);
        loop {
            let changed = self.inner.raft.change_membership(change.clone(), retain);
            let Ok(outcome) = timeout_at(deadline, changed).await else {
                return Err(ChangeError::Undecided);
            };
            let error = match outcome {
                Ok(_) => return Ok(()),
                Err(RaftError::Fatal(fatal)) => return Err(Stopped::from(fatal).into()),
                Err(RaftError::APIError(error)) => error,
            };
            let forward = match error {
                ClientWriteError::ForwardToLeader(forward) => forward,
                ClientWriteError::LogEntryDiscarded(_) => return Err(ChangeError::Undecided),
                ClientWriteError::ChangeMembershipError(error) => match error {
                    ChangeMembershipError::InProgress(_) => return Err(ChangeError::InProgress),
                    ChangeMembershipError::LearnerNotFound(found) => {
                        return Err(ChangeError::NotMember(found.node_id.0));
                    }
                    ChangeMembershipError::EmptyMembership(_) => {
                        return Err(ChangeError::LastVoter);
                    }
                    // A new leader has to commit something of its own first.
                    ChangeMembershipError::UncommittedLeaderLog(_) => {
                        sleep(RETRY_AFTER).await;
                        continue;
                    }
                    error => return Err(ChangeError::Refused(error.to_string())),
                },
                ClientWriteError::PreconditionFailed(error) => {
                    return Err(ChangeError::Refused(error.to_string()));
                }
            };
            match patience.again(&forward).await {
                Again::Yes => {}
                Again::NoQuorum => return Err(ChangeError::NoQuorum),
                Again::NotLeader(leader) => return Err(ChangeError::NotLeader { leader }),
            }
        }
    }

    fn patience(&self, deadline: Instant) -> Patience {
        let until = Instant::now() + self.inner.timing.election_max * 2;
        Patience {
            me: self.inner.node,
            until: until.min(deadline),
        }
    }
}

/// How long what is in the way for a moment is waited out.
struct Patience {
    me: NodeId,
    until: Instant,
}

/// Whether to try again.
enum Again {
    Yes,
    NoQuorum,
    NotLeader(Option<Member>),
}

impl Patience {
    /// Right after an election a leader has not yet heard of a majority, and while it hands the
    /// lead over it takes nothing: both pass.
    async fn again(&mut self, forward: &ForwardToLeader<TypeConfig>) -> Again {
        let leader = forward.leader_id.map(|peer| Member {
            id: peer.0,
            address: forward.leader_node.clone().unwrap_or_default().0,
        });
        let leads_itself = leader.as_ref().is_some_and(|leader| leader.id == self.me);
        let passes = match forward.reason {
            ForwardReason::LeaseExpired | ForwardReason::LeadershipTransfer => true,
            ForwardReason::NotLeader => leads_itself,
        };
        if passes && Instant::now() < self.until {
            sleep(RETRY_AFTER).await;
            return Again::Yes;
        }
        match forward.reason {
            ForwardReason::LeaseExpired => Again::NoQuorum,
            _ => Again::NotLeader(leader.filter(|_| !leads_itself)),
        }
    }
}

fn committed(written: ClientWriteResponse<TypeConfig>) -> Committed {
    let outcome = written.data;
    Committed {
        revision: outcome.revision,
        response: outcome
            .response
            .expect("a command is answered by the state"),
    }
}

async fn open_store(config: &ReplicaConfig) -> Result<Store, OpenError> {
    let config = StoreConfig {
        directory: config.directory.clone(),
        identity: StoreIdentity {
            cluster: config.cluster,
            node: config.node,
        },
        window_bytes: config.limits.window_bytes,
    };
    let opened = tokio::task::spawn_blocking(move || Store::open(&config)).await;
    let opened = opened.unwrap_or(Err(StoreError::Closed));
    opened.map_err(|error| OpenError::Store(Arc::new(error)))
}

/// What the library tells of itself.
type Metrics = WatchReceiverOf<TypeConfig, RaftMetrics<TypeConfig>>;

/// Keeps up the role, and has a snapshot made when the log has grown by `snapshot_bytes`; for as
/// long as there is a replica.
async fn watch(mut metrics: Metrics, replica: Weak<Inner>, snapshot_bytes: usize) {
    let mut is_running = true;
    while is_running {
        is_running = metrics.changed().await.is_ok();
        let Some(replica) = replica.upgrade() else {
            return;
        };
        let role = Role::of(&metrics.borrow_and_update());
        is_running &= role.stopped.is_none();
        replica.role.send_if_modified(|told| {
            let differs = told.differs(&role);
            *told = role;
            differs
        });
        if replica.shared.unsaved_bytes() >= snapshot_bytes {
            // It is made by and by; that it has begun sets the count to nothing.
            let _ = replica.raft.trigger().snapshot().await;
        }
    }
}
