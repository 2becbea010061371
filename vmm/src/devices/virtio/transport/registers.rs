//! The common configuration structure (virtio 1.2, 4.1.4.3): negotiation, queue set-up, status.
//!
//! Nothing here acts on the device: a write says by [`Effect`] what has to follow.
//!
//! ```text
//!      ACKNOWLEDGE      DRIVER       FEATURES_OK                  DRIVER_OK
//!  0 -------------> 1 ---------> 3 -------------> 11, queues are -----------> 15: works
//!  ^                    features are chosen         set up                     |
//!  +------------------------------- write 0: reset ---------------------------+
//! ```
//!
//! A status bit that comes before its turn does not stick, and the driver reads that back.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::memory::GuestMemory;

use super::interrupt::Interrupt;
use super::queue::QueueRegisters;
use super::{feature, status};

/// Bytes of the structure.
pub(super) const LENGTH: u64 = 0x38;

const DEVICE_FEATURE_SELECT: usize = 0x00;
const DEVICE_FEATURE: usize = 0x04;
const DRIVER_FEATURE_SELECT: usize = 0x08;
const DRIVER_FEATURE: usize = 0x0c;
const CONFIG_VECTOR: usize = 0x10;
const NUM_QUEUES: usize = 0x12;
const DEVICE_STATUS: usize = 0x14;
const CONFIG_GENERATION: usize = 0x15;
const QUEUE_SELECT: usize = 0x16;
const QUEUE_SIZE: usize = 0x18;
const QUEUE_VECTOR: usize = 0x1a;
const QUEUE_ENABLE: usize = 0x1c;
const QUEUE_NOTIFY_OFF: usize = 0x1e;
const QUEUE_DESC: usize = 0x20;
const QUEUE_DRIVER: usize = 0x28;
const QUEUE_DEVICE: usize = 0x30;

/// What has to follow a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// The status changed: the device may have to start.
    Status,
    /// The driver resets the device: stop it, then [`Registers::reset`].
    Reset,
}

/// The registers, except those that workers touch too; these are in [`Interrupt`].
pub(super) struct Registers {
    pub(super) interrupt: Arc<Interrupt>,
    /// What the device offers.
    pub(super) offered: u64,
    pub(super) device_feature_select: u32,
    pub(super) driver_feature_select: u32,
    /// What the driver chose; a subset of `offered` from `FEATURES_OK` on.
    pub(super) driver_features: u64,
    pub(super) queue_select: u16,
    pub(super) queues: Vec<QueueRegisters>,
}

impl Registers {
    pub(super) fn new(interrupt: Arc<Interrupt>, offered: u64, queue_sizes: &[u16]) -> Self {
        Self {
            interrupt,
            offered,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            queue_select: 0,
            queues: queue_sizes
                .iter()
                .copied()
                .map(QueueRegisters::new)
                .collect(),
        }
    }

    /// Back to the values after a device reset.
    pub(super) fn reset(&mut self) {
        self.interrupt.reset();
        self.device_feature_select = 0;
        self.driver_feature_select = 0;
        self.driver_features = 0;
        self.queue_select = 0;
        for queue in &mut self.queues {
            *queue = QueueRegisters::new(queue.max_size);
        }
    }

    pub(super) fn status(&self) -> u8 {
        self.interrupt.status.load(Ordering::Acquire)
    }

    pub(super) fn event_idx(&self) -> bool {
        self.driver_features & feature::RING_EVENT_IDX != 0
    }

    /// The driver reads; any size at any offset, what lies beyond the structure is zero.
    pub(super) fn read(&self, offset: u64, data: &mut [u8]) {
        let image = self.image();
        for (at, byte) in (offset..).zip(data) {
            *byte = usize::try_from(at)
                .ok()
                .and_then(|at| image.get(at).copied())
                .unwrap_or(0);
        }
    }

    fn image(&self) -> [u8; LENGTH as usize] {
        let mut image = [0; LENGTH as usize];
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
        let selected = self.device_feature_select;
        put(DEVICE_FEATURE_SELECT, &selected.to_le_bytes());
        put(DEVICE_FEATURE, &half(self.offered, selected).to_le_bytes());
        let selected = self.driver_feature_select;
        put(DRIVER_FEATURE_SELECT, &selected.to_le_bytes());
        let chosen = half(self.driver_features, selected);
        put(DRIVER_FEATURE, &chosen.to_le_bytes());
        let interrupt = &self.interrupt;
        let vector = interrupt.config_vector.load(Ordering::Acquire);
        put(CONFIG_VECTOR, &vector.to_le_bytes());
        put(NUM_QUEUES, &(self.queues.len() as u16).to_le_bytes());
        put(DEVICE_STATUS, &[self.status()]);
        let generation = interrupt.generation.load(Ordering::Acquire);
        put(CONFIG_GENERATION, &[generation]);
        put(QUEUE_SELECT, &self.queue_select.to_le_bytes());
        let index = usize::from(self.queue_select);
        // A queue that does not exist shows size 0 (4.1.4.3.1).
        if let (Some(queue), Some(vector)) =
            (self.queues.get(index), interrupt.queue_vectors.get(index))
        {
            put(QUEUE_SIZE, &queue.size.to_le_bytes());
            let vector = vector.load(Ordering::Acquire);
            put(QUEUE_VECTOR, &vector.to_le_bytes());
            put(QUEUE_ENABLE, &u16::from(queue.enabled).to_le_bytes());
            put(QUEUE_NOTIFY_OFF, &self.queue_select.to_le_bytes());
            put(QUEUE_DESC, &queue.desc_table.to_le_bytes());
            put(QUEUE_DRIVER, &queue.avail_ring.to_le_bytes());
            put(QUEUE_DEVICE, &queue.used_ring.to_le_bytes());
        }
        image
    }

