//! Where a guest goes: filter, score, explain. Pure.
//!
//! ```text
//! Guest --> Demand --+
//!                    +--> Scheduler::choose --> the node, or none       microseconds, sets of bits
//! State ~~> Inventory+--> explain ----------> every node, every reason  as long as it takes
//! ```
//!
//! A node can take a guest when nothing speaks against it: [`Rejection`] lists all that can.
//! Among those that can, the preferred rules decide by weight, then the strategy, then the lower id:
//! the same state and the same guest give the same node, wherever that is computed.
//!
//! [`Inventory`] is an index over the state, kept up with each change. Nothing here changes the
//! state, and no choice is binding: the state machine checks it again when it is committed.

mod bands;
mod choose;
mod demand;
mod explain;
mod filter;
mod host;
mod inventory;
mod rules;
mod set;
#[cfg(test)]
mod tests;

pub use choose::Scheduler;
pub use demand::{Demand, Purpose};
pub use explain::{Behind, Explanation, NodeVerdict, Score, Verdict, explain};
pub use filter::{Rejection, check};
pub use host::{Amount, WHOLE};
pub use inventory::Inventory;
pub use set::{NodeSet, Slot};
