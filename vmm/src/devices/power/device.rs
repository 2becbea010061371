//! The registers of hardware-reduced ACPI.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::bus::{Bus, BusDevice, BusError};
use crate::interrupt::{InterruptError, IrqLine};
use crate::memory::layout::{
    ACPI_GED_PORT, ACPI_GED_POWER_BUTTON, ACPI_RESET_PORT, ACPI_RESET_VALUE, ACPI_S5_SLEEP_TYPE,
    ACPI_SLEEP_CONTROL_PORT, I8042_COMMAND_PORT,
};

use super::I8042;

/// Sleep control register: enter the sleep state now (ACPI 6.5, 4.8.3.7).
const SLEEP_ENABLE: u8 = 1 << 5;
/// Sleep control register: where the sleep type is.
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 7;
/// Registers from the sleep control register on.
const PORTS: u64 = (ACPI_GED_PORT - ACPI_SLEEP_CONTROL_PORT) as u64 + 1;

const SLEEP_CONTROL: u64 = 0;
const RESET: u64 = (ACPI_RESET_PORT - ACPI_SLEEP_CONTROL_PORT) as u64;
const EVENTS: u64 = (ACPI_GED_PORT - ACPI_SLEEP_CONTROL_PORT) as u64;

/// What a guest asks of its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// Turn it off (ACPI S5).
    PowerOff,
    /// Reset it.
    Reset,
}

/// Is told what the guest asks for; called on a vCPU thread, so it must not wait for one.
pub(super) type Listener = Arc<dyn Fn(PowerEvent) + Send + Sync>;

/// Sleep, reset and event registers.
pub struct AcpiPower {
    /// Events that the guest has not read, bits of the event register.
    pub(super) pending: AtomicU8,
    line: Arc<dyn IrqLine>,
    listener: Listener,
}

impl AcpiPower {
    /// The registers; `line` is the event device's interrupt ([`crate::memory::layout::ACPI_GED_IRQ`]).
    /// `listener` is called on a vCPU thread, possibly often: the guest decides.
    pub fn new(
        line: Arc<dyn IrqLine>,
        listener: impl Fn(PowerEvent) + Send + Sync + 'static,
    ) -> Arc<Self> {
        Arc::new(Self {
            pending: AtomicU8::new(0),
            line,
            listener: Arc::new(listener),
        })
    }

    /// Puts the registers, and the keyboard controller's reset command, on the port bus.
    ///
    /// # Errors
    /// [`BusError`] when something is in the way.
    pub fn register(self: &Arc<Self>, pio: &mut Bus) -> Result<(), BusError> {
        pio.insert(u64::from(ACPI_SLEEP_CONTROL_PORT), PORTS, self.clone())?;
        let i8042 = I8042::new(self.listener.clone());
        pio.insert(u64::from(I8042_COMMAND_PORT), 1, Arc::new(i8042))
    }

    /// Presses and releases the power button. What the guest does about it is its affair.
    ///
    /// # Errors
    /// [`InterruptError`] when the interrupt cannot be raised.
    pub fn press_power_button(&self) -> Result<(), InterruptError> {
        self.pending
            .fetch_or(ACPI_GED_POWER_BUTTON, Ordering::AcqRel);
        self.line.trigger()
    }

    /// Back to the state after power-on, as when the machine is reset.
    pub fn reset(&self) {
        self.pending.store(0, Ordering::Release);
    }

    /// Raises the interrupt of events that are not read yet, after a restore.
    ///
    /// # Errors
    /// [`InterruptError`] when the interrupt cannot be raised.
    pub fn resume(&self) -> Result<(), InterruptError> {
        match self.pending.load(Ordering::Acquire) {
            0 => Ok(()),
            _ => self.line.trigger(),
        }
    }
}

