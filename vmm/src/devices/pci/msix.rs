//! MSI-X: the capability, the table, the pending bits (PCI Local Bus 3.0, 6.8.2).
//!
//! ```text
//! capability: enabled? function masked?  --+
//!                                          +--> per vector: off | masked | open
//! table entry: message, masked?          --+
//! ```
//!
//! An interrupt raised while *off* is dropped, while *masked* it becomes a pending bit, while *open*
//! it is delivered. Pending bits are delivered when the vector opens, so none is lost however
//! masking and raising interleave. Raising on an open vector takes no lock.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::interrupt::{InterruptError, MsiController, MsiMessage, MsiVector};

/// Capability id.
pub const CAPABILITY_ID: u8 = 0x11;
/// Bytes per table entry.
pub const ENTRY_SIZE: usize = 16;
/// Message control, in the word after the capability's header: MSI-X is enabled.
pub const CONTROL_ENABLE: u16 = 1 << 15;
/// Message control: all vectors are masked.
pub const CONTROL_FUNCTION_MASK: u16 = 1 << 14;
/// Vector control: the vector is masked.
const ENTRY_MASKED: u32 = 1;

/// What becomes of an interrupt that is raised now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    /// MSI-X is disabled: it is dropped.
    Off,
    /// The vector or the function is masked: it becomes pending.
    Masked,
    /// It is delivered as this message.
    Open(MsiMessage),
}

#[derive(Debug)]
struct Slow {
    gate: Gate,
    pending: bool,
}

/// One vector as the device sees it.
pub struct Vector {
    line: Arc<dyn MsiVector>,
    /// Even while the gate is open, odd otherwise; changes with every change of the gate.
    epoch: AtomicU32,
    slow: Mutex<Slow>,
}

impl Vector {
    fn new(line: Arc<dyn MsiVector>) -> Self {
        Self {
            line,
            epoch: AtomicU32::new(1),
            slow: Mutex::new(Slow {
                gate: Gate::Off,
                pending: false,
            }),
        }
    }

    /// Raises the interrupt, or makes it pending while it is masked.
    ///
    /// # Errors
    /// [`InterruptError`] when it cannot be delivered.
    pub fn raise(&self) -> Result<(), InterruptError> {
        let epoch = self.epoch.load(Ordering::SeqCst);
        if epoch.is_multiple_of(2) {
            self.line.trigger()?;
            if self.epoch.load(Ordering::SeqCst) == epoch {
                return Ok(());
            }
            // The gate moved meanwhile, the kernel may have dropped it. Twice is harmless.
        }
        let mut slow = self.slow();
        match slow.gate {
            Gate::Off => {}
            Gate::Masked => slow.pending = true,
            Gate::Open(_) => self.line.trigger()?,
        }
        Ok(())
    }

    fn set_gate(&self, gate: Gate) -> Result<(), InterruptError> {
        let mut slow = self.slow();
        if slow.gate == gate {
            return Ok(());
        }
        if matches!(slow.gate, Gate::Open(_)) {
            self.epoch.fetch_add(1, Ordering::SeqCst);
        }
        // Should the kernel refuse, interrupts stay pending instead of being lost.
        let was_open = matches!(
            std::mem::replace(&mut slow.gate, Gate::Masked),
            Gate::Open(_)
        );
        match gate {
            Gate::Open(message) => {
                self.line.enable(message)?;
                slow.gate = gate;
                self.epoch.fetch_add(1, Ordering::SeqCst);
                if std::mem::take(&mut slow.pending) {
                    self.line.trigger()?;
                }
            }
            Gate::Off | Gate::Masked => {
                slow.gate = gate;
                slow.pending &= gate == Gate::Masked;
                if was_open {
                    self.line.disable()?;
                }
            }
        }
        Ok(())
    }

    fn pending(&self) -> bool {
        self.slow().pending
    }

    fn set_pending(&self, pending: bool) {
        self.slow().pending = pending;
    }

