//! One runner: the rule by which each copy of a guest knows, by itself, whether it may run.
//!
//! The state machine says who *owns* a guest, under which epoch; leases prove it over time;
//! [`Runner`] puts the two together in the guest process, which stops its own vCPUs when its last
//! proof runs out, without anybody's help.
//!
//! Why two copies never run at once:
//!
//! 1. An epoch belongs to one node for ever ([`State`](crate::state::State), `fresh_epochs`).
//! 2. A later epoch is given to another node only when the earlier owner relinquished, or when every
//!    node that could own the guest has a lapsed lease (`taken_only_when_lapsed`), which the leader
//!    says only after all that it and its predecessors granted has run out by every clock
//!    ([`LeaseTable`](crate::lease::LeaseTable)).
//! 3. The earlier owner may then still hold the lease on the disk. So who takes over from a lost
//!    node runs only once it holds that one ([`DiskHolder`](crate::lease::DiskHolder)).
//! 4. A copy that lost both proofs stands still; it goes on by a proof for its own epoch only, and
//!    after 2. and 3. there is none.
//!
//! The model in this module's tests tries the machines of 2., 3. and 4. in every order of messages,
//! losses, stalls, elections and late writes that fits a few leases' time, with clocks at the edge of
//! what they may do; and finds two runners at once as soon as one of the rules is left out.

#[cfg(test)]
mod model;
mod runner;

pub use runner::{Origin, RunCommand, RunEvent, Runner};
