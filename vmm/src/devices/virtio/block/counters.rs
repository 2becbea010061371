//! What a disk has done, readable from any thread.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one disk since it was opened. Each is exact; together they are not a snapshot.
#[derive(Debug, Default)]
pub struct BlockCounters {
    pub(super) reads: AtomicU64,
    pub(super) read_bytes: AtomicU64,
    pub(super) writes: AtomicU64,
    pub(super) write_bytes: AtomicU64,
    pub(super) flushes: AtomicU64,
    pub(super) discards: AtomicU64,
    pub(super) write_zeroes: AtomicU64,
    pub(super) rejected: AtomicU64,
    pub(super) io_errors: AtomicU64,
    pub(super) no_space: AtomicU64,
    pub(super) interrupts: AtomicU64,
}

macro_rules! readers {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        impl BlockCounters {
            $($(#[$doc])*
            pub fn $name(&self) -> u64 {
                self.$name.load(Ordering::Relaxed)
            })*
        }
    };
}

readers! {
    /// Reads that succeeded.
    reads,
    /// Bytes read.
    read_bytes,
    /// Writes that succeeded.
    writes,
    /// Bytes written.
    write_bytes,
    /// Flushes that succeeded.
    flushes,
    /// Discard requests that succeeded.
    discards,
    /// Write-zeroes requests that succeeded.
    write_zeroes,
    /// Requests answered with an error because of what the driver asked for.
    rejected,
    /// Requests answered with an error because the host's storage failed.
    io_errors,
    /// Those of `io_errors` for which the host had no space left.
    no_space,
    /// Interrupts raised.
    interrupts,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
