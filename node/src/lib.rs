//! The parts of the `godwit` program.
//!
//! | module | holds |
//! |---|---|
//! | [`api`] | the HTTP API of a node, over a port that the daemon implements |
//! | [`mod@bench`] | moves test guests to another host, and says what came of it |
//! | [`cli`] | the command line: one file per command, texts, exit codes |
//! | [`daemon`] | a node of a cluster: agent, replica, API |
//! | [`guest_process`] | a guest and the socket through which it is steered; both ends of it |
//! | [`migrate`] | moving a guest: the migration engine over the VMM |
//! | [`identity`] | who a node is: certificates, the authority, join tokens |
//! | [`peers`] | nodes talking to each other: QUIC, mutual TLS |
//! | [`foreground`] | a guest's console on this terminal, and the signals that end it |

#![forbid(unsafe_code)]

pub mod api;
pub mod bench;
pub mod cli;
pub mod daemon;
pub mod foreground;
pub mod guest_process;
pub mod identity;
pub mod migrate;
pub mod peers;
mod wait;
