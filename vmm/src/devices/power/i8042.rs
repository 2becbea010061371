//! The keyboard controller's command port, of which only the reset command is left.

use super::device::{Listener, PowerEvent};
use crate::bus::BusDevice;
use crate::memory::layout::RESET_8042;

/// One port: commands are ignored but for the reset, and the status says that it is ready.
pub struct I8042 {
    listener: Listener,
}

impl I8042 {
    pub(super) fn new(listener: Listener) -> Self {
        Self { listener }
    }
}

impl BusDevice for I8042 {
    fn read(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, _offset: u64, data: &[u8]) {
        if data.first() == Some(&RESET_8042) {
            (self.listener)(PowerEvent::Reset);
        }
    }
}
