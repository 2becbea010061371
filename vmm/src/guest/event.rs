//! What a guest tells its owner.

use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Mutex, PoisonError, TryLockError};
use std::time::Instant;

use crate::devices::power::PowerEvent;
use crate::memory::lazy::Failure;
use crate::vcpu::{Crash, VcpuEvent};

/// What ended or interrupted a guest's run. The guest is paused when its owner learns of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuestEvent {
    /// It turned itself off.
    PowerOff,
    /// It asked for a reset; [`super::Guest::reset`] does it.
    Reset,
    /// It cannot go on.
    Crashed(Crash),
    /// Memory of a lazily restored guest is damaged. The process must end without touching the
    /// guest again: a thread may wait for the missing memory for ever.
    MemoryLost {
        /// What is damaged, with the cause.
        cause: String,
    },
}

/// What the parts of a machine report.
pub(super) enum Signal {
    Power(PowerEvent),
    Vcpu(VcpuEvent),
    Memory(Failure),
    Interrupt,
}

/// Where the parts of a machine report to.
#[derive(Clone)]
pub(super) struct Signals(Sender<Signal>);

impl Signals {
    pub(super) fn send(&self, signal: Signal) {
        // Without a receiver the guest is being taken apart and nobody needs to know.
        let _ = self.0.send(signal);
    }
}

/// The owner's end.
pub(super) struct Inbox(Mutex<Receiver<Signal>>);

impl Inbox {
    pub(super) fn new() -> (Signals, Self) {
        let (sender, receiver) = channel();
        (Signals(sender), Self(Mutex::new(receiver)))
    }

    /// The next event; `None` at the deadline or when interrupted.
    pub(super) fn wait(&self, deadline: Option<Instant>) -> Option<GuestEvent> {
        let receiver = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let signal = match deadline {
                None => receiver.recv().ok()?,
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    match receiver.recv_timeout(left) {
                        Ok(signal) => signal,
                        Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                            return None;
                        }
                    }
                }
            };
            match signal {
                Signal::Power(PowerEvent::PowerOff) => return Some(GuestEvent::PowerOff),
                Signal::Power(PowerEvent::Reset) => return Some(GuestEvent::Reset),
                Signal::Vcpu(VcpuEvent::Crashed(crash)) => {
                    return Some(GuestEvent::Crashed(crash));
                }
                // Whoever made it yield has reported why.
                Signal::Vcpu(VcpuEvent::Yielded) => {}
                Signal::Memory(failure) => {
                    return Some(GuestEvent::MemoryLost {
                        cause: chain(&failure),
                    });
                }
                Signal::Interrupt => return None,
            }
        }
    }

    /// Forgets what happened before a reset.
    /// While somebody waits there is nothing to forget, and no waiting for the waiter either.
    pub(super) fn clear(&self) {
        let receiver = match self.0.try_lock() {
            Ok(receiver) => receiver,
            Err(TryLockError::Poisoned(receiver)) => receiver.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        while receiver.try_recv().is_ok() {}
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
