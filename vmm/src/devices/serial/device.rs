//! The 16550A itself: `vm_superio` between a sink, an interrupt line and an input port.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_superio::Trigger;
use vm_superio::serial::{Error, SerialEvents};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::bus::{Bus, BusDevice, BusError};
use crate::interrupt::{InterruptError, IrqLine};
use crate::memory::layout::SERIAL_PORT;

use crate::devices::terminal::{InputPort, Sink};

/// Ports of a 16550.
const PORTS: u64 = 8;
/// Modem control register, where the guest enters and leaves loopback.
const MODEM_CONTROL: u64 = 4;

pub(super) type Chip = vm_superio::Serial<Line, Arc<Space>, SinkWriter>;

/// A serial port.
pub struct Serial {
    chip: Mutex<Chip>,
    space: Arc<Space>,
    /// No input is taken, so that none is lost between a save and the guest's end here.
    paused: AtomicBool,
}

impl Serial {
    /// A port whose interrupt is `line` ([`crate::memory::layout::SERIAL_IRQ`]).
    ///
    /// # Errors
    /// The kernel's answer when there is no eventfd to be had.
    pub fn new(line: Arc<dyn IrqLine>, sink: Box<dyn Sink>) -> io::Result<Arc<Self>> {
        let space = Arc::new(Space {
            event: EventFd::new(EFD_NONBLOCK)?,
            wanted: AtomicBool::new(false),
        });
        let chip = Chip::with_events(Line(line), space.clone(), SinkWriter(sink));
        Ok(Arc::new(Self {
            chip: Mutex::new(chip),
            space,
            paused: AtomicBool::new(false),
        }))
    }

    /// Puts the port's registers on the port bus.
    ///
    /// # Errors
    /// [`BusError`] when something is in the way.
    pub fn register(self: &Arc<Self>, pio: &mut Bus) -> Result<(), BusError> {
        pio.insert(u64::from(SERIAL_PORT), PORTS, self.clone())
    }

    /// Takes no input until [`Serial::resume`]: what is not taken stays with its source.
    pub fn pause(&self) {
        // Under the lock, so that an offer that runs is over.
        let _chip = self.chip();
        self.paused.store(true, Ordering::Relaxed);
    }

    /// Takes input again.
    pub fn resume(&self) {
        let _chip = self.chip();
        self.paused.store(false, Ordering::Relaxed);
        self.space.signal();
    }

    /// Gives up to 64 bytes of input to the guest; returns how many were taken. See [`InputPort`].
    pub fn enqueue(&self, bytes: &[u8]) -> usize {
        let mut chip = self.chip();
        // vm-superio takes an empty offer and a full FIFO for errors; both just take nothing.
        let room = match self.paused.load(Ordering::Relaxed) {
            true => 0,
            false => chip.fifo_capacity().min(bytes.len()),
        };
        let taken = match room {
            0 => 0,
            _ => chip
                .enqueue_raw_bytes(&bytes[..room])
                .unwrap_or_else(|error| {
                    report(&error);
                    // The bytes are in the FIFO, only the interrupt failed.
                    room
                }),
        };
        if taken < bytes.len() {
            self.space.wanted.store(true, Ordering::Relaxed);
        }
        taken
    }

    pub(super) fn chip(&self) -> MutexGuard<'_, Chip> {
        self.chip.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InputPort for Serial {
    fn offer(&self, bytes: &[u8]) -> usize {
        self.enqueue(bytes)
    }

    fn space(&self) -> &EventFd {
        &self.space.event
    }
}

impl BusDevice for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut chip = self.chip();
        for (at, byte) in (offset..).zip(data) {
            *byte = chip.read(at as u8);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut chip = self.chip();
        for (at, &byte) in (offset..).zip(data) {
            if let Err(error) = chip.write(at as u8, byte) {
                report(&error);
            }
            if at == MODEM_CONTROL {
                // In loopback no input is taken, and this may be its end.
                self.space.signal();
            }
        }
    }
}

/// Output errors never reach here: sinks count what they lose.
fn report(error: &Error<InterruptError>) {
    tracing::warn!(?error, "the serial port's interrupt failed");
}

/// The interrupt line as `vm_superio` wants it.
pub(super) struct Line(pub(super) Arc<dyn IrqLine>);

impl Trigger for Line {
    type E = InterruptError;

    fn trigger(&self) -> Result<(), InterruptError> {
        self.0.trigger()
    }
}

