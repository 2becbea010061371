//! The first serial port: a 16550A between a [`Sink`] for its output and an [`InputPort`] for its
//! input.

mod device;
mod persist;

pub use device::Serial;
pub use persist::SerialStateError;

pub use crate::devices::terminal::{InputPort, NullSink, Sink};

#[cfg(test)]
pub(crate) use device::tests::port as test_port;
