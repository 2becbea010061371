//! The root: finds the function for a configuration or BAR access, and leads all functions through
//! pause, save, restore and resume.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use godwit_proto::state::pci::{PciDeviceState, PciRootState};

use super::{HostBridge, PciFunction, StateError};
use crate::bus::{Bus, BusDevice, BusError};
use crate::interrupt::InterruptError;
use crate::memory::layout::{
    PCI_CONFIG_PORT, PCI_ECAM_SIZE, PCI_ECAM_START, PCI_MMIO_SIZE, PCI_MMIO_START,
};

/// Device numbers on a bus; 0 is the host bridge.
pub const SLOTS: u8 = 32;

/// Configuration address register: an access to the data register is a configuration access.
const ADDRESS_ENABLE: u32 = 1 << 31;
/// The bits of the configuration address register that exist (PCI Local Bus 3.0, 3.2.2.3.2).
const ADDRESS_WRITABLE: u32 = ADDRESS_ENABLE | 0x00ff_fffc;
/// Bytes of ECAM per function.
const ECAM_FUNCTION_SIZE: u64 = 4096;
/// How far apart the BARs of two slots are placed, bytes; the largest BAR.
const BAR_STRIDE: u64 = 1 << 20;

const _: () = assert!(SLOTS as u64 * BAR_STRIDE <= PCI_MMIO_SIZE);
const _: () = assert!(SLOTS as u64 * 8 * ECAM_FUNCTION_SIZE == PCI_ECAM_SIZE);

/// Where the VMM places BAR 0 of the function in `slot`. It depends on the slot alone, so a machine
/// has the same addresses wherever it is built.
pub fn bar_address(slot: u8) -> u64 {
    PCI_MMIO_START + u64::from(slot % SLOTS) * BAR_STRIDE
}

/// Why the bus refused.
#[derive(Debug, thiserror::Error)]
pub enum PciError {
    /// Slots are 1..=31.
    #[error("PCI slot {slot} does not exist; a device goes into 1..=31")]
    InvalidSlot {
        /// The slot asked for.
        slot: u8,
    },
    /// Two devices want one slot.
    #[error("PCI slot {slot} is taken")]
    SlotTaken {
        /// The slot asked for.
        slot: u8,
    },
    /// Nothing is in the slot.
    #[error("PCI slot {slot} is empty")]
    NoDevice {
        /// The slot asked for.
        slot: u8,
    },
    /// The device's state could not be saved or restored.
    #[error("state of PCI slot {slot}")]
    State {
        /// The device's slot.
        slot: u8,
        /// What is wrong.
        #[source]
        source: StateError,
    },
    /// The saved machine has other devices than this one.
    #[error("saved state has devices in PCI slots {saved:?}, this machine in {here:?}")]
    OtherDevices {
        /// Slots in the saved state, in its order.
        saved: Vec<u8>,
        /// Slots here.
        here: Vec<u8>,
    },
    /// A saved register has bits that do not exist.
    #[error("saved configuration address {found:#x} has reserved bits set")]
    ConfigAddress {
        /// The saved value.
        found: u32,
    },
    /// An interrupt could not be raised.
    #[error("interrupt of PCI slot {slot}")]
    Interrupt {
        /// The device's slot.
        slot: u8,
        /// What is wrong.
        #[source]
        source: InterruptError,
    },
}

/// PCI bus 0. Filled while the machine is built; afterwards looked up without a lock.
pub struct PciRoot {
    functions: [OnceLock<Arc<dyn PciFunction>>; SLOTS as usize],
    /// The configuration address register at 0xcf8.
    address: AtomicU32,
}

impl PciRoot {
    /// A bus with the host bridge alone.
    pub fn new() -> Arc<Self> {
        let functions: [OnceLock<Arc<dyn PciFunction>>; SLOTS as usize] = Default::default();
        let bridge: Arc<dyn PciFunction> = Arc::new(HostBridge::new());
        functions[0].get_or_init(|| bridge);
        Arc::new(Self {
            functions,
            address: AtomicU32::new(0),
        })
    }

