//! Typed ids, frames and versioned records: everything of Godwit that is written to a wire or a
//! disk. No I/O, no clocks.

pub mod state;
