//! The QUIC connections of a link. They live and die together.

use std::sync::{Arc, OnceLock};

use quinn::{Connection, ConnectionError, Endpoint};

use super::cap::Cap;
use super::error::{CloseCode, TransportError};
use super::shallow::QueueBound;

/// What all parts of a link share. When the last part is dropped, the connections are closed.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) connections: Vec<Connection>,
    pub(super) endpoints: Vec<Endpoint>,
    pub(super) cap: Cap,
    /// Of what this side sends in bulk.
    pub(super) bound: Arc<QueueBound>,
    /// Why the first connection that ended did so; the others were then closed from here.
    first_end: Arc<OnceLock<ConnectionError>>,
}

impl Shared {
    /// Takes the connections of a link, of which the first carries control and faults.
    pub(super) fn new(
        connections: Vec<Connection>,
        endpoints: Vec<Endpoint>,
        cap: Cap,
        bound: Arc<QueueBound>,
    ) -> Self {
        let first_end = Arc::new(OnceLock::new());
        if connections.len() > 1 {
            for watched in &connections {
                tokio::spawn(end_together(
                    watched.clone(),
                    connections.clone(),
                    Arc::clone(&first_end),
                ));
            }
        }
        Self {
            connections,
            endpoints,
            cap,
            bound,
            first_end,
        }
    }

    pub(super) fn close(&self, code: CloseCode, text: &str) {
        for connection in &self.connections {
            connection.close(code.varint(), text.as_bytes());
        }
    }

    /// The real reason when a connection was closed because another one ended.
    pub(super) fn explain(&self, error: TransportError) -> TransportError {
        match (error, self.first_end.get()) {
            (TransportError::ClosedHere, Some(first)) => TransportError::lost(first.clone()),
            (error, _) => error,
        }
    }

    /// Why the link ended.
    pub(super) fn ended(&self) -> TransportError {
        let mut reasons = self.connections.iter().filter_map(Connection::close_reason);
        let reason = reasons.next().unwrap_or(ConnectionError::LocallyClosed);
        self.explain(TransportError::lost(reason))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // Without effect on a connection that has ended.
        self.close(CloseCode::Abandoned, "");
    }
}

/// Ends with `watched`, which ends at the latest when its peer is dead or the link is dropped.
async fn end_together(
    watched: Connection,
    all: Vec<Connection>,
    first_end: Arc<OnceLock<ConnectionError>>,
) {
    let reason = watched.closed().await;
    let first = first_end.get_or_init(|| reason);
    let code = match first {
        ConnectionError::ApplicationClosed(close) => close.error_code,
        _ => CloseCode::Internal.varint(),
    };
    for other in all {
        other.close(code, b"another connection of the link ended");
    }
}
