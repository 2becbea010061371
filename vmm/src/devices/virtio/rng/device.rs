//! The entropy device as the transport sees it.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use super::budget::Budget;
use super::persist;
use super::worker::RngWorker;
use crate::devices::virtio::worker::Worker;
use crate::devices::virtio::{
    ActivateError, Activation, ActiveQueue, DeviceType, RestoreError, VirtioDevice,
};

/// Entries of the one ring.
const QUEUE_SIZE: u16 = 64;

/// A source of entropy for the guest. Idle until a driver activates it.
pub struct Rng {
    source: Arc<File>,
    budget: Budget,
    worker: Option<Worker<RngWorker>>,
}

impl Rng {
    /// A device that draws on the host's `/dev/urandom`.
    ///
    /// # Errors
    /// The kernel's answer when it cannot be opened.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            source: Arc::new(File::open("/dev/urandom")?),
            budget: Budget::new(Instant::now()),
            worker: None,
        })
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let Activation {
            memory,
            queues,
            interrupt,
            ..
        } = activation;
        let enabled = queues.iter().map(|q| q.index).collect();
        let Ok([queue]) = <[ActiveQueue; 1]>::try_from(queues) else {
            return Err(ActivateError::Queues {
                device: DeviceType::Rng,
                enabled,
                need: "its one queue",
            });
        };
        let worker = RngWorker::new(self.source.clone(), queue, memory, interrupt, self.budget)
            .and_then(|handler| Worker::spawn("virtio-rng", handler))
            .map_err(|source| ActivateError::Worker {
                device: DeviceType::Rng,
                source,
            })?;
        self.worker = Some(worker);
        Ok(())
    }

    fn request_quiesce(&self) {
        if let Some(worker) = &self.worker {
            worker.request_stop();
        }
    }

    fn quiesce(&mut self) -> Vec<ActiveQueue> {
        let Some(worker) = self.worker.take() else {
            return Vec::new();
        };
        let (queue, budget) = worker.stop().into_parts();
        self.budget = budget;
        vec![queue]
    }

    fn save(&self) -> Vec<u8> {
        persist::save()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        persist::restore(state).map_err(|error| RestoreError {
            device: DeviceType::Rng,
            source: Box::new(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::budget::{BURST, RATE};
    use super::super::worker::MAX_REQUEST;
    use super::*;
    use crate::devices::virtio::mock::{
        BUFFERS, Desc, EVENT_IDX, F_INDIRECT, F_NEXT, F_WRITE, MEMORY, Machine, Ring, VERSION_1,
    };
    use std::collections::HashSet;
    use vm_memory::{Bytes, GuestAddress};

    fn machine() -> Machine {
        Machine::with_device(Box::new(Rng::open().unwrap()))
    }

    fn bytes(machine: &Machine, address: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        machine
            .memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        bytes
    }

    #[test]
    fn buffers_are_filled_with_bytes_that_do_not_repeat() {
        let machine = machine();
        let driver = machine.driver(1);
        let mut ring = driver.start(VERSION_1 | EVENT_IDX, 1, 16).remove(0);
        let mut seen = HashSet::new();
        for round in 0..200u16 {
            ring.set_used_event(round);
            ring.push(round % 16, &[(BUFFERS, 20, true)]);
            driver.kick(0);
            assert_eq!(driver.wait_used(&mut ring), (round % 16, 20));
            let drawn = bytes(&machine, BUFFERS, 24);
            assert_eq!(drawn[20..], [0; 4], "nothing is written beyond the buffer");
            assert!(seen.insert(drawn));
        }
    }

    #[test]
    fn a_request_gets_64_kib_at_most_over_all_its_buffers() {
        let machine = machine();
        let driver = machine.driver(1);
        let mut ring = driver.start(VERSION_1, 1, 16).remove(0);
        let buffers = [(BUFFERS, 10, true), (BUFFERS + 0x10_0000, 1 << 20, true)];
        ring.push(0, &buffers);
        driver.kick(0);
        assert_eq!(driver.wait_used(&mut ring), (0, MAX_REQUEST as u32));
        let tail = bytes(&machine, BUFFERS + 0x10_0000, MAX_REQUEST);
        assert_ne!(tail[..MAX_REQUEST - 10], vec![0; MAX_REQUEST - 10]);
        assert_eq!(tail[MAX_REQUEST - 10..], [0; 10]);
    }

    #[test]
    fn a_greedy_driver_is_slowed_down_and_still_served() {
        let start = Instant::now();
        let machine = machine();
        let driver = machine.driver(1);
        let mut ring = driver.start(VERSION_1, 1, 16).remove(0);
        let mut drawn = 0;
        for round in 0..48u16 {
            ring.push(round % 16, &[(BUFFERS, MAX_REQUEST as u32, true)]);
            driver.kick(0);
            let (_, len) = driver.wait_used(&mut ring);
            assert_eq!(len, MAX_REQUEST as u32);
            drawn += u64::from(len);
            // Resetting the device gains nothing.
            if round == 16 {
                ring = driver.start(VERSION_1, 1, 16).remove(0);
            }
        }
        let allowed = BURST as f64 + start.elapsed().as_secs_f64() * RATE as f64;
        assert!(drawn as f64 <= allowed, "{drawn} of {allowed}");
    }

    #[test]
    fn a_pause_in_mid_refill_loses_no_request() {
        let machine = machine();
        let driver = machine.driver(1);
        let mut ring = driver.start(VERSION_1, 1, 64).remove(0);
        for head in 0..40 {
            ring.push(head, &[(BUFFERS, MAX_REQUEST as u32, true)]);
        }
        driver.kick(0);
        for _ in 0..20 {
            machine.root.quiesce_all();
            machine.root.resume_all();
        }
        for head in 0..40 {
            assert_eq!(driver.wait_used(&mut ring).0, head);
        }
    }

    /// A ring that breaks the rules in some way.
    type Crime = (&'static str, fn(&mut Ring));

    const CRIMES: [Crime; 12] = [
        ("no buffer to write", |r| r.push(0, &[(BUFFERS, 8, false)])),
        ("a buffer to read before it", |r| {
            r.push(0, &[(BUFFERS, 8, false), (BUFFERS, 8, true)]);
        }),
        ("a buffer to read behind it", |r| {
            r.push(0, &[(BUFFERS, 8, true), (BUFFERS, 8, false)]);
        }),
        ("an empty buffer", |r| r.push(0, &[(BUFFERS, 0, true)])),
        ("a buffer outside memory", |r| {
            r.push(0, &[(MEMORY - 4, 8, true)]);
        }),
        ("a buffer that wraps around", |r| {
            r.push(0, &[(u64::MAX - 4, 8, true)]);
        }),
        ("a loop", |r| {
            for n in 0..2 {
                r.write_desc(n, desc(BUFFERS, 8, F_WRITE | F_NEXT, 1 - n));
            }
            r.offer(0);
        }),
        ("a head outside the table", |r| r.offer(16)),
        ("a next outside the table", |r| {
            r.write_desc(0, desc(BUFFERS, 8, F_WRITE | F_NEXT, 99));
            r.offer(0);
        }),
        ("an available index from nowhere", |r| r.set_avail(0x8000)),
        ("a table within a table", |r| {
            r.write_desc(0, desc(BUFFERS, 32, F_INDIRECT, 0));
            r.write_desc_at(BUFFERS, 0, desc(BUFFERS, 32, F_INDIRECT, 0));
            r.offer(0);
        }),
        ("a huge table", |r| {
            r.write_desc(0, desc(BUFFERS, 0xffff * 16, F_INDIRECT, 0));
            for n in 0..0xffffu32 {
                let next = (n + 1) as u16;
                r.write_desc_at(BUFFERS, n as u16, desc(BUFFERS, 8, F_WRITE | F_NEXT, next));
            }
            r.offer(0);
        }),
    ];

    fn desc(address: u64, len: u32, flags: u16, next: u16) -> Desc {
        Desc {
            address,
            len,
            flags,
            next,
        }
    }

    #[test]
    fn a_driver_that_breaks_the_rules_must_reset_and_is_served_again() {
        let machine = machine();
        let driver = machine.driver(1);
        for (crime, commit) in CRIMES {
            let mut ring = driver.start(VERSION_1, 1, 16).remove(0);
            commit(&mut ring);
            driver.kick(0);
            driver.wait_needs_reset();
            assert_eq!(ring.used_idx(), 0, "{crime} was answered");
            let mut ring = driver.start(VERSION_1, 1, 16).remove(0);
            ring.push(0, &[(BUFFERS, 8, true)]);
            driver.kick(0);
            assert_eq!(driver.wait_used(&mut ring), (0, 8), "after {crime}");
        }
    }

    #[test]
    fn a_record_with_content_is_refused() {
        let mut rng = Rng::open().unwrap();
        assert!(rng.save().is_empty());
        rng.restore(&[]).unwrap();
        assert!(rng.restore(&[0]).is_err());
    }
}
