//! The network card as the transport sees it.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use godwit_proto::state::net::NetState;
use virtio_bindings::bindings::virtio_net::{
    VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_STATUS,
};

use super::config::{self, CONTROL_QUEUE_SIZE, NetConfig, QUEUE_SIZE, STATUS_ANNOUNCE, has};
use super::control::{ControlWorker, switch_queues};
use super::persist;
use super::rx::RxWorker;
use super::shared::{Driver, NetHandle, Shared};
use super::tap::{NetError, TapQueue};
use super::tx::TxWorker;
use crate::devices::virtio::worker::{Handler, Worker};
use crate::devices::virtio::{
    ActivateError, Activation, ActiveQueue, DeviceType, RestoreError, VirtioDevice, VirtioInterrupt,
};
use crate::memory::GuestMemory;

/// A virtio network card. Idle until a driver activates it.
pub struct Net {
    shared: Arc<Shared>,
    mac: Option<[u8; 6]>,
    queue_pairs: u16,
    features: u64,
    queue_sizes: Vec<u16>,
    taps: Vec<Arc<TapQueue>>,
    /// Queue pairs in use in a state that was restored and not activated yet.
    restored_pairs: Option<u16>,
    /// The tap's queues are in the state in which the restored card left them.
    adopted: bool,
    workers: Workers,
}

#[derive(Default)]
struct Workers {
    rx: Vec<Worker<RxWorker>>,
    tx: Vec<Worker<TxWorker>>,
    control: Option<Worker<ControlWorker>>,
}

impl Net {
    /// Opens the tap of `config`; it is let go when this is dropped.
    ///
    /// # Errors
    /// [`NetError`] when the tap cannot be used, with what to do.
    pub fn open(config: &NetConfig) -> Result<Self, NetError> {
        check_mac(config)?;
        let taps = TapQueue::open_all(config)?;
        Ok(Self::with_taps(config, taps))
    }

    /// A card that takes the place of another process's card of the same guest, with the `queues` of its
    /// tap. It leaves them as they are until it is activated: that other card may still run.
    ///
    /// # Errors
    /// [`NetError`] when these are not as many as the card has.
    pub fn adopt(config: &NetConfig, queues: Vec<File>) -> Result<Self, NetError> {
        check_mac(config)?;
        let taps = TapQueue::adopt_all(config, queues)?;
        Ok(Self {
            adopted: true,
            ..Self::with_taps(config, taps)
        })
    }

    /// A card on queues that are open already, of which only the first takes part in traffic.
    pub(super) fn with_taps(config: &NetConfig, taps: Vec<TapQueue>) -> Self {
        let taps: Vec<_> = taps.into_iter().map(Arc::new).collect();
        let mut queue_sizes = vec![QUEUE_SIZE; 2 * usize::from(config.queue_pairs)];
        queue_sizes.push(CONTROL_QUEUE_SIZE);
        Self {
            shared: Arc::new(Shared::new(config, &taps)),
            mac: config.mac,
            queue_pairs: config.queue_pairs,
            features: config::features(config),
            queue_sizes,
            taps,
            restored_pairs: None,
            adopted: false,
            workers: Workers::default(),
        }
    }

    /// Counters, link state and announcements, usable from any thread.
    pub fn handle(&self) -> NetHandle {
        NetHandle {
            shared: self.shared.clone(),
        }
    }

    /// Sets the tap up for what was negotiated.
    fn prepare_taps(&mut self, features: u64, enabled_pairs: u16) -> io::Result<()> {
        let bits = config::offload_bits(features);
        if self.features & config::OFFLOADS != 0 {
            // Offloads belong to the tap and not to its queue.
            self.taps[0].set_offload(bits)?;
        }
        let before = self.shared.active_pairs.load(Ordering::Relaxed);
        let wanted = self.restored_pairs.unwrap_or(before).min(enabled_pairs);
        switch_queues(&self.taps, before, wanted)?;
        self.shared.active_pairs.store(wanted, Ordering::Relaxed);
        self.restored_pairs = None;
        Ok(())
    }

    fn spawn(&mut self, roles: Roles, common: &Common) -> io::Result<()> {
        let id = &self.shared.id;
        let max_pairs = roles.pairs.len() as u16;
        for (index, ((rx, tx), tap)) in roles.pairs.into_iter().zip(&self.taps).enumerate() {
            let memory = || common.memory.clone();
            let interrupt = || common.interrupt.clone();
            let rx = RxWorker::new(
                self.shared.clone(),
                tap.clone(),
                rx,
                memory(),
                interrupt(),
                has(common.features, VIRTIO_NET_F_MRG_RXBUF),
            );
            let tx = TxWorker::new(self.shared.clone(), tap.clone(), tx, memory(), interrupt());
            let rx = Worker::spawn(&format!("rx{index}-{id}"), rx)?;
            self.workers.rx.push(rx);
            let tx = Worker::spawn(&format!("tx{index}-{id}"), tx)?;
            self.workers.tx.push(tx);
        }
        if let Some(queue) = roles.control {
            let control = ControlWorker {
                shared: self.shared.clone(),
                taps: self.taps.clone(),
                queue,
                memory: common.memory.clone(),
                interrupt: common.interrupt.clone(),
                max_pairs: if has(common.features, VIRTIO_NET_F_MQ) {
                    max_pairs
                } else {
                    0
                },
                can_announce: config::can_announce(common.features),
            };
            self.workers.control = Some(Worker::spawn(&format!("ctl-{id}"), control)?);
        }
        Ok(())
    }
}

