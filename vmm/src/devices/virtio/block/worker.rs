//! The thread of a disk: takes requests off the ring in batches and answers them.
//!
//! ```text
//! kick ---> take (until the ring is empty or the engine full) ---> submit --+
//! ring fd -> answer what is finished <--------------------------------------+
//!                 \-> one interrupt per batch, if the driver wants one (EVENT_IDX)
//! ```

use std::io;
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use virtio_bindings::bindings::virtio_blk::{
    VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

use super::config::ID_BYTES;
use super::counters::{BlockCounters, add};
use super::disk::Disk;
use super::engine::{Engine, Progress};
use super::request::{Action, Limits, Request, Status};
use crate::devices::virtio::chain::{self, Chain, ChainError};
use crate::devices::virtio::log_gate::LogGate;
use crate::devices::virtio::used::UsedChains;
use crate::devices::virtio::worker::{Handler, Poller, Source};
use crate::devices::virtio::{ActiveQueue, VirtioInterrupt};
use crate::memory::GuestMemory;

const KICK: u64 = 0;
const FINISHED: u64 = 1;
/// After this many bytes the driver is told without waiting for the end of the batch, so that it
/// works on the first requests of a large batch while the last are copied. Less would cost more in
/// interrupts than it gains: a copy of 256 KiB takes no longer than some guests need for one.
const SIGNAL_BYTES: u64 = 4 << 20;

/// So many requests in a row that come one at a time make the next ones expected to.
const LONELY_REQUESTS: u32 = 32;

/// What a finished request did, for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Read,
    Write,
    Flush,
    Identify,
    Discard,
    WriteZeroes,
}

/// A request that the engine works on.
#[derive(Debug)]
pub(super) struct Pending {
    head: u16,
    status: GuestAddress,
    kind: Kind,
    offset: u64,
    bytes: u64,
}

/// What the worker shares with the device.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) id: String,
    pub(super) disk: Arc<Disk>,
    pub(super) counters: Arc<BlockCounters>,
    /// The driver's choice (`writeback` in the configuration space).
    pub(super) write_cache: Arc<AtomicBool>,
}

/// Serves the one ring of a disk.
pub(super) struct BlockWorker {
    shared: Shared,
    queue: ActiveQueue,
    memory: GuestMemory,
    interrupt: Arc<dyn VirtioInterrupt>,
    engine: Engine<Pending>,
    limits: Limits,
    /// Write-through whatever the configuration space says: the driver cannot flush.
    always_durable: bool,
    cache_is_optional: bool,
    chain: Chain,
    failures: LogGate,
    refusals: LogGate,
    used: UsedChains,
    unsignalled_bytes: u64,
    /// Counts down to 0 while requests come one at a time.
    crowd: u32,
    /// Requests taken since the worker woke up.
    taken: u32,
}

impl BlockWorker {
    /// A worker for `queue`; `features` are what was negotiated.
    pub(super) fn new(
        shared: Shared,
        queue: ActiveQueue,
        memory: GuestMemory,
        interrupt: Arc<dyn VirtioInterrupt>,
        features: u64,
        asynchronous: bool,
    ) -> Self {
        let has = |bit: u32| features & (1 << bit) != 0;
        let depth = queue.queue.size();
        Self {
            engine: Engine::new(shared.disk.clone(), memory.clone(), depth, asynchronous),
            limits: Limits {
                capacity: shared.disk.sectors(),
                read_only: shared.disk.read_only(),
                discard: has(VIRTIO_BLK_F_DISCARD),
                write_zeroes: has(VIRTIO_BLK_F_WRITE_ZEROES),
            },
            always_durable: !has(VIRTIO_BLK_F_FLUSH),
            cache_is_optional: has(VIRTIO_BLK_F_CONFIG_WCE),
            shared,
            queue,
            memory,
            interrupt,
            chain: Chain::default(),
            failures: LogGate::default(),
            refusals: LogGate::default(),
            used: UsedChains::default(),
            unsignalled_bytes: 0,
            crowd: LONELY_REQUESTS,
            taken: 0,
        }
    }

