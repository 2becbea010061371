//! Tests of replicas, several in one process.

mod hub;
mod lifecycle;
mod suite;
