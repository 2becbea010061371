//! Replication of the cluster's state: a log that a majority agrees on, and what it adds up to.
//!
//! ```text
//!  propose ──> leader's log ──┬──> own store ───────────────┐
//!                             └──> followers ──> their disks ┴─> majority: committed
//!                                                                  └──> State::apply, everywhere
//! ```
//!
//! [`Replica`] is all that the rest sees. Raft itself is the library openraft, and only this module
//! names it: what is on disk ([`store`](crate::store)) and on the wire
//! ([`proto::raft`](godwit_proto::raft)) is ours. See `docs/adr/0027-raft-library.md`.
//!
//! - A proposal is answered with success when a majority has it on disk and it is applied here.
//! - A read that must be the latest asks a majority first ([`Replica::linearize`]); leases of the
//!   leader are not relied on, since they would rest on clocks.
//! - Nothing waits without end: without a majority a proposal fails within
//!   [`Timing::deadline`].
//! - A peer speaks only for itself, and only in bounded, checksummed records.
//! - A store that fails stops the replica: nothing more is acknowledged.
//!
//! It decides neither who should vote ([`voters`](crate::voters)) nor what an entry means. Not pure: it has tasks and clocks. The way to other replicas is the caller's
//! ([`PeerLink`]).

mod config;
mod error;
mod incoming;
mod link;
mod log;
mod machine;
mod outgoing;
mod replica;
mod role;
#[cfg(test)]
mod tests;
mod types;

pub use godwit_proto::raft::Member;

pub use config::{Limits, ReplicaConfig, Timing};
pub use error::{
    ChangeError, HandleError, InitializeError, OpenError, ProposeError, ReadError, Stopped,
};
pub use link::{BoxFuture, LinkError, MessageError, PeerLink};
pub use replica::{Committed, Replica};
pub use role::Role;

/// The library's Raft, over our types.
type Engine = openraft::Raft<types::TypeConfig, machine::Machine>;