/// A sink as `vm_superio` wants it.
pub(super) struct SinkWriter(pub(super) Box<dyn Sink>);

impl Write for SinkWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Tells the feeder that there is room, when it wants to know.
pub(super) struct Space {
    event: EventFd,
    wanted: AtomicBool,
}

impl Space {
    fn signal(&self) {
        if self.wanted.swap(false, Ordering::Relaxed) {
            // A full counter means that it is signalled already.
            let _ = self.event.write(1);
        }
    }
}

impl SerialEvents for Space {
    fn buffer_read(&self) {}
    fn out_byte(&self) {}
    fn tx_lost_byte(&self) {}
    fn in_buffer_empty(&self) {
        self.signal();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    pub(crate) struct TestLine(pub(crate) AtomicUsize);

    impl IrqLine for TestLine {
        fn trigger(&self) -> Result<(), InterruptError> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }
    }

    #[derive(Clone, Default)]
    pub(crate) struct Tape(pub(crate) Arc<Mutex<Vec<u8>>>);

    impl Sink for Tape {
        fn write(&mut self, bytes: &[u8]) {
            self.0.lock().unwrap().extend_from_slice(bytes);
        }
    }

    pub(crate) fn port() -> (Arc<Serial>, Bus, Arc<TestLine>, Tape) {
        let (line, tape) = (Arc::new(TestLine::default()), Tape::default());
        let serial = Serial::new(line.clone(), Box::new(tape.clone())).unwrap();
        let mut pio = Bus::new();
        serial.register(&mut pio).unwrap();
        (serial, pio, line, tape)
    }

    fn read(pio: &Bus, port: u64) -> u8 {
        let mut data = [0];
        pio.read(port, &mut data);
        data[0]
    }

    #[test]
    fn output_reaches_the_sink_byte_by_byte() {
        let (_serial, pio, line, tape) = port();
        for byte in b"godwit" {
            assert_eq!(read(&pio, 0x3fd) & 0x20, 0x20, "the transmitter is empty");
            pio.write(0x3f8, &[*byte]);
        }
        assert_eq!(*tape.0.lock().unwrap(), b"godwit");
        assert_eq!(line.0.load(Ordering::SeqCst), 0, "interrupts are off");
    }

    #[test]
    fn input_interrupts_and_is_taken_as_far_as_the_fifo_goes() {
        let (serial, pio, line, _) = port();
        pio.write(0x3f9, &[1]);
        let sent: Vec<u8> = (0..100).collect();
        assert_eq!(serial.enqueue(&sent), 64);
        assert_eq!(serial.enqueue(&sent[64..]), 0);
        assert_eq!(serial.enqueue(&[]), 0);
        assert_eq!(line.0.load(Ordering::SeqCst), 1);
        assert!(serial.space().read().is_err(), "there is no room yet");
        let mut got = Vec::new();
        while read(&pio, 0x3fd) & 1 == 1 {
            got.push(read(&pio, 0x3f8));
        }
        assert_eq!(serial.space().read().unwrap(), 1);
        assert_eq!(serial.enqueue(&sent[64..]), 36);
        while read(&pio, 0x3fd) & 1 == 1 {
            got.push(read(&pio, 0x3f8));
        }
        assert_eq!(got, sent);
        assert!(serial.space().read().is_err(), "nobody waits for room");
    }

    #[test]
    fn a_paused_port_takes_no_input_and_asks_for_it_afterwards() {
        let (serial, ..) = port();
        serial.pause();
        assert_eq!(serial.enqueue(b"x"), 0);
        assert_eq!(serial.save().in_buffer, b"");
        serial.resume();
        assert_eq!(serial.space().read().unwrap(), 1);
        assert_eq!(serial.enqueue(b"x"), 1);
    }

    #[test]
    fn input_waits_while_the_guest_tests_the_port_in_loopback() {
        let (serial, pio, ..) = port();
        pio.write(0x3fc, &[0x10]);
        assert_eq!(serial.enqueue(b"x"), 0);
        pio.write(0x3f8, b"y");
        assert_eq!(read(&pio, 0x3f8), b'y');
        assert_eq!(serial.space().read().unwrap(), 1);
        assert_eq!(serial.enqueue(b"x"), 0);
        pio.write(0x3fc, &[0]);
        assert_eq!(serial.space().read().unwrap(), 1);
        assert_eq!(serial.enqueue(b"x"), 1);
    }
}
