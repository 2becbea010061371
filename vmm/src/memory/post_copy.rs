//! Memory that arrives from elsewhere while the guest already runs.
//!
//! The pages that are still to come are made absent. Who touches one waits, and the owner is told
//! which page that is; the owner installs pages in any order, asked for or not, from any thread. This
//! module does not know where pages come from, and never gives up waiting: that is its owner's to
//! decide.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::GuestRam;
use super::layout::PAGE_SIZE;
use super::missing::{MissingError, MissingMemory};

/// What the thread waits for.
const FAULT: u64 = 0;
const STOP: u64 = 1;
/// Zeros that are installed with one call, bytes.
const ZEROS: usize = 2 << 20;

/// Why memory cannot arrive while the guest runs.
#[derive(Debug, thiserror::Error)]
pub enum PostCopyError {
    /// The kernel does not let pages be absent.
    #[error("post-copy is not possible here")]
    Missing(#[from] MissingError),
    /// A stale page could not be given up.
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
    /// The thread that hears of faults could not be started.
    #[error("cannot start the thread that hears of page faults")]
    Thread(#[source] io::Error),
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

/// Guest memory that is arriving. Dropping it makes what has not arrived zero, so the guest must be
/// gone before, or everything in.
pub struct PostCopy {
    memory: Arc<MissingMemory>,
    stop: EventFd,
    thread: Option<JoinHandle<()>>,
}

impl PostCopy {
    /// Makes the pages of `missing`, runs of (first page, pages), absent. The guest does not run yet.
    /// `on_fault` is called with each page that somebody waits for, from a thread of this type; it
    /// may be called more than once for a page.
    ///
    /// # Errors
    /// [`PostCopyError`].
    pub fn start(
        ram: &Arc<GuestRam>,
        missing: impl IntoIterator<Item = (u64, u64)>,
        on_fault: impl FnMut(u64) + Send + 'static,
    ) -> Result<Self, PostCopyError> {
        for (first, pages) in missing {
            ram.punch(first * PAGE_SIZE, pages * PAGE_SIZE)
                .map_err(|source| PostCopyError::Punch {
                    first,
                    pages,
                    source,
                })?;
        }
        let memory = Arc::new(MissingMemory::register(ram.clone())?);
        let stop = EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK).map_err(PostCopyError::Thread)?;
        let epoll = Epoll::new().map_err(PostCopyError::Thread)?;
        for (fd, token) in [(memory.as_raw_fd(), FAULT), (stop.as_raw_fd(), STOP)] {
            let event = EpollEvent::new(EventSet::IN, token);
            epoll
                .ctl(ControlOperation::Add, fd, event)
                .map_err(PostCopyError::Thread)?;
        }
        let thread = {
            let memory = memory.clone();
            thread::Builder::new()
                .name("page-faults".into())
                .spawn(move || listen(&memory, &epoll, on_fault))
                .map_err(PostCopyError::Thread)?
        };
        Ok(Self {
            memory,
            stop,
            thread: Some(thread),
        })
    }

    /// Installs whole pages from `first` on, and lets go who waits for them. A page that is there
    /// already keeps what it has: the guest may have written it.
    ///
    /// # Errors
    /// [`PostCopyError::Install`].
    pub fn install(&self, first: u64, bytes: &[u8]) -> Result<(), PostCopyError> {
        self.memory
            .install(first * PAGE_SIZE, bytes)
            .map_err(|source| PostCopyError::Install {
                first,
                pages: bytes.len() as u64 / PAGE_SIZE,
                source,
            })
    }

    /// Installs `pages` zero pages from `first` on.
    ///
    /// # Errors
    /// [`PostCopyError::Install`].
    pub fn install_zeros(&self, first: u64, pages: u64) -> Result<(), PostCopyError> {
        let zeros = vec![0; ZEROS.min((pages * PAGE_SIZE) as usize)];
        let per_call = zeros.len() as u64 / PAGE_SIZE;
        let mut page = first;
        while page < first + pages {
            let count = per_call.min(first + pages - page);
            self.install(page, &zeros[..(count * PAGE_SIZE) as usize])?;
            page += count;
        }
        Ok(())
    }

    /// Lets go who waits for `page`, which is there: its fault may have been heard after it came.
    ///
    /// # Errors
    /// [`PostCopyError::Install`].
    pub fn wake(&self, page: u64) -> Result<(), PostCopyError> {
        self.memory
            .wake_at(page * PAGE_SIZE, PAGE_SIZE)
            .map_err(|source| PostCopyError::Install {
                first: page,
                pages: 1,
                source,
            })
    }

    /// Ends it; everything has arrived.
    pub fn finish(self) {
        drop(self);
    }
}

impl Drop for PostCopy {
    fn drop(&mut self) {
        // A full counter is as good a signal as one more.
        let _ = self.stop.write(1);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that hears of page faults panicked");
        }
        self.memory.release();
    }
}

fn listen(memory: &MissingMemory, epoll: &Epoll, mut on_fault: impl FnMut(u64)) {
    let mut ready = [EpollEvent::default(); 2];
    loop {
        let count = match epoll.wait(-1, &mut ready) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return tracing::error!(%error, "cannot wait for page faults"),
        };
        if ready[..count].iter().any(|e| e.data() == STOP) {
            return;
        }
        loop {
            match memory.next_fault() {
                Ok(Some(offset)) => on_fault(offset / PAGE_SIZE),
                Ok(None) => break,
                Err(error) => return tracing::error!(%error, "cannot read page faults"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HugePages;
    use std::sync::mpsc;
    use std::time::Duration;
    use vm_memory::{Bytes, GuestAddress};

    const SIZE: u64 = 16 << 20;
    const PAGES: u64 = SIZE / PAGE_SIZE;

    fn start(missing: Vec<(u64, u64)>) -> Option<(Arc<GuestRam>, PostCopy, mpsc::Receiver<u64>)> {
        let ram = Arc::new(GuestRam::allocate(SIZE, HugePages::None).expect("memory"));
        for page in 0..PAGES {
            ram.memory()
                .write_obj(!page, GuestAddress(page * PAGE_SIZE))
                .expect("in memory");
        }
        let (sender, faults) = mpsc::channel();
        let on_fault = move |page| sender.send(page).expect("the test listens");
        match PostCopy::start(&ram, missing, on_fault) {
            Ok(post_copy) => Some((ram, post_copy, faults)),
            Err(PostCopyError::Missing(error)) => {
                crate::skip::skipped!("no userfaultfd here: {error}");
                None
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn word(ram: &GuestRam, page: u64) -> u64 {
        ram.memory()
            .read_obj(GuestAddress(page * PAGE_SIZE))
            .expect("in memory")
    }

    #[test]
    fn who_touches_an_absent_page_waits_for_it() {
        let Some((ram, post_copy, faults)) = start(vec![(100, 50)]) else {
            return;
        };
        assert_eq!(word(&ram, 99), !99);
        assert_eq!(word(&ram, 150), !150);
        thread::scope(|scope| {
            let reader = scope.spawn(|| word(&ram, 120));
            assert_eq!(faults.recv_timeout(Duration::from_secs(60)), Ok(120));
            thread::sleep(Duration::from_millis(20));
            assert!(!reader.is_finished());
            post_copy
                .install(118, &[7; 4 * PAGE_SIZE as usize])
                .expect("installs");
            assert_eq!(reader.join().expect("reads"), u64::from_le_bytes([7; 8]));
        });
        assert_eq!(word(&ram, 121), u64::from_le_bytes([7; 8]));
        post_copy.install_zeros(100, 50).expect("installs the rest");
        assert_eq!(word(&ram, 100), 0);
        assert_eq!(word(&ram, 118), u64::from_le_bytes([7; 8]));
        post_copy.finish();
    }

    #[test]
    fn a_page_that_was_written_meanwhile_is_not_overwritten() {
        let Some((ram, post_copy, _)) = start(vec![(0, PAGES)]) else {
            return;
        };
        post_copy
            .install(8, &[1; PAGE_SIZE as usize])
            .expect("installs");
        ram.memory()
            .write_obj(5u64, GuestAddress(8 * PAGE_SIZE))
            .expect("in memory");
        post_copy
            .install(0, &[2; 64 * PAGE_SIZE as usize])
            .expect("installs around it");
        assert_eq!(word(&ram, 8), 5);
        for page in (0..64).filter(|&page| page != 8) {
            assert_eq!(word(&ram, page), u64::from_le_bytes([2; 8]), "page {page}");
        }
        post_copy
            .install_zeros(64, PAGES - 64)
            .expect("installs the rest");
        post_copy.finish();
    }
}
