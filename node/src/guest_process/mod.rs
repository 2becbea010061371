//! A guest process: one guest, steered through a Unix socket.
//!
//! ```text
//!  cli, daemon                                the process
//!  Client -----> socket -----> Server --> session (a thread per client) --> Machine --> vmm
//!  GuestProcess: starts one, or finds one                                    |
//!                                                     Consoles: output, input, attached clients
//! ```
//!
//! The process outlives whoever started it, and ends with its guest. It serves a bounded number of
//! clients, each in bounded memory, and lets go who is slow within a message. It trusts its user (the
//! socket is for that user alone) but not their bytes.

pub mod client;
pub mod connection;
pub mod console;
pub mod exit;
mod handover;
pub mod keeper;
pub mod machine;
pub mod mandate;
pub mod server;
mod session;
pub mod socket;
pub mod spawn;
