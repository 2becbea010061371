//! System calls that move bytes straight between a file and guest memory, scattered or gathered.
//!
//! The kernel reads and writes the guest's pages itself: no copy passes through this process, and
//! no Rust reference into guest memory exists. Pages the kernel wrote are marked in the dirty
//! bitmap before a call returns.
//!
//! A [`Segment`] list is checked against the memory's regions each time it is turned into pointers,
//! so a list made by a guest cannot reach outside.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::bitmap::Bitmap;
use vm_memory::{GuestAddress, GuestMemory as _, Permissions};

use super::GuestMemory;

/// The kernel takes at most this many pieces per call (`UIO_MAXIOV`).
const MAX_PIECES: usize = 1024;

/// A contiguous piece of guest physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First guest physical address.
    pub address: GuestAddress,
    /// Length, bytes.
    pub len: u32,
}

/// A reusable list of pointers into guest memory, for the kernel.
#[derive(Default)]
pub(super) struct IoVecs(Vec<libc::iovec>);

// SAFETY: the list is plain addresses. They are only ever followed by the kernel, in calls of this
// module and of `io_ring`, each of which makes sure that the memory they lie in is still mapped.
unsafe impl Send for IoVecs {}

impl IoVecs {
    /// Makes the list cover `segments` without their first `skip` bytes, as far as one call can
    /// take; returns how many bytes it covers. The pointers are good as long as `memory` is alive.
    pub(super) fn fill(
        &mut self,
        memory: &GuestMemory,
        segments: &[Segment],
        skip: u64,
        access: Permissions,
    ) -> io::Result<u64> {
        self.0.clear();
        let mut covered = 0;
        for (address, len) in without_front(segments, skip) {
            let slices = memory.get_slices(address, len, access);
            for slice in slices.map_err(outside)? {
                let slice = slice.map_err(outside)?;
                if self.0.len() == MAX_PIECES {
                    return Ok(covered);
                }
                self.0.push(libc::iovec {
                    iov_base: slice.ptr_guard_mut().as_ptr().cast(),
                    iov_len: slice.len(),
                });
                covered += slice.len() as u64;
            }
        }
        Ok(covered)
    }

    /// The list, as the kernel takes it.
    pub(super) fn as_ptr(&self) -> *const libc::iovec {
        self.0.as_ptr()
    }

    /// How many pieces the list has; at most 1024.
    pub(super) fn count(&self) -> i32 {
        self.0.len() as i32
    }
}

/// What remains of `segments` without their first `skip` bytes.
fn without_front(
    segments: &[Segment],
    mut skip: u64,
) -> impl Iterator<Item = (GuestAddress, usize)> {
    segments.iter().filter_map(move |segment| {
        let cut = skip.min(u64::from(segment.len));
        skip -= cut;
        let len = u64::from(segment.len) - cut;
        (len > 0).then(|| {
            (
                GuestAddress(segment.address.0.wrapping_add(cut)),
                len as usize,
            )
        })
    })
}

fn outside(error: vm_memory::GuestMemoryError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, error)
}

/// Marks as changed the `len` bytes (at most all there are) after the first `skip` bytes of `segments`.
pub(super) fn mark_dirty(memory: &GuestMemory, segments: &[Segment], skip: u64, len: u64) {
    let mut rest = usize::try_from(len).unwrap_or(usize::MAX);
    for (address, piece) in without_front(segments, skip) {
        let part = piece.min(rest);
        rest -= part;
        let Ok(slices) = memory.get_slices(address, part, Permissions::Write) else {
            continue;
        };
        for slice in slices.flatten() {
            slice.bitmap().mark_dirty(0, slice.len());
        }
        if rest == 0 {
            break;
        }
    }
}

/// Moves bytes between files and one guest's memory; keeps a list of pointers to reuse.
pub struct GuestIo {
    memory: GuestMemory,
    vecs: IoVecs,
}

impl GuestIo {
    /// For I/O to and from `memory`.
    pub fn new(memory: GuestMemory) -> Self {
        Self {
            memory,
            vecs: IoVecs::default(),
        }
    }

    /// The guest's memory.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Fills all of `segments` from `file` at `offset` (bytes).
    ///
    /// # Errors
    /// The kernel's answer; `UnexpectedEof` when the file ends before the segments are full.
    pub fn read_at(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        segments: &[Segment],
    ) -> io::Result<()> {
        let fd = file.as_raw_fd();
        let written = |memory: &GuestMemory, skip, n| mark_dirty(memory, segments, skip, n);
        self.whole(
            segments,
            Permissions::Write,
            |vecs, skip| {
                // SAFETY: `vecs` was filled from `self.memory`, which outlives the call, so each piece
                // is mapped and writable for its length; `fd` is open since `file` borrows it.
                unsafe { libc::preadv(fd, vecs.as_ptr(), vecs.count(), (offset + skip) as i64) }
            },
            written,
        )
    }

