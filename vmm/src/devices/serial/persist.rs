//! Save and restore of the registers and of input that the guest has not read.

use godwit_proto::state::serial::SerialState;
use vm_superio::serial::SerialState as ChipState;

use super::Serial;
use super::device::{Chip, Line, SinkWriter};
use crate::devices::terminal::NullSink;
use crate::interrupt::InterruptError;

/// Size of the receive FIFO, bytes.
const FIFO: usize = 64;
/// Interrupt enable bits of a 16550.
const INTERRUPT_ENABLE: u8 = 0x0f;
/// Line status: the transmitter is always empty, and input may be there.
const LINE_STATUS_IDLE: u8 = 0x60;
const LINE_STATUS_DATA: u8 = 0x01;

/// Why a saved serial port was refused.
#[derive(Debug, thiserror::Error)]
pub enum SerialStateError {
    /// More input than the FIFO holds.
    #[error("saved serial port has {found} bytes of input, the FIFO holds {FIFO}")]
    Input {
        /// Bytes of input.
        found: usize,
    },
    /// A register has a value that the guest and the port cannot bring about.
    #[error("saved serial port has {register} {found:#04x}, which cannot be")]
    Register {
        /// The field of [`SerialState`].
        register: &'static str,
        /// Its value.
        found: u8,
    },
    /// A pending interrupt could not be raised.
    #[error("cannot raise the interrupt of the restored serial port: {0:?}")]
    Interrupt(vm_superio::serial::Error<InterruptError>),
}

impl Serial {
    /// The registers and the unread input. Only while no vCPU runs and the port is paused.
    pub fn save(&self) -> SerialState {
        let chip = self.chip().state();
        SerialState {
            baud_divisor_low: chip.baud_divisor_low,
            baud_divisor_high: chip.baud_divisor_high,
            interrupt_enable: chip.interrupt_enable,
            interrupt_identification: chip.interrupt_identification,
            line_control: chip.line_control,
            line_status: chip.line_status,
            modem_control: chip.modem_control,
            modem_status: chip.modem_status,
            scratch: chip.scratch,
            in_buffer: chip.in_buffer,
        }
    }

    /// Takes over a saved state, as untrusted input, and raises the interrupt if one is due; so the
    /// interrupt controller must be restored first. Only while no vCPU runs.
    ///
    /// # Errors
    /// [`SerialStateError`]; nothing is changed then.
    pub fn restore(&self, state: &SerialState) -> Result<(), SerialStateError> {
        check(state)?;
        self.replace(&ChipState {
            baud_divisor_low: state.baud_divisor_low,
            baud_divisor_high: state.baud_divisor_high,
            interrupt_enable: state.interrupt_enable,
            interrupt_identification: state.interrupt_identification,
            line_control: state.line_control,
            line_status: state.line_status,
            modem_control: state.modem_control,
            modem_status: state.modem_status,
            scratch: state.scratch,
            in_buffer: state.in_buffer.clone(),
        })
        .map_err(SerialStateError::Interrupt)
    }

    /// Back to the state after power-on, as when the machine is reset. Unread input is gone.
    pub fn reset(&self) {
        self.replace(&ChipState::default())
            .expect("a fresh chip has no interrupt to raise and an empty FIFO");
        // Whoever waited for room has it now.
        vm_superio::serial::SerialEvents::in_buffer_empty(self.chip().events());
    }

    /// Makes the chip another one with the same line, feeder and sink.
    fn replace(&self, state: &ChipState) -> Result<(), vm_superio::serial::Error<InterruptError>> {
        let mut chip = self.chip();
        let line = Line(chip.interrupt_evt().0.clone());
        let events = chip.events().clone();
        let mut next = Chip::from_state(state, line, events, SinkWriter(Box::new(NullSink)))?;
        std::mem::swap(next.writer_mut(), chip.writer_mut());
        *chip = next;
        Ok(())
    }
}

fn check(state: &SerialState) -> Result<(), SerialStateError> {
    let input = state.in_buffer.len();
    if input > FIFO {
        return Err(SerialStateError::Input { found: input });
    }
    let data = if input == 0 { 0 } else { LINE_STATUS_DATA };
    for (register, found, good) in [
        (
            "interrupt_enable",
            state.interrupt_enable,
            state.interrupt_enable & !INTERRUPT_ENABLE == 0,
        ),
        (
            "interrupt_identification",
            state.interrupt_identification,
            matches!(state.interrupt_identification, 1 | 2 | 4 | 6),
        ),
        (
            "line_status",
            state.line_status,
            state.line_status == LINE_STATUS_IDLE | data,
        ),
    ] {
        if !good {
            return Err(SerialStateError::Register { register, found });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::device::tests::port;
    use super::*;
    use std::sync::atomic::Ordering;

    #[test]
    fn unread_input_and_registers_survive_and_the_interrupt_comes_again() {
        let (source, pio, ..) = port();
        pio.write(0x3f9, &[1]);
        pio.write(0x3ff, &[0x5a]);
        assert_eq!(source.enqueue(b"unread"), 6);
        let saved = source.save();
        let (target, pio, line, tape) = port();
        target.restore(&saved).unwrap();
        assert_eq!(target.save(), saved);
        assert_eq!(line.0.load(Ordering::SeqCst), 1);
        let got: Vec<u8> = (0..6)
            .map(|_| {
                let mut byte = [0];
                pio.read(0x3f8, &mut byte);
                byte[0]
            })
            .collect();
        assert_eq!(got, b"unread");
        pio.write(0x3f8, b"!");
        assert_eq!(*tape.0.lock().unwrap(), b"!", "the sink stayed");
        target.reset();
        pio.write(0x3f8, b"?");
        assert_eq!(*tape.0.lock().unwrap(), b"!?");
    }

    #[test]
    fn a_state_that_cannot_be_is_refused_by_name() {
        let (serial, ..) = port();
        let before = serial.save();
        for (spoil, message) in [
            (
                (|s| s.in_buffer = vec![0; 65]) as fn(&mut SerialState),
                "saved serial port has 65 bytes of input, the FIFO holds 64",
            ),
            (
                |s| s.interrupt_enable = 0x10,
                "saved serial port has interrupt_enable 0x10, which cannot be",
            ),
            (
                |s| s.interrupt_identification = 0,
                "saved serial port has interrupt_identification 0x00, which cannot be",
            ),
            (
                |s| s.line_status = 0x61,
                "saved serial port has line_status 0x61, which cannot be",
            ),
        ] {
            let mut bad = before.clone();
            spoil(&mut bad);
            assert_eq!(serial.restore(&bad).unwrap_err().to_string(), message);
            assert_eq!(serial.save(), before);
        }
    }
}