fn check_mac(config: &NetConfig) -> Result<(), NetError> {
    match config.mac {
        Some(mac) if mac[0] & 1 != 0 || mac == [0; 6] => Err(NetError::Mac { mac }),
        _ => Ok(()),
    }
}

/// What all workers of one activation share.
struct Common {
    memory: GuestMemory,
    features: u64,
    interrupt: Arc<dyn VirtioInterrupt>,
}

/// The enabled queues by what they are for (5.1.2).
struct Roles {
    pairs: Vec<(ActiveQueue, ActiveQueue)>,
    control: Option<ActiveQueue>,
}

impl Roles {
    /// Sorts `queues`, which come by rising index. The control queue follows the pairs; without
    /// `VIRTIO_NET_F_MQ` there is one pair whatever the card has.
    fn sort(queues: Vec<ActiveQueue>, max_pairs: u16) -> Result<Self, ActivateError> {
        let enabled: Vec<u16> = queues.iter().map(|q| q.index).collect();
        let refused = |need| ActivateError::Queues {
            device: DeviceType::Net,
            enabled: enabled.clone(),
            need,
        };
        let mut roles = Self {
            pairs: Vec::new(),
            control: None,
        };
        let mut rx = None;
        for queue in queues {
            let expected = 2 * roles.pairs.len() as u16 + u16::from(rx.is_some());
            if queue.index == 2 * max_pairs {
                roles.control = Some(queue);
            } else if queue.index != expected || queue.index > 2 * max_pairs {
                return Err(refused("whole pairs from 0 on, and no queue beyond"));
            } else {
                match rx.take() {
                    None => rx = Some(queue),
                    Some(rx) => roles.pairs.push((rx, queue)),
                }
            }
        }
        if rx.is_some() || roles.pairs.is_empty() {
            return Err(refused("a transmit queue for each receive queue"));
        }
        Ok(roles)
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let space = config::config_space(self.mac, self.shared.status(), self.queue_pairs);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        for (i, byte) in data.iter_mut().enumerate() {
            let at = start.saturating_add(i);
            *byte = space.get(at).copied().unwrap_or(0);
        }
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {
        // With VERSION_1 all of it is read-only (5.1.4).
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let failed = |source| ActivateError::Worker {
            device: DeviceType::Net,
            source,
        };
        let features = activation.features;
        let max_pairs = if has(features, VIRTIO_NET_F_MQ) {
            self.queue_pairs
        } else {
            1
        };
        let roles = Roles::sort(activation.queues, max_pairs)?;
        self.prepare_taps(features, roles.pairs.len() as u16)
            .map_err(failed)?;
        let driver = Driver {
            interrupt: activation.interrupt.clone(),
            can_announce: roles.control.is_some() && config::can_announce(features),
            sees_status: has(features, VIRTIO_NET_F_STATUS),
        };
        let common = Common {
            memory: activation.memory,
            features,
            interrupt: activation.interrupt,
        };
        self.shared.first_frame.reset();
        if let Err(source) = self.spawn(roles, &common) {
            self.workers = Workers::default();
            return Err(failed(source));
        }
        self.shared.set_driver(Some(driver));
        Ok(())
    }

    fn quiesce(&mut self) -> Vec<ActiveQueue> {
        self.shared.set_driver(None);
        let workers = std::mem::take(&mut self.workers);
        fn request<H: Handler>(workers: &[Worker<H>]) {
            workers.iter().for_each(Worker::request_stop);
        }
        request(&workers.rx);
        request(&workers.tx);
        request(workers.control.as_slice());
        let rx = workers.rx.into_iter().map(|w| w.stop().finish());
        let tx = workers.tx.into_iter().map(|w| w.stop().finish());
        let control = workers.control.into_iter().map(|w| w.stop().queue);
        let mut queues: Vec<ActiveQueue> = rx.chain(tx).chain(control).collect();
        queues.sort_by_key(|q| q.index);
        queues
    }

    fn save(&self) -> Vec<u8> {
        let active = self.shared.active_pairs.load(Ordering::Relaxed);
        persist::save(&NetState {
            mac: self.mac,
            queue_pairs: self.queue_pairs,
            active_pairs: self.restored_pairs.unwrap_or(active),
            announce: self.shared.status() & STATUS_ANNOUNCE != 0,
        })
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        let state =
            persist::restore(state, self.mac, self.queue_pairs).map_err(|source| RestoreError {
                device: DeviceType::Net,
                source: Box::new(source),
            })?;
        self.restored_pairs = Some(state.active_pairs);
        if self.adopted {
            self.shared
                .active_pairs
                .store(state.active_pairs, Ordering::Relaxed);
        }
        self.shared.set_status(STATUS_ANNOUNCE, state.announce);
        Ok(())
    }
}
