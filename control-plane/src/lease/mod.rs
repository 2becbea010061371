//! Proofs that a guest may run. Two kinds, either of which proves it:
//!
//! - a *node's lease*, granted by the leader: [`LeaseTable`] is the leader's end, [`NodeLease`] the
//!   node's;
//! - a *guest's lease on a shared disk*: [`DiskHolder`], for whoever runs the guest and whoever
//!   would.
//!
//! Time is a length since some moment of this machine's own clock. Clocks of two machines are never
//! compared: what is passed on is how long something is good for, and [`ClockBound`] says how much of
//! that is lost on the way.
//!
//! Everything here is pure. [`ownership`](crate::ownership) says what follows for a guest, and its
//! model tries these very machines in every order.

mod bound;
mod disk;
mod holder;
mod table;

pub use bound::ClockBound;
pub use disk::{DiskCommand, DiskEvent, DiskHolder, DiskTiming, Ended};
pub use holder::NodeLease;
pub use table::{Grant, LeaseTable, RenewError};
