//! Guest memory as a file: written for a snapshot, read back all at once.
//!
//! The file has the layout of the memory file. Chunks that hold only zeros are holes in it. Every
//! chunk has a digest, which is kept elsewhere, so that each can be checked on its own.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use godwit_proto::state::memory::SnapshotMemory;
use xxhash_rust::xxh3::xxh3_64;

use super::GuestRam;
use super::layout::PAGE_SIZE;

/// Smallest chunk, bytes: brought in by one fault of a lazy restore.
const MIN_CHUNK: u64 = 64 << 10;
/// Largest chunk that is taken from a snapshot, bytes.
const MAX_CHUNK: u64 = 2 << 20;
/// Chunks grow with memory so that their digests stay within 8 MiB.
const MAX_CHUNKS: u64 = 1 << 20;
/// What one thread takes at a time, bytes; a multiple of any chunk.
const BATCH: u64 = 2 << 20;
/// Threads that copy; more than this saturates no disk further.
const MAX_THREADS: usize = 4;

/// Why an image could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file does not take the bytes.
    #[error("cannot write guest memory at offset {offset:#x}; is there room on the disk?")]
    Write {
        /// Offset in the file.
        offset: u64,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The file does not give the bytes.
    #[error("cannot read the snapshot's memory at offset {offset:#x}")]
    Read {
        /// Offset in the file.
        offset: u64,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Guest memory itself cannot be accessed.
    #[error("cannot access guest memory at offset {offset:#x}")]
    Guest {
        /// Offset in the memory file.
        offset: u64,
        /// What vm-memory says.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
    /// The content is not what was written.
    #[error("the snapshot's memory is damaged at offset {offset:#x}: its checksum does not match")]
    Damaged {
        /// Offset in the file.
        offset: u64,
    },
    /// The description of the image makes no sense for this guest.
    #[error("the snapshot describes {what} as {found}, but it must be {need}")]
    Description {
        /// Which field.
        what: &'static str,
        /// Its value.
        found: u64,
        /// What is possible, in words.
        need: String,
    },
}

/// The chunk size for a guest of `bytes`.
fn chunk_bytes(bytes: u64) -> u64 {
    bytes
        .div_ceil(MAX_CHUNKS)
        .next_power_of_two()
        .clamp(MIN_CHUNK, MAX_CHUNK)
}

/// Checks what a snapshot says about its memory against the guest that it is for.
///
/// # Errors
/// [`ImageError::Description`].
pub fn check(description: &SnapshotMemory, ram_bytes: u64) -> Result<(), ImageError> {
    let wrong = |what, found: u64, need: String| Err(ImageError::Description { what, found, need });
    let chunk = u64::from(description.chunk_bytes);
    if !chunk.is_power_of_two() || !(PAGE_SIZE..=MAX_CHUNK).contains(&chunk) {
        return wrong(
            "the chunk size",
            chunk,
            "a power of two from 4096 to 2097152".into(),
        );
    }
    if description.file_bytes != ram_bytes {
        return wrong(
            "the size of memory",
            description.file_bytes,
            format!("{ram_bytes}"),
        );
    }
    let digests = description.digests.len() as u64;
    if digests != ram_bytes.div_ceil(chunk) {
        let need = format!("{}, one per chunk", ram_bytes.div_ceil(chunk));
        return wrong("the number of digests", digests, need);
    }
    Ok(())
}

/// Writes all of `ram` to `file`, which is empty. Returns the description and the bytes written.
/// The guest must be paused and its devices quiet.
///
/// # Errors
/// [`ImageError::Write`] or [`ImageError::Guest`].
pub fn write(ram: &GuestRam, file: &File) -> Result<(SnapshotMemory, u64), ImageError> {
    let chunk = chunk_bytes(ram.bytes());
    file.set_len(ram.bytes())
        .map_err(|source| ImageError::Write { offset: 0, source })?;
    let zero_digest = xxh3_64(&vec![0; chunk as usize]);
    let chunks = ram.bytes().div_ceil(chunk) as usize;
    let digests = Mutex::new(vec![zero_digest; chunks]);
    let written = AtomicU64::new(0);
    in_batches(ram.bytes(), |offset, buffer| {
        if is_hole(ram, offset, buffer.len() as u64) {
            return short_last_chunk(&digests, chunk, offset, buffer);
        }
        read_guest(ram, offset, buffer)?;
        for (index, bytes) in buffer.chunks(chunk as usize).enumerate() {
            let at = offset + index as u64 * chunk;
            let digest = xxh3_64(bytes);
            if digest != zero_digest {
                lock(&digests)[(at / chunk) as usize] = digest;
                file.write_all_at(bytes, at)
                    .map_err(|source| ImageError::Write { offset: at, source })?;
                written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            }
        }
        Ok(())
    })?;
    let description = SnapshotMemory {
        chunk_bytes: chunk as u32,
        digests: digests
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner),
        file_bytes: ram.bytes(),
    };
    Ok((description, written.into_inner()))
}

/// Memory need not be whole chunks; a short last chunk of zeros has a digest of its own.
fn short_last_chunk(
    digests: &Mutex<Vec<u64>>,
    chunk: u64,
    offset: u64,
    zeros: &[u8],
) -> Result<(), ImageError> {
    let tail = zeros.len() as u64 % chunk;
    if tail != 0 {
        let last = (offset + zeros.len() as u64) / chunk;
        lock(digests)[last as usize] = xxh3_64(&vec![0; tail as usize]);
    }
    Ok(())
}

/// Reads all of `file` into `ram`, which is untouched, and checks it against `description`, which
/// [`check`] has passed.
///
/// # Errors
/// [`ImageError`]; memory then holds parts of the image.
pub fn read(ram: &GuestRam, file: &File, description: &SnapshotMemory) -> Result<(), ImageError> {
    let chunk = u64::from(description.chunk_bytes);
    let zero_digest = xxh3_64(&vec![0; chunk as usize]);
    in_batches(ram.bytes(), |offset, buffer| {
        file.read_exact_at(buffer, offset)
            .map_err(|source| ImageError::Read { offset, source })?;
        for (index, bytes) in buffer.chunks(chunk as usize).enumerate() {
            let at = offset + index as u64 * chunk;
            let digest = xxh3_64(bytes);
            if digest != description.digests[(at / chunk) as usize] {
                return Err(ImageError::Damaged { offset: at });
            }
            // Untouched memory is zero already; touching it would only cost pages.
            if digest != zero_digest {
                write_guest(ram, at, bytes)?;
            }
        }
        Ok(())
    })
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Calls `work(offset, buffer)` for each batch of `0..bytes`, on a few threads. Stops at the first
/// error.
fn in_batches(
    bytes: u64,
    work: impl Fn(u64, &mut [u8]) -> Result<(), ImageError> + Sync,
) -> Result<(), ImageError> {
    let next = AtomicU64::new(0);
    let threads = thread::available_parallelism()
        .map_or(1, NonZeroUsize::get)
        .min(MAX_THREADS);
    let run = || {
        let mut buffer = vec![0; BATCH as usize];
        loop {
            let offset = next.fetch_add(BATCH, Ordering::Relaxed);
            if offset >= bytes {
                return Ok(());
            }
            let len = BATCH.min(bytes - offset) as usize;
            if let Err(error) = work(offset, &mut buffer[..len]) {
                next.store(bytes, Ordering::Relaxed);
                return Err(error);
            }
        }
    };
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(run)).collect();
        let mut result = run();
        for other in others {
            let other = other.join().expect("copying does not panic");
            result = result.and(other);
        }
        result
    })
}