    /// Fills all of `segments` from the page cache, if all of it is there (`RWF_NOWAIT`).
    ///
    /// # Errors
    /// `WouldBlock` when some of it is not in the cache, `Unsupported` when the filesystem cannot
    /// tell; some segments may be filled then. Otherwise as [`GuestIo::read_at`].
    pub fn read_cached(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        segments: &[Segment],
    ) -> io::Result<()> {
        let len: u64 = segments.iter().map(|s| u64::from(s.len)).sum();
        let covered = self
            .vecs
            .fill(&self.memory, segments, 0, Permissions::Write)?;
        // SAFETY: `vecs` was filled from `self.memory`, which outlives the call, so each piece is
        // mapped and writable for its length; `fd` is open since `file` borrows it.
        let n = unsafe {
            libc::preadv2(
                file.as_raw_fd(),
                self.vecs.as_ptr(),
                self.vecs.count(),
                offset as i64,
                libc::RWF_NOWAIT,
            )
        };
        let Ok(n) = u64::try_from(n) else {
            let error = io::Error::last_os_error();
            mark_dirty(&self.memory, segments, 0, covered);
            return Err(error);
        };
        mark_dirty(&self.memory, segments, 0, n);
        if n == len {
            Ok(())
        } else {
            Err(io::ErrorKind::WouldBlock.into())
        }
    }

    /// Writes all of `segments` to `file` at `offset` (bytes). `durable` returns only when the data
    /// is on stable storage (`RWF_DSYNC`).
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn write_at(
        &mut self,
        file: BorrowedFd<'_>,
        offset: u64,
        segments: &[Segment],
        durable: bool,
    ) -> io::Result<()> {
        let fd = file.as_raw_fd();
        let flags = if durable { libc::RWF_DSYNC } else { 0 };
        self.whole(
            segments,
            Permissions::Read,
            |vecs, skip| {
                // SAFETY: `vecs` was filled from `self.memory`, which outlives the call, so each piece
                // is mapped and readable for its length; `fd` is open since `file` borrows it.
                unsafe {
                    libc::pwritev2(
                        fd,
                        vecs.as_ptr(),
                        vecs.count(),
                        (offset + skip) as i64,
                        flags,
                    )
                }
            },
            |_, _, _| (),
        )
    }

