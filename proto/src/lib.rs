//! Everything of Godwit that is written to a wire or a disk: typed ids, frames, versioned records.
//!
//! No I/O, no clocks, no randomness: bytes in, values out, and back. What is decoded here is
//! well formed, never trusted: who uses a value checks what it means (`TryFrom`, a validated config).
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | the names of guests, nodes, migrations; numbers that only grow |
//! | [`record`] | versioned, checksummed records and sequences of them |
//! | [`guest`] | what a user asks for: [`guest::GuestSpec`] |
//! | [`state`] | the saved state of a guest, one record per part |

mod payload;

pub mod guest;
pub mod id;
pub mod record;
pub mod state;