/// Whether the memory file has no page in the range. Fills nothing and touches nothing.
fn is_hole(ram: &GuestRam, offset: u64, len: u64) -> bool {
    ram.next_data(offset)
        .is_some_and(|data| data >= offset + len)
}

fn read_guest(ram: &GuestRam, offset: u64, buffer: &mut [u8]) -> Result<(), ImageError> {
    ram.read(offset, buffer)
        .map_err(|source| ImageError::Guest { offset, source })
}

fn write_guest(ram: &GuestRam, offset: u64, bytes: &[u8]) -> Result<(), ImageError> {
    ram.write(offset, bytes)
        .map_err(|source| ImageError::Guest { offset, source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::HugePages;
    use vm_memory::{Bytes, GuestAddress};

    const SIZE: u64 = (17 << 20) + 8192;

    fn filled() -> GuestRam {
        let ram = GuestRam::allocate(SIZE, HugePages::None).unwrap();
        for page in (0..SIZE / PAGE_SIZE).filter(|p| p % 37 == 5 || *p == SIZE / PAGE_SIZE - 1) {
            ram.memory()
                .write_obj(page | 1 << 40, GuestAddress(page * PAGE_SIZE + 16))
                .unwrap();
        }
        ram
    }

    fn contents(ram: &GuestRam) -> Vec<u8> {
        let mut bytes = vec![0; SIZE as usize];
        read_guest(ram, 0, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let ram = filled();
        let file = tempfile::tempfile().unwrap();
        let (description, _) = write(&ram, &file).unwrap();
        check(&description, SIZE).unwrap();
        let back = GuestRam::allocate(SIZE, HugePages::None).unwrap();
        read(&back, &file, &description).unwrap();
        assert!(contents(&ram) == contents(&back));
    }

    #[test]
    fn an_empty_guest_takes_no_room() {
        let ram = GuestRam::allocate(SIZE, HugePages::None).unwrap();
        let file = tempfile::tempfile().unwrap();
        let (description, written) = write(&ram, &file).unwrap();
        assert_eq!(written, 0);
        read(&ram, &file, &description).unwrap();
    }

    #[test]
    fn every_damaged_byte_is_found() {
        let ram = filled();
        let file = tempfile::tempfile().unwrap();
        let (description, _) = write(&ram, &file).unwrap();
        for offset in (0..SIZE).step_by(997 * 1021) {
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
            let back = GuestRam::allocate(SIZE, HugePages::None).unwrap();
            let result = read(&back, &file, &description);
            assert!(
                matches!(result, Err(ImageError::Damaged { .. })),
                "offset {offset}"
            );
            file.write_all_at(&byte, offset).unwrap();
        }
    }

    #[test]
    fn a_description_that_does_not_fit_is_refused() {
        let good = SnapshotMemory {
            chunk_bytes: MIN_CHUNK as u32,
            digests: vec![0; SIZE.div_ceil(MIN_CHUNK) as usize],
            file_bytes: SIZE,
        };
        check(&good, SIZE).unwrap();
        let mut short = good.clone();
        short.digests.pop();
        let smaller = SnapshotMemory {
            file_bytes: SIZE - 4096,
            ..good.clone()
        };
        for chunk_bytes in [0, 1, 65535, 4 << 20] {
            assert!(
                check(
                    &SnapshotMemory {
                        chunk_bytes,
                        ..good.clone()
                    },
                    SIZE
                )
                .is_err()
            );
        }
        assert!(check(&short, SIZE).is_err());
        assert!(check(&smaller, SIZE).is_err());
    }

    #[test]
    fn chunks_grow_so_that_digests_fit_a_record() {
        assert_eq!(chunk_bytes(16 << 20), MIN_CHUNK);
        assert_eq!(chunk_bytes(64 << 30), MIN_CHUNK);
        assert_eq!(chunk_bytes(1 << 40), 1 << 20);
    }
}