    /// Answers everything that is in flight and gives the queue back.
    pub(super) fn finish(mut self) -> ActiveQueue {
        while self.engine.in_flight() > 0 {
            let step = self.engine.submit().and_then(|()| self.answer_finished());
            let step = step.and_then(|()| match self.engine.in_flight() {
                0 => Ok(()),
                _ => self.engine.wait(),
            });
            if let Err(error) = step {
                // What was begun must end before the ring may be saved: there is no giving up.
                tracing::error!(disk = self.shared.id, %error, "cannot wait for disk I/O, trying on");
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        self.signal();
        self.queue
    }

    /// Takes requests and answers what is finished, as long as there is something of either.
    fn serve(&mut self, poller: &mut Poller) -> Result<(), ServeError> {
        self.answer_finished()?;
        self.taken = 0;
        let mut budget = usize::from(self.queue.queue.size());
        loop {
            self.queue.queue.disable_notification(&self.memory)?;
            while !poller.stop_requested() && self.engine.has_room() {
                if budget == 0 {
                    poller.again(KICK);
                    break;
                }
                if !self.chain.pop(&mut self.queue.queue, &self.memory)? {
                    break;
                }
                budget -= 1;
                self.taken += 1;
                self.begin()?;
            }
            if let Err(error) = self.engine.submit() {
                tracing::warn!(disk = self.shared.id, %error, "the kernel takes no disk I/O now");
                std::thread::sleep(Duration::from_millis(1));
                poller.again(KICK);
            }
            self.answer_finished()?;
            // Without room, notifications stay off: finished requests bring the worker back.
            if budget == 0
                || poller.stop_requested()
                || !self.engine.has_room()
                || !self.queue.queue.enable_notification(&self.memory)?
            {
                return Ok(());
            }
        }
    }

    /// Starts the request in `self.chain`.
    fn begin(&mut self) -> Result<(), ServeError> {
        let request = Request::parse(&mut self.chain, &self.memory, &self.limits)?;
        let mut pending = Pending {
            head: self.chain.head,
            status: request.status,
            kind: Kind::Identify,
            offset: 0,
            bytes: 0,
        };
        let action = match request.action {
            Ok(action) => action,
            Err(refusal) => {
                add(&self.shared.counters.rejected, 1);
                if let Some(held_back) = self.refusals.pass(Instant::now()) {
                    let disk = &self.shared.id;
                    tracing::warn!(disk, %refusal, held_back, "refused a request of the driver");
                }
                return Ok(self.answer(&pending, refusal.status(), 0)?);
            }
        };
        let progress = match action {
            Action::Read { offset } => {
                pending.kind = Kind::Read;
                pending.offset = offset;
                pending.bytes = chain::total_len(&self.chain.writable);
                let alone = self.alone();
                self.engine
                    .read(offset, &self.chain.writable, alone, pending)
            }
            Action::Write { offset } => {
                pending.kind = Kind::Write;
                pending.offset = offset;
                pending.bytes = chain::total_len(&self.chain.readable);
                let durable = self.durable();
                let alone = self.alone();
                self.engine
                    .write(offset, &self.chain.readable, durable, alone, pending)
            }
            Action::Flush => {
                pending.kind = Kind::Flush;
                self.engine.sync(pending)
            }
            Action::Identify => {
                let mut serial = [0; ID_BYTES];
                serial[..self.shared.id.len()].copy_from_slice(self.shared.id.as_bytes());
                let written = chain::scatter(&self.memory, &self.chain.writable, &serial)
                    .map_err(io::Error::other)?;
                return Ok(self.answer(&pending, Status::Ok, written as u32)?);
            }
            Action::Discard(ranges) => {
                pending.kind = Kind::Discard;
                let disk = &self.shared.disk;
                let result = ranges
                    .iter()
                    .try_for_each(|r| disk.discard(r.offset, r.len));
                Progress::Done(pending, result)
            }
            Action::WriteZeroes(ranges) => {
                pending.kind = Kind::WriteZeroes;
                let disk = &self.shared.disk;
                let result = ranges
                    .iter()
                    .try_for_each(|r| disk.write_zeroes(r.offset, r.len, r.unmap));
                let durable = self.durable();
                let result = result.and_then(|()| if durable { disk.sync() } else { Ok(()) });
                Progress::Done(pending, result)
            }
        };
        if let Progress::Done(pending, result) = progress {
            self.conclude(&pending, result)?;
        }
        Ok(())
    }

    /// Whether the driver seems to send one request at a time. A request that comes while another
    /// is worked on shows that it does not; it is believed again after [`LONELY_REQUESTS`].
    fn alone(&mut self) -> bool {
        let queue = &self.queue.queue;
        let more = queue
            .avail_idx(&self.memory, Ordering::Relaxed)
            .is_ok_and(|index| index.0 != queue.next_avail());
        if more || self.engine.in_flight() > 0 || self.taken > 1 {
            self.crowd = LONELY_REQUESTS;
            return false;
        }
        self.crowd = self.crowd.saturating_sub(1);
        self.crowd == 0
    }

    /// Whether a write must be on stable storage before it is answered.
    fn durable(&self) -> bool {
        self.always_durable
            || self.cache_is_optional && !self.shared.write_cache.load(Ordering::Relaxed)
    }

    fn answer_finished(&mut self) -> io::Result<()> {
        while let Some((pending, result)) = self.engine.next_done() {
            self.conclude(&pending, result)?;
        }
        Ok(())
    }

    /// Counts a request that was tried, and answers it.
    fn conclude(&mut self, pending: &Pending, result: io::Result<()>) -> io::Result<()> {
        let counters = &self.shared.counters;
        if let Err(error) = result {
            let status = match (pending.kind, error.raw_os_error()) {
                (Kind::Discard | Kind::WriteZeroes, Some(libc::EOPNOTSUPP)) => Status::Unsupported,
                _ => Status::IoError,
            };
            add(&counters.io_errors, 1);
            let full = matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            );
            if full {
                add(&counters.no_space, 1);
            }
            self.log_failure(pending, &error, full);
            return self.answer(pending, status, 0);
        }
        match pending.kind {
            Kind::Read => {
                add(&counters.reads, 1);
                add(&counters.read_bytes, pending.bytes);
            }
            Kind::Write => {
                add(&counters.writes, 1);
                add(&counters.write_bytes, pending.bytes);
            }
            Kind::Flush => add(&counters.flushes, 1),
            Kind::Discard => add(&counters.discards, 1),
            Kind::WriteZeroes => add(&counters.write_zeroes, 1),
            Kind::Identify => {}
        }
        let written = match pending.kind {
            // A chain is shorter than 4 GiB.
            Kind::Read => pending.bytes as u32,
            _ => 0,
        };
        self.answer(pending, Status::Ok, written)
    }

    fn log_failure(&mut self, pending: &Pending, error: &io::Error, full: bool) {
        let Some(held_back) = self.failures.pass(Instant::now()) else {
            return;
        };
        let disk = &self.shared.id;
        let (kind, offset, bytes) = (pending.kind, pending.offset, pending.bytes);
        if full {
            tracing::error!(
                disk, ?kind, offset, bytes, held_back, %error,
                "the host has no space left for this disk; free some, the guest sees I/O errors"
            );
        } else {
            tracing::error!(disk, ?kind, offset, bytes, held_back, %error, "disk I/O failed");
        }
    }

    /// Writes the status and puts the chain into the used ring. `written` counts the data bytes that
    /// were put into guest memory; the status byte comes on top.
    fn answer(&mut self, pending: &Pending, status: Status, written: u32) -> io::Result<()> {
        self.memory
            .write_obj(status as u8, pending.status)
            .map_err(io::Error::other)?;
        let len = written.saturating_add(1);
        self.used
            .add(&mut self.queue.queue, &self.memory, pending.head, len)
            .map_err(io::Error::other)?;
        self.unsignalled_bytes += pending.bytes;
        if self.unsignalled_bytes >= SIGNAL_BYTES {
            self.signal();
        }
        Ok(())
    }

    /// Raises the interrupt for what was answered since the last one, if the driver wants it.
    fn signal(&mut self) {
        self.unsignalled_bytes = 0;
        if !self.used.wants_interrupt(&self.queue.queue, &self.memory) {
            return;
        }
        add(&self.shared.counters.interrupts, 1);
        if let Err(error) = self.interrupt.used(self.queue.index) {
            tracing::error!(disk = self.shared.id, %error, "cannot raise the interrupt of a disk");
        }
    }
}

/// Why the worker stops serving. All of it is the driver's doing, or an invariant that broke.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error("ring: {0}")]
    Ring(#[from] virtio_queue::Error),
    #[error("guest memory: {0}")]
    Memory(#[from] io::Error),
}

struct Fd(RawFd);

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.0
    }
}

