//! The block device as the transport sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::config::{self, BlockConfig, QUEUE_SIZE, WRITEBACK_OFFSET};
use super::counters::BlockCounters;
use super::disk::{Disk, DiskError};
use super::persist;
use super::worker::{BlockWorker, Shared};
use crate::devices::virtio::worker::Worker;
use crate::devices::virtio::{
    ActivateError, Activation, ActiveQueue, DeviceType, RestoreError, VirtioDevice,
};

/// A virtio disk. Idle until a driver activates it.
pub struct Block {
    shared: Shared,
    features: u64,
    config_space: [u8; 60],
    asynchronous: bool,
    worker: Option<Worker<BlockWorker>>,
}

impl Block {
    /// Opens and locks the disk of `config`; nothing in it is changed. The lock is held until this
    /// is dropped.
    ///
    /// # Errors
    /// [`DiskError`] when the disk cannot be used, with what to do.
    pub fn open(config: &BlockConfig) -> Result<Self, DiskError> {
        Ok(Self::over(Disk::open(config)?, config))
    }

    /// Opens the disk of `config` for a guest that does not run yet: another guest may have the disk
    /// until [`DiskClaim::claim`], and the driver must not be resumed before.
    ///
    /// # Errors
    /// [`DiskError`] when the disk cannot be used, with what to do.
    pub fn open_unclaimed(config: &BlockConfig) -> Result<Self, DiskError> {
        Ok(Self::over(Disk::open_unlocked(config)?, config))
    }

    fn over(disk: Disk, config: &BlockConfig) -> Self {
        Self {
            features: config::features(config),
            config_space: config::config_space(&disk, config.discard),
            shared: Shared {
                id: config.id.clone(),
                disk: Arc::new(disk),
                counters: Arc::default(),
                write_cache: Arc::new(AtomicBool::new(true)),
            },
            asynchronous: true,
            worker: None,
        }
    }

    /// The right to use the disk, to be passed on to the guest's next host.
    pub fn claim(&self) -> DiskClaim {
        DiskClaim(self.shared.disk.clone())
    }

    /// Makes the disk use plain system calls instead of io_uring from its next activation on.
    pub fn use_system_calls(&mut self) {
        self.asynchronous = false;
    }

    /// What the disk has done, readable from any thread.
    pub fn counters(&self) -> Arc<BlockCounters> {
        self.shared.counters.clone()
    }

    /// Capacity in sectors of 512 bytes.
    pub fn sectors(&self) -> u64 {
        self.shared.disk.sectors()
    }
}

/// The right to use a disk: a lock on its file, which one writer or any number of readers can have.
pub struct DiskClaim(Arc<Disk>);

impl DiskClaim {
    /// Takes it; nothing when it is held.
    ///
    /// # Errors
    /// [`DiskError::Locked`] when another guest has it.
    pub fn claim(&self) -> Result<(), DiskError> {
        self.0.claim()
    }

    /// Gives it up. The guest must be paused until it is claimed again.
    ///
    /// # Errors
    /// [`DiskError::Io`].
    pub fn release(&self) -> Result<(), DiskError> {
        self.0.release()
    }
}

impl VirtioDevice for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut space = self.config_space;
        space[WRITEBACK_OFFSET] = self.shared.write_cache.load(Ordering::Relaxed).into();
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (i, byte) in data.iter_mut().enumerate() {
            let at = start.saturating_add(i);
            *byte = space.get(at).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        if let ([value], true) = (data, offset == WRITEBACK_OFFSET as u64) {
            self.shared
                .write_cache
                .store(*value != 0, Ordering::Relaxed);
        }
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let enabled: Vec<u16> = activation.queues.iter().map(|q| q.index).collect();
        let queue = match (activation.queues.pop(), enabled.as_slice()) {
            (Some(queue), [0]) => queue,
            _ => {
                return Err(ActivateError::Queues {
                    device: DeviceType::Block,
                    enabled,
                    need: "queue 0",
                });
            }
        };
        let worker = BlockWorker::new(
            self.shared.clone(),
            queue,
            activation.memory,
            activation.interrupt,
            activation.features,
            self.asynchronous,
        );
        let name = format!("blk-{}", self.shared.id);
        let worker = Worker::spawn(&name, worker).map_err(|source| ActivateError::Worker {
            device: DeviceType::Block,
            source,
        })?;
        self.worker = Some(worker);
        Ok(())
    }

    fn quiesce(&mut self) -> Vec<ActiveQueue> {
        let worker = self.worker.take();
        worker
            .map(|worker| worker.stop().finish())
            .into_iter()
            .collect()
    }

    fn save(&self) -> Vec<u8> {
        persist::save(
            self.sectors(),
            self.shared.write_cache.load(Ordering::Relaxed),
        )
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        let write_cache =
            persist::restore(state, self.sectors()).map_err(|source| RestoreError {
                device: DeviceType::Block,
                source: Box::new(source),
            })?;
        self.shared
            .write_cache
            .store(write_cache, Ordering::Relaxed);
        Ok(())
    }
}