    fn slow(&self) -> MutexGuard<'_, Slow> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One row of the table, as the guest wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Message address.
    pub address: u64,
    /// Message data.
    pub data: u32,
    /// Vector control: bit 0 masks, the others are reserved and read as written zero.
    pub control: u32,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            address: 0,
            data: 0,
            control: ENTRY_MASKED,
        }
    }
}

impl Entry {
    fn bytes(self) -> [u8; ENTRY_SIZE] {
        let mut bytes = [0; ENTRY_SIZE];
        bytes[..8].copy_from_slice(&self.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.data.to_le_bytes());
        bytes[12..].copy_from_slice(&self.control.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; ENTRY_SIZE]) -> Self {
        let [a, b, c, d] = [0, 4, 8, 12]
            .map(|at| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
        Self {
            address: u64::from(a & !3) | u64::from(b) << 32,
            data: c,
            control: d & ENTRY_MASKED,
        }
    }
}

/// The MSI-X state of one function.
pub struct Msix {
    vectors: Arc<[Vector]>,
    entries: Vec<Entry>,
    /// The two bits of message control that the guest may change.
    control: u16,
}

impl Msix {
    /// `count` vectors (1..=2048), MSI-X disabled and every entry masked, as after a PCI reset.
    ///
    /// # Errors
    /// [`InterruptError`] when the controller has not enough vectors left.
    pub fn new(count: u16, controller: &dyn MsiController) -> Result<Self, InterruptError> {
        assert!((1..=2048).contains(&count));
        let vectors = (0..count)
            .map(|_| controller.allocate().map(Vector::new))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            vectors,
            entries: vec![Entry::default(); usize::from(count)],
            control: 0,
        })
    }

    /// The vectors, to raise them without a lock.
    pub fn vectors(&self) -> Arc<[Vector]> {
        self.vectors.clone()
    }

    /// The body of the capability (after id and next pointer): table at `table` and pending bits at
    /// `pba`, both offsets into BAR 0.
    pub fn capability(&self, table: u32, pba: u32) -> [u8; 10] {
        let mut body = [0; 10];
        body[..2].copy_from_slice(&(self.entries.len() as u16 - 1).to_le_bytes());
        body[2..6].copy_from_slice(&table.to_le_bytes());
        body[6..].copy_from_slice(&pba.to_le_bytes());
        body
    }

    /// The enable and function mask bits.
    pub fn control(&self) -> u16 {
        self.control
    }

    /// Takes over message control after the guest wrote it.
    pub fn set_control(&mut self, control: u16) {
        self.control = control & (CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
        for index in 0..self.entries.len() {
            self.apply(index);
        }
    }

    /// Back to the state after a PCI reset.
    pub fn reset(&mut self) {
        self.set_control(0);
        self.entries.fill(Entry::default());
    }

    /// The rows of the table.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Which vectors are pending, as bits.
    pub fn pending(&self) -> Vec<u64> {
        let mut words = vec![0; self.entries.len().div_ceil(64)];
        for (index, vector) in self.vectors.iter().enumerate() {
            words[index / 64] |= u64::from(vector.pending()) << (index % 64);
        }
        words
    }

    /// Takes over a saved table. The caller has checked its length and the reserved bits.
    pub fn restore(&mut self, control: u16, entries: &[Entry], pending: &[u64]) {
        self.set_control(0);
        self.entries.copy_from_slice(entries);
        // Pending bits exist only while masked; what is open when the control is set fires at once.
        self.set_control(control | CONTROL_FUNCTION_MASK);
        for (index, vector) in self.vectors.iter().enumerate() {
            vector.set_pending(pending[index / 64] >> (index % 64) & 1 == 1);
        }
        self.set_control(control);
    }

    /// The guest reads the table.
    pub fn read_table(&self, offset: u64, data: &mut [u8]) {
        read_words(offset, data, |index| {
            self.entries.get(index / 2).map(|entry| {
                let bytes = entry.bytes();
                let at = index % 2 * 8;
                let mut word = [0; 8];
                word.copy_from_slice(&bytes[at..at + 8]);
                word
            })
        });
    }

    /// The guest writes the table. Only aligned accesses of 4 and 8 bytes are defined (6.8.2); any
    /// other, and one beyond the last entry, is ignored.
    pub fn write_table(&mut self, offset: u64, data: &[u8]) {
        if !matches!(data.len(), 4 | 8) || !offset.is_multiple_of(data.len() as u64) {
            return;
        }
        let Ok(offset) = usize::try_from(offset) else {
            return;
        };
        let index = offset / ENTRY_SIZE;
        if let Some(entry) = self.entries.get_mut(index) {
            let mut bytes = entry.bytes();
            let at = offset % ENTRY_SIZE;
            bytes[at..at + data.len()].copy_from_slice(data);
            *entry = Entry::from_bytes(bytes);
            self.apply(index);
        }
    }

    /// The guest reads the pending bits; they cannot be written.
    pub fn read_pending(&self, offset: u64, data: &mut [u8]) {
        let pending = self.pending();
        read_words(offset, data, |index| {
            pending.get(index).map(|word| word.to_le_bytes())
        });
    }

    /// Brings a vector's gate in line with the registers.
    fn apply(&self, index: usize) {
        let entry = self.entries[index];
        let gate = if self.control & CONTROL_ENABLE == 0 {
            Gate::Off
        } else if self.control & CONTROL_FUNCTION_MASK != 0 || entry.control & ENTRY_MASKED != 0 {
            Gate::Masked
        } else {
            Gate::Open(MsiMessage {
                address: entry.address,
                data: entry.data,
            })
        };
        if let Err(error) = self.vectors[index].set_gate(gate) {
            tracing::error!(index, ?gate, %error, "cannot route an MSI-X vector; it stays masked");
        }
    }
}

