//! The HTTP API of a node, `/v1`: any node answers any request.
//!
//! ```text
//! connection -> serve (bounded) -> router -> a route -> refresh: what is read is new enough
//!                                              |           decide: a command, by the scheduler
//!                                              |           propose: the leader has it committed
//!                                              '-> view: the object as JSON
//! ```
//!
//! It decides nothing itself: placement is the scheduler's, and whether a command is possible is the
//! state machine's, which checks again what was decided here. It touches no guest. The daemon is
//! behind [`Cluster`].
//!
//! Bounded: connections, heads and bodies of requests, the time of a request, the objects of an
//! answer, what waits for a slow reader. Nothing that a client sends makes it panic, and what is
//! wrong with a request is told with the field's name, a code and a fix. The rules are numbered in
//! `docs/spec/api.md`.

mod answer;
mod asker;
mod cluster;
mod connection;
mod error;
mod extract;
mod find;
mod guarded;
mod list;
mod metrics;
mod placing;
mod random;
mod router;
mod routes;
mod serve;
mod service;
#[cfg(test)]
mod tests;
mod unix;
mod view;
mod watch;

pub use cluster::{BoxFuture, Cluster, ClusterStatus, Stream};
pub use connection::{Caller, Connection};
pub use error::ApiError;
pub use router::router;
pub use serve::{Accept, MAX_CONNECTIONS, serve};
pub use service::Options;
pub use unix::UnixSocket;
