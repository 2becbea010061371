//! The control plane's decisions: what the cluster is, where guests go, who may run them. Pure: no
//! sockets, no disks, no clock, no randomness; it never touches a guest.
//!
//! | module | holds |
//! |---|---|
//! | [`state`] | the cluster's state and the one function that changes it |
//! | [`scheduler`] | where a guest goes, and why |
//! | [`plan`] | failovers, drains, rebalancing as lists of steps |
//! | [`lease`] | leases: the leader's table, the node's end, the record on a shared disk |
//! | [`ownership`] | the rule by which a guest process knows whether it may run |
//! | [`controller`] | what the leader does about all this, and what it tells each node |
//! | [`agent`] | what a node does to make that so, and what it pledges |
//! | [`invariants`] | what holds of every state, one by one |
//! | [`workload`] | made-up clusters for tests and benchmarks |
//!
//! The Raft log that entries come from, its store, and whoever acts on decisions are not built yet;
//! see `docs/ARCHITECTURE.md`.

#![forbid(unsafe_code)]

pub mod agent;
pub mod controller;
pub mod invariants;
pub mod lease;
pub mod ownership;
pub mod plan;
pub mod scheduler;
#[cfg(test)]
mod sim;
pub mod state;
pub mod workload;
