//! Power: how a guest turns itself off or resets, and how its power button is pressed.
//!
//! ```text
//! 0x600 sleep control  -> PowerOff when S5 is entered      0x602 reset -> Reset
//! 0x601 sleep status   reads 0: it never slept             0x603 events: reading clears them
//! 0x064 keyboard controller: the reset command only
//! ```
//!
//! This is hardware-reduced ACPI (ACPI 6.5, 4.1): no PM timer, no SCI, no fixed buttons. What the
//! guest asks for is reported, not done: who runs the guest acts on a [`PowerEvent`].

mod device;
mod i8042;
mod persist;

pub use device::{AcpiPower, PowerEvent};
pub use i8042::I8042;
pub use persist::PowerStateError;
