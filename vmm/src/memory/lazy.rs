//! Memory that fills from a file while the guest already runs.
//!
//! Every page starts out missing and userfaultfd reports who touches it. One thread serves: a fault
//! brings in the whole *unit* around it (a few chunks of the snapshot, checked against their
//! digests), and between faults the thread brings in the rest in order, so that after a while the
//! snapshot is no longer needed. Units that hold only zeros are not touched until somebody does, and
//! stay absent otherwise.
//!
//! A unit whose content is damaged is never given to anyone. Whoever waits for it goes on waiting,
//! [`Failure`] is reported, and the guest has to be ended: better no guest than a wrong one.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use xxhash_rust::xxh3::xxh3_64;

use super::GuestRam;
use super::missing::{MissingError, MissingMemory};

/// Milliseconds without a fault before the next unit is brought in unasked.
const IDLE_MS: i32 = 1;
/// What the serving thread waits for.
const FAULT: u64 = 0;
const STOP: u64 = 1;

/// Where the content comes from: a file in the order of the memory file, with a digest per chunk.
pub struct Source {
    /// The content; a hole reads as zeros.
    pub file: File,
    /// Bytes of a chunk, a multiple of the page size.
    pub chunk_bytes: u64,
    /// XXH3-64 of each chunk.
    pub digests: Vec<u64>,
}

