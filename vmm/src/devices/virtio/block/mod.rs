//! virtio block device (virtio 1.2, 5.2) on a raw file or a block device.
//!
//! ```text
//! ring -> request (parse, check) -> engine (io_uring, or system calls) -> disk
//!                 \_ bad: status to the driver          \_ done: status, used ring, interrupt
//! ```
//!
//! What a driver may rely on: a flush is an `fdatasync`; without `VIRTIO_BLK_F_FLUSH`, or with the
//! write cache off, a write is on stable storage before it is answered. What was answered before a
//! pause is in the saved ring, because a pause waits for what is in flight.
//!
//! It refuses to open a disk that another guest writes, and never guesses: a request that is out of
//! range, unaligned or forbidden is answered with a status; a chain that cannot be answered at all
//! makes the device need a reset.

mod config;
mod counters;
mod device;
mod disk;
mod engine;
mod persist;
mod request;
mod worker;

#[cfg(test)]
mod tests;

pub use config::{BlockConfig, CacheMode, ID_BYTES};
pub use counters::BlockCounters;
pub use device::{Block, DiskClaim};
pub use disk::DiskError;
