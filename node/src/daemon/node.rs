//! A node: what it answers its peers and the API, and what it asks the leader.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use godwit_control_plane::raft::{ProposeError, ReadError, Replica};
use godwit_control_plane::state::State;
use godwit_proto::cluster::{
    Applied, Command, Entry, EntryHeader, Heartbeat, HeartbeatAnswer, MigrationCommand,
    MigrationReason, NodeCommand, NodeReport, Owner, Response,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{GuestId, MigrationId, NodeId, RequestId};
use godwit_proto::peer::{JoinRequest, Joined, Peer, PeerRequest, PeerResponse};
use godwit_proto::process::ConsoleKind;
use godwit_proto::record::{Record, RecordReader};
use ring::rand::{SecureRandom, SystemRandom};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};

use super::agent::Doer;
use super::authority;
use super::clock::now_millis;
use super::config::NodeConfig;
use super::host;
use super::leader::Leadership;
use super::way::{Guide, peer};
use crate::identity::{Authority, Credentials, IssuedTokens};
use crate::peers::{BoxFuture, Duplex, Handler, Peers, Reply};

/// How long a write or a read may look for a leader.
const ANSWER_TIME: Duration = Duration::from_secs(3);
/// How long a heartbeat is waited for.
const HEARTBEAT_TIME: Duration = Duration::from_millis(900);
/// Nodes that one which joins is told of, beside the one that it asked.
const MAX_PEERS: usize = 15;
/// How often, and how far apart, it is tried to have a receipt kept.
const RECEIPT_TRIES: u32 = 20;
const RECEIPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a peer may take to answer what it has at hand.
const PEER_TIME: Duration = Duration::from_secs(5);

/// A node.
pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) config: NodeConfig,
    pub(super) peers: Peers,
    pub(super) replica: Replica,
    pub(super) leadership: Arc<Leadership>,
    guide: Guide,
    fingerprint: [u8; 32],
    authority_certificate: Vec<u8>,
    authority: Option<Authority>,
    tokens: IssuedTokens,
    doer: OnceLock<Arc<Doer>>,
}

impl Node {
    pub(super) fn new(
        config: NodeConfig,
        credentials: &Credentials,
        authority: Option<Authority>,
        tokens: IssuedTokens,
        peers: Peers,
        replica: Replica,
    ) -> Arc<Self> {
        let id = credentials.node;
        let guide = Guide::new(
            id,
            peers.clone(),
            replica.clone(),
            credentials.peers.clone(),
        );
        Arc::new(Self {
            id,
            leadership: Leadership::new(id, replica.clone(), config.makes_cluster.clone()),
            guide,
            fingerprint: credentials.fingerprint(),
            authority_certificate: credentials.authority.clone(),
            authority,
            tokens,
            doer: OnceLock::new(),
            config,
            peers,
            replica,
        })
    }

    /// Gives the node its agent.
    pub(super) fn acts_by(&self, doer: Arc<Doer>) {
        // A node is put together once.
        let _ = self.doer.set(doer);
    }

    /// There is something new for the agent.
    pub(super) fn wake(&self) {
        if let Some(doer) = self.doer.get() {
            doer.wake();
        }
    }

    /// Has `command` committed, wherever the leader is.
    pub(super) async fn propose(
        &self,
        command: Command,
        actor: String,
        request: Option<RequestId>,
    ) -> Result<Applied, CodedError> {
        // One that is asked for again because an answer was lost is done once.
        let request = match request {
            Some(request) => request,
            None => RequestId::from_bytes(random()?),
        };
        let entry = Entry {
            header: EntryHeader {
                now: now_millis(),
                actor,
                request: Some(request),
            },
            command,
        };
        self.commit(entry).await
    }

    /// Has committed what this node says of itself and its guests.
    pub(super) async fn propose_as_node(&self, command: Command) -> Result<Applied, CodedError> {
        let entry = Entry {
            header: EntryHeader {
                now: now_millis(),
                actor: format!("node {}", self.config.name),
                request: None,
            },
            command,
        };
        self.commit(entry).await
    }