    /// Puts a function into `slot`, 1..=31.
    ///
    /// # Errors
    /// [`PciError::InvalidSlot`], [`PciError::SlotTaken`].
    pub fn add(&self, slot: u8, function: Arc<dyn PciFunction>) -> Result<(), PciError> {
        if slot == 0 {
            return Err(PciError::InvalidSlot { slot });
        }
        let place = self
            .functions
            .get(usize::from(slot))
            .ok_or(PciError::InvalidSlot { slot })?;
        place
            .set(function)
            .map_err(|_| PciError::SlotTaken { slot })
    }

    /// Puts the configuration ports, the ECAM and the BAR window on the buses.
    ///
    /// # Errors
    /// [`BusError`] when something is in the way.
    pub fn register(self: &Arc<Self>, pio: &mut Bus, mmio: &mut Bus) -> Result<(), BusError> {
        pio.insert(
            u64::from(PCI_CONFIG_PORT),
            8,
            Arc::new(ConfigPorts(self.clone())),
        )?;
        mmio.insert(PCI_ECAM_START, PCI_ECAM_SIZE, Arc::new(Ecam(self.clone())))?;
        mmio.insert(
            PCI_MMIO_START,
            PCI_MMIO_SIZE,
            Arc::new(BarWindow(self.clone())),
        )
    }

    /// Stops the work of all functions: tells all, then waits for each.
    pub fn quiesce_all(&self) {
        for (_, function) in self.functions() {
            function.request_quiesce();
        }
        for (_, function) in self.functions() {
            function.quiesce();
        }
    }

    /// Lets all functions go on with their queues as they stand.
    pub fn resume_all(&self) {
        for (_, function) in self.functions() {
            function.resume();
        }
    }

    /// Puts the bus and all functions into the state after power-on, as when the machine is reset.
    pub fn reset(&self) {
        for (_, function) in self.functions() {
            function.reset();
        }
        self.address.store(0, Ordering::Relaxed);
    }

    /// Tells the driver of the device in `slot` that the device configuration changed.
    ///
    /// # Errors
    /// [`PciError::NoDevice`], [`PciError::Interrupt`].
    pub fn notify_config(&self, slot: u8) -> Result<(), PciError> {
        let function = self.function(slot).ok_or(PciError::NoDevice { slot })?;
        function
            .notify_config()
            .map_err(|source| PciError::Interrupt { slot, source })
    }

    /// The state of the root and of each device by rising slot. Only after
    /// [`PciRoot::quiesce_all`].
    ///
    /// # Errors
    /// [`PciError::State`] when a device is not paused.
    pub fn save(&self) -> Result<(PciRootState, Vec<PciDeviceState>), PciError> {
        let mut devices = Vec::new();
        for (slot, function) in self.functions() {
            let state = function
                .save()
                .map_err(|source| PciError::State { slot, source })?;
            devices.extend(state);
        }
        let root = PciRootState {
            config_address: self.address.load(Ordering::Relaxed),
        };
        Ok((root, devices))
    }

    /// Takes over a saved state, as untrusted input: the same devices in the same slots. They stay
    /// paused until [`PciRoot::resume_all`].
    ///
    /// # Errors
    /// [`PciError`] names what is wrong. Some devices may have taken over their state by then, so
    /// the machine must be built anew.
    pub fn restore(&self, root: &PciRootState, devices: &[PciDeviceState]) -> Result<(), PciError> {
        let saved: Vec<u8> = devices.iter().map(|d| d.slot).collect();
        let here: Vec<u8> = self.functions().skip(1).map(|(slot, _)| slot).collect();
        if saved != here {
            return Err(PciError::OtherDevices { saved, here });
        }
        let found = root.config_address;
        if found & !ADDRESS_WRITABLE != 0 {
            return Err(PciError::ConfigAddress { found });
        }
        for (state, (slot, function)) in devices.iter().zip(self.functions().skip(1)) {
            function
                .restore(state)
                .map_err(|source| PciError::State { slot, source })?;
        }
        self.address.store(found, Ordering::Relaxed);
        Ok(())
    }

