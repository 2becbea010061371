//! The 16550 serial port.

use rkyv::{Archive, Deserialize, Serialize};

use crate::record;
use crate::record::Kind;

/// The registers of a 16550A, and what was received but not read; mirrors `vm_superio::SerialState`.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
pub struct SerialState {
    /// Divisor latch, low byte.
    pub baud_divisor_low: u8,
    /// Divisor latch, high byte.
    pub baud_divisor_high: u8,
    /// Interrupt enable register.
    pub interrupt_enable: u8,
    /// Interrupt identification register.
    pub interrupt_identification: u8,
    /// Line control register.
    pub line_control: u8,
    /// Line status register.
    pub line_status: u8,
    /// Modem control register.
    pub modem_control: u8,
    /// Modem status register.
    pub modem_status: u8,
    /// Scratch register.
    pub scratch: u8,
    /// Received and not read yet, oldest first; at most 64 bytes.
    pub in_buffer: Vec<u8>,
}
record!(SerialState, Kind::Serial, version = 1);
