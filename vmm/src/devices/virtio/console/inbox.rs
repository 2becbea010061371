//! Input between its source and the receive queue.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::devices::terminal::InputPort;

/// Bytes of input that wait for the driver.
pub(super) const CAPACITY: usize = 64 << 10;

#[derive(Default)]
struct State {
    bytes: VecDeque<u8>,
    /// Input is taken.
    open: bool,
    /// An offer was not taken whole.
    wanted: bool,
}

/// A bounded queue of bytes. Closed at first.
pub(super) struct Inbox {
    state: Mutex<State>,
    arrived: EventFd,
    space: EventFd,
}

impl Inbox {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            state: Mutex::default(),
            arrived: EventFd::new(EFD_NONBLOCK)?,
            space: EventFd::new(EFD_NONBLOCK)?,
        })
    }

    /// Signalled when there is input after there was none.
    pub(super) fn arrived(&self) -> &EventFd {
        &self.arrived
    }

    /// Takes input from now on.
    pub(super) fn open(&self) {
        let mut state = self.state();
        state.open = true;
        if std::mem::take(&mut state.wanted) {
            signal(&self.space);
        }
    }

    /// Takes no more input; once this returns the content only shrinks.
    pub(super) fn close(&self) {
        self.state().open = false;
    }

    /// Moves up to `limit` bytes to the end of `into`.
    pub(super) fn take(&self, limit: usize, into: &mut Vec<u8>) {
        let mut state = self.state();
        let count = limit.min(state.bytes.len());
        into.extend(state.bytes.drain(..count));
        if state.open && count > 0 && std::mem::take(&mut state.wanted) {
            signal(&self.space);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.state().bytes.is_empty()
    }

    /// A copy of the content, oldest first.
    pub(super) fn content(&self) -> Vec<u8> {
        self.state().bytes.iter().copied().collect()
    }

    /// Replaces the content by at most [`CAPACITY`] bytes.
    pub(super) fn set_content(&self, bytes: Vec<u8>) {
        assert!(bytes.len() <= CAPACITY);
        self.state().bytes = bytes.into();
        signal(&self.arrived);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InputPort for Inbox {
    fn offer(&self, bytes: &[u8]) -> usize {
        let mut state = self.state();
        let room = match state.open {
            true => CAPACITY - state.bytes.len(),
            false => 0,
        };
        let taken = room.min(bytes.len());
        let was_empty = state.bytes.is_empty();
        state.bytes.extend(&bytes[..taken]);
        state.wanted |= taken < bytes.len();
        if was_empty && taken > 0 {
            signal(&self.arrived);
        }
        taken
    }

    fn space(&self) -> &EventFd {
        &self.space
    }
}

/// A full counter means that it is signalled already.
fn signal(event: &EventFd) {
    let _ = event.write(1);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_inbox_takes_what_fits_while_it_is_open_and_says_when_there_is_room() {
        let inbox = Inbox::new().unwrap();
        assert_eq!(inbox.offer(b"x"), 0);
        inbox.open();
        assert_eq!(inbox.space().read().unwrap(), 1);
        assert_eq!(inbox.offer(&vec![7; CAPACITY - 1]), CAPACITY - 1);
        assert_eq!(inbox.offer(b"ab"), 1);
        assert_eq!(inbox.arrived().read().unwrap(), 1);
        assert!(inbox.space().read().is_err());
        let mut taken = Vec::new();
        inbox.take(10, &mut taken);
        assert_eq!(taken, [7; 10]);
        assert_eq!(inbox.space().read().unwrap(), 1);
        inbox.close();
        assert_eq!(inbox.offer(b"c"), 0);
        assert_eq!(inbox.content().len(), CAPACITY - 10);
        assert_eq!(inbox.content().last(), Some(&b'a'));
    }
}
