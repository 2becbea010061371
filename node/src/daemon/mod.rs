//! The daemon of a node: its agent, its replica of the cluster's state, the API, and the leader's part
//! while it leads.
//!
//! ```text
//!  users, API ──> Node ──> leader (here, or over peers) ──> log ──> State, on every node
//!                                     │ heartbeats, desired state
//!                   guest processes <─┴─ agent (Doer) of each node
//! ```
//!
//! Guests do not need it: it can be ended, killed and started anew while they run. What it must not
//! forget lies on disk before it acts on it: identity, log, ledger.

mod agent;
mod authority;
mod clock;
pub mod config;
mod guests;
mod host;
mod leader;
mod ledger;
mod members;
mod node;
mod notify;
mod port;
mod way;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use godwit_control_plane::raft::{InitializeError, Limits, Member, Replica, ReplicaConfig, Timing};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{ClusterId, NodeId};
use godwit_proto::peer::PeerRequest;
use tokio::task::JoinSet;

use self::agent::Doer;
use self::config::{DataDir, NodeConfig};
use self::guests::Guests;
use self::ledger::LedgerFile;
use self::node::Node;
use self::port::Port;
use self::way::RaftLink;
use crate::api;
use crate::identity::{Credentials, IssuedTokens};
use crate::peers::Peers;

/// How long a node that is told that there is something new may take to say that it heard.
const WAKE_TIME: Duration = Duration::from_secs(1);

/// What a daemon is started with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where its files are.
    pub data: DataDir,
    /// The socket of the API.
    pub socket: PathBuf,
    /// The program that guest processes run: this one.
    pub program: PathBuf,
}

/// Runs the daemon until `stop` ends. Guests run on.
///
/// # Errors
/// It cannot begin: no identity, a damaged file, an address that is taken, another daemon.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Result<(), CodedError> {
    let data = &options.data;
    let _lock = lock(data)?;
    let config = NodeConfig::load(data)?;
    let identity = Credentials::load(&data.identity());
    let (credentials, authority) = identity.map_err(|error| error.coded())?;
    let tokens = IssuedTokens::open(&data.tokens()).map_err(|error| error.coded())?;
    let me = credentials.node;
    let doing = Doer::new(
        me,
        LedgerFile::new(data.ledger()),
        Guests::open(options.program.clone(), data.guests(), config.listen.ip())
            .map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?,
    )?;
    let peers = Peers::bind(config.listen, &credentials)?;
    let replica = replica(&config, data, &credentials, &peers).await?;
    let node = Node::new(
        config,
        &credentials,
        authority,
        tokens,
        peers.clone(),
        replica.clone(),
    );
    node.acts_by(doing.clone());
    let server = peers.serve(node.clone());
    let socket = options.socket.clone();
    make_directory_of(&socket)?;
    let listener = api::UnixSocket::bind(&socket).map_err(|error| error.coded())?;
    let (stopping, stopped) = tokio::sync::watch::channel(false);
    let router = api::router(Arc::new(Port::new(node.clone())), api::Options::default());
    let mut tasks = JoinSet::new();
    tasks.spawn(api::serve(router, listener, stopped));
    tasks.spawn(doing.clone().beat(node.clone()));
    tasks.spawn(doing.act(node.clone()));
    tasks.spawn(node.clone().keep_reporting());
    tasks.spawn(members::keep(node.clone()));
    let waker = node.clone();
    let wake = move |to| wake(&waker, to);
    tasks.spawn(node.leadership.clone().run(wake));
    notify::notify("READY=1");
    tracing::info!(node = %me, address = %node.config.address(), socket = %socket.display(), "ready");
    tokio::select! {
        () = stop => {}
        // None of them ends before it is told to.
        Some(ended) = tasks.join_next() => {
            if let Err(error) = ended {
                tracing::error!(%error, "a part of the daemon failed");
            }
        }
    }
    notify::notify("STOPPING=1");
    stopping.send_replace(true);
    hand_over_the_lead(&node).await;
    // Requests that are being answered have a moment.
    let _ = tokio::time::timeout(Duration::from_secs(2), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
    })
    .await;
    tasks.shutdown().await;
    drop(server);
    peers.close().await;
    drop(node);
    replica.shutdown().await;
    Ok(())
}

