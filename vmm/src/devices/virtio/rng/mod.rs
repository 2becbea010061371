//! The virtio entropy device (virtio 1.2, section 5.4).
//!
//! Randomness comes from the host's `/dev/urandom`, which is opened when the device is made, so that
//! it works in a jail. A request gets at most 64 KiB, and over time a guest gets no more than a
//! fixed rate: entropy costs the host CPU time, which the guest must not be able to draw on without
//! limit. The device has no state besides its ring.

mod budget;
mod device;
mod persist;
mod worker;

pub use device::Rng;
