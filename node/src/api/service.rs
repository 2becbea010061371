//! What every route is made of: reading what is new enough, and having changes committed.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::response::Response;
use godwit_control_plane::state::State;
use godwit_proto::api::{Read, Written};
use godwit_proto::cluster::{Applied, Command, ObjectRef};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::Revision;
use serde::{Deserialize, Serialize};

use super::answer::{as_of, json};
use super::asker::AskedFor;
use super::cluster::Cluster;
use super::error::ApiError;
use super::metrics::Metrics;

/// How often a change is decided anew because the state changed meanwhile.
const MAX_DECISIONS: u32 = 8;

/// What the API keeps to.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How long a request may take; watches and consoles may last.
    pub request_time: Duration,
    /// How long is waited until a change that was committed is applied here too, to show its object.
    pub apply_time: Duration,
    /// Between the heartbeats of a watch that has nothing else to tell.
    pub heartbeat: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            request_time: Duration::from_secs(30),
            apply_time: Duration::from_secs(5),
            heartbeat: Duration::from_secs(5),
        }
    }
}

/// The API of a node.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) cluster: Arc<dyn Cluster>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) options: Options,
}

/// The query of a read.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReadQuery {
    /// Whether what is here will do.
    #[serde(default)]
    pub(super) stale: bool,
}

/// A command, and whether it may be decided anew when the state has changed before it is applied.
pub(super) struct Decision {
    pub(super) command: Command,
    pub(super) again: bool,
}

impl Decision {
    /// A command that stands for what somebody read.
    pub(super) const fn once(command: Command) -> Self {
        Self {
            command,
            again: false,
        }
    }

    /// A command that follows from the state.
    pub(super) const fn again(command: Command) -> Self {
        Self {
            command,
            again: true,
        }
    }
}

impl Api {
    /// Looks at what is applied here.
    pub(super) fn look<R>(&self, look: impl FnOnce(&State) -> R) -> R {
        let (mut look, mut seen) = (Some(look), None);
        self.cluster.read(&mut |state| {
            if let Some(look) = look.take() {
                seen = Some(look(state));
            }
        });
        seen.expect("a cluster shows its state before it returns")
    }

    /// Waits until what is applied here is at least as new as the request, unless that does not
    /// matter.
    pub(super) async fn refresh(&self, stale: bool) -> Result<(), CodedError> {
        match stale {
            true => Ok(()),
            false => self
                .cluster
                .linearize()
                .await
                .map_err(|error| match error.code() {
                    ErrorCode::NoQuorum => {
                        let fix = error.fix.as_deref();
                        let fix = fix.unwrap_or("bring back a majority of the voters");
                        let fix = format!("{fix}; stale=true (--stale) reads what this node has");
                        error.with_fix(fix)
                    }
                    _ => error,
                }),
        }
    }

    /// Answers with one object.
    pub(super) async fn show<T: Serialize>(
        &self,
        query: ReadQuery,
        find: impl FnOnce(&State) -> Result<T, CodedError>,
    ) -> Result<Response, ApiError> {
        self.refresh(query.stale).await?;
        let (revision, found) = self.look(|state| (state.revision(), find(state)));
        let read = Read {
            object: found?,
            stale: query.stale,
        };
        Ok(as_of(json(StatusCode::OK, &read), revision, query.stale))
    }

    /// Has command number `step` of a request committed, as `decide` makes it of the state. What it
    /// decided on may have changed before the command is applied; then it decides again, a few times.
    pub(super) async fn commit(
        &self,
        asked: &AskedFor,
        step: u8,
        decide: impl Fn(&State) -> Result<Decision, CodedError>,
    ) -> Result<Applied, CodedError> {
        let mut decisions = 0;
        loop {
            self.cluster.linearize().await?;
            if let Some(applied) = self.look(|state| asked.done(step, state))? {
                return Ok(applied);
            }
            let Decision { command, again } = self.look(&decide)?;
            decisions += 1;
            let id = asked.id(step);
            let refused = match self.cluster.propose(command, asked.actor.clone(), id).await {
                Ok(applied) => return Ok(applied),
                Err(refused) => refused,
            };
            let is_outdated = match refused.code() {
                ErrorCode::Conflict | ErrorCode::Unschedulable => again,
                // The same request, sent twice at once: it was done meanwhile.
                ErrorCode::KeyReused => true,
                _ => false,
            };
            if !is_outdated || decisions >= MAX_DECISIONS {
                return Err(refused);
            }
        }
    }

    /// Answers a change that was committed, with its object when it can be seen here.
    pub(super) async fn written<T: Serialize>(
        &self,
        status: StatusCode,
        applied: Applied,
        view: impl FnOnce(&State) -> Option<T>,
    ) -> Response {
        let written = |object| Written {
            revision: applied.revision.get(),
            id: id_of(applied.object),
            object,
        };
        if !self.has_applied(applied.revision).await {
            return json(StatusCode::ACCEPTED, &written(None));
        }
        let (revision, object) = self.look(|state| (state.revision(), view(state)));
        as_of(json(status, &written(object)), revision, false)
    }

    /// Waits until a revision is applied here, for a while.
    async fn has_applied(&self, revision: Revision) -> bool {
        let mut changes = self.cluster.changes();
        let applied = changes.wait_for(|applied| *applied >= revision);
        let waited = tokio::time::timeout(self.options.apply_time, applied).await;
        waited.is_ok_and(|applied| applied.is_ok())
    }
}

fn id_of(object: ObjectRef) -> String {
    match object {
        ObjectRef::Settings => "settings".into(),
        ObjectRef::Node(id) | ObjectRef::Lease(id) => id.to_string(),
        ObjectRef::Guest(id) => id.to_string(),
        ObjectRef::Migration(id) => id.to_string(),
        ObjectRef::Pool(id) => id.to_string(),
        ObjectRef::Volume(id) => id.to_string(),
        ObjectRef::Network(id) => id.to_string(),
        ObjectRef::Rule(id) => id.to_string(),
        ObjectRef::Operation(id) => id.to_string(),
        ObjectRef::Baseline(id) => id.to_string(),
    }
}
