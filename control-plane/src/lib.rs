//! The control plane: intents, pure planning, the Raft log, desired state, leases and failover. It
//! never touches a guest.
//!
//! Nothing is built here yet; see `docs/ARCHITECTURE.md` for what exists.
