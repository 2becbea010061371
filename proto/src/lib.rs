//! Everything of Godwit that is written to a wire or a disk: typed ids, frames, versioned records.
//!
//! No I/O, no clocks, no randomness: bytes in, values out, and back. What is decoded here is well
//! formed, never trusted: who uses a value checks what it means (`TryFrom`, a validated config).
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | the names of guests, nodes, migrations; numbers that only grow |
//! | [`version`] | ranges of protocol versions and the highest common one |
//! | [`frame`] | the fixed header before each message on a stream, and its incremental decoder |
//! | [`mod@record`] | versioned, checksummed records and sequences of them |
//! | [`guest`] | what a user asks for: [`guest::GuestSpec`] |
//! | [`state`] | the saved state of a guest, one record per part |
//! | [`process`] | the messages between a guest process and who steers it |
//! | [`migrate`] | the messages between the two ends of a migration |
//! | [`cluster`] | what the control plane agrees on: objects, commands, log entries, snapshots |
//! | [`raft`] | how it agrees: the log on disk, the messages between replicas |
//! | [`api`] | what the HTTP API says and is told, as JSON |
//! | [`codes`] | error codes, and the exit codes that users see |

mod message;
mod payload;

pub mod api;
pub mod cluster;
pub mod codes;
pub mod frame;
pub mod guest;
pub mod id;
pub mod migrate;
pub mod peer;
pub mod process;
pub mod raft;
pub mod record;
pub mod state;
pub mod version;
