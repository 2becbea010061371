//! Waiting for file descriptors, always with a way out: a deadline, or an event that wakes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

/// A flag that threads and polls can wait for. Once raised it stays raised.
#[derive(Debug)]
pub(crate) struct Flag(OwnedFd);

impl Flag {
    /// A lowered flag.
    pub(crate) fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self(fd))
    }

    /// Raises it. May be called in a signal handler: it is one system call.
    pub(crate) fn raise(&self) {
        // The counter is never read, so the only failure is that it is full: raised already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl AsFd for Flag {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// What is waited for at one file descriptor.
pub(crate) struct Watched<'fd> {
    fd: BorrowedFd<'fd>,
    events: PollFlags,
}

impl<'fd> Watched<'fd> {
    /// Bytes, the end, or an error.
    pub(crate) fn readable(fd: &'fd impl AsFd) -> Self {
        Self::new(fd, PollFlags::IN)
    }

    /// Room, or an error.
    pub(crate) fn writable(fd: &'fd impl AsFd) -> Self {
        Self::new(fd, PollFlags::OUT)
    }

    /// Nothing but an error or the loss of the other side.
    pub(crate) fn broken(fd: &'fd impl AsFd) -> Self {
        Self::new(fd, PollFlags::empty())
    }

    fn new(fd: &'fd impl AsFd, events: PollFlags) -> Self {
        Self {
            fd: fd.as_fd(),
            events,
        }
    }
}

/// Waits until one of them is ready, and says which are; none of them when `deadline` has passed.
/// With `None` it waits for ever.
pub(crate) fn ready<const N: usize>(
    watched: [Watched<'_>; N],
    deadline: Option<Instant>,
) -> io::Result<[bool; N]> {
    let mut fds = watched.map(|watched| PollFd::from_borrowed_fd(watched.fd, watched.events));
    loop {
        let patience = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec::try_from(left).unwrap_or(Timespec {
                tv_sec: i64::MAX,
                tv_nsec: 0,
            })
        });
        match poll(&mut fds, patience.as_ref()) {
            Ok(_) => return Ok(fds.each_ref().map(|fd| !fd.revents().is_empty())),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_raised_flag_wakes_every_waiter_and_stays_raised() {
        let flag = Flag::new().unwrap();
        let soon = || Some(Instant::now() + Duration::from_millis(5));
        assert_eq!(ready([Watched::readable(&flag)], soon()).unwrap(), [false]);
        flag.raise();
        flag.raise();
        for _ in 0..2 {
            assert_eq!(ready([Watched::readable(&flag)], None).unwrap(), [true]);
        }
    }

    #[test]
    fn a_closed_reader_shows_as_broken() {
        let (reader, writer) = std::io::pipe().unwrap();
        let soon = Some(Instant::now() + Duration::from_millis(5));
        assert_eq!(ready([Watched::broken(&writer)], soon).unwrap(), [false]);
        drop(reader);
        assert_eq!(ready([Watched::broken(&writer)], None).unwrap(), [true]);
    }
}
