//! Asynchronous file I/O straight into and out of guest memory, by io_uring.
//!
//! ```text
//! start(...) -> queued --submit()--> in flight --kernel--> finished --next_done()--> caller
//!                  ^                                          |
//!                  +----- short transfer: the rest -----------+
//! ```
//!
//! Invariants that make this sound:
//! - The ring owns a [`GuestMemory`] and the file. What is in flight points into memory that stays
//!   mapped, because dropping the ring first waits for everything in flight. Should that wait ever
//!   fail, the mapping is leaked rather than freed under the kernel.
//! - A slot's pointer list is not touched while the slot is in flight.
//! - Pages that the kernel filled are marked in the dirty bitmap before the caller hears of it; so
//!   once nothing is in flight, the bitmap holds every page that was written.

#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use io_uring::types::{Fd, FsyncFlags, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use vm_memory::Permissions;

use super::GuestMemory;
use super::iovec::{IoVecs, Segment, mark_dirty};

/// How often one request may be continued after a short transfer or `EAGAIN`.
const MAX_CONTINUATIONS: u32 = 4096;

/// What a ring does to its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Fills the segments from the file at `offset` bytes.
    Read {
        /// Where in the file, bytes.
        offset: u64,
    },
    /// Writes the segments to the file at `offset` bytes.
    Write {
        /// Where in the file, bytes.
        offset: u64,
        /// Finishes only when the data is on stable storage.
        durable: bool,
    },
    /// Makes all writes that finished before this started durable (`fdatasync`).
    Sync,
}

struct Slot<T> {
    vecs: IoVecs,
    segments: Vec<Segment>,
    operation: Operation,
    /// Bytes already transferred.
    done: u64,
    /// Bytes in all.
    len: u64,
    continuations: u32,
    /// The caller's; `None` while the slot is free.
    tag: Option<T>,
}

/// An io_uring that serves one file and one guest's memory.
pub struct IoRing<T> {
    ring: IoUring,
    memory: GuestMemory,
    file: Arc<File>,
    slots: Vec<Slot<T>>,
    free: Vec<usize>,
    /// Entries put on the submission queue that the kernel has not taken yet.
    queued: usize,
}