    /// The driver writes. Only accesses as wide as the field are defined, and halves of the 64-bit
    /// ones (4.1.3.1); all others are ignored.
    pub(super) fn write(&mut self, offset: u64, data: &[u8], memory: &GuestMemory) -> Effect {
        let Ok(offset) = usize::try_from(offset) else {
            return Effect::None;
        };
        match *data {
            [byte] if offset == DEVICE_STATUS => return self.write_status(byte),
            [a, b] => self.write_word(offset, u16::from_le_bytes([a, b]), memory),
            [a, b, c, d] => self.write_dword(offset, u32::from_le_bytes([a, b, c, d])),
            [a, b, c, d, e, f, g, h]
                if matches!(offset, QUEUE_DESC | QUEUE_DRIVER | QUEUE_DEVICE) =>
            {
                self.write_dword(offset, u32::from_le_bytes([a, b, c, d]));
                self.write_dword(offset + 4, u32::from_le_bytes([e, f, g, h]));
            }
            _ => {}
        }
        Effect::None
    }

    fn write_status(&mut self, wanted: u8) -> Effect {
        if wanted == 0 {
            return Effect::Reset;
        }
        let now = self.status();
        let mut next = now | wanted & (status::ACKNOWLEDGE | status::FAILED);
        if wanted & status::DRIVER != 0 && next & status::ACKNOWLEDGE != 0 {
            next |= status::DRIVER;
        }
        if wanted & status::FEATURES_OK != 0
            && next & status::DRIVER != 0
            && self.features_acceptable()
        {
            next |= status::FEATURES_OK;
        }
        if wanted & status::DRIVER_OK != 0 && next & status::FEATURES_OK != 0 {
            next |= status::DRIVER_OK;
        }
        // A worker may set NEEDS_RESET meanwhile, so bits are only added.
        self.interrupt.status.fetch_or(next, Ordering::AcqRel);
        Effect::Status
    }

    fn features_acceptable(&self) -> bool {
        self.driver_features & !self.offered == 0 && self.driver_features & feature::VERSION_1 != 0
    }

    fn write_word(&mut self, offset: usize, value: u16, memory: &GuestMemory) {
        let index = usize::from(self.queue_select);
        let can_set_up = self.can_set_up_queues();
        match offset {
            CONFIG_VECTOR => {
                let vector = self.interrupt.checked_vector(value);
                self.interrupt
                    .config_vector
                    .store(vector, Ordering::Release);
            }
            QUEUE_SELECT => self.queue_select = value,
            QUEUE_VECTOR => {
                let vector = self.interrupt.checked_vector(value);
                if let Some(register) = self.interrupt.queue_vectors.get(index) {
                    register.store(vector, Ordering::Release);
                }
            }
            QUEUE_SIZE if can_set_up => {
                if let Some(queue) = self.idle_queue() {
                    queue.size = value;
                }
            }
            QUEUE_ENABLE if can_set_up && value == 1 => self.enable_queue(memory),
            _ => {}
        }
    }

    fn write_dword(&mut self, offset: usize, value: u32) {
        match offset {
            DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            DRIVER_FEATURE if self.status() & status::FEATURES_OK == 0 => {
                set_half(&mut self.driver_features, self.driver_feature_select, value);
            }
            QUEUE_DESC..0x38 if self.can_set_up_queues() => {
                let Some(queue) = self.idle_queue() else {
                    return;
                };
                let half = (offset / 4 % 2) as u32;
                match offset & !7 {
                    QUEUE_DESC => set_half(&mut queue.desc_table, half, value),
                    QUEUE_DRIVER => set_half(&mut queue.avail_ring, half, value),
                    _ => set_half(&mut queue.used_ring, half, value),
                }
            }
            _ => {}
        }
    }

    /// Queues are set up after negotiation and before the device works.
    fn can_set_up_queues(&self) -> bool {
        self.status() & (status::FEATURES_OK | status::DRIVER_OK) == status::FEATURES_OK
    }

    /// The selected queue, unless it is enabled.
    fn idle_queue(&mut self) -> Option<&mut QueueRegisters> {
        self.queues
            .get_mut(usize::from(self.queue_select))
            .filter(|queue| !queue.enabled)
    }

    fn enable_queue(&mut self, memory: &GuestMemory) {
        let (select, event_idx) = (self.queue_select, self.event_idx());
        let Some(queue) = self.idle_queue() else {
            return;
        };
        match queue.build(event_idx, memory) {
            Ok(_) => queue.enabled = true,
            Err(error) => self
                .interrupt
                .fail(&format_args!("queue {select}: {error}")),
        }
    }
}

/// 32 of the bits; beyond 64 there are none.
fn half(bits: u64, select: u32) -> u32 {
    match select {
        0 => bits as u32,
        1 => (bits >> 32) as u32,
        _ => 0,
    }
}

fn set_half(bits: &mut u64, select: u32, value: u32) {
    match select {
        0 => *bits = *bits & !0xffff_ffff | u64::from(value),
        1 => *bits = *bits & 0xffff_ffff | u64::from(value) << 32,
        // Linux writes only 0 and 1. Other bits cannot have been offered.
        _ => {}
    }
}
