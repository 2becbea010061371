//! What the API needs of the daemon.

use std::pin::Pin;

use godwit_control_plane::state::State;
use godwit_proto::cluster::{Applied, Command};
use godwit_proto::codes::CodedError;
use godwit_proto::id::{GuestId, MigrationId, NodeId, RequestId, Revision};
use godwit_proto::process::ConsoleKind;
use prometheus_client::registry::Registry;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;

/// A future as a trait object can return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Bytes both ways: a guest's console.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// What the API needs of the daemon. Every node has a replica of the state; what is written goes to
/// the leader, wherever it is.
pub trait Cluster: Send + Sync + 'static {
    /// Has `command` committed, and answers what applying it answered. With the same `request` it is
    /// done once. What is answered with success is on the disks of a majority; it need not be
    /// applied on this node yet. Ends within seconds also without a majority
    /// ([`ErrorCode::NoQuorum`](godwit_proto::codes::ErrorCode::NoQuorum)).
    fn propose(
        &self,
        command: Command,
        actor: String,
        request: Option<RequestId>,
    ) -> BoxFuture<'_, Result<Applied, CodedError>>;

    /// Afterwards what [`Cluster::read`] shows is at least as new as the call. Ends within seconds
    /// also without a majority, with the same code.
    fn linearize(&self) -> BoxFuture<'_, Result<(), CodedError>>;

    /// Shows what is applied here to `reader`, once, before it returns. The reader does not block.
    fn read(&self, reader: &mut dyn FnMut(&State));

    /// The revision of what is applied here.
    fn changes(&self) -> watch::Receiver<Revision>;

    /// Where this node stands. Waits for nobody.
    fn status(&self) -> ClusterStatus;

    /// How far a migration is: JSON of `godwit_migration::report::Progress`; `None` when its source
    /// says nothing (yet, or any more).
    fn progress(&self, migration: MigrationId)
    -> BoxFuture<'_, Result<Option<String>, CodedError>>;

    /// Has the source of a migration give it up, if it still can.
    fn cancel_migration(&self, migration: MigrationId) -> BoxFuture<'_, Result<(), CodedError>>;

    /// What a migration would be like, without moving anything: JSON of
    /// `godwit_migration::forecast::Forecast`.
    fn forecast(
        &self,
        guest: GuestId,
        target: Option<NodeId>,
    ) -> BoxFuture<'_, Result<String, CodedError>>;

    /// Connects a console of a guest, wherever it runs.
    fn console(
        &self,
        guest: GuestId,
        which: ConsoleKind,
    ) -> BoxFuture<'_, Result<Box<dyn Stream>, CodedError>>;

    /// Adds the daemon's own metrics to those of the API; called once.
    fn register_metrics(&self, registry: &mut Registry);
}

/// Where a node stands in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// This node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The version of its program.
    pub version: String,
    /// The leader that it knows of.
    pub leader: Option<NodeId>,
    /// The term that it knows of.
    pub term: u64,
    /// Nodes that vote.
    pub voters: Vec<NodeId>,
    /// Nodes that follow without a vote.
    pub learners: Vec<NodeId>,
    /// The revision of what is applied here.
    pub revision: Revision,
    /// Whether a majority of the voters can be reached, as far as this node knows.
    pub quorum: bool,
}
