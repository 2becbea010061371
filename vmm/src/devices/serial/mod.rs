//! The first serial port: a 16550A whose output goes to a [`Sink`] and whose input is fed in.
//!
//! ```text
//! stdin --> InputPump --+                         +--> NullSink
//!                       +--> Serial --> Sink -----+--> WriteSink (stdout, a file)
//! clients --> Hub ------+                         +--> HubSink --> Hub --> clients
//! ```
//!
//! Input has back pressure from the guest to its source: [`InputPort::offer`] says how much it took,
//! and [`InputPort::space`] is signalled when there is room again. Output never waits for a slow
//! client: what a client does not read in time is lost to it and counted. Only stdout and files are
//! written directly, at whatever pace they have.

mod device;
mod hub;
mod input;
mod persist;
mod sink;

pub use device::Serial;
pub use hub::{Hub, HubSink};
pub use input::{InputPort, InputPump};
pub use persist::SerialStateError;
pub use sink::{NullSink, Sink, WriteSink};
