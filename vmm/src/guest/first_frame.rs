//! Waiting for a guest to be heard on its network.

use std::time::{Duration, Instant};

use crate::devices::virtio::net::NetHandle;

/// How often is looked. The moment is noted when it happens, not when it is looked for.
const POLL: Duration = Duration::from_millis(2);

/// Watches for the first frame of a guest that was resumed. It keeps nothing of the guest alive.
pub struct FirstFrameWatch {
    resumed: Option<Instant>,
    cards: Vec<NetHandle>,
}

impl FirstFrameWatch {
    pub(super) fn new(resumed: Option<Instant>, cards: Vec<NetHandle>) -> Self {
        Self { resumed, cards }
    }

    /// How long after the guest was resumed its first frame left. Waits for one for at most
    /// `patience`, and not at all for a guest whose drivers use no network card.
    pub fn wait(&self, patience: Duration) -> Option<Duration> {
        let resumed = self.resumed?;
        let deadline = Instant::now() + patience;
        loop {
            if let Some(first) = self.cards.iter().filter_map(NetHandle::first_frame).min() {
                return Some(first.saturating_duration_since(resumed));
            }
            let may_come = self.cards.iter().any(NetHandle::is_active);
            if !may_come || Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(POLL);
        }
    }
}
