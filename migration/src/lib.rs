//! The live-migration engine: source and target state machines, page codec, convergence policy and
//! transport. It defines the ports a guest must offer and knows neither KVM nor Raft.
//!
//! | module | holds |
//! |---|---|
//! | [`ports`] | what a guest must offer to be moved |
//! | [`options`] | what a user can set |
//! | [`source`], [`target`] | the two state machines: events and the time in, commands out |
//! | [`page`] | pages as bytes: zero runs, deltas, compressed blocks |
//! | [`driver`] | what carries out the machines' commands |
//! | [`fault`] | faults on purpose, at named steps |
//! | [`transport`] | QUIC between the two ends: control, bulk and fault streams |
//! | [`policy`] | when to go on copying, slow the guest, switch, or give up |
//! | `throttle` | how much each vCPU is slowed: by what it writes |
//! | [`forecast`] | what a move would be like, from what was measured |
//! | [`report`] | progress, and the receipt |

#![forbid(unsafe_code)]

pub mod driver;
pub mod fault;
pub mod forecast;
pub mod options;
pub mod page;
mod page_set;
pub mod policy;
pub mod ports;
pub mod report;
pub mod source;
pub mod target;
mod throttle;
pub mod transport;

#[cfg(test)]
mod sim;

pub use page_set::PageSet;