impl Handler for BlockWorker {
    fn sources(&self) -> Vec<Source> {
        let mut sources = vec![Source::kick(&self.queue.kick, KICK)];
        if let Some(fd) = self.engine.completion_fd() {
            sources.push(Source::readable(&Fd(fd), FINISHED));
        }
        sources
    }

    fn handle(&mut self, _token: u64, poller: &mut Poller) -> ControlFlow<()> {
        let served = self.serve(poller);
        self.signal();
        match served {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                tracing::warn!(disk = self.shared.id, %error, "the disk's driver must reset it");
                self.interrupt.needs_reset(&error.to_string());
                ControlFlow::Break(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::devices::virtio::block::config::{BlockConfig, CacheMode};
    use crate::devices::virtio::testing::{Recorder, TestRing};

    fn worker(dir: &tempfile::TempDir, features: u64) -> (BlockWorker, GuestMemory) {
        let path = dir.path().join("disk.raw");
        std::fs::write(&path, [0; 4096]).unwrap();
        let disk = Disk::open(&BlockConfig {
            id: "vda".into(),
            path,
            read_only: false,
            discard: true,
            cache: CacheMode::Host,
        })
        .unwrap();
        let shared = Shared {
            id: "vda".into(),
            disk: Arc::new(disk),
            counters: Arc::default(),
            write_cache: Arc::default(),
        };
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let queue = TestRing::new(&memory, 0, 16).active(0, false);
        let interrupt = Arc::new(Recorder::default());
        let worker = BlockWorker::new(shared, queue, memory.clone(), interrupt, features, false);
        (worker, memory)
    }

    #[test]
    fn a_full_host_is_an_io_error_with_its_own_count_and_an_unsupported_discard_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let (mut worker, memory) = worker(&dir, 0);
        let counters = worker.shared.counters.clone();
        let status = GuestAddress(0x8000);
        for (kind, errno, expected, io_errors, no_space) in [
            (Kind::Write, libc::ENOSPC, Status::IoError, 1, 1),
            (Kind::Write, libc::EDQUOT, Status::IoError, 2, 2),
            (Kind::Read, libc::EIO, Status::IoError, 3, 2),
            (Kind::Discard, libc::EOPNOTSUPP, Status::Unsupported, 4, 2),
            (Kind::Read, libc::EOPNOTSUPP, Status::IoError, 5, 2),
        ] {
            let pending = Pending {
                head: 0,
                status,
                kind,
                offset: 0,
                bytes: 512,
            };
            let failed = Err(io::Error::from_raw_os_error(errno));
            worker.conclude(&pending, failed).unwrap();
            assert_eq!(memory.read_obj::<u8>(status).unwrap(), expected as u8);
            assert_eq!(counters.io_errors(), io_errors);
            assert_eq!(counters.no_space(), no_space);
        }
        assert_eq!(worker.finish().queue.next_used(), 5);
    }

    #[test]
    fn writes_are_durable_unless_the_driver_can_flush_and_wants_a_cache() {
        let dir = tempfile::tempdir().unwrap();
        let flush = 1u64 << VIRTIO_BLK_F_FLUSH;
        let optional = 1u64 << VIRTIO_BLK_F_CONFIG_WCE;
        for (features, cache, durable) in [
            (0, true, true),
            (0, false, true),
            (optional, true, true),
            (flush, true, false),
            (flush, false, false),
            (flush | optional, true, false),
            (flush | optional, false, true),
        ] {
            let (worker, _) = worker(&dir, features);
            worker.shared.write_cache.store(cache, Ordering::Relaxed);
            assert_eq!(worker.durable(), durable, "{features:#x} {cache}");
        }
    }
}