    /// The functions by rising slot; the first is the host bridge.
    fn functions(&self) -> impl Iterator<Item = (u8, &Arc<dyn PciFunction>)> {
        (0..)
            .zip(&self.functions)
            .filter_map(|(slot, place)| Some((slot, place.get()?)))
    }

    fn function(&self, slot: u8) -> Option<&Arc<dyn PciFunction>> {
        self.functions.get(usize::from(slot))?.get()
    }

    /// The function that `bus`, `device` and `function` number address.
    fn at(&self, bus: u64, device: u64, function: u64) -> Option<&Arc<dyn PciFunction>> {
        let slot = u8::try_from(device).ok()?;
        (bus == 0 && function == 0).then(|| self.function(slot))?
    }

    /// The function that the configuration address register names, and the register in it.
    fn addressed(&self, lane: u64) -> Option<(&Arc<dyn PciFunction>, usize)> {
        let address = u64::from(self.address.load(Ordering::Relaxed));
        if address & u64::from(ADDRESS_ENABLE) == 0 {
            return None;
        }
        let function = self.at(address >> 16 & 0xff, address >> 11 & 0x1f, address >> 8 & 7)?;
        Some((function, (address & 0xfc | lane) as usize))
    }

    /// The function whose BAR covers `len` bytes at `address` now, and the offset in it.
    fn covering(&self, address: u64, len: usize) -> Option<(&Arc<dyn PciFunction>, u64)> {
        let end = address.checked_add(len as u64)?;
        self.functions().find_map(|(_, function)| {
            let range = function.decoded()?;
            (range.start <= address && end <= range.end).then(|| (function, address - range.start))
        })
    }
}

/// Configuration mechanism #1 (PCI Local Bus 3.0, 3.2.2.3.2): the address register at 0xcf8 takes
/// 4-byte accesses only, the data register at 0xcfc any that stay inside it.
struct ConfigPorts(Arc<PciRoot>);

impl BusDevice for ConfigPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let (0, 4) = (offset, data.len()) {
            data.copy_from_slice(&self.0.address.load(Ordering::Relaxed).to_le_bytes());
        } else if let Some(lane) = data_lane(offset, data.len())
            && let Some((function, register)) = self.0.addressed(lane)
        {
            function.read_config(register, data);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let (0, &[a, b, c, d]) = (offset, data) {
            let address = u32::from_le_bytes([a, b, c, d]);
            self.0
                .address
                .store(address & ADDRESS_WRITABLE, Ordering::Relaxed);
        } else if let Some(lane) = data_lane(offset, data.len())
            && let Some((function, register)) = self.0.addressed(lane)
        {
            function.write_config(register, data);
        }
    }
}

/// The byte lane of an access to the data register; `None` when it leaves the register.
fn data_lane(offset: u64, len: usize) -> Option<u64> {
    let lane = offset.checked_sub(4)?;
    (lane + len as u64 <= 4).then_some(lane)
}

/// The memory-mapped configuration space (PCI Express 5.0, 7.2.2).
struct Ecam(Arc<PciRoot>);

impl Ecam {
    fn addressed(&self, offset: u64, len: usize) -> Option<(&Arc<dyn PciFunction>, usize)> {
        let register = offset % ECAM_FUNCTION_SIZE;
        if register + len as u64 > ECAM_FUNCTION_SIZE {
            return None;
        }
        let function = self
            .0
            .at(offset >> 20, offset >> 15 & 0x1f, offset >> 12 & 7)?;
        Some((function, register as usize))
    }
}

