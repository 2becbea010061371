//! The live-migration engine: source and target state machines, page codec, convergence policy and
//! transport. It defines the ports a guest must offer and knows neither KVM nor Raft.

pub mod page;
mod page_set;
pub mod ports;
pub mod transport;

pub use page_set::PageSet;