/// Why memory cannot fill on demand.
#[derive(Debug, thiserror::Error)]
pub enum LazyError {
    /// The kernel does not let pages be absent.
    #[error("cannot restore lazily; restore eagerly instead")]
    Missing(#[from] MissingError),
    /// The serving thread cannot be started.
    #[error("cannot start the thread that fills memory")]
    Thread(#[source] io::Error),
}

/// Why a unit could not be brought in. Nobody was given its memory.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The content is not what was written.
    #[error(
        "the snapshot's memory is damaged at guest memory offset {offset:#x}: its checksum does not match"
    )]
    Damaged {
        /// Offset in the memory file.
        offset: u64,
    },
    /// The file cannot be read.
    #[error("cannot read the snapshot's memory at offset {offset:#x}")]
    Read {
        /// Offset in the memory file.
        offset: u64,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel does not take the page.
    #[error("cannot install guest memory at offset {offset:#x}")]
    Install {
        /// Offset in the memory file.
        offset: u64,
        /// The kernel's answer.
        #[source]
        source: userfaultfd::Error,
    },
    /// The faults cannot be read.
    #[error("cannot read page faults")]
    Faults(#[source] userfaultfd::Error),
    /// Waiting for faults failed.
    #[error("cannot wait for page faults")]
    Wait(#[source] io::Error),
}

/// What a fill has done so far; readable while it runs.
#[derive(Debug, Default)]
pub struct Progress {
    /// Faults that brought in a unit.
    pub faults: AtomicU64,
    /// Bytes brought in, on demand or not.
    pub bytes: AtomicU64,
    /// All content is in, or holds only zeros; the source is not needed any more.
    pub complete: AtomicBool,
    /// A failure has been reported; some of the content will never be in.
    pub failed: AtomicBool,
}

/// A fill in progress. Dropping it stops the thread; memory that is not in yet is then zero, so the
/// guest must be gone before.
pub struct LazyFill {
    stop: EventFd,
    hurry: Arc<AtomicBool>,
    progress: Arc<Progress>,
    thread: Option<JoinHandle<()>>,
}

impl LazyFill {
    /// Makes all of `ram` missing and starts serving it from `source`. `ram` must be untouched.
    ///
    /// `on_failure` is called at most once, from the serving thread.
    ///
    /// # Errors
    /// [`LazyError`]; memory is then as before.
    pub fn start(
        ram: &Arc<GuestRam>,
        source: Source,
        on_failure: impl FnOnce(Failure) + Send + 'static,
    ) -> Result<Self, LazyError> {
        let memory = MissingMemory::register(ram.clone())?;
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(LazyError::Thread)?;
        let epoll = Epoll::new().map_err(LazyError::Thread)?;
        for (fd, token) in [(memory.as_raw_fd(), FAULT), (stop.as_raw_fd(), STOP)] {
            let event = EpollEvent::new(EventSet::IN, token);
            epoll
                .ctl(ControlOperation::Add, fd, event)
                .map_err(LazyError::Thread)?;
        }
        let progress = Arc::new(Progress::default());
        let hurry = Arc::new(AtomicBool::new(false));
        let unit_bytes = source.chunk_bytes.max(ram.huge_pages().page_bytes());
        let filler = Filler {
            units: vec![false; ram.bytes().div_ceil(unit_bytes) as usize],
            buffer: vec![0; unit_bytes as usize],
            next: 0,
            unit_bytes,
            _stop: stop.try_clone().map_err(LazyError::Thread)?,
            epoll,
            memory,
            zero_digest: xxh3_64(&vec![0; source.chunk_bytes as usize]),
            source,
            hurry: hurry.clone(),
            progress: progress.clone(),
        };
        let thread = thread::Builder::new()
            .name("memory-fill".into())
            .spawn(move || filler.serve(on_failure))
            .map_err(LazyError::Thread)?;
        Ok(Self {
            stop,
            hurry,
            progress,
            thread: Some(thread),
        })
    }

    /// What it has done so far.
    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    /// Brings in everything that is left and returns when it is in, or when a failure has been
    /// reported: `false` then.
    pub fn finish(mut self) -> bool {
        self.hurry.store(true, Ordering::Release);
        self.join();
        self.progress.complete.load(Ordering::Acquire)
    }

    fn join(&mut self) {
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that fills memory panicked");
        }
    }
}

impl Drop for LazyFill {
    fn drop(&mut self) {
        // A full counter is as good a signal as one more.
        let _ = self.stop.write(1);
        self.join();
    }
}

struct Filler {
    memory: MissingMemory,
    source: Source,
    zero_digest: u64,
    unit_bytes: u64,
    /// Which units are in.
    units: Vec<bool>,
    /// The next unit to bring in unasked.
    next: usize,
    buffer: Vec<u8>,
    epoll: Epoll,
    /// Keeps the descriptor that `epoll` watches open.
    _stop: EventFd,
    hurry: Arc<AtomicBool>,
    progress: Arc<Progress>,
}

impl Filler {
    fn serve(mut self, on_failure: impl FnOnce(Failure)) {
        match self.fill_all() {
            Ok(true) => {
                self.progress.complete.store(true, Ordering::Release);
                self.memory.release();
            }
            Ok(false) => self.memory.release(),
            Err(failure) => {
                self.progress.failed.store(true, Ordering::Release);
                on_failure(failure);
                // Keep the faults of whoever waits unanswered until the guest is gone.
                self.wait_for_stop();
                self.memory.release();
            }
        }
    }

    /// `true` when everything is in, `false` when told to stop.
    fn fill_all(&mut self) -> Result<bool, Failure> {
        let mut ready = [EpollEvent::default(); 2];
        loop {
            let timeout = if self.hurry.load(Ordering::Acquire) {
                0
            } else {
                IDLE_MS
            };
            let count = match self.epoll.wait(timeout, &mut ready) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Failure::Wait(error)),
            };
            if ready[..count].iter().any(|e| e.data() == STOP) {
                return Ok(false);
            }
            if count > 0 {
                self.serve_faults()?;
            }
            if (count == 0 || timeout == 0) && !self.fill_next()? {
                return Ok(true);
            }
        }
    }

    fn serve_faults(&mut self) -> Result<(), Failure> {
        while let Some(offset) = self.memory.next_fault().map_err(Failure::Faults)? {
            let unit = (offset / self.unit_bytes) as usize;
            if self.units[unit] {
                // Two threads touched it; the second fault was queued before the unit was in.
                self.wake(unit);
                continue;
            }
            self.progress.faults.fetch_add(1, Ordering::Relaxed);
            self.bring_in(unit, true)?;
        }
        Ok(())
    }

    /// Brings in the next unit that is missing and not zero; `false` when there is none left.
    fn fill_next(&mut self) -> Result<bool, Failure> {
        while let Some(filled) = self.units.get(self.next) {
            if !filled && !self.is_zero(self.next) {
                self.bring_in(self.next, false)?;
                self.next += 1;
                return Ok(true);
            }
            self.next += 1;
        }
        Ok(false)
    }

    fn chunks(&self, unit: usize) -> std::ops::Range<usize> {
        let per_unit = (self.unit_bytes / self.source.chunk_bytes) as usize;
        let start = unit * per_unit;
        start..(start + per_unit).min(self.source.digests.len())
    }

    fn is_zero(&self, unit: usize) -> bool {
        self.source.digests[self.chunks(unit)]
            .iter()
            .all(|&d| d == self.zero_digest)
    }

    fn bring_in(&mut self, unit: usize, demanded: bool) -> Result<(), Failure> {
        let offset = unit as u64 * self.unit_bytes;
        let len = self.unit_bytes.min(self.memory.ram().bytes() - offset);
        self.read_checked(unit, offset, len)?;
        self.memory
            .install(offset, &self.buffer[..len as usize])
            .map_err(|source| Failure::Install { offset, source })?;
        self.units[unit] = true;
        self.progress.bytes.fetch_add(len, Ordering::Relaxed);
        tracing::trace!(offset, len, demanded, "memory filled");
        Ok(())
    }

    fn read_checked(&mut self, unit: usize, offset: u64, len: u64) -> Result<(), Failure> {
        let bytes = &mut self.buffer[..len as usize];
        self.source
            .file
            .read_exact_at(bytes, offset)
            .map_err(|source| Failure::Read { offset, source })?;
        let chunk_bytes = self.source.chunk_bytes as usize;
        let first = unit * (self.unit_bytes as usize / chunk_bytes);
        for (index, chunk) in bytes.chunks(chunk_bytes).enumerate() {
            if self.source.digests.get(first + index) != Some(&xxh3_64(chunk)) {
                return Err(Failure::Damaged {
                    offset: offset + (index * chunk_bytes) as u64,
                });
            }
        }
        Ok(())
    }

    fn wake(&self, unit: usize) {
        let offset = unit as u64 * self.unit_bytes;
        if let Err(error) = self.memory.wake_at(offset, self.unit_bytes) {
            tracing::warn!(%error, "a waiting thread could not be woken");
        }
    }

    fn wait_for_stop(&self) {
        let mut ready = [EpollEvent::default(); 2];
        loop {
            match self.epoll.wait(100, &mut ready) {
                Ok(count) => {
                    let ready = &ready[..count];
                    if ready.iter().any(|e| e.data() == STOP) {
                        return;
                    }
                    // A fault is waiting and will be: do not spin on its readiness.
                    if count > 0 {
                        thread::sleep(std::time::Duration::from_millis(10));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HugePages;
    use std::io::Write;
    use std::sync::mpsc;
    use std::time::Duration;
    use vm_memory::{Bytes, GuestAddress};

    const CHUNK: u64 = 64 << 10;
    const SIZE: u64 = 16 << 20;

    /// A source in which chunk n is filled with n, every fourth chunk with zeros.
    fn source() -> (Source, tempfile::NamedTempFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        let mut digests = Vec::new();
        for n in 0..SIZE / CHUNK {
            let byte = if n % 4 == 0 { 0 } else { n as u8 };
            let chunk = vec![byte; CHUNK as usize];
            digests.push(xxh3_64(&chunk));
            file.write_all(&chunk).unwrap();
        }
        let opened = file.reopen().unwrap();
        (
            Source {
                file: opened,
                chunk_bytes: CHUNK,
                digests,
            },
            file,
        )
    }

    fn start(source: Source) -> Option<(Arc<GuestRam>, LazyFill, mpsc::Receiver<Failure>)> {
        let ram = Arc::new(GuestRam::allocate(SIZE, HugePages::None).unwrap());
        let (sender, failures) = mpsc::channel();
        match LazyFill::start(&ram, source, move |f| sender.send(f).unwrap()) {
            Ok(fill) => Some((ram, fill, failures)),
            Err(LazyError::Missing(error)) => {
                crate::skip::skipped!("no userfaultfd here: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn touched_memory_has_the_source_s_content_before_the_rest_is_in() {
        let (source, _file) = source();
        let Some((ram, fill, _)) = start(source) else {
            return;
        };
        for n in [255u64, 3, 8, 100, 3] {
            let expected = if n % 4 == 0 { 0 } else { n as u8 };
            let byte: u8 = ram
                .memory()
                .read_obj(GuestAddress(n * CHUNK + 4097))
                .unwrap();
            assert_eq!(byte, expected);
        }
        assert!(fill.finish());
        for n in 0..SIZE / CHUNK {
            let expected = if n % 4 == 0 { 0 } else { n as u8 };
            let byte: u8 = ram.memory().read_obj(GuestAddress(n * CHUNK)).unwrap();
            assert_eq!(byte, expected, "chunk {n}");
        }
    }

    #[test]
    fn what_is_written_while_memory_fills_is_not_overwritten() {
        let (source, _file) = source();
        let Some((ram, fill, _)) = start(source) else {
            return;
        };
        for n in 0..SIZE / CHUNK {
            ram.memory()
                .write_obj(!n, GuestAddress(n * CHUNK + 8))
                .unwrap();
        }
        assert!(fill.finish());
        for n in 0..SIZE / CHUNK {
            assert_eq!(
                ram.memory()
                    .read_obj::<u64>(GuestAddress(n * CHUNK + 8))
                    .unwrap(),
                !n
            );
        }
    }

    #[test]
    fn damaged_content_is_reported_and_given_to_nobody() {
        let (source, file) = source();
        file.as_file()
            .write_all_at(&[0xee], 77 * CHUNK + 12345)
            .unwrap();
        let Some((_ram, fill, failures)) = start(source) else {
            return;
        };
        assert!(!{
            let failure = failures.recv_timeout(Duration::from_secs(60)).unwrap();
            assert!(matches!(failure, Failure::Damaged { offset } if offset == 77 * CHUNK));
            fill.progress().complete.load(Ordering::Acquire)
        });
    }

    #[test]
    fn a_source_that_is_cut_short_is_reported() {
        let (source, file) = source();
        file.as_file().set_len(SIZE / 2).unwrap();
        let Some((_ram, _fill, failures)) = start(source) else {
            return;
        };
        let failure = failures.recv_timeout(Duration::from_secs(60)).unwrap();
        assert!(matches!(failure, Failure::Read { .. }), "{failure}");
    }
}
