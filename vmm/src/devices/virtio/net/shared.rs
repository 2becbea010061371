//! What a card's threads, the transport and the rest of the program share.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use super::announce::rarp_request;
use super::config::{NetConfig, STATUS_ANNOUNCE, STATUS_LINK_UP};
use super::counters::{NetCounters, add};
use super::first_frame::FirstFrame;
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
    /// Of the guest, since the card became active.
    pub(super) first_frame: FirstFrame,
    driver: Mutex<Option<Driver>>,
    mac: Option<[u8; 6]>,
    /// The tap's queues, of which the first always takes part in traffic. Handles outlive the card,
    /// and the tap must not.
    taps: Vec<Weak<TapQueue>>,
}

impl Shared {
    pub(super) fn new(config: &NetConfig, taps: &[Arc<TapQueue>]) -> Self {
        Self {
            id: config.id.clone(),
            mac: config.mac,
            taps: taps.iter().map(Arc::downgrade).collect(),
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

    /// Announces the guest, if there is a driver that could be reached.
    fn announce(&self) {
        let driver = self.lock();
        let Some(driver) = driver.as_ref() else {
            return;
        };
        // With the lock held: when the card is told to stop, the guest may be on its way elsewhere.
        if self.link_up()
            && let (Some(mac), Some(tap)) = (self.mac, self.taps.first().and_then(Weak::upgrade))
        {
            match tap.send(&rarp_request(mac)) {
                Ok(()) => add(&self.counters.announced, 1),
                Err(error) => {
                    tracing::warn!(net = self.id, %error, "the tap refused an announcement");
                }
            }
        }
        // One that has not answered yet needs no reminder.
        if driver.can_announce && self.set_status(STATUS_ANNOUNCE, true) {
            self.interrupt_for_config(driver);
        }
    }

    fn tell_config_changed(&self) {
        if let Some(driver) = self.lock().as_ref() {
            self.interrupt_for_config(driver);
        }
    }

    fn interrupt_for_config(&self, driver: &Driver) {
        if !driver.sees_status {
            return;
        }
        if let Err(error) = driver.interrupt.config_changed() {
            tracing::error!(net = self.id, %error, "cannot raise the interrupt of a network card");
        }
    }
}

/// A handle on a card for the rest of the program. Usable from any thread.
#[derive(Clone)]
pub struct NetHandle {
    pub(super) shared: Arc<Shared>,
}

impl NetHandle {
    /// Copies of the descriptors of the tap's queues, for a card of another process.
    ///
    /// # Errors
    /// When this process has too many open files, or the card is gone.
    pub fn tap_files(&self) -> io::Result<Vec<File>> {
        let queues = self.shared.taps.iter().map(|queue| {
            let queue = queue.upgrade().ok_or(io::ErrorKind::NotConnected)?;
            queue.try_clone_file()
        });
        queues.collect()
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

    /// Tells the network once where the guest is: see [`Announcer`](super::Announcer). Nothing for a
    /// card that no driver uses or whose guest is paused, since nobody would answer.
    pub fn announce(&self) {
        self.shared.announce();
    }

    /// Whether a driver uses the card, of a guest that is not paused.
    pub fn is_active(&self) -> bool {
        self.shared.lock().is_some()
    }

    /// When the guest's first frame since it was last resumed left; announcements that the card
    /// makes itself are none.
    pub fn first_frame(&self) -> Option<Instant> {
        self.shared.first_frame.at()
    }
}
