//! Address dispatch: which device answers a port or a physical address.
//!
//! Two buses exist per guest, one for port I/O and one for memory-mapped I/O. A bus is filled while
//! the guest is built and is read-only afterwards, so a vCPU thread looks up without a lock; a
//! device guards its own state.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A device that answers accesses to a range of a [`Bus`].
///
/// Accesses come from vCPU threads, several at once. `offset` counts from the start of the range
/// and `offset + data.len()` never leaves it.
pub trait BusDevice: Send + Sync {
    /// Fills `data` (1, 2, 4 or 8 bytes, little-endian) with what the guest reads at `offset`.
    fn read(&self, offset: u64, data: &mut [u8]);
    /// Takes what the guest writes (1, 2, 4 or 8 bytes, little-endian) at `offset`.
    fn write(&self, offset: u64, data: &[u8]);
}

/// Why a device could not be placed on a bus.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BusError {
    /// The range is empty or runs past the end of the address space.
    #[error("bus range {base:#x}+{len:#x} is empty or wraps around")]
    InvalidRange {
        /// First address.
        base: u64,
        /// Length in bytes.
        len: u64,
    },
    /// Another device already answers in the range.
    #[error("bus range {base:#x}+{len:#x} overlaps the device at {other:#x}")]
    Overlap {
        /// First address asked for.
        base: u64,
        /// Length in bytes asked for.
        len: u64,
        /// First address of the device that is in the way.
        other: u64,
    },
}

struct Entry {
    len: u64,
    device: Arc<dyn BusDevice>,
}

/// A map from address ranges to devices.
#[derive(Default)]
pub struct Bus {
    ranges: BTreeMap<u64, Entry>,
}

impl Bus {
    /// An empty bus.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets `device` answer `len` addresses from `base` on.
    ///
    /// # Errors
    /// [`BusError`] when the range is invalid or taken; the bus is then unchanged.
    pub fn insert(
        &mut self,
        base: u64,
        len: u64,
        device: Arc<dyn BusDevice>,
    ) -> Result<(), BusError> {
        let last = match len.checked_sub(1).and_then(|l| base.checked_add(l)) {
            Some(last) => last,
            None => return Err(BusError::InvalidRange { base, len }),
        };
        if let Some((&other, entry)) = self.ranges.range(..=last).next_back()
            && other + (entry.len - 1) >= base
        {
            return Err(BusError::Overlap { base, len, other });
        }
        self.ranges.insert(base, Entry { len, device });
        Ok(())
    }

    /// Reads into `data` from the device at `address`.
    ///
    /// Where no device answers the guest sees all ones, as on real hardware, and `false` is
    /// returned.
    pub fn read(&self, address: u64, data: &mut [u8]) -> bool {
        match self.find(address, data.len()) {
            Some((offset, device)) => {
                device.read(offset, data);
                true
            }
            None => {
                data.fill(0xff);
                false
            }
        }
    }

    /// Writes `data` to the device at `address`; `false` when none answers.
    pub fn write(&self, address: u64, data: &[u8]) -> bool {
        match self.find(address, data.len()) {
            Some((offset, device)) => {
                device.write(offset, data);
                true
            }
            None => false,
        }
    }

    fn find(&self, address: u64, len: usize) -> Option<(u64, &dyn BusDevice)> {
        let (base, entry) = self.ranges.range(..=address).next_back()?;
        let offset = address - base;
        let end = offset.checked_add(len as u64)?;
        (end <= entry.len).then_some((offset, entry.device.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Recorder(Mutex<Vec<(u64, Vec<u8>)>>);

    impl BusDevice for Recorder {
        fn read(&self, offset: u64, data: &mut [u8]) {
            data.fill(offset as u8);
        }
        fn write(&self, offset: u64, data: &[u8]) {
            self.0.lock().unwrap().push((offset, data.to_vec()));
        }
    }

    #[test]
    fn an_access_reaches_the_device_with_the_offset_in_its_range() {
        let device = Arc::new(Recorder::default());
        let mut bus = Bus::new();
        bus.insert(0x3f8, 8, device.clone()).unwrap();
        assert!(bus.write(0x3fb, &[7]));
        assert_eq!(*device.0.lock().unwrap(), [(3, vec![7])]);
        let mut data = [0];
        assert!(bus.read(0x3ff, &mut data));
        assert_eq!(data, [7]);
    }

    #[test]
    fn an_access_that_leaves_the_range_reads_all_ones() {
        let mut bus = Bus::new();
        bus.insert(0x100, 4, Arc::new(Recorder::default())).unwrap();
        let mut data = [0; 4];
        assert!(!bus.read(0x102, &mut data));
        assert_eq!(data, [0xff; 4]);
        assert!(!bus.read(u64::MAX, &mut data));
        assert!(!bus.write(0xff, &[0]));
    }

    #[test]
    fn ranges_never_overlap() {
        let mut bus = Bus::new();
        let device: Arc<dyn BusDevice> = Arc::new(Recorder::default());
        bus.insert(0x100, 0x10, device.clone()).unwrap();
        for (base, len) in [(0x100, 1), (0x10f, 1), (0xff, 2), (0x80, 0x1000)] {
            assert!(matches!(
                bus.insert(base, len, device.clone()),
                Err(BusError::Overlap { other: 0x100, .. })
            ));
        }
        for (base, len) in [(0x10, 0), (u64::MAX, 2)] {
            assert_eq!(
                bus.insert(base, len, device.clone()),
                Err(BusError::InvalidRange { base, len })
            );
        }
        bus.insert(0xff, 1, device.clone()).unwrap();
        bus.insert(0x110, 1, device.clone()).unwrap();
        bus.insert(u64::MAX, 1, device).unwrap();
    }
}