/// Random bytes for an id.
///
/// # Errors
/// The system gives none.
pub fn random_bytes() -> Result<[u8; 16], CodedError> {
    node::random()
}

/// The directory of the socket, for this user alone if it is made.
fn make_directory_of(socket: &Path) -> Result<(), CodedError> {
    use std::os::unix::fs::DirBuilderExt;
    let Some(parent) = socket.parent() else {
        return Ok(());
    };
    let mut builder = std::fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(parent);
    made.map_err(|error| {
        let text = format!("cannot make {}: {error}", parent.display());
        CodedError::new(ErrorCode::Other, text).with_fix("give another socket with --socket")
    })
}

/// One daemon for a data directory.
fn lock(data: &DataDir) -> Result<File, CodedError> {
    let path = data.lock();
    let file = File::create(&path).map_err(|error| {
        let text = format!("cannot make {}: {error}", path.display());
        CodedError::new(ErrorCode::Other, text).with_fix("check the data directory")
    })?;
    file.try_lock().map_err(|_| {
        let text = format!("another daemon uses {}", path.display());
        CodedError::new(ErrorCode::Other, text).with_fix("stop it first")
    })?;
    Ok(file)
}

async fn replica(
    config: &NodeConfig,
    data: &DataDir,
    credentials: &Credentials,
    peers: &Peers,
) -> Result<Replica, CodedError> {
    let replica_config = ReplicaConfig {
        node: credentials.node,
        cluster: cluster_of(&credentials.authority),
        directory: data.replica(),
        timing: Timing::default(),
        limits: Limits::default(),
    };
    let link = Arc::new(RaftLink(peers.clone()));
    let replica = Replica::open(replica_config, link)
        .await
        .map_err(|error| error.to_coded_error())?;
    if config.makes_cluster.is_some() {
        let me = Member {
            id: credentials.node,
            address: config.address(),
        };
        match replica.initialize(me).await {
            Ok(()) | Err(InitializeError::Exists) => {}
            Err(error) => return Err(CodedError::from_error(ErrorCode::Other, &error)),
        }
    }
    Ok(replica)
}

/// A cluster is its authority.
fn cluster_of(authority: &[u8]) -> ClusterId {
    let hash = ring::digest::digest(&ring::digest::SHA256, authority);
    let first = hash.as_ref().first_chunk().expect("SHA-256 has 32 bytes");
    ClusterId::from_bytes(*first)
}

/// Tells a node that there is something new for it.
fn wake(node: &Arc<Node>, to: NodeId) {
    let node = node.clone();
    tokio::spawn(async move {
        let peer = node.replica.with_state(|state| {
            let address = state.node(to)?.address.clone();
            Some(godwit_proto::peer::Peer { id: to, address })
        });
        let Some(peer) = peer else { return };
        if to == node.id {
            node.wake();
        } else if let Err(error) = node.peers.call(&peer, &PeerRequest::Wake, WAKE_TIME).await {
            tracing::debug!(%error, "a node does not hear that there is something new");
        }
    });
}

/// A leader that ends lets another one lead first, so that nobody waits for an election.
async fn hand_over_the_lead(node: &Node) {
    let role = node.replica.role().borrow().clone();
    if !role.am_leader {
        return;
    }
    let next = role.voters.iter().find(|voter| **voter != node.id);
    if let Some(next) = next {
        let moved = node.replica.transfer_leader(*next);
        if let Ok(Err(error)) = tokio::time::timeout(WAKE_TIME, moved).await {
            tracing::info!(%error, "the lead is not handed over");
        }
    }
}
