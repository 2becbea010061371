//! A disk in memory that can lose power and be full.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Database, StorageBackend};

use super::identity;
use crate::store::disk::Disk;
use crate::store::{Store, StoreError};

/// What a disk may write in part: a sector.
const SECTOR: usize = 512;

/// SplitMix64.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug)]
pub(super) struct SimDisk(Arc<Mutex<Sim>>);

#[derive(Debug)]
struct Sim {
    bytes: Vec<u8>,
    synced: Vec<u8>,
    /// What was written since the last sync, in order: where, and what.
    unsynced: Vec<(usize, Vec<u8>)>,
    /// How many more writes and syncs succeed.
    operations_left: u64,
    /// The longest that it can be.
    capacity: usize,
    syncs: u64,
}

impl SimDisk {
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Sim {
            synced: bytes.clone(),
            bytes,
            unsynced: Vec::new(),
            operations_left: u64::MAX,
            capacity: usize::MAX,
            syncs: 0,
        })))
    }

    /// Loses power after so many more writes and syncs.
    pub(super) fn lose_power_after(&self, operations: u64) {
        self.sim(|sim| sim.operations_left = operations);
    }

    pub(super) fn limit(&self, capacity: usize) {
        self.sim(|sim| sim.capacity = capacity);
    }

    pub(super) fn len(&self) -> usize {
        self.sim(|sim| sim.bytes.len())
    }

    pub(super) fn syncs(&self) -> u64 {
        self.sim(|sim| sim.syncs)
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.sim(|sim| sim.bytes.clone())
    }

    /// What is on it when power comes back: all that was synced, and any sectors of the rest.
    pub(super) fn after_power_loss(&self, random: &mut Random) -> Vec<u8> {
        self.sim(|sim| {
            let mut bytes = sim.synced.clone();
            for (at, written) in &sim.unsynced {
                for (sector, part) in written.chunks(SECTOR).enumerate() {
                    let start = at + sector * SECTOR;
                    let end = start + part.len();
                    if random.below(2) == 0 {
                        bytes.resize(bytes.len().max(end), 0);
                        bytes[start..end].copy_from_slice(part);
                    }
                }
            }
            bytes
        })
    }

    pub(super) fn open(&self) -> Result<Store, StoreError> {
        let database = Database::builder().create_with_backend(self.clone());
        let database = database.map_err(|error| StoreError::Damaged {
            path: PathBuf::new(),
            problem: error.to_string(),
        })?;
        let disk = Disk::begin(database, PathBuf::from("sim"), &identity());
        let disk = disk.map_err(|error| error.into_store_error("sim".as_ref()))?;
        Store::begin(disk, 4000)
    }

    fn sim<R>(&self, work: impl FnOnce(&mut Sim) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Sim {
    fn operate(&mut self) -> io::Result<()> {
        if self.operations_left == 0 {
            return Err(io::Error::other("no power"));
        }
        self.operations_left -= 1;
        Ok(())
    }

    fn check_room(&self, end: usize) -> io::Result<()> {
        match end > self.capacity {
            true => Err(io::Error::from(io::ErrorKind::StorageFull)),
            false => Ok(()),
        }
    }
}

impl StorageBackend for SimDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.sim(|sim| sim.bytes.len()) as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        self.sim(|sim| {
            let found = sim.bytes.get(start..start + out.len());
            out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
            Ok(())
        })
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let length = usize::try_from(length).unwrap();
        self.sim(|sim| {
            sim.operate()?;
            sim.check_room(length)?;
            sim.bytes.resize(length, 0);
            // File systems keep lengths by themselves: it may be there at once.
            sim.synced.resize(length, 0);
            Ok(())
        })
    }

    fn sync_data(&self) -> io::Result<()> {
        self.sim(|sim| {
            sim.operate()?;
            sim.synced = sim.bytes.clone();
            sim.unsynced.clear();
            sim.syncs += 1;
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        self.sim(|sim| {
            sim.operate()?;
            let end = start + data.len();
            sim.check_room(end)?;
            sim.bytes.resize(sim.bytes.len().max(end), 0);
            sim.bytes[start..end].copy_from_slice(data);
            sim.unsynced.push((start, data.to_vec()));
            Ok(())
        })
    }
}
