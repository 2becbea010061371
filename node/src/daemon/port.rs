//! What the API needs of a node, answered by it.

use std::sync::Arc;

use godwit_control_plane::state::State;
use godwit_proto::cluster::{Applied, Command};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{GuestId, MigrationId, NodeId, RequestId, Revision};
use godwit_proto::process::ConsoleKind;
use prometheus_client::registry::Registry;
use tokio::sync::watch;

use super::node::Node;
use crate::api::{BoxFuture, Cluster, ClusterStatus, Stream};

/// A node as the API sees it.
pub(super) struct Port(Arc<Node>);

impl Port {
    pub(super) fn new(node: Arc<Node>) -> Self {
        Self(node)
    }
}

impl Cluster for Port {
    fn propose(
        &self,
        command: Command,
        actor: String,
        request: Option<RequestId>,
    ) -> BoxFuture<'_, Result<Applied, CodedError>> {
        Box::pin(self.0.propose(command, actor, request))
    }

    fn linearize(&self) -> BoxFuture<'_, Result<(), CodedError>> {
        Box::pin(self.0.linearize())
    }

    fn read(&self, reader: &mut dyn FnMut(&State)) {
        self.0.replica.with_state(|state| reader(state));
    }

    fn changes(&self) -> watch::Receiver<Revision> {
        self.0.replica.changes()
    }

    fn status(&self) -> ClusterStatus {
        let role = self.0.replica.role();
        let role = role.borrow();
        ClusterStatus {
            node: self.0.id,
            name: self.0.config.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            leader: role.leader.as_ref().map(|leader| leader.id),
            term: role.term,
            voters: role.voters.iter().copied().collect(),
            learners: role.learners.iter().copied().collect(),
            revision: self.0.replica.with_state(State::revision),
            quorum: role.leader.is_some(),
        }
    }

    fn progress(
        &self,
        migration: MigrationId,
    ) -> BoxFuture<'_, Result<Option<String>, CodedError>> {
        Box::pin(self.0.progress(migration))
    }

    fn cancel_migration(&self, migration: MigrationId) -> BoxFuture<'_, Result<(), CodedError>> {
        Box::pin(self.0.cancel(migration))
    }

    fn forecast(
        &self,
        _guest: GuestId,
        _target: Option<NodeId>,
    ) -> BoxFuture<'_, Result<String, CodedError>> {
        Box::pin(async {
            Err(CodedError::new(
                ErrorCode::Other,
                "forecasts of cluster migrations are not built yet",
            )
            .with_fix("use `godwit migrate --forecast` between two processes"))
        })
    }

    fn console(
        &self,
        guest: GuestId,
        which: ConsoleKind,
    ) -> BoxFuture<'_, Result<Box<dyn Stream>, CodedError>> {
        Box::pin(async move {
            let stream = self.0.console(guest, which).await?;
            Ok(Box::new(stream) as Box<dyn Stream>)
        })
    }

    fn register_metrics(&self, _registry: &mut Registry) {}
}