impl<T> IoRing<T> {
    /// A ring that has up to `depth` requests in flight.
    ///
    /// # Errors
    /// The kernel's answer: it is too old (5.11 is needed), or io_uring is forbidden by
    /// `kernel.io_uring_disabled` or seccomp. Do the I/O synchronously then.
    pub fn new(depth: u16, memory: GuestMemory, file: Arc<File>) -> io::Result<Self> {
        let ring = IoUring::new(u32::from(depth.max(1)).next_power_of_two())?;
        let params = ring.params();
        if !(params.is_feature_ext_arg()
            && params.is_feature_nodrop()
            && params.is_feature_submit_stable())
        {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let slots: Vec<Slot<T>> = (0..depth.max(1))
            .map(|_| Slot {
                vecs: IoVecs::default(),
                segments: Vec::new(),
                operation: Operation::Sync,
                done: 0,
                len: 0,
                continuations: 0,
                tag: None,
            })
            .collect();
        Ok(Self {
            ring,
            memory,
            file,
            free: (0..slots.len()).rev().collect(),
            slots,
            queued: 0,
        })
    }

    /// Whether another request may be started.
    pub fn has_room(&self) -> bool {
        !self.free.is_empty()
    }

    /// How many requests were started and have not been returned by [`IoRing::next_done`].
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Queues a request; [`IoRing::next_done`] will return its `tag`. The kernel sees it with the
    /// next [`IoRing::submit`].
    ///
    /// # Errors
    /// The tag comes back when a segment is outside guest memory.
    ///
    /// # Panics
    /// When there is no room: ask [`IoRing::has_room`] first.
    pub fn start(
        &mut self,
        operation: Operation,
        segments: &[Segment],
        tag: T,
    ) -> Result<(), (T, io::Error)> {
        let index = self.free.pop().expect("the caller asked has_room()");
        let slot = &mut self.slots[index];
        slot.segments.clear();
        slot.segments.extend_from_slice(segments);
        slot.operation = operation;
        slot.done = 0;
        slot.len = segments.iter().map(|s| u64::from(s.len)).sum();
        slot.continuations = 0;
        match self.queue(index) {
            Ok(()) => {
                self.slots[index].tag = Some(tag);
                Ok(())
            }
            Err(error) => {
                self.free.push(index);
                Err((tag, error))
            }
        }
    }

    /// Puts what is left of a slot's work on the submission queue.
    fn queue(&mut self, index: usize) -> io::Result<()> {
        let slot = &mut self.slots[index];
        let fd = Fd(self.file.as_raw_fd());
        let entry = match slot.operation {
            Operation::Read { offset } => {
                let access = Permissions::Write;
                slot.vecs
                    .fill(&self.memory, &slot.segments, slot.done, access)?;
                opcode::Readv::new(fd, slot.vecs.as_ptr(), slot.vecs.count() as u32)
                    .offset(offset + slot.done)
                    .build()
            }
            Operation::Write { offset, durable } => {
                let access = Permissions::Read;
                slot.vecs
                    .fill(&self.memory, &slot.segments, slot.done, access)?;
                opcode::Writev::new(fd, slot.vecs.as_ptr(), slot.vecs.count() as u32)
                    .offset(offset + slot.done)
                    .rw_flags(if durable { libc::RWF_DSYNC } else { 0 })
                    .build()
            }
            Operation::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        };
        self.push(&entry.user_data(index as u64));
        Ok(())
    }

    fn push(&mut self, entry: &squeue::Entry) {
        // SAFETY: the entry names `self.file`, open as long as `self`, and a slot's pointer list
        // that was filled from `self.memory`. Both outlive the request: `Drop` waits for it, and
        // the list is refilled only after its completion was seen.
        let pushed = unsafe { self.ring.submission().push(entry) };
        pushed.expect("the submission queue has an entry for each slot");
        self.queued += 1;
    }

    /// Hands the queued requests to the kernel.
    ///
    /// # Errors
    /// The kernel's answer. What it did not take stays queued for the next call.
    pub fn submit(&mut self) -> io::Result<()> {
        while self.queued > 0 {
            match self.ring.submit() {
                Ok(taken) => self.queued = self.queued.saturating_sub(taken),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// A request that is finished, or `None` when none is at the moment. Its dirty pages are marked.
    pub fn next_done(&mut self) -> Option<(T, io::Result<()>)> {
        loop {
            let completion = self.ring.completion().next()?;
            let index = completion.user_data() as usize;
            if let Some(result) = self.advance(index, completion.result()) {
                self.free.push(index);
                let tag = self.slots[index].tag.take();
                return Some((tag.expect("a slot in flight has a tag"), result));
            }
        }
    }

    /// Takes the kernel's answer for a slot; `None` when the rest was queued again.
    fn advance(&mut self, index: usize, answer: i32) -> Option<io::Result<()>> {
        let slot = &mut self.slots[index];
        let reads = matches!(slot.operation, Operation::Read { .. });
        let retry = match answer {
            n if n >= 0 => {
                let n = n as u64;
                if reads {
                    mark_dirty(&self.memory, &slot.segments, slot.done, n);
                }
                slot.done += n;
                if slot.operation == Operation::Sync || slot.done >= slot.len {
                    return Some(Ok(()));
                }
                if n == 0 {
                    return Some(Err(io::ErrorKind::UnexpectedEof.into()));
                }
                None
            }
            n => {
                if reads {
                    // Direct I/O may have filled pages before it failed.
                    mark_dirty(&self.memory, &slot.segments, slot.done, u64::MAX);
                }
                let error = io::Error::from_raw_os_error(-n);
                match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Some(error),
                    _ => return Some(Err(error)),
                }
            }
        };
        slot.continuations += 1;
        if slot.continuations > MAX_CONTINUATIONS {
            let error = retry.unwrap_or_else(|| io::ErrorKind::WriteZero.into());
            return Some(Err(error));
        }
        self.queue(index).err().map(Err)
    }

    /// Waits until a request is finished, at most `timeout`; `false` when the time is up.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<bool> {
        let time = Timespec::from(timeout);
        let args = SubmitArgs::new().timespec(&time);
        match self.ring.submitter().submit_with_args(1, &args) {
            Ok(taken) => self.queued = self.queued.saturating_sub(taken),
            Err(error) if error.raw_os_error() == Some(libc::ETIME) => {
                // It may have taken entries before the time was up.
                self.queued = self.ring.submission().len();
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                self.queued = self.ring.submission().len();
            }
            Err(error) => return Err(error),
        }
        Ok(!self.ring.completion().is_empty())
    }
}

/// Readable when a request is finished.
impl<T> AsRawFd for IoRing<T> {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl<T> Drop for IoRing<T> {
    fn drop(&mut self) {
        while self.in_flight() > 0 {
            while self.next_done().is_some() {}
            if self.in_flight() == 0 {
                break;
            }
            if let Err(error) = self.wait(Duration::from_secs(1)) {
                tracing::error!(%error, "cannot wait for I/O in flight; its memory stays mapped");
                std::mem::forget(self.memory.clone());
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;
    use vm_memory::{Bytes, GuestAddress};

    fn ring(file: &File) -> Option<(IoRing<u32>, GuestMemory)> {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), 0x10000)]).unwrap();
        let file = Arc::new(file.try_clone().unwrap());
        match IoRing::new(4, memory.clone(), file) {
            Ok(ring) => Some((ring, memory)),
            Err(error) => {
                crate::skip::skipped!("this kernel gives no io_uring: {error}");
                None
            }
        }
    }

    fn segment(address: u64, len: u32) -> Segment {
        Segment {
            address: GuestAddress(address),
            len,
        }
    }

    fn finish(ring: &mut IoRing<u32>, count: usize) -> Vec<(u32, io::Result<()>)> {
        let mut done = Vec::new();
        for _ in 0..100 {
            ring.submit().unwrap();
            done.extend(std::iter::from_fn(|| ring.next_done()));
            if done.len() >= count {
                break;
            }
            ring.wait(Duration::from_secs(10)).unwrap();
        }
        done.sort_by_key(|(tag, _)| *tag);
        done
    }

    #[test]
    fn requests_finish_with_their_tags_and_data() {
        let file = tempfile::tempfile().unwrap();
        let Some((mut ring, memory)) = ring(&file) else {
            return;
        };
        memory.write_slice(&[7; 0x3000], GuestAddress(0)).unwrap();
        let durable = |offset, durable| Operation::Write { offset, durable };
        ring.start(durable(0, false), &[segment(0, 0x1000)], 1)
            .unwrap();
        ring.start(
            durable(0x1000, true),
            &[segment(0, 1), segment(1, 0xfff)],
            2,
        )
        .unwrap();
        ring.start(Operation::Sync, &[], 3).unwrap();
        let done = finish(&mut ring, 3);
        assert!(done.iter().all(|(_, result)| result.is_ok()));
        assert_eq!(
            done.iter().map(|(tag, _)| *tag).collect::<Vec<_>>(),
            [1, 2, 3]
        );
        let mut seen = [0; 0x2000];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert_eq!(seen, [7; 0x2000]);
    }

    #[test]
    fn a_read_past_the_end_fails_and_marks_what_it_wrote() {
        use vm_memory::bitmap::Bitmap;
        use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[9; 0x1000], 0).unwrap();
        let Some((mut ring, memory)) = ring(&file) else {
            return;
        };
        ring.start(Operation::Read { offset: 0 }, &[segment(0x2000, 0x2000)], 5)
            .unwrap();
        let done = finish(&mut ring, 1);
        let error = done[0].1.as_ref().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let region = memory.iter().next().unwrap();
        assert!(region.bitmap().dirty_at(0x2000));
        assert!(!region.bitmap().dirty_at(0x1000));
        assert_eq!(memory.read_obj::<u8>(GuestAddress(0x2fff)).unwrap(), 9);
    }

    #[test]
    fn a_segment_outside_memory_gives_the_tag_back() {
        let file = tempfile::tempfile().unwrap();
        let Some((mut ring, _)) = ring(&file) else {
            return;
        };
        for _ in 0..20 {
            let (tag, error) = ring
                .start(Operation::Read { offset: 0 }, &[segment(0xffff, 2)], 8)
                .unwrap_err();
            assert_eq!((tag, error.kind()), (8, io::ErrorKind::InvalidInput));
        }
        assert_eq!(ring.in_flight(), 0);
    }

    #[test]
    fn dropping_a_ring_waits_for_what_is_in_flight() {
        let file = tempfile::tempfile().unwrap();
        let Some((mut ring, memory)) = ring(&file) else {
            return;
        };
        memory.write_slice(&[3; 0x1000], GuestAddress(0)).unwrap();
        for i in 0..4 {
            let offset = u64::from(i) * 0x1000;
            let write = Operation::Write {
                offset,
                durable: true,
            };
            ring.start(write, &[segment(0, 0x1000)], i).unwrap();
        }
        assert!(!ring.has_room());
        ring.submit().unwrap();
        drop(ring);
        let mut seen = vec![0; 0x4000];
        file.read_exact_at(&mut seen, 0).unwrap();
        assert!(seen.iter().all(|b| *b == 3));
    }
}
