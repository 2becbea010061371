//! End-to-end tests, fault injection and benchmarks. Nothing here ships to users.

pub mod bench;
pub mod nested;
