//! What a request knows of the connection that it came over.

use std::convert::Infallible;
use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use tokio::sync::{OwnedSemaphorePermit, watch};

/// Who asks. Becomes the actor of what is proposed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// A name for people, as in `root` or `uid 1000`.
    pub name: String,
}

/// The connection of a request. Who goes on with it after the answer, as a console does, keeps this
/// for as long: it is what connections are counted by.
#[derive(Clone, Debug)]
pub struct Connection {
    /// Who is at its other end.
    pub caller: Caller,
    /// Becomes true when the server stops.
    stopping: Option<watch::Receiver<bool>>,
    _slot: Option<Arc<OwnedSemaphorePermit>>,
}

impl Connection {
    pub(super) fn new(
        caller: Caller,
        stopping: watch::Receiver<bool>,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            caller,
            stopping: Some(stopping),
            _slot: Some(Arc::new(slot)),
        }
    }

    /// Waits until the server stops.
    pub async fn stopped(&mut self) {
        match &mut self.stopping {
            // A server that is gone has stopped.
            Some(stopping) => drop(stopping.wait_for(|stopping| *stopping).await),
            None => std::future::pending().await,
        }
    }
}

impl<S: Sync> FromRequestParts<S> for Connection {
    type Rejection = Infallible;

    /// A request without a connection was made within the process.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let connection = parts.extensions.get::<Self>().cloned();
        Ok(connection.unwrap_or_else(|| Self {
            caller: Caller {
                name: "internal".into(),
            },
            stopping: None,
            _slot: None,
        }))
    }
}
