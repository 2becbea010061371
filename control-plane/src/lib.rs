//! The control plane: what the cluster is, where guests go, who may run them, and how its nodes
//! agree on that. It never touches a guest.
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
//! | [`voters`] | who should vote, one change at a time |
//! | [`invariants`] | what holds of every state, one by one |
//! | [`workload`] | made-up clusters for tests and benchmarks |
//! | [`raft`] | replicas of the state: a log that a majority agrees on |
//! | [`store`] | a replica's log, vote and snapshot on disk |
//!
//! All but the last two is pure: no sockets, no disks, no clock, no randomness, no waiting.
//! [`raft`] and [`store`] are where that ends: tasks, timers, one thread, one file. They open no
//! socket either; the way between replicas is given to them.
//!
//! Whoever acts on decisions is not built yet; see `docs/ARCHITECTURE.md`.

#![forbid(unsafe_code)]

pub mod agent;
pub mod controller;
pub mod invariants;
pub mod lease;
pub mod ownership;
pub mod plan;
pub mod raft;
pub mod scheduler;
#[cfg(test)]
mod sim;
pub mod state;
pub mod store;
pub mod voters;
pub mod workload;
