//! virtio network device (virtio 1.2, 5.1) on a tap.
//!
//! ```text
//! tap --readv--> receive buffers      one thread per direction and queue pair
//! tap <--writev-- transmit chains
//!                 control queue       one thread: queue pairs, answered announcements
//! tap <----write- announcements       a short-lived thread after the guest came from elsewhere
//! ```
//!
//! Frames go between the tap and guest memory without a copy; checksums and segmentation are left
//! to the host's stack, which knows the header before each frame as `struct virtio_net_hdr`.
//!
//! It never spins: without receive buffers the tap is not waited for until the driver adds some, so
//! the kernel queues and then drops, as a network does. It does not filter: which frames a guest may
//! send is the business of the bridge the tap is on.

mod announce;
mod config;
mod control;
mod counters;
mod device;
mod first_frame;
mod persist;
mod rx;
mod shared;
mod tap;
mod tx;

#[cfg(test)]
mod tests;

pub use announce::Announcer;
pub use config::{MAX_QUEUE_PAIRS, NetConfig};
pub use counters::NetCounters;
pub use device::Net;
pub use shared::NetHandle;
pub use tap::NetError;
