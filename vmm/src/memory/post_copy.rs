//! Memory that arrives from elsewhere while the guest already runs.
//!
//! The pages that are still to come are made absent. Who touches one waits, and the owner is told
//! which page that is; the owner installs pages in any order, asked for or not, from any thread. This
//! module does not know where pages come from, and never gives up waiting: that is its owner's to
//! decide.
//!
//! Every page of memory counts as one of three: *absent*, until it is installed, once; *there*; or
//! *zero*: it never had content, or arrived as zeros. What is zero takes no memory until somebody
//! touches it. A host with huge pages installs them whole, so their parts are gathered first.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::absent::{AbsentPages, Gathered};
use super::layout::PAGE_SIZE;
use super::missing::{MissingError, MissingMemory};
use super::{GuestRam, HugePages};

/// What the thread waits for.
const FAULT: u64 = 0;
const STOP: u64 = 1;
/// How often giving up stale pages is tried: the kernel may be splitting a huge one.
const PUNCH_TRIES: u32 = 10;

/// Why memory cannot arrive while the guest runs.
#[derive(Debug, thiserror::Error)]
pub enum PostCopyError {
    /// The kernel does not let pages be absent.
    #[error("post-copy is not possible here")]
    Missing(#[from] MissingError),
    /// Stale pages could not be given up.
    #[error("cannot give up {pages} stale pages from page {first} on")]
    Punch {
        /// First page.
        first: u64,
        /// How many.
        pages: u64,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Pages that are not whole pages of the host.
    #[error("{pages} pages from page {first} on are not whole pages of the host")]
    Unaligned {
        /// First page.
        first: u64,
        /// How many.
        pages: u64,
    },
    /// Pages that the guest does not have.
    #[error("{pages} pages from page {first} on lie outside guest memory")]
    Outside {
        /// First page.
        first: u64,
        /// How many.
        pages: u64,
    },
    /// The thread that hears of faults could not be started.
    #[error("cannot start the thread that hears of page faults")]
    Thread(#[source] io::Error),
    /// The thread that hears of faults hears no more.
    #[error("cannot wait for page faults")]
    Wait(#[source] io::Error),
    /// Faults could not be read.
    #[error("cannot read page faults")]
    Faults(#[source] userfaultfd::Error),
    /// Too many huge pages are half there.
    #[error("parts of more than {most} huge pages arrived at once")]
    Scattered {
        /// How many are gathered at once.
        most: usize,
    },
    /// Pages could not be installed.
    #[error("cannot install {pages} pages from page {first} on")]
    Install {
        /// First page.
        first: u64,
        /// How many.
        pages: u64,
        /// The kernel's answer.
        #[source]
        source: userfaultfd::Error,
    },
}

/// What the owner is told, by a thread of this module.
#[derive(Debug)]
pub enum Arrival {
    /// Somebody waits for this absent page; told again when another one waits for it.
    Fault(u64),
    /// Who waits now may wait for ever.
    Failed(PostCopyError),
}

/// Whether this process may let pages be absent.
///
/// # Errors
/// Why not.
pub fn check() -> Result<(), MissingError> {
    MissingMemory::check()
}

/// Guest memory that is arriving. Dropping it makes what has not arrived zero, so the guest must be
/// gone before, or everything in.
pub struct PostCopy {
    shared: Arc<Shared>,
    stop: EventFd,
    thread: Mutex<Option<JoinHandle<()>>>,
    finished: AtomicBool,
}

struct Shared {
    memory: MissingMemory,
    absent: AbsentPages,
    /// A page of the host, all zero.
    zeros: Box<[u8]>,
}

impl PostCopy {
    /// Gives up what memory holds of `pages`, runs of (first page, pages). The guest does not run yet.
    ///
    /// # Errors
    /// [`PostCopyError`].
    pub fn give_up(
        ram: &GuestRam,
        pages: impl IntoIterator<Item = (u64, u64)>,
    ) -> Result<(), PostCopyError> {
        let unit_pages = ram.huge_pages().page_bytes() / PAGE_SIZE;
        for (first, pages) in pages {
            if first % unit_pages != 0 || pages % unit_pages != 0 {
                return Err(PostCopyError::Unaligned { first, pages });
            }
            let end = first.checked_add(pages);
            if end.is_none_or(|end| end > ram.bytes() / PAGE_SIZE) {
                return Err(PostCopyError::Outside { first, pages });
            }
            give_up(ram, first, pages)?;
        }
        Ok(())
    }

    /// Makes the pages of `missing`, runs of (first page, pages), absent. They were given up, and the
    /// guest does not run yet.
    ///
    /// # Errors
    /// [`PostCopyError`].
    pub fn start(
        ram: &Arc<GuestRam>,
        missing: impl IntoIterator<Item = (u64, u64)>,
        mut tell: impl FnMut(Arrival) + Send + 'static,
    ) -> Result<Self, PostCopyError> {
        let unit_pages = ram.huge_pages().page_bytes() / PAGE_SIZE;
        let absent = AbsentPages::new(ram.bytes() / PAGE_SIZE, unit_pages);
        for (first, pages) in missing {
            if !absent.is_unit(first, pages) {
                return Err(PostCopyError::Unaligned { first, pages });
            }
            if !absent.are_pages(first, pages) {
                return Err(PostCopyError::Outside { first, pages });
            }
            absent.insert(first, pages);
        }
        let shared = Arc::new(Shared {
            memory: MissingMemory::register(ram.clone())?,
            absent,
            zeros: vec![0; (unit_pages * PAGE_SIZE) as usize].into(),
        });
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(PostCopyError::Thread)?;
        let epoll = Epoll::new().map_err(PostCopyError::Thread)?;
        for (fd, token) in [(shared.memory.as_raw_fd(), FAULT), (stop.as_raw_fd(), STOP)] {
            let event = EpollEvent::new(EventSet::IN, token);
            epoll
                .ctl(ControlOperation::Add, fd, event)
                .map_err(PostCopyError::Thread)?;
        }
        let thread = {
            let shared = shared.clone();
            let listen = move || {
                if let Err(error) = shared.listen(&epoll, &mut tell) {
                    tell(Arrival::Failed(error));
                }
            };
            thread::Builder::new()
                .name("page-faults".into())
                .spawn(listen)
                .map_err(PostCopyError::Thread)?
        };
        Ok(Self {
            shared,
            stop,
            thread: Mutex::new(Some(thread)),
            finished: AtomicBool::new(false),
        })
    }

    /// Installs whole pages from `first` on, and lets go who waits for them. A page that is not
    /// absent keeps what it has: the guest may have written it. `arrived` is given the runs that are
    /// there now and were not before.
    ///
    /// # Errors
    /// [`PostCopyError::Install`], [`PostCopyError::Outside`], [`PostCopyError::Scattered`].
    pub fn install(
        &self,
        first: u64,
        bytes: &[u8],
        arrived: impl FnMut(u64, u64),
    ) -> Result<(), PostCopyError> {
        let pages = bytes.len() as u64 / PAGE_SIZE;
        self.shared.arrive(first, pages, Some(bytes), arrived)
    }

    /// As [`PostCopy::install`], of `pages` zero pages from `first` on. They take no memory until
    /// they are touched.
    ///
    /// # Errors
    /// As [`PostCopy::install`].
    pub fn install_zeros(
        &self,
        first: u64,
        pages: u64,
        arrived: impl FnMut(u64, u64),
    ) -> Result<(), PostCopyError> {
        self.shared.arrive(first, pages, None, arrived)
    }

    /// Ends it: what has not arrived is zero from here on. Once is enough.
    pub fn finish(&self) {
        if self.finished.swap(true, Ordering::AcqRel) {
            return;
        }
        // A full counter is as good a signal as one more.
        let _ = self.stop.write(1);
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        let thread = { thread }.take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the thread that hears of page faults panicked");
        }
        self.shared.memory.release();
    }
}

impl Drop for PostCopy {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Gives stale pages back, and makes sure that they are gone: part of a huge page that the kernel
/// cannot split is only zeroed, and who touches it would not wait.
fn give_up(ram: &GuestRam, first: u64, pages: u64) -> Result<(), PostCopyError> {
    let (start, len) = (first * PAGE_SIZE, pages * PAGE_SIZE);
    let failed = |source| PostCopyError::Punch {
        first,
        pages,
        source,
    };
    for _ in 0..PUNCH_TRIES {
        ram.punch(start, len).map_err(failed)?;
        // Of explicit huge pages the kernel does not tell, and gives them up whole.
        let is_gone = ram.huge_pages() == HugePages::Huge2M
            || ram.next_data(start).is_none_or(|data| data >= start + len);
        if is_gone {
            return Ok(());
        }
        thread::yield_now();
    }
    Err(failed(io::ErrorKind::ResourceBusy.into()))
}

impl Shared {
    /// Takes pages in, of zeros without `bytes`.
    fn arrive(
        &self,
        first: u64,
        pages: u64,
        bytes: Option<&[u8]>,
        mut arrived: impl FnMut(u64, u64),
    ) -> Result<(), PostCopyError> {
        if !self.absent.are_pages(first, pages) {
            return Err(PostCopyError::Outside { first, pages });
        }
        let part = |at: u64, count: u64| {
            let from = ((at - first) * PAGE_SIZE) as usize;
            bytes.map(|bytes| &bytes[from..from + (count * PAGE_SIZE) as usize])
        };
        let mut from = first;
        while let Some((at, count)) = self.absent.next_run(from, first + pages) {
            from = at + count;
            if self.absent.is_unit(at, count) {
                self.put(at, count, part(at, count))?;
                arrived(at, count);
            } else {
                for (at, count) in self.absent.pieces(at, count) {
                    match self.absent.gather(at, count, part(at, count))? {
                        Gathered::Partly => {}
                        Gathered::Whole { first, bytes } => {
                            let count = bytes.len() as u64 / PAGE_SIZE;
                            self.put(first, count, Some(&bytes))?;
                            arrived(first, count);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Installs whole pages of the host that are absent.
    fn put(&self, first: u64, pages: u64, bytes: Option<&[u8]>) -> Result<(), PostCopyError> {
        let failed = |source| PostCopyError::Install {
            first,
            pages,
            source,
        };
        match bytes {
            Some(bytes) => {
                let installed = self.memory.install(first * PAGE_SIZE, bytes);
                installed.map_err(failed)?;
                self.absent.remove(first, pages);
            }
            None => {
                // First zero, then woken: who looks again is served by `fault`.
                self.absent.remove(first, pages);
                let woken = self.memory.wake_at(first * PAGE_SIZE, pages * PAGE_SIZE);
                woken.map_err(failed)?;
            }
        }
        Ok(())
    }

    fn listen(
        &self,
        epoll: &Epoll,
        tell: &mut (impl FnMut(Arrival) + Send),
    ) -> Result<(), PostCopyError> {
        let mut ready = [EpollEvent::default(); 2];
        loop {
            let count = match epoll.wait(-1, &mut ready) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(PostCopyError::Wait(error)),
            };
            if ready[..count].iter().any(|e| e.data() == STOP) {
                return Ok(());
            }
            while let Some(offset) = self.memory.next_fault().map_err(PostCopyError::Faults)? {
                self.fault(offset / PAGE_SIZE, tell)?;
            }
        }
    }

    fn fault(&self, page: u64, tell: &mut impl FnMut(Arrival)) -> Result<(), PostCopyError> {
        if self.absent.contains(page) {
            tell(Arrival::Fault(page));
            return Ok(());
        }
        // Zero, or there since it was touched.
        let unit = self.zeros.len() as u64 / PAGE_SIZE;
        let first = page / unit * unit;
        let installed = self.memory.install(first * PAGE_SIZE, &self.zeros);
        installed.map_err(|source| PostCopyError::Install {
            first,
            pages: unit,
            source,
        })
    }
}

#[cfg(test)]
mod tests;