impl BusDevice for Ecam {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.addressed(offset, data.len()) {
            Some((function, register)) => function.read_config(register, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((function, register)) = self.addressed(offset, data.len()) {
            function.write_config(register, data);
        }
    }
}

/// The window in which BARs answer.
struct BarWindow(Arc<PciRoot>);

impl BusDevice for BarWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        match self.0.covering(PCI_MMIO_START + offset, data.len()) {
            Some((function, offset)) => function.read_bar(offset, data),
            None => data.fill(0xff),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let Some((function, offset)) = self.0.covering(PCI_MMIO_START + offset, data.len()) {
            function.write_bar(offset, data);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::pci::{ConfigSpace, Identity};
    use std::ops::Range;
    use std::sync::Mutex;

    /// A function that remembers BAR writes.
    struct Probe {
        config: Mutex<ConfigSpace>,
        range: Range<u64>,
        writes: Mutex<Vec<(u64, usize)>>,
    }

    impl Probe {
        fn new(slot: u8) -> Arc<Self> {
            let base = bar_address(slot);
            Arc::new(Self {
                config: Mutex::new(ConfigSpace::new(&Identity {
                    vendor: 0x1234,
                    device: u16::from(slot),
                    revision: 0,
                    class: 0,
                    subsystem_vendor: 0,
                    subsystem: 0,
                })),
                range: base..base + 0x1000,
                writes: Mutex::default(),
            })
        }
    }

    impl PciFunction for Probe {
        fn read_config(&self, offset: usize, data: &mut [u8]) {
            self.config.lock().unwrap().read(offset, data);
        }
        fn write_config(&self, offset: usize, data: &[u8]) {
            self.config.lock().unwrap().write(offset, data);
        }
        fn decoded(&self) -> Option<Range<u64>> {
            Some(self.range.clone())
        }
        fn read_bar(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write_bar(&self, offset: u64, data: &[u8]) {
            self.writes.lock().unwrap().push((offset, data.len()));
        }
    }

    fn machine() -> (Arc<PciRoot>, Bus, Bus) {
        let root = PciRoot::new();
        let (mut pio, mut mmio) = (Bus::new(), Bus::new());
        root.register(&mut pio, &mut mmio).unwrap();
        (root, pio, mmio)
    }

    fn read<const N: usize>(bus: &Bus, address: u64) -> [u8; N] {
        let mut data = [0; N];
        bus.read(address, &mut data);
        data
    }

    #[test]
    fn both_mechanisms_reach_the_same_registers_at_every_size_and_lane() {
        let (root, pio, mmio) = machine();
        root.add(31, Probe::new(31)).unwrap();
        pio.write(0xcf8, &(1u32 << 31 | 31 << 11).to_le_bytes());
        assert_eq!(read(&pio, 0xcfc), [0x34, 0x12, 31, 0]);
        assert_eq!(read(&pio, 0xcfe), [31, 0]);
        assert_eq!(read(&pio, 0xcfd), [0x12]);
        assert_eq!(read(&pio, 0xcfd), [0x12, 31]);
        let ecam = PCI_ECAM_START + (31 << 15);
        assert_eq!(read(&mmio, ecam), [0x34, 0x12, 31, 0]);
        assert_eq!(read(&mmio, ecam + 1), [0x12, 31]);
        assert_eq!(read(&mmio, ecam), [0x34, 0x12, 31, 0, 0, 0, 0, 0]);
        // The interrupt line register is scratch: written by lane here, read there.
        pio.write(0xcf8, &(1u32 << 31 | 31 << 11 | 0x3c).to_le_bytes());
        pio.write(0xcfc, &[7]);
        assert_eq!(read(&mmio, ecam + 0x3c), [7]);
        mmio.write(ecam + 0x3c, &9u32.to_le_bytes());
        assert_eq!(read(&pio, 0xcfc), [9]);
        // Beyond the 256 bytes there are no extended capabilities.
        assert_eq!(read(&mmio, ecam + 0x100), [0; 4]);
        assert_eq!(read(&mmio, ecam + 0xffc), [0; 4]);
    }

    #[test]
    fn what_is_not_there_reads_all_ones() {
        let (_root, pio, mmio) = machine();
        let bridge = read::<4>(&mmio, PCI_ECAM_START);
        assert_eq!(bridge, [0x36, 0x1b, 0x08, 0x00]);
        assert_eq!(read(&mmio, PCI_ECAM_START + 8 + 2), [0x00, 0x06]);
        // An empty slot, another function of the bridge, another bus.
        for address in [1u32 << 11, 1 << 8, 1 << 16] {
            pio.write(0xcf8, &(1 << 31 | address).to_le_bytes());
            assert_eq!(read(&pio, 0xcfc), [0xff; 4]);
            pio.write(0xcfc, &[0; 4]);
        }
        assert_eq!(read(&mmio, PCI_ECAM_START + (1 << 15)), [0xff; 4]);
        assert_eq!(read(&mmio, PCI_ECAM_START + (1 << 12)), [0xff; 4]);
        // Not enabled.
        pio.write(0xcf8, &[0; 4]);
        assert_eq!(read(&pio, 0xcfc), [0xff; 4]);
        // Across two functions, and out of the data register.
        assert_eq!(read(&mmio, PCI_ECAM_START + 0xffe), [0xff; 4]);
        pio.write(0xcf8, &(1u32 << 31).to_le_bytes());
        assert_eq!(read(&pio, 0xcfe), [0xff; 4]);
        assert_eq!(read(&mmio, PCI_MMIO_START), [0xff; 4]);
        mmio.write(PCI_MMIO_START, &[0; 4]);
    }

    #[test]
    fn only_a_whole_write_changes_the_configuration_address() {
        let (_root, pio, _mmio) = machine();
        pio.write(0xcf8, &0xffff_ffffu32.to_le_bytes());
        assert_eq!(read(&pio, 0xcf8), ADDRESS_WRITABLE.to_le_bytes());
        pio.write(0xcfb, &[0]);
        pio.write(0xcf8, &[0, 0]);
        pio.write(0xcfa, &[0; 4]);
        assert_eq!(read(&pio, 0xcf8), ADDRESS_WRITABLE.to_le_bytes());
        assert_eq!(read(&pio, 0xcfb), [0xff]);
    }

    #[test]
    fn a_bar_access_reaches_the_function_that_covers_it_whole() {
        let (root, _pio, mmio) = machine();
        let (first, second) = (Probe::new(1), Probe::new(2));
        root.add(1, first.clone()).unwrap();
        root.add(2, second.clone()).unwrap();
        mmio.write(bar_address(2) + 8, &[0; 4]);
        mmio.write(bar_address(1) + 0xffc, &[0; 8]);
        mmio.write(bar_address(1) + 0xffc, &[0; 4]);
        assert_eq!(*second.writes.lock().unwrap(), [(8, 4)]);
        assert_eq!(*first.writes.lock().unwrap(), [(0xffc, 4)]);
        assert_eq!(read(&mmio, bar_address(1) + 5), [5]);
        assert_eq!(read(&mmio, bar_address(1) + 0x1000), [0xff]);
    }

    #[test]
    fn a_slot_takes_one_device_and_only_existing_ones_do() {
        let (root, _, _) = machine();
        root.add(1, Probe::new(1)).unwrap();
        assert!(matches!(
            root.add(1, Probe::new(1)),
            Err(PciError::SlotTaken { slot: 1 })
        ));
        for slot in [0, 32, 255] {
            assert!(matches!(
                root.add(slot, Probe::new(1)),
                Err(PciError::InvalidSlot { .. })
            ));
        }
        assert!(matches!(
            root.notify_config(2),
            Err(PciError::NoDevice { slot: 2 })
        ));
    }

    #[test]
    fn a_restore_wants_the_same_slots_and_no_reserved_bits() {
        let (root, pio, _) = machine();
        pio.write(0xcf8, &0x8000_1234u32.to_le_bytes());
        let (mut state, devices) = root.save().unwrap();
        assert!(devices.is_empty());
        let (other, other_pio, _) = machine();
        other.restore(&state, &[]).unwrap();
        assert_eq!(read(&other_pio, 0xcf8), 0x8000_1234u32.to_le_bytes());
        state.config_address |= 1;
        assert!(matches!(
            other.restore(&state, &[]),
            Err(PciError::ConfigAddress { found: 0x8000_1235 })
        ));
        other.add(3, Probe::new(3)).unwrap();
        let error = other.restore(&PciRootState::default(), &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "saved state has devices in PCI slots [], this machine in [3]"
        );
    }
}
