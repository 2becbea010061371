//! Between a guest's serial port or console and whoever reads and types.
//!
//! ```text
//! stdin --> InputPump --+                           +--> NullSink
//!                       +--> InputPort    Sink -----+--> WriteSink (stdout, a file)
//! clients --> Hub ------+     (device)              +--> HubSink --> Hub --> clients
//! ```
//!
//! Input has back pressure from the guest to its source: [`InputPort::offer`] says how much it took,
//! and [`InputPort::space`] is signalled when there is room again. Output never waits for a slow
//! client: what a client does not read in time is lost to it and counted. Only stdout and files are
//! written directly, at whatever pace they have.

mod hub;
mod input;
mod sink;

pub use hub::{Hub, HubSink};
pub use input::{InputPort, InputPump};
pub use sink::{NullSink, Sink, WriteSink};
