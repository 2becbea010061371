//! When a guest was first heard of again: the moment its first frame left since the card became
//! active. That is what ends a move as the guest's peers see it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// The moment of the first frame, if there was one.
#[derive(Debug, Default)]
pub(super) struct FirstFrame {
    /// Whether `at` is set: all that most frames look at.
    seen: AtomicBool,
    at: Mutex<Option<Instant>>,
}

impl FirstFrame {
    /// Forgets what was; the next frame is the first.
    pub(super) fn reset(&self) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.seen.store(false, Ordering::Release);
    }

    /// A frame of the guest has left.
    pub(super) fn sent(&self) {
        if !self.seen.load(Ordering::Acquire) {
            self.at
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get_or_insert_with(Instant::now);
            self.seen.store(true, Ordering::Release);
        }
    }

    /// When the first one left.
    pub(super) fn at(&self) -> Option<Instant> {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
