//! What a card's threads, the transport and the rest of the program share.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::config::{STATUS_ANNOUNCE, STATUS_LINK_UP};
use super::counters::NetCounters;
use super::tap::TapQueue;
use crate::devices::virtio::VirtioInterrupt;

/// The driver as it is while the card is active.
pub(super) struct Driver {
    pub(super) interrupt: Arc<dyn VirtioInterrupt>,
    /// It negotiated `VIRTIO_NET_F_GUEST_ANNOUNCE` and set up a control queue.
    pub(super) can_announce: bool,
    /// It negotiated `VIRTIO_NET_F_STATUS`.
    pub(super) sees_status: bool,
}

#[derive(Default)]
pub(super) struct Shared {
    pub(super) id: String,
    /// `status` of the configuration space.
    status: AtomicU16,
    /// Queue pairs in use.
    pub(super) active_pairs: AtomicU16,
    pub(super) counters: NetCounters,
    driver: Mutex<Option<Driver>>,
}

impl Shared {
    pub(super) fn new(id: &str) -> Self {
        Self {
            id: id.to_owned(),
            status: AtomicU16::new(STATUS_LINK_UP),
            active_pairs: AtomicU16::new(1),
            ..Self::default()
        }
    }

    pub(super) fn status(&self) -> u16 {
        self.status.load(Ordering::Relaxed)
    }

    pub(super) fn link_up(&self) -> bool {
        self.status() & STATUS_LINK_UP != 0
    }

    /// Sets or clears a bit of the status; whether that changed it.
    pub(super) fn set_status(&self, bit: u16, on: bool) -> bool {
        let before = if on {
            self.status.fetch_or(bit, Ordering::Relaxed)
        } else {
            self.status.fetch_and(!bit, Ordering::Relaxed)
        };
        (before & bit != 0) != on
    }

    /// Notes who drives the card; `None` while it is idle. An announcement that was asked for before
    /// is passed on.
    pub(super) fn set_driver(&self, driver: Option<Driver>) {
        let announce = self.status() & STATUS_ANNOUNCE != 0;
        let tell = announce && driver.as_ref().is_some_and(|d| d.can_announce);
        if announce && driver.is_some() && !tell {
            self.set_status(STATUS_ANNOUNCE, false);
        }
        *self.lock() = driver;
        if tell {
            self.tell_config_changed();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Driver>> {
        // The value is replaced whole, so a panic elsewhere cannot have left it half done.
        self.driver.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell_config_changed(&self) {
        let driver = self.lock();
        let Some(driver) = driver.as_ref().filter(|d| d.sees_status) else {
            return;
        };
        if let Err(error) = driver.interrupt.config_changed() {
            tracing::error!(net = self.id, %error, "cannot raise the interrupt of a network card");
        }
    }
}

/// A handle on a card for the rest of the program. Usable from any thread.
#[derive(Clone)]
pub struct NetHandle {
    pub(super) shared: Arc<Shared>,
    pub(super) taps: Vec<Arc<TapQueue>>,
}

impl NetHandle {
    /// Copies of the descriptors of the tap's queues, for a card of another process.
    ///
    /// # Errors
    /// When this process has too many open files.
    pub fn tap_files(&self) -> io::Result<Vec<File>> {
        self.taps
            .iter()
            .map(|queue| queue.try_clone_file())
            .collect()
    }

    /// What the card has done.
    pub fn counters(&self) -> &NetCounters {
        &self.shared.counters
    }

    /// Plugs or pulls the cable; frames in both directions are dropped while it is out.
    pub fn set_link_up(&self, up: bool) {
        if self.shared.set_status(STATUS_LINK_UP, up) {
            self.shared.tell_config_changed();
        }
    }

    /// Asks the driver to make itself known to the network (gratuitous ARP and such), for after the
    /// guest came to another host. `false` when the driver cannot; who asked must do it then.
    ///
    /// While the card is idle the wish is kept for the driver that comes; the answer is `true`.
    pub fn announce(&self) -> bool {
        let can = self.shared.lock().as_ref().is_none_or(|d| d.can_announce);
        if can {
            self.shared.set_status(STATUS_ANNOUNCE, true);
            self.shared.tell_config_changed();
        }
        can
    }
}
