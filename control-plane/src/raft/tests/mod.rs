//! Tests of replicas, several in one process.

mod hub;
mod lifecycle;
mod members;
mod messages;
mod partitions;
mod suite;
