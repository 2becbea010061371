//! What is on the wire and on disk: pinned by golden files, damaged in every way, and sent round.

#![allow(
    clippy::unwrap_used,
    reason = "a sample that cannot be made is a failed test"
)]

mod corruption;
mod golden;
mod mutations;
mod round_trip;
mod samples;
