//! The virtio console (virtio 1.2, section 5.3), with one port.
//!
//! ```text
//! InputPort --> inbox (64 KiB) --> receive queue --> driver --> transmit queue --> Sink
//! ```
//!
//! Input is taken only while the device works. It is buffered while the driver offers no buffers,
//! and once the inbox is full its source has to wait. What was taken and not yet given to the driver
//! is saved with the guest, so a save loses no input. Output goes to a
//! [`Sink`](crate::devices::terminal::Sink), which never makes the guest wait for a client.
//!
//! There is one port: no multiport, no hot plug, no emergency write.

mod device;
mod inbox;
mod persist;
#[cfg(test)]
mod tests;
mod worker;

pub use device::{Console, ConsoleHandle, WindowSize};