    async fn commit(&self, entry: Entry) -> Result<Applied, CodedError> {
        let invalid = |error: &dyn std::error::Error| {
            CodedError::from_error(ErrorCode::RequestInvalid, error)
        };
        let bytes = entry.encode().map_err(|error| invalid(&error))?;
        let deadline = Instant::now() + ANSWER_TIME;
        let request = PeerRequest::Propose(bytes);
        let here = || self.commit_here(entry.clone());
        let once = entry.header.request.is_none();
        let answer = self.guide.ask(&request, once, deadline, here).await?;
        match answer {
            PeerResponse::Proposed(bytes) => {
                let response = RecordReader::new(&bytes).and_then(|mut reader| reader.one());
                let response: Response = response
                    .map_err(|error| CodedError::from_error(ErrorCode::PeerProtocol, &error))?;
                response.into_result()
            }
            PeerResponse::Error(error) => Err(error),
            _ => Err(wrong_answer()),
        }
    }

    async fn commit_here(&self, entry: Entry) -> PeerResponse {
        match self.replica.propose(entry).await {
            Ok(committed) => match sequence(&committed.response) {
                Ok(bytes) => PeerResponse::Proposed(bytes),
                Err(error) => PeerResponse::Error(error),
            },
            Err(ProposeError::NotLeader { leader }) => {
                PeerResponse::NotLeader(leader.as_ref().map(peer))
            }
            Err(error @ ProposeError::Entry(_)) => {
                PeerResponse::Error(CodedError::from_error(ErrorCode::RequestInvalid, &error))
            }
            Err(error @ (ProposeError::NoQuorum | ProposeError::Undecided)) => {
                PeerResponse::Error(no_quorum(&error))
            }
            Err(error) => PeerResponse::Error(
                CodedError::from_error(ErrorCode::NoQuorum, &error)
                    .with_fix("look at the leader's log; ask again when another node leads"),
            ),
        }
    }