impl BusDevice for AcpiPower {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        for (at, byte) in (offset..).zip(data) {
            if at == EVENTS {
                *byte = self.pending.swap(0, Ordering::AcqRel);
            }
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        for (at, &byte) in (offset..).zip(data) {
            match at {
                SLEEP_CONTROL if byte & SLEEP_ENABLE != 0 => {
                    let sleep_type = byte >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK;
                    if sleep_type == ACPI_S5_SLEEP_TYPE {
                        (self.listener)(PowerEvent::PowerOff);
                    } else {
                        tracing::debug!(sleep_type, "guest asks for a sleep state there is not");
                    }
                }
                RESET if byte == ACPI_RESET_VALUE => (self.listener)(PowerEvent::Reset),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Line(AtomicUsize);

    impl IrqLine for Line {
        fn trigger(&self) -> Result<(), InterruptError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    }

    type Seen = Arc<Mutex<Vec<PowerEvent>>>;

    fn machine() -> (Arc<AcpiPower>, Bus, Arc<Line>, Seen) {
        let line = Arc::new(Line::default());
        let events = Arc::new(Mutex::new(Vec::new()));
        let seen = events.clone();
        let power = AcpiPower::new(line.clone(), move |event| seen.lock().unwrap().push(event));
        let mut pio = Bus::new();
        power.register(&mut pio).unwrap();
        (power, pio, line, events)
    }

    #[test]
    fn only_soft_off_with_the_enable_bit_turns_the_machine_off() {
        let (_power, pio, _, events) = machine();
        for value in 0..=u8::MAX {
            pio.write(0x600, &[value]);
            let off = value & 0x3c == 0x34;
            assert_eq!(events.lock().unwrap().drain(..).count(), usize::from(off));
        }
        pio.write(0x600, &[5 << 2 | 1 << 5]);
        assert_eq!(*events.lock().unwrap(), [PowerEvent::PowerOff]);
        let mut status = [0xff];
        pio.read(0x601, &mut status);
        assert_eq!(status, [0]);
    }

    #[test]
    fn both_reset_ports_reset_with_their_value_only() {
        let (_power, pio, _, events) = machine();
        for value in 0..=u8::MAX {
            pio.write(0x602, &[value]);
            pio.write(0x64, &[value]);
        }
        assert_eq!(*events.lock().unwrap(), [PowerEvent::Reset; 2]);
        let mut status = [0xff];
        pio.read(0x64, &mut status);
        assert_eq!(status, [0], "the controller is never busy");
    }

    #[test]
    fn a_pressed_button_interrupts_and_is_read_once() {
        let (power, pio, line, events) = machine();
        power.press_power_button().unwrap();
        power.press_power_button().unwrap();
        assert_eq!(line.0.load(Ordering::SeqCst), 2);
        let read = || {
            let mut pending = [0xff];
            pio.read(0x603, &mut pending);
            pending[0]
        };
        assert_eq!(read(), ACPI_GED_POWER_BUTTON);
        assert_eq!(read(), 0);
        pio.write(0x603, &[0xff]);
        assert_eq!(read(), 0);
        assert!(events.lock().unwrap().is_empty());
    }

    #[test]
    fn a_press_that_the_guest_has_not_seen_survives_save_and_restore() {
        let (source, ..) = machine();
        source.press_power_button().unwrap();
        let saved = source.save();
        let (target, pio, line, _) = machine();
        target.restore(&saved).unwrap();
        assert_eq!(line.0.load(Ordering::SeqCst), 0);
        target.resume().unwrap();
        assert_eq!(line.0.load(Ordering::SeqCst), 1);
        let mut pending = [0];
        pio.read(0x603, &mut pending);
        assert_eq!(pending, [ACPI_GED_POWER_BUTTON]);
        target.resume().unwrap();
        assert_eq!(line.0.load(Ordering::SeqCst), 1);
        let mut bad = saved;
        bad.pending = 0x80;
        assert_eq!(
            target.restore(&bad).unwrap_err().to_string(),
            "saved power events 0x80 have bits that do not exist"
        );
    }
}
