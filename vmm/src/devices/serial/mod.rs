//! The first serial port: a 16550A between a [`Sink`](crate::devices::terminal::Sink) for its output
//! and an [`InputPort`](crate::devices::terminal::InputPort) for its input.

mod device;
mod persist;

pub use device::Serial;
pub use persist::SerialStateError;

#[cfg(test)]
pub(crate) use device::tests::port as test_port;
