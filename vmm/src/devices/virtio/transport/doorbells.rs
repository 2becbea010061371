//! The doorbells of one device, kept registered at wherever its BAR is.

use std::sync::Arc;

use vmm_sys_util::eventfd::EventFd;

use crate::interrupt::Doorbells;

use super::bar;

/// Which doorbells ring in the kernel. What does not, rings through an exit instead.
pub(super) struct DoorbellSet {
    port: Arc<dyn Doorbells>,
    kicks: Arc<[EventFd]>,
    /// The BAR's address, while it is decoded.
    base: Option<u64>,
    registered: Vec<bool>,
}

impl DoorbellSet {
    pub(super) fn new(port: Arc<dyn Doorbells>, kicks: Arc<[EventFd]>) -> Self {
        Self {
            port,
            registered: vec![false; kicks.len()],
            kicks,
            base: None,
        }
    }

    /// Moves the doorbells to the BAR at `base`; nowhere when it is not decoded.
    pub(super) fn place(&mut self, base: Option<u64>) {
        if self.base == base {
            return;
        }
        if let Some(old) = self.base {
            for (index, kick) in self.kicks.iter().enumerate() {
                if std::mem::take(&mut self.registered[index])
                    && let Err(error) = self.port.unregister(address(old, index), kick)
                {
                    tracing::error!(queue = index, %error, "cannot take a doorbell back");
                }
            }
        }
        if let Some(new) = base {
            for (index, kick) in self.kicks.iter().enumerate() {
                match self.port.register(address(new, index), kick) {
                    Ok(()) => self.registered[index] = true,
                    Err(error) => tracing::warn!(
                        queue = index,
                        %error,
                        "doorbell rings through an exit, which is slower"
                    ),
                }
            }
        }
        self.base = base;
    }
}

impl Drop for DoorbellSet {
    fn drop(&mut self) {
        self.place(None);
    }
}

fn address(base: u64, queue: usize) -> u64 {
    base + bar::NOTIFY + queue as u64 * bar::NOTIFY_STRIDE
}