    /// Waits until everything that was committed when this was called is applied here.
    pub(super) async fn linearize(&self) -> Result<(), CodedError> {
        let deadline = Instant::now() + ANSWER_TIME;
        let here = || self.read_revision();
        let request = PeerRequest::ReadRevision;
        let answer = self.guide.ask(&request, false, deadline, here).await?;
        let wanted = match answer {
            PeerResponse::Revision(revision) => revision,
            PeerResponse::Error(error) => return Err(error),
            _ => return Err(wrong_answer()),
        };
        let mut changes = self.replica.changes();
        let caught_up = changes.wait_for(|revision| *revision >= wanted);
        match timeout(deadline - Instant::now(), caught_up).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(CodedError::new(ErrorCode::NoQuorum, "this node ends")),
            Err(_) => {
                let text = format!("this node's replica lags behind revision {wanted}");
                Err(CodedError::new(ErrorCode::NoQuorum, text)
                    .with_fix("try again, or read what is known here with `--stale`"))
            }
        }
    }

    async fn read_revision(&self) -> PeerResponse {
        match self.replica.linearize().await {
            Ok(()) => PeerResponse::Revision(self.replica.with_state(State::revision)),
            Err(ReadError::NotLeader { leader }) => {
                PeerResponse::NotLeader(leader.as_ref().map(peer))
            }
            Err(error) => PeerResponse::Error(no_quorum(&error)),
        }
    }

    /// Tells the leader that this node lives.
    pub(super) async fn heartbeat(
        &self,
        heartbeat: &Heartbeat,
    ) -> Result<HeartbeatAnswer, CodedError> {
        let deadline = Instant::now() + HEARTBEAT_TIME;
        let request = PeerRequest::Heartbeat(sequence(heartbeat)?);
        let here = || async { self.answer_heartbeat(heartbeat) };
        match self.guide.ask(&request, false, deadline, here).await? {
            PeerResponse::Heartbeat(bytes) => RecordReader::new(&bytes)
                .and_then(|mut reader| reader.one())
                .map_err(|error| CodedError::from_error(ErrorCode::PeerProtocol, &error)),
            PeerResponse::Error(error) => Err(error),
            _ => Err(wrong_answer()),
        }
    }

    fn answer_heartbeat(&self, heartbeat: &Heartbeat) -> PeerResponse {
        match self.leadership.heard(heartbeat) {
            Some(answer) => match sequence(&answer) {
                Ok(bytes) => PeerResponse::Heartbeat(bytes),
                Err(error) => PeerResponse::Error(error),
            },
            None => {
                let role = self.replica.role();
                let leader = role.borrow().leader.as_ref().map(peer);
                PeerResponse::NotLeader(leader.filter(|leader| leader.id != self.id))
            }
        }
    }

    /// Asks to be a member, or says anew what this node has.
    pub(super) async fn join(&self) {
        let report = match self.report() {
            Ok(report) => report,
            Err(error) => return tracing::error!(%error, "this host cannot run guests"),
        };
        let join = NodeCommand::Join {
            report: Box::new(report),
            lower_baseline: false,
        };
        if let Err(error) = self.propose_as_node(Command::Node(join)).await {
            tracing::error!(%error, "this node is not admitted");
        }
    }

    /// Says anew what this node has when that has changed.
    pub(super) async fn keep_reporting(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let known = self.replica.with_state(|state| {
                let node = state.node(self.id)?;
                Some((
                    node.address.clone(),
                    node.capacity,
                    node.pools.clone(),
                    node.networks.clone(),
                    node.cpu.clone(),
                ))
            });
            if let (Some(known), Ok(report)) = (known, self.report())
                && known
                    != (
                        report.address,
                        report.capacity,
                        report.pools,
                        report.networks,
                        report.cpu,
                    )
            {
                self.join().await;
            }
        }
    }

    fn report(&self) -> Result<NodeReport, CodedError> {
        let (pools, networks) = self.replica.with_state(|state| {
            let pools = state.pools().filter(|pool| Path::new(&pool.path).is_dir());
            let networks = state.networks().filter(|network| {
                let bridge = Path::new("/sys/class/net").join(&network.bridge);
                bridge.join("bridge").is_dir()
            });
            (
                pools.map(|pool| pool.id).collect(),
                networks.map(|network| network.id).collect(),
            )
        });
        Ok(NodeReport {
            id: self.id,
            name: self.config.name.clone(),
            labels: self.config.labels.clone().into_iter().collect(),
            address: self.config.address(),
            certificate: self.fingerprint,
            capacity: host::capacity()?,
            cpu: host::cpu()?,
            failure_domain: self.config.failure_domain.clone(),
            pools,
            networks,
        })
    }

    /// Why a migration was asked for, for its receipt.
    pub(super) fn reason_of(&self, migration: MigrationId) -> String {
        self.replica.with_state(|state| {
            let reason = state.migration(migration).map(|found| found.reason.clone());
            match reason {
                Some(MigrationReason::Drain(_)) => "its node is emptied".into(),
                Some(MigrationReason::Rebalance) => "load is evened out".into(),
                _ => "somebody asked".into(),
            }
        })
    }

    /// Has the receipt of a migration away from here kept, once it is committed how it ended.
    pub(super) fn note_receipt(self: &Arc<Self>, migration: MigrationId, receipt: String) {
        let node = self.clone();
        tokio::spawn(async move {
            let mut last = None;
            for _ in 0..RECEIPT_TRIES {
                let note = MigrationCommand::NoteReceipt {
                    migration,
                    receipt: receipt.clone(),
                };
                match node.propose_as_node(Command::Migration(note)).await {
                    Ok(_) => return,
                    Err(error) => last = Some(error),
                }
                tokio::time::sleep(RECEIPT_PAUSE).await;
            }
            tracing::info!(error = ?last, %migration, "the receipt is not kept");
        });
    }

    /// How far a migration is, as its source says.
    pub(super) async fn progress(
        &self,
        migration: MigrationId,
    ) -> Result<Option<String>, CodedError> {
        let (node, source) = self.source_of(migration)?;
        if node == self.id {
            let doer = self.doer.get();
            return Ok(doer.and_then(|doer| doer.guests.progress(migration)));
        }
        let request = PeerRequest::Progress { migration };
        match self.peers.call(&source, &request, PEER_TIME).await {
            Ok(PeerResponse::Text(text)) => Ok(text),
            Ok(PeerResponse::Error(error)) => Err(error),
            Ok(_) => Err(wrong_answer()),
            Err(error) => Err(error.coded()),
        }
    }

    /// Has the source of a migration give it up.
    pub(super) async fn cancel(&self, migration: MigrationId) -> Result<(), CodedError> {
        let (node, source) = self.source_of(migration)?;
        if node == self.id {
            self.cancel_here(migration);
            return Ok(());
        }
        let request = PeerRequest::Cancel { migration };
        match self.peers.call(&source, &request, PEER_TIME).await {
            Ok(PeerResponse::Done) => Ok(()),
            Ok(PeerResponse::Error(error)) => Err(error),
            Ok(_) => Err(wrong_answer()),
            Err(error) => Err(error.coded()),
        }
    }

    fn cancel_here(&self, migration: MigrationId) {
        let guest = |state: &State| state.migration(migration).map(|found| found.guest);
        let guest = self.replica.with_state(guest);
        if let (Some(guest), Some(doer)) = (guest, self.doer.get()) {
            doer.guests.cancel_send(guest, migration);
        }
    }

    fn source_of(&self, migration: MigrationId) -> Result<(NodeId, Peer), CodedError> {
        let found = self.replica.with_state(|state| {
            let source = state.migration(migration)?.source;
            let address = state.node(source)?.address.clone();
            let id = source;
            Some((source, Peer { id, address }))
        });
        found.ok_or_else(|| CodedError::new(ErrorCode::NotFound, "there is no such migration"))
    }

    /// A console of a guest, wherever it runs.
    pub(super) async fn console(
        &self,
        guest: GuestId,
        which: ConsoleKind,
    ) -> Result<Box<dyn Duplex>, CodedError> {
        let owner = self.replica.with_state(|state| {
            let owner = state.guest(guest)?.ownership.owner;
            let node = match owner {
                Owner::Nobody => return None,
                Owner::Node { node, .. } => node,
                Owner::Moving(handoff) => handoff.source,
            };
            let address = state.node(node)?.address.clone();
            Some(Peer { id: node, address })
        });
        let owner = owner.ok_or_else(|| {
            CodedError::new(ErrorCode::WrongState, "the guest runs nowhere").with_fix("start it")
        })?;
        if owner.id == self.id {
            return self.console_here(guest, which).await;
        }
        let request = PeerRequest::Console { guest, which };
        self.peers.stream(&owner, &request, PEER_TIME).await
    }

    async fn console_here(
        &self,
        guest: GuestId,
        which: ConsoleKind,
    ) -> Result<Box<dyn Duplex>, CodedError> {
        let failed =
            |error: &dyn std::error::Error| CodedError::from_error(ErrorCode::Console, error);
        let Some(doer) = self.doer.get().cloned() else {
            let text = "this node is only starting";
            return Err(CodedError::new(ErrorCode::NodeNotReady, text));
        };
        let attach = move || doer.guests.console(guest, which);
        let attached = tokio::task::spawn_blocking(attach).await;
        let console = attached.map_err(|error| failed(&error))??;
        let nonblocking = console.stream.set_nonblocking(true);
        nonblocking.map_err(|error| failed(&error))?;
        let stream = UnixStream::from_std(console.stream).map_err(|error| failed(&error))?;
        let (receive, send) = stream.into_split();
        let receive =
            tokio::io::AsyncReadExt::chain(std::io::Cursor::new(console.received), receive);
        Ok(Box::new(tokio::io::join(receive, send)))
    }

    fn admit(&self, request: &JoinRequest) -> Result<Joined, CodedError> {
        let authority = self.authority.as_ref();
        let authority =
            authority.ok_or_else(|| crate::identity::IdentityError::NoAuthority.coded())?;
        self.tokens
            .redeem(&request.secret)
            .map_err(|error| error.coded())?;
        let node = NodeId::from_bytes(random()?);
        let certificate = authority
            .admit(node, &request.public_key)
            .map_err(|error| error.coded())?;
        // This node may be no member yet itself, when its cluster is only made.
        let mut peers = vec![Peer {
            id: self.id,
            address: self.config.address(),
        }];
        self.replica.with_state(|state| {
            let others = state.nodes().filter(|node| node.id != self.id);
            peers.extend(others.take(MAX_PEERS).map(|node| Peer {
                id: node.id,
                address: node.address.clone(),
            }));
        });
        tracing::info!(%node, "a machine was admitted");
        Ok(Joined {
            node,
            authority: self.authority_certificate.clone(),
            certificate,
            peers,
        })
    }

    async fn answer(&self, from: NodeId, request: PeerRequest) -> Reply {
        match request {
            PeerRequest::Raft(bytes) => match self.replica.handle(from, &bytes).await {
                Ok(bytes) => PeerResponse::Raft(bytes),
                Err(error) => {
                    PeerResponse::Error(CodedError::from_error(ErrorCode::PeerProtocol, &error))
                }
            },
            PeerRequest::Propose(bytes) => self.answer_propose(from, &bytes).await,
            PeerRequest::ReadRevision => self.read_revision().await,
            PeerRequest::Heartbeat(bytes) => {
                let heartbeat = RecordReader::new(&bytes).and_then(|mut reader| reader.one());
                match heartbeat {
                    Ok::<Heartbeat, _>(heartbeat) if heartbeat.node == from => {
                        self.answer_heartbeat(&heartbeat)
                    }
                    Ok(_) => PeerResponse::Error(CodedError::new(
                        ErrorCode::RequestInvalid,
                        "a node speaks for itself only",
                    )),
                    Err(error) => {
                        PeerResponse::Error(CodedError::from_error(ErrorCode::PeerProtocol, &error))
                    }
                }
            }
            PeerRequest::Wake => {
                self.wake();
                PeerResponse::Done
            }
            PeerRequest::Progress { migration } => {
                let doer = self.doer.get();
                PeerResponse::Text(doer.and_then(|doer| doer.guests.progress(migration)))
            }
            PeerRequest::Cancel { migration } => {
                self.cancel_here(migration);
                PeerResponse::Done
            }
            PeerRequest::Console { guest, which } => {
                return match self.console_here(guest, which).await {
                    Ok(stream) => Reply::Stream(stream),
                    Err(error) => PeerResponse::Error(error).into(),
                };
            }
            PeerRequest::Join(_) => PeerResponse::Error(CodedError::new(
                ErrorCode::RequestInvalid,
                "this machine is a node already",
            )),
        }
        .into()
    }

    async fn answer_propose(&self, from: NodeId, bytes: &[u8]) -> PeerResponse {
        let entry = match Entry::decode(bytes) {
            Ok(entry) => entry,
            Err(error) => {
                let error = CodedError::from_error(ErrorCode::PeerProtocol, &error);
                return PeerResponse::Error(error);
            }
        };
        let allowed = |state: &State| authority::check(from, &entry.command, state);
        match self.replica.with_state(allowed) {
            Ok(()) => self.commit_here(entry).await,
            Err(error) => PeerResponse::Error(error),
        }
    }
}

