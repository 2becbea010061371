//! The live-migration engine: source and target state machines, page codec, convergence policy and
//! transport. It defines the ports a guest must offer and knows neither KVM nor Raft.
//!
//! Nothing is built here yet; see `docs/ARCHITECTURE.md` for what exists.