/// Reads bytes out of an array of 8-byte words; what lies beyond it is zero.
fn read_words(offset: u64, data: &mut [u8], word: impl Fn(usize) -> Option<[u8; 8]>) {
    for (at, byte) in (offset..).zip(data) {
        *byte = usize::try_from(at / 8)
            .ok()
            .and_then(&word)
            .map_or(0, |word| word[(at % 8) as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::mock::TestMsi;
    use proptest::prelude::*;
    use std::thread;

    const MESSAGE: MsiMessage = MsiMessage {
        address: 0xfee0_1000,
        data: 0x31,
    };

    fn msix(count: u16) -> (Msix, Arc<TestMsi>) {
        let controller = Arc::new(TestMsi::default());
        (Msix::new(count, &*controller).unwrap(), controller)
    }

    fn program(msix: &mut Msix, index: u64, message: MsiMessage, masked: bool) {
        let at = index * ENTRY_SIZE as u64;
        msix.write_table(at, &message.address.to_le_bytes());
        msix.write_table(at + 8, &message.data.to_le_bytes());
        msix.write_table(at + 12, &u32::from(masked).to_le_bytes());
    }

    fn pending(msix: &Msix) -> u64 {
        let mut word = [0; 8];
        msix.read_pending(0, &mut word);
        u64::from_le_bytes(word)
    }

    #[test]
    fn an_open_vector_delivers_the_message_in_its_entry() {
        let (mut msix, controller) = msix(2);
        program(&mut msix, 1, MESSAGE, false);
        msix.vectors()[1].raise().unwrap();
        assert_eq!(controller.delivered(), [], "MSI-X is disabled");
        msix.set_control(CONTROL_ENABLE);
        assert_eq!(controller.delivered(), [], "what was dropped stays dropped");
        msix.vectors()[1].raise().unwrap();
        assert_eq!(controller.delivered(), [MESSAGE]);
        let moved = MsiMessage {
            data: 0x32,
            ..MESSAGE
        };
        program(&mut msix, 1, moved, false);
        msix.vectors()[1].raise().unwrap();
        assert_eq!(controller.delivered(), [MESSAGE, moved]);
    }

    #[test]
    fn a_masked_vector_is_pending_and_fires_once_when_it_is_unmasked() {
        let (mut msix, controller) = msix(3);
        msix.set_control(CONTROL_ENABLE);
        program(&mut msix, 2, MESSAGE, true);
        for _ in 0..3 {
            msix.vectors()[2].raise().unwrap();
        }
        assert_eq!((pending(&msix), controller.delivered().len()), (0b100, 0));
        program(&mut msix, 2, MESSAGE, false);
        assert_eq!((pending(&msix), controller.delivered().len()), (0, 1));
    }

    #[test]
    fn the_function_mask_masks_every_vector_and_leaves_the_entries_alone() {
        let (mut msix, controller) = msix(2);
        program(&mut msix, 0, MESSAGE, false);
        program(&mut msix, 1, MESSAGE, true);
        msix.set_control(CONTROL_ENABLE | CONTROL_FUNCTION_MASK);
        msix.vectors()[0].raise().unwrap();
        msix.vectors()[1].raise().unwrap();
        assert_eq!((pending(&msix), controller.delivered().len()), (0b11, 0));
        msix.set_control(CONTROL_ENABLE);
        assert_eq!((pending(&msix), controller.delivered().len()), (0b10, 1));
        msix.set_control(0);
        assert_eq!(pending(&msix), 0, "disabling forgets what was pending");
    }

    #[test]
    fn a_restored_table_delivers_what_was_pending() {
        let (mut first, _) = msix(70);
        first.set_control(CONTROL_ENABLE);
        program(&mut first, 69, MESSAGE, true);
        first.vectors()[69].raise().unwrap();
        let (mut second, controller) = msix(70);
        second.restore(first.control(), first.entries(), &first.pending());
        assert_eq!(second.pending(), [0, 1 << 5]);
        program(&mut second, 69, MESSAGE, false);
        assert_eq!(controller.delivered(), [MESSAGE]);
        assert_eq!(second.pending(), [0, 0]);
    }

    #[test]
    fn a_vector_that_the_kernel_refuses_keeps_its_interrupt_pending() {
        let (mut msix, controller) = msix(1);
        msix.set_control(CONTROL_ENABLE);
        controller.refuse(true);
        program(&mut msix, 0, MESSAGE, false);
        msix.vectors()[0].raise().unwrap();
        assert_eq!((pending(&msix), controller.delivered().len()), (1, 0));
        controller.refuse(false);
        program(&mut msix, 0, MESSAGE, true);
        program(&mut msix, 0, MESSAGE, false);
        assert_eq!(controller.delivered(), [MESSAGE]);
    }

    #[test]
    fn no_interrupt_is_lost_while_another_thread_masks_and_unmasks() {
        const RAISED: usize = 3_000;
        let (mut msix, controller) = msix(1);
        msix.set_control(CONTROL_ENABLE);
        let vectors = msix.vectors();
        let seen = controller.clone();
        // Each raise must be followed by a delivery, since every mask is followed by an unmask. The
        // controller drops what is raised while it is disabled, as the kernel may.
        let raiser = thread::spawn(move || {
            (0..RAISED).all(|_| {
                let before = seen.delivered_count();
                vectors[0].raise().unwrap();
                seen.wait(|| seen.delivered_count() > before)
            })
        });
        while !raiser.is_finished() {
            program(&mut msix, 0, MESSAGE, true);
            thread::yield_now();
            program(&mut msix, 0, MESSAGE, false);
            thread::yield_now();
        }
        assert!(raiser.join().unwrap(), "an interrupt was lost");
    }

    proptest! {
        #[test]
        fn any_table_access_is_harmless(
            count in 1u16..80,
            accesses in proptest::collection::vec(
                (any::<bool>(), prop_oneof![0u64..1400, any::<u64>()],
                 proptest::collection::vec(any::<u8>(), 1..=8)), 0..60)
        ) {
            let (mut msix, _) = msix(count);
            msix.set_control(CONTROL_ENABLE);
            for (write, offset, mut data) in accesses {
                if write {
                    msix.write_table(offset, &data);
                } else {
                    msix.read_table(offset, &mut data);
                    msix.read_pending(offset, &mut data);
                }
            }
            for entry in msix.entries() {
                prop_assert_eq!(entry.address & 3, 0);
                prop_assert!(entry.control <= 1);
            }
        }
    }
}