    /// Repeats `call` until all of `segments` is done; `done` is told of each part.
    fn whole(
        &mut self,
        segments: &[Segment],
        access: Permissions,
        call: impl Fn(&IoVecs, u64) -> isize,
        done: impl Fn(&GuestMemory, u64, u64),
    ) -> io::Result<()> {
        let mut skip = 0;
        loop {
            if self.vecs.fill(&self.memory, segments, skip, access)? == 0 {
                return Ok(());
            }
            match call(&self.vecs, skip) {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n if n > 0 => {
                    done(&self.memory, skip, n as u64);
                    skip += n as u64;
                }
                _ => {
                    let error = io::Error::last_os_error();
                    if error.kind() != io::ErrorKind::Interrupted {
                        // Direct I/O may have filled pages before it failed.
                        done(&self.memory, skip, u64::MAX);
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Reads one packet from `file` into `segments`, and what does not fit into `overflow`; returns
    /// the packet's length. `segments` have at most 1023 pieces, or the packet is cut.
    ///
    /// # Errors
    /// The kernel's answer; `WouldBlock` when there is no packet.
    pub fn read_packet(
        &mut self,
        file: BorrowedFd<'_>,
        segments: &[Segment],
        overflow: &mut [u8],
    ) -> io::Result<usize> {
        let covered = self
            .vecs
            .fill(&self.memory, segments, 0, Permissions::Write)?;
        if self.vecs.0.len() < MAX_PIECES {
            self.vecs.0.push(libc::iovec {
                iov_base: overflow.as_mut_ptr().cast(),
                iov_len: overflow.len(),
            });
        }
        // SAFETY: every piece but the last was filled from `self.memory`, which outlives the call,
        // so it is mapped and writable for its length; the last is `overflow`, borrowed mutably
        // until the call has returned; `file` keeps the descriptor open.
        let n = unsafe { libc::readv(file.as_raw_fd(), self.vecs.as_ptr(), self.vecs.count()) };
        // The pointer to `overflow` must not outlive its borrow.
        self.vecs.0.clear();
        if n < 0 {
            return Err(io::Error::last_os_error());
        }
        mark_dirty(&self.memory, segments, 0, covered.min(n as u64));
        Ok(n as usize)
    }

    /// Writes all of `segments` to `file` as one packet; returns how many bytes were taken.
    ///
    /// # Errors
    /// The kernel's answer; `InvalidInput` when there are more than 1024 pieces.
    pub fn write_packet(
        &mut self,
        file: BorrowedFd<'_>,
        segments: &[Segment],
    ) -> io::Result<usize> {
        let len: u64 = segments.iter().map(|s| u64::from(s.len)).sum();
        if self
            .vecs
            .fill(&self.memory, segments, 0, Permissions::Read)?
            < len
        {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // SAFETY: each piece was filled from `self.memory`, which outlives the call, so it is
        // mapped and readable for its length; `file` keeps the descriptor open.
        let n = unsafe { libc::writev(file.as_raw_fd(), self.vecs.as_ptr(), self.vecs.count()) };
        usize::try_from(n).map_err(|_| io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::os::unix::fs::FileExt;
    use vm_memory::{Bytes, GuestMemoryRegion};

    /// Two regions that touch, so that a segment can lie across both.
    fn memory() -> GuestMemory {
        GuestMemory::from_ranges(&[(GuestAddress(0), 0x4000), (GuestAddress(0x4000), 0x4000)])
            .unwrap()
    }

    fn segment(address: u64, len: u32) -> Segment {
        Segment {
            address: GuestAddress(address),
            len,
        }
    }

    fn dirty_pages(memory: &GuestMemory) -> Vec<u64> {
        use vm_memory::GuestMemoryBackend;
        let mut pages = Vec::new();
        for region in memory.iter() {
            for offset in (0..region.len()).step_by(0x1000) {
                if region.bitmap().dirty_at(offset as usize) {
                    pages.push((region.start_addr().0 + offset) / 0x1000);
                }
            }
        }
        pages
    }

    #[test]
    fn a_read_scatters_over_regions_and_marks_exactly_the_pages_it_wrote() {
        let file = tempfile::tempfile().unwrap();
        let data: Vec<u8> = (0..0x1800u32).map(|i| i as u8 ^ (i >> 8) as u8).collect();
        file.write_all_at(&data, 512).unwrap();
        let memory = memory();
        let mut io = GuestIo::new(memory.clone());
        // The second segment crosses from the first region into the second.
        let segments = [segment(0x1000, 0x1000), segment(0x3c00, 0x800)];
        io.read_at(file.as_fd(), 512, &segments).unwrap();
        let mut seen = vec![0; 0x1800];
        memory
            .read_slice(&mut seen[..0x1000], GuestAddress(0x1000))
            .unwrap();
        memory
            .read_slice(&mut seen[0x1000..], GuestAddress(0x3c00))
            .unwrap();
        assert_eq!(seen, data);
        assert_eq!(dirty_pages(&memory), [1, 3, 4]);
    }

    #[test]
    fn a_write_gathers_more_pieces_than_one_call_takes() {
        let file = tempfile::tempfile().unwrap();
        let memory = memory();
        let data: Vec<u8> = (0..3000u32).map(|i| (i * 7) as u8).collect();
        memory.write_slice(&data, GuestAddress(0)).unwrap();
        let segments: Vec<_> = (0..3000).map(|i| segment(i, 1)).collect();
        let mut io = GuestIo::new(memory);
        io.write_at(file.as_fd(), 100, &segments, true).unwrap();
        let mut seen = vec![0; 3000];
        file.read_exact_at(&mut seen, 100).unwrap();
        assert_eq!(seen, data);
    }

    #[test]
    fn a_cached_read_is_whole_or_would_block() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[5; 0x1000], 0).unwrap();
        let memory = memory();
        let mut io = GuestIo::new(memory.clone());
        match io.read_cached(
            file.as_fd(),
            0,
            &[segment(0x2000, 0x800), segment(0x3c00, 0x800)],
        ) {
            Ok(()) => {
                assert_eq!(dirty_pages(&memory), [2, 3, 4]);
                assert_eq!(memory.read_obj::<u8>(GuestAddress(0x43ff)).unwrap(), 5);
            }
            Err(error) => crate::skip::skipped!("no cached reads on this filesystem: {error}"),
        }
        // What is not there cannot be read without waiting for somebody to write it.
        let error = io
            .read_cached(file.as_fd(), 0, &[segment(0, 0x2000)])
            .unwrap_err();
        assert!(matches!(
            error.kind(),
            io::ErrorKind::WouldBlock | io::ErrorKind::Unsupported
        ));
    }

    #[test]
    fn a_file_that_ends_early_is_an_error_and_not_silence() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100).unwrap();
        let mut io = GuestIo::new(memory());
        let error = io.read_at(file.as_fd(), 0, &[segment(0, 200)]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn a_segment_outside_memory_reaches_no_system_call() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(0x10000).unwrap();
        let mut io = GuestIo::new(memory());
        for bad in [segment(0x7fff, 2), segment(u64::MAX, 2), segment(0x9000, 1)] {
            let error = io.read_at(file.as_fd(), 0, &[bad]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
            assert!(io.write_packet(file.as_fd(), &[bad]).is_err());
        }
    }

    #[test]
    fn a_packet_spills_into_the_overflow_buffer() {
        use std::io::Write;
        use std::os::unix::net::UnixStream;
        let (mut far, near) = UnixStream::pair().unwrap();
        far.write_all(b"0123456789").unwrap();
        let memory = memory();
        let mut io = GuestIo::new(memory.clone());
        let mut overflow = [0; 16];
        let n = io
            .read_packet(near.as_fd(), &[segment(0x10, 4)], &mut overflow)
            .unwrap();
        assert_eq!((n, &overflow[..6]), (10, b"456789".as_slice()));
        assert_eq!(dirty_pages(&memory), [0]);
        assert_eq!(
            memory.read_obj::<[u8; 4]>(GuestAddress(0x10)).unwrap(),
            *b"0123"
        );
    }
}