impl Handler for Node {
    fn handle(
        self: Arc<Self>,
        from: Option<NodeId>,
        request: PeerRequest,
    ) -> BoxFuture<'static, Reply> {
        Box::pin(async move {
            match (from, request) {
                (None, PeerRequest::Join(request)) => match self.admit(&request) {
                    Ok(joined) => PeerResponse::Joined(joined).into(),
                    Err(error) => PeerResponse::Error(error).into(),
                },
                (Some(from), request) => self.answer(from, request).await,
                (None, _) => PeerResponse::Error(CodedError::new(
                    ErrorCode::PeerProtocol,
                    "only nodes of this cluster may ask this",
                ))
                .into(),
            }
        })
    }
}

/// Random bytes for an id.
pub(super) fn random() -> Result<[u8; 16], CodedError> {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.map_err(|_| CodedError::new(ErrorCode::Other, "the system gives no random bytes"))?;
    Ok(bytes)
}

fn sequence(record: &impl Record) -> Result<Vec<u8>, CodedError> {
    let mut writer = godwit_proto::record::RecordWriter::new();
    let written = writer.push(record).and_then(|()| writer.finish());
    written.map_err(|error| CodedError::from_error(ErrorCode::Other, &error))
}

fn no_quorum(error: &dyn std::error::Error) -> CodedError {
    CodedError::from_error(ErrorCode::NoQuorum, error)
        .with_fix("start the nodes that vote, or look at the network between them")
}

fn wrong_answer() -> CodedError {
    CodedError::new(
        ErrorCode::PeerProtocol,
        "the node does not answer what it was asked",
    )
}
