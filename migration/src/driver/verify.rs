//! Digests of all memory: compared at the switch, while the guest is paused (MIG-18, MIG-19), and noted of
//! memory that was kept (MIG-79).

use std::sync::Mutex;
use std::thread;

use godwit_proto::migrate::{PageRun, RunDigest};
use xxhash_rust::xxh3::Xxh3;

use crate::PageSet;
use crate::page::{DigestTable, is_zero};
use crate::ports::{GuestMemory, PAGE_BYTES, PortError};

/// Pages of a digest: 2 MiB.
const PIECE_PAGES: u64 = 512;
/// The most threads.
const MAX_THREADS: usize = 16;

/// The digests of `pages`, in pieces, rising.
pub(super) fn digests(
    memory: &dyn GuestMemory,
    pages: &PageSet,
) -> Result<Vec<RunDigest>, PortError> {
    let runs: Vec<PageRun> = pages.runs().flat_map(pieces).collect();
    let mut digests = in_parallel(&runs, |digester, &run| {
        let digest = digester.digest(memory, run)?;
        Ok(RunDigest { run, digest })
    })?;
    digests.sort_by_key(|digest| digest.run.first);
    Ok(digests)
}

/// How many of these runs differ here.
pub(super) fn wrong(memory: &dyn GuestMemory, digests: &[RunDigest]) -> Result<u64, PortError> {
    let right = in_parallel(digests, |digester, wanted| {
        Ok(digester.digest(memory, wanted.run)? == wanted.digest)
    })?;
    Ok(right.iter().filter(|&&right| !right).count() as u64)
}

/// Notes the content of all memory in `table` (MIG-79). Zeros stay unknown: to send them costs nothing.
pub(super) fn note(memory: &dyn GuestMemory, table: &DigestTable) -> Result<(), PortError> {
    let runs: Vec<PageRun> = pieces((0, memory.pages())).collect();
    let seed = table.seed();
    in_parallel(&runs, |digester, &run| {
        if memory.is_untouched(run.first, run.count) {
            return Ok(());
        }
        let bytes = digester.read(memory, run)?;
        for (page, content) in (run.first..).zip(bytes.chunks_exact(PAGE_BYTES)) {
            if !is_zero(content) {
                table.note(page, seed.digest(content));
            }
        }
        Ok(())
    })
    .map(drop)
}

fn pieces((first, count): (u64, u64)) -> impl Iterator<Item = PageRun> {
    (0..count.div_ceil(PIECE_PAGES)).map(move |piece| PageRun {
        first: first + piece * PIECE_PAGES,
        count: PIECE_PAGES.min(count - piece * PIECE_PAGES),
    })
}

/// Does `work` on each item, on all processors.
fn in_parallel<T: Sync, R: Send>(
    items: &[T],
    work: impl Fn(&mut Digester, &T) -> Result<R, PortError> + Sync,
) -> Result<Vec<R>, PortError> {
    let threads = thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS));
    let left = Mutex::new(items.iter());
    let worker = || {
        let mut digester = Digester::new();
        let mut done = Vec::new();
        loop {
            let next = match left.lock() {
                Ok(mut left) => left.next(),
                Err(_) => None,
            };
            match next {
                Some(item) => done.push(work(&mut digester, item)?),
                None => return Ok::<_, PortError>(done),
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(worker)).collect();
        let mut all = worker()?;
        for worker in workers {
            all.extend(
                worker
                    .join()
                    .map_err(|_| "a thread that digests failed")??,
            );
        }
        Ok(all)
    })
}

struct Digester {
    buffer: Vec<u8>,
    zeros: Vec<u8>,
}

impl Digester {
    fn new() -> Self {
        let bytes = PIECE_PAGES as usize * PAGE_BYTES;
        Self {
            buffer: vec![0; bytes],
            zeros: vec![0; bytes],
        }
    }

    /// XXH3-64, seed 0. Memory that was never touched stays so.
    fn digest(&mut self, memory: &dyn GuestMemory, run: PageRun) -> Result<u64, PortError> {
        let mut hasher = Xxh3::new();
        for piece in pieces((run.first, run.count)) {
            let bytes = piece.count as usize * PAGE_BYTES;
            if memory.is_untouched(piece.first, piece.count) {
                hasher.update(&self.zeros[..bytes]);
            } else {
                hasher.update(self.read(memory, piece)?);
            }
        }
        Ok(hasher.digest())
    }

    /// The content of at most [`PIECE_PAGES`] pages.
    fn read(&mut self, memory: &dyn GuestMemory, piece: PageRun) -> Result<&[u8], PortError> {
        let buffer = &mut self.buffer[..piece.count as usize * PAGE_BYTES];
        memory.read(piece.first, buffer)?;
        Ok(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::DigestSeed;

    /// Pages full of their number; those divisible by 7 were never touched.
    struct Fake {
        pages: u64,
        changed: Option<u64>,
    }

    impl GuestMemory for Fake {
        fn pages(&self) -> u64 {
            self.pages
        }

        fn read(&self, first: u64, bytes: &mut [u8]) -> Result<(), PortError> {
            for (page, bytes) in (first..).zip(bytes.chunks_mut(PAGE_BYTES)) {
                let byte = if page.is_multiple_of(7) {
                    0
                } else {
                    page as u8
                };
                bytes.fill(byte);
                if self.changed == Some(page) {
                    bytes[4095] ^= 1;
                }
            }
            Ok(())
        }

        fn write(&self, _: u64, _: &[u8]) -> Result<(), PortError> {
            Err("read only".into())
        }

        fn write_zeros(&self, _: u64, _: u64) -> Result<(), PortError> {
            Err("read only".into())
        }

        fn is_untouched(&self, first: u64, count: u64) -> bool {
            count == 1 && first.is_multiple_of(7)
        }
    }

    #[test]
    fn one_changed_byte_is_found_and_nothing_else() {
        let mut pages = PageSet::full(3000);
        pages.remove_run(1000, 13);
        pages.remove_run(1014, 6);
        let source = Fake {
            pages: 3000,
            changed: None,
        };
        let digests = digests(&source, &pages).unwrap();
        assert!(digests.iter().all(|d| d.run.count <= PIECE_PAGES));
        assert_eq!(digests.iter().map(|d| d.run.count).sum::<u64>(), 3000 - 19);
        assert!(digests.is_sorted_by_key(|d| d.run.first));
        assert_eq!(wrong(&source, &digests).unwrap(), 0);
        for (changed, wrongs) in [(999, 1), (2999, 1), (1003, 0)] {
            let target = Fake {
                pages: 3000,
                changed: Some(changed),
            };
            assert_eq!(wrong(&target, &digests).unwrap(), wrongs, "{changed}");
        }
    }

    #[test]
    fn what_is_kept_is_noted_but_for_its_zeros() {
        let memory = Fake {
            pages: 1000,
            changed: None,
        };
        let table = DigestTable::new(1000, DigestSeed(3));
        note(&memory, &table).unwrap();
        assert_eq!(
            table.known(1000 - 1),
            Some(DigestSeed(3).digest(&[(999 % 256) as u8; PAGE_BYTES]))
        );
        assert_eq!(table.known(70), None, "never touched");
        assert_eq!(table.known(256), None, "zeros");
    }
}
