//! What a network card has done, readable from any thread.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one card since it was opened. "Receive" is what the guest receives. Each is exact;
/// together they are not a snapshot. Bytes are those of frames, without virtio headers.
#[derive(Debug, Default)]
pub struct NetCounters {
    pub(super) rx_packets: AtomicU64,
    pub(super) rx_bytes: AtomicU64,
    pub(super) rx_dropped: AtomicU64,
    pub(super) rx_starved: AtomicU64,
    pub(super) tx_packets: AtomicU64,
    pub(super) tx_bytes: AtomicU64,
    pub(super) tx_dropped: AtomicU64,
    pub(super) interrupts: AtomicU64,
    pub(super) announced: AtomicU64,
}

macro_rules! readers {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        impl NetCounters {
            $($(#[$doc])*
            pub fn $name(&self) -> u64 {
                self.$name.load(Ordering::Relaxed)
            })*
        }
    };
}

readers! {
    /// Frames given to the guest.
    rx_packets,
    /// Bytes given to the guest.
    rx_bytes,
    /// Frames from the tap that did not fit the guest's buffers, or met a link that is down.
    rx_dropped,
    /// How often reading stopped because the guest had no buffers left.
    rx_starved,
    /// Frames that the tap took.
    tx_packets,
    /// Bytes that the tap took.
    tx_bytes,
    /// Frames that the tap refused, that were no frames, or that met a link that is down.
    tx_dropped,
    /// Interrupts raised.
    interrupts,
    /// Frames with which the card itself announced the guest.
    announced,
}

/// Adds to a counter.
pub(super) fn add(counter: &AtomicU64, amount: u64) {
    counter.fetch_add(amount, Ordering::Relaxed);
}
