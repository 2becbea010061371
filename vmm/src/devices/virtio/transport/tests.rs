//! The transport as a driver sees it, well-behaved and hostile.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use virtio_queue::{QueueOwnedT, QueueT};

use crate::devices::virtio::mock::{BUFFERS, Driver, EVENT_IDX, MEMORY, Machine, Ring, VERSION_1};
use crate::devices::virtio::worker::{Handler, Poller, Source, Worker};
use crate::devices::virtio::{
    ActivateError, Activation, ActiveQueue, DeviceType, RestoreError, VirtioDevice,
};
use godwit_proto::state::pci::PciDeviceState;

const SIZE: u16 = 16;
/// A feature bit of the probe.
const PROBE_FEATURE: u64 = 1 << 5;

/// Returns every buffer unused, on two queues, with four bytes of writable configuration.
struct Probe {
    config: [u8; 4],
    refuse: Arc<AtomicBool>,
    worker: Option<Worker<Echo>>,
}

struct Echo(Activation);

impl Handler for Echo {
    fn sources(&self) -> Vec<Source> {
        (0..)
            .zip(&self.0.queues)
            .map(|(token, q)| Source::kick(&q.kick, token))
            .collect()
    }

    fn handle(&mut self, token: u64, _: &mut Poller) -> ControlFlow<()> {
        let Activation {
            memory,
            queues,
            interrupt,
            ..
        } = &mut self.0;
        let active = &mut queues[token as usize];
        let before = active.queue.next_used();
        loop {
            loop {
                let head = match active.queue.iter(&*memory) {
                    Ok(mut chains) => chains.next().map(|c| c.head_index()),
                    Err(error) => {
                        interrupt.needs_reset(&error.to_string());
                        return ControlFlow::Break(());
                    }
                };
                let Some(head) = head else { break };
                if let Err(error) = active.queue.add_used(memory, head, 0) {
                    interrupt.needs_reset(&error.to_string());
                    return ControlFlow::Break(());
                }
            }
            if !active.queue.enable_notification(memory).unwrap() {
                break;
            }
        }
        if active.queue.next_used() != before && active.queue.needs_notification(memory).unwrap() {
            interrupt.used(active.index).unwrap();
        }
        ControlFlow::Continue(())
    }
}

impl VirtioDevice for Probe {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }
    fn features(&self) -> u64 {
        PROBE_FEATURE
    }
    fn queue_sizes(&self) -> &[u16] {
        &[SIZE, SIZE]
    }
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        for (at, byte) in (offset..).zip(data) {
            *byte = self.config.get(at as usize).copied().unwrap_or(0);
        }
    }
    fn write_config(&mut self, offset: u64, data: &[u8]) {
        for (at, byte) in (offset..).zip(data) {
            if let Some(place) = self.config.get_mut(at as usize) {
                *place = *byte;
            }
        }
    }
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if self.refuse.load(Ordering::SeqCst) || activation.queues.is_empty() {
            return Err(ActivateError::Queues {
                device: DeviceType::Rng,
                enabled: Vec::new(),
                need: "a queue",
            });
        }
        self.worker = Some(Worker::spawn("probe", Echo(activation)).unwrap());
        Ok(())
    }
    fn request_quiesce(&self) {
        if let Some(worker) = &self.worker {
            worker.request_stop();
        }
    }
    fn quiesce(&mut self) -> Vec<ActiveQueue> {
        self.worker
            .take()
            .map_or_else(Vec::new, |worker| worker.stop().0.queues)
    }
    fn save(&self) -> Vec<u8> {
        self.config.to_vec()
    }
    fn restore(&mut self, state: &[u8]) -> Result<(), RestoreError> {
        self.config = state.try_into().map_err(|error| RestoreError {
            device: DeviceType::Rng,
            source: Box::new(error),
        })?;
        Ok(())
    }
}

fn probe() -> Box<Probe> {
    Box::new(Probe {
        config: [1, 2, 3, 4],
        refuse: Arc::default(),
        worker: None,
    })
}

fn machine() -> Machine {
    Machine::with_device(probe())
}

/// Resets the device and has it return one buffer.
fn assert_works(driver: &Driver<'_>) {
    let mut rings = driver.start(VERSION_1, 2, SIZE);
    exchange(driver, &mut rings[1], 3);
}

fn exchange(driver: &Driver<'_>, ring: &mut Ring, head: u16) {
    let queue = ((ring.base - 0x10_0000) / 0x10_0000) as u16;
    ring.push(head, &[(BUFFERS, 8, true)]);
    driver.kick(queue);
    assert_eq!(driver.wait_used(ring), (head, 0));
}

#[test]
fn a_driver_finds_the_structures_negotiates_and_exchanges_buffers() {
    let machine = machine();
    let driver = machine.driver(1);
    assert_eq!(
        driver.offered(),
        PROBE_FEATURE | 7 << 28 & !(1 << 30) | VERSION_1
    );
    assert_eq!(u16::from_le_bytes(driver.read_common(0x12)), 2);
    let mut rings = driver.start(VERSION_1 | PROBE_FEATURE, 2, SIZE);
    for round in 0..40 {
        exchange(&driver, &mut rings[round % 2], round as u16 % SIZE);
    }
    // The worker raises after it put a buffer into the ring, or once for several.
    machine.root.quiesce_all();
    assert!((1..=20).contains(&driver.interrupts(1)));
    assert!((1..=20).contains(&driver.interrupts(2)));
    assert_eq!(driver.interrupts(0), 0);
    assert_eq!(driver.isr(), 0, "with MSI-X the ISR says nothing");
}

#[test]
fn device_configuration_is_the_devices_and_ends_in_zeros() {
    let machine = machine();
    let driver = machine.driver(1);
    assert_eq!(driver.read_device_config(2), [3, 4, 0, 0]);
    driver.write_device_config(1, &[9, 9]);
    assert_eq!(driver.read_device_config(0), [1, 9, 9, 4]);
}

#[test]
fn features_must_be_offered_and_include_version_1() {
    let machine = machine();
    let driver = machine.driver(1);
    assert!(!driver.negotiate(0));
    assert!(!driver.negotiate(PROBE_FEATURE));
    assert!(!driver.negotiate(VERSION_1 | 1 << 6));
    assert!(driver.negotiate(VERSION_1));
    driver.accept(VERSION_1 | 1 << 6);
    driver.write_common(0x08, &0u32.to_le_bytes());
    assert_eq!(
        u32::from_le_bytes(driver.read_common(0x0c)),
        0,
        "they are frozen"
    );
    driver.write_common(0x00, &2u32.to_le_bytes());
    assert_eq!(u32::from_le_bytes(driver.read_common(0x04)), 0);
}

#[test]
fn status_bits_stick_in_their_order_only() {
    let machine = machine();
    let driver = machine.driver(1);
    driver.accept(VERSION_1);
    for (wanted, found) in [
        (2, 0),
        (8, 0),
        (4, 0),
        (1, 1),
        (8, 1),
        (4, 1),
        (3, 3),
        (4, 3),
    ] {
        driver.set_status(wanted);
        assert_eq!(driver.status(), found, "after writing {wanted}");
    }
    driver.set_status(0x80);
    assert_eq!(driver.status(), 0x83, "FAILED is always possible");
    driver.set_status(0);
    assert_eq!(driver.status(), 0);
    driver.accept(VERSION_1);
    driver.set_status(11);
    assert_eq!(
        driver.status(),
        11,
        "several bits at once count in their order"
    );
}

#[test]
fn a_queue_is_set_up_between_features_ok_and_driver_ok_only() {
    let machine = machine();
    let driver = machine.driver(1);
    driver.set_status(3);
    driver.describe_queue(0, 4);
    driver.enable_queue(0);
    assert_eq!(driver.read_common(0x18), SIZE.to_le_bytes());
    assert_eq!(driver.read_common(0x1c), [0, 0]);
    assert_eq!(driver.read_common(0x20), [0; 8]);

    let rings = driver.start(VERSION_1, 1, 8);
    driver.select(0);
    driver.write_common(0x18, &4u16.to_le_bytes());
    driver.write_common(0x28, &[0; 8]);
    driver.write_common(0x1c, &[0, 0]);
    assert_eq!(driver.read_common(0x18), 8u16.to_le_bytes());
    assert_ne!(driver.read_common(0x28), [0; 8]);
    assert_eq!(driver.read_common(0x1c), [1, 0]);
    driver.select(1);
    driver.enable_queue(1);
    assert_eq!(driver.read_common(0x1c), [0, 0]);
    driver.select(2);
    assert_eq!(driver.read_common(0x18), [0, 0], "there is no third queue");
    driver.write_common(0x18, &4u16.to_le_bytes());
    driver.write_common(0x1a, &[0, 0]);
    driver.enable_queue(2);
    drop(rings);
}

#[test]
fn a_ring_that_cannot_be_used_is_not_enabled_and_a_reset_cures_the_device() {
    let machine = machine();
    let driver = machine.driver(1);
    for size in [0, 3, 32, 0x8000, 0xffff] {
        assert!(driver.negotiate(VERSION_1));
        driver.describe_queue(0, size);
        driver.enable_queue(0);
        assert_eq!(driver.read_common(0x1c), [0, 0], "size {size}");
        assert_eq!(driver.status(), 0x4b, "size {size}");
        driver.set_status(15);
        driver.kick(0);
        assert_works(&driver);
    }
    for (register, address) in [
        (0x20, 0x10_0008u64),
        (0x28, 0x10_0001),
        (0x30, 0x10_0002),
        (0x20, MEMORY),
        (0x20, MEMORY - 0x80),
        (0x28, MEMORY - 8),
        (0x30, MEMORY - 8),
        (0x30, !3u64),
        (0x28, !1u64),
        (0x20, !15u64),
        (0x28, 0),
    ] {
        assert!(driver.negotiate(VERSION_1));
        driver.describe_queue(0, SIZE);
        driver.write_common(register, &address.to_le_bytes());
        assert_eq!(driver.read_common(register), address.to_le_bytes());
        driver.enable_queue(0);
        assert_eq!(
            driver.read_common(0x1c),
            [0, 0],
            "{register:#x} {address:#x}"
        );
        assert_eq!(driver.status(), 0x4b, "{register:#x} {address:#x}");
    }
    assert_works(&driver);
}

#[test]
fn without_msix_the_isr_says_what_happened_until_it_is_read() {
    let machine = machine();
    let driver = machine.driver(1);
    let mut rings = driver.start(VERSION_1, 1, SIZE);
    driver.set_msix_control(0);
    exchange(&driver, &mut rings[0], 0);
    let mut isr = 0;
    assert!(machine.msi.wait(|| {
        isr |= driver.isr();
        isr == 1
    }));
    assert_eq!(driver.isr(), 0);
    let generation = driver.read_common::<1>(0x15)[0];
    machine.root.notify_config(1).unwrap();
    assert_eq!(driver.isr(), 2);
    assert_eq!(driver.read_common::<1>(0x15)[0], generation.wrapping_add(1));
}

#[test]
fn a_configuration_change_raises_its_own_vector_once_the_driver_works() {
    let machine = machine();
    let driver = machine.driver(1);
    machine.root.notify_config(1).unwrap();
    driver.start(VERSION_1, 1, SIZE);
    assert_eq!(driver.interrupts(0), 0);
    machine.root.notify_config(1).unwrap();
    assert_eq!(driver.interrupts(0), 1);
    driver.write_common(0x10, &5u16.to_le_bytes());
    assert_eq!(
        driver.read_common(0x10),
        [0xff; 2],
        "vector 5 does not exist"
    );
    machine.root.notify_config(1).unwrap();
    assert_eq!(driver.interrupts(0), 1);
}

#[test]
fn doorbells_follow_the_bar_and_memory_decoding() {
    let machine = machine();
    let mut driver = machine.driver(1);
    let at = |bar: u64| vec![bar + 0x3000, bar + 0x3004];
    assert_eq!(machine.doorbells.addresses(), at(driver.bar));
    driver.set_command(4);
    assert!(machine.doorbells.addresses().is_empty());
    let mut data = [0];
    machine.read(driver.bar + 0x14, &mut data);
    assert_eq!(data, [0xff], "nothing answers while memory decoding is off");

    // The size probe as kernels do it, then a new place.
    machine.ecam_write(1, 0x10, &[0xff; 4]);
    machine.ecam_write(1, 0x14, &[0xff; 4]);
    let mut probe = [0; 8];
    machine.ecam_read(1, 0x10, &mut probe);
    assert_eq!(u64::from_le_bytes(probe) & !0xf, !0x7fff);
    assert_eq!(probe[0] & 0xf, 4);
    let old = driver.bar;
    driver.bar = 0xdfff_8000;
    machine.ecam_write(1, 0x10, &driver.bar.to_le_bytes());
    driver.set_command(6);
    assert_eq!(machine.doorbells.addresses(), at(driver.bar));
    machine.read(old + 0x14, &mut data);
    assert_eq!(data, [0xff]);
    let mut rings = driver.start(VERSION_1, 1, SIZE);
    exchange(&driver, &mut rings[0], 0);

    // Moved while it works, half by half: in between it is outside the window.
    machine.ecam_write(1, 0x14, &1u32.to_le_bytes());
    assert!(machine.doorbells.addresses().is_empty());
    machine.ecam_write(1, 0x10, &0xc800_0000u32.to_le_bytes());
    machine.ecam_write(1, 0x14, &0u32.to_le_bytes());
    driver.bar = 0xc800_0000;
    assert_eq!(machine.doorbells.addresses(), at(driver.bar));
    exchange(&driver, &mut rings[0], 1);
}

#[test]
fn a_doorbell_that_the_kernel_refuses_rings_through_an_exit() {
    let machine = machine();
    machine.doorbells.refuse();
    let driver = machine.driver(1);
    assert!(machine.doorbells.addresses().is_empty());
    let mut rings = driver.start(VERSION_1, 1, SIZE);
    exchange(&driver, &mut rings[0], 0);
    machine.write(driver.doorbell(200), &[0; 4]);
}

#[test]
fn the_configuration_window_reaches_the_bar() {
    let machine = machine();
    let driver = machine.driver(1);
    let mut rings = driver.start(VERSION_1, 1, SIZE);
    let aim = |bar: u8, offset: u32, len: u32| {
        machine.port_write(1, driver.window as u8 + 4, &[bar]);
        machine.port_write(1, driver.window as u8 + 8, &offset.to_le_bytes());
        machine.port_write(1, driver.window as u8 + 12, &len.to_le_bytes());
    };
    let peek = || {
        let mut data = [0; 4];
        machine.port_read(1, driver.window as u8 + 16, &mut data);
        data
    };
    aim(0, 0x14, 1);
    assert_eq!(peek()[0], 15);
    aim(0, 0x12, 2);
    assert_eq!(peek()[..2], [2, 0]);
    rings[0].push(0, &[(BUFFERS, 8, true)]);
    aim(0, 0x3000, 2);
    machine.port_write(1, driver.window as u8 + 16, &[0, 0]);
    assert_eq!(driver.wait_used(&mut rings[0]), (0, 0));
    // Where the window points nowhere, the data register is plain scratch.
    for (bar, offset, len) in [
        (1, 0x14, 1),
        (0, 0x14, 3),
        (0, 0x15, 2),
        (0, 0x8000, 4),
        (0, u32::MAX, 1),
    ] {
        aim(bar, offset, len);
        machine.port_write(1, driver.window as u8 + 16, &[7; 4]);
        assert_eq!(peek(), [7; 4]);
    }
    aim(0, 0x14, 1);
    machine.port_write(1, driver.window as u8 + 16, &[0]);
    assert_eq!(driver.status(), 0, "a write through the window resets too");
}

#[test]
fn a_device_works_only_while_it_is_bus_master() {
    let machine = machine();
    let driver = machine.driver(1);
    let mut rings = driver.start(VERSION_1, 1, SIZE);
    exchange(&driver, &mut rings[0], 0);
    driver.set_command(2);
    rings[0].push(1, &[(BUFFERS, 8, true)]);
    driver.kick(0);
    assert_eq!(rings[0].used_idx(), 1, "its worker is gone");
    driver.set_command(6);
    assert_eq!(driver.wait_used(&mut rings[0]), (1, 0));
}

#[test]
fn used_event_holds_interrupts_back_until_it_is_passed() {
    let machine = machine();
    let driver = machine.driver(1);
    let mut rings = driver.start(VERSION_1 | EVENT_IDX, 1, SIZE);
    let ring = &mut rings[0];
    ring.set_used_event(5);
    for head in 0..10 {
        ring.push(head, &[(BUFFERS, 8, true)]);
        driver.kick(0);
        driver.wait_used(ring);
    }
    // The worker decides after it put the buffer into the ring; a pause waits for that.
    machine.root.quiesce_all();
    assert_eq!(driver.interrupts(1), 1);
}

#[test]
fn an_available_index_from_nowhere_needs_a_reset_and_says_so() {
    let machine = machine();
    let driver = machine.driver(1);
    let mut rings = driver.start(VERSION_1, 1, SIZE);
    rings[0].set_avail(SIZE + 1);
    driver.kick(0);
    driver.wait_needs_reset();
    assert!(machine.msi.wait(|| driver.interrupts(0) == 1));
    driver.kick(0);
    driver.set_status(15);
    assert_eq!(driver.status(), 0x4f, "only a reset cures it");
    assert_works(&driver);
}

#[test]
fn a_device_that_cannot_start_needs_a_reset() {
    let device = probe();
    let refuse = device.refuse.clone();
    let machine = Machine::with_device(device);
    let driver = machine.driver(1);
    refuse.store(true, Ordering::SeqCst);
    driver.negotiate(VERSION_1);
    driver.describe_queue(0, SIZE);
    driver.enable_queue(0);
    driver.set_status(15);
    assert_eq!(driver.status(), 0x4f);
    refuse.store(false, Ordering::SeqCst);
    driver.set_command(2);
    driver.set_command(6);
    assert_eq!(driver.status(), 0x4f);
    assert_works(&driver);
}

#[test]
fn a_machine_reset_leaves_a_function_as_after_power_on() {
    let machine = machine();
    let mut fresh = [0; 256];
    machine.ecam_read(1, 0, &mut fresh);
    let driver = machine.driver(1);
    driver.start(VERSION_1, 2, SIZE);
    machine.root.reset();
    let mut now = [0; 256];
    machine.ecam_read(1, 0, &mut now);
    assert_eq!(now, fresh);
    assert!(machine.doorbells.addresses().is_empty());
    let driver = machine.driver(1);
    assert_eq!(driver.status(), 0);
    let mut control = [0; 4];
    machine.read(driver.bar + driver.msix_table + 12, &mut control);
    assert_eq!(control, [1, 0, 0, 0], "every vector is masked again");
    assert_works(&driver);
}

#[test]
fn a_kick_during_a_pause_is_served_on_resume() {
    let machine = machine();
    let driver = machine.driver(1);
    let mut rings = driver.start(VERSION_1, 2, SIZE);
    assert!(machine.root.save().is_err(), "it still works");
    for head in 0..5 {
        machine.root.quiesce_all();
        rings[1].push(head, &[(BUFFERS, 8, true)]);
        driver.kick(1);
        assert_eq!(rings[1].used_idx(), head);
        machine.root.resume_all();
        assert_eq!(driver.wait_used(&mut rings[1]), (head, 0));
    }
}

/// A machine that worked and is paused, with a masked, pending vector.
fn paused() -> (Machine, Vec<PciDeviceState>) {
    let machine = machine();
    let driver = machine.driver(1);
    let mut rings = driver.start(VERSION_1 | EVENT_IDX, 2, SIZE);
    exchange(&driver, &mut rings[0], 0);
    exchange(&driver, &mut rings[1], 1);
    driver.program_vector(2, 0xfee0_0000, 0x102, true);
    rings[1].set_used_event(1);
    exchange(&driver, &mut rings[1], 2);
    driver.write_device_config(0, &[8, 8, 8, 8]);
    machine.root.quiesce_all();
    let (_, devices) = machine.root.save().unwrap();
    (machine, devices)
}

#[test]
fn a_restored_device_goes_on_where_the_saved_one_stopped() {
    let (source, saved) = paused();
    assert_eq!(saved[0].msix.pending, [0b100]);
    let target = Machine::with_memory(source.memory.clone());
    target.add(1, probe());
    target.root.restore(&Default::default(), &saved).unwrap();
    let (_, again) = target.root.save().unwrap();
    assert_eq!(again, saved, "restoring changes nothing");
    assert_eq!(target.doorbells.addresses(), source.doorbells.addresses());
    assert_eq!(target.msi.delivered(), []);
    target.root.resume_all();

    let driver = target.driver(1);
    assert_eq!(driver.status(), 15);
    assert_eq!(driver.read_device_config(0), [8; 4]);
    assert_eq!(driver.interrupts(1), 1, "one on its way may have been lost");
    assert_eq!(driver.interrupts(2), 0);
    driver.program_vector(2, 0xfee0_0000, 0x102, false);
    assert_eq!(driver.interrupts(2), 1, "the pending one");
    let queue = saved[0].transport.queues[1];
    assert_eq!((queue.next_avail, queue.next_used), (2, 2));
    assert_works(&driver);
}

#[test]
fn rings_continue_across_restores_without_losing_a_buffer() {
    let mut machine = machine();
    let mut ring = machine
        .driver(1)
        .start(VERSION_1 | EVENT_IDX, 2, SIZE)
        .remove(0);
    // Two buffers per machine, and more machines than the ring has entries.
    for round in 0..SIZE {
        let head = round * 2 % SIZE;
        machine.root.quiesce_all();
        // The first is put on the ring while nobody looks, and no doorbell follows.
        ring.push(head, &[(BUFFERS, 8, true)]);
        let (root, saved) = machine.root.save().unwrap();
        let target = Machine::with_memory(machine.memory.clone());
        target.add(1, probe());
        target.root.restore(&root, &saved).unwrap();
        target.root.resume_all();
        let driver = target.driver(1);
        assert_eq!(driver.wait_used(&mut ring), (head, 0));
        exchange(&driver, &mut ring, head + 1);
        machine = target;
    }
}

#[test]
fn a_record_that_does_not_fit_is_refused_by_the_name_of_its_field() {
    type Spoil = fn(&mut PciDeviceState);
    let spoilers: [(&str, Spoil); 32] = [
        ("slot", |s| {
            s.slot = 2;
        }),
        ("config", |s| {
            s.config.truncate(255);
        }),
        ("config", |s| {
            s.config.resize(4096, 0);
        }),
        ("config", |s| {
            s.config[0] ^= 1;
        }),
        ("config", |s| {
            s.config[0x10] ^= 1;
        }),
        ("msix.enabled", |s| {
            s.msix.enabled = false;
        }),
        ("msix.function_masked", |s| {
            s.msix.function_masked = true;
        }),
        ("msix.entries", |s| {
            s.msix.entries.clear();
        }),
        ("msix.entries", |s| {
            s.msix.entries.extend(s.msix.entries.clone());
        }),
        ("msix.entries.address", |s| {
            s.msix.entries[0].address |= 1;
        }),
        ("msix.pending", |s| {
            s.msix.pending.push(0);
        }),
        ("msix.pending", |s| {
            s.msix.pending.clear();
        }),
        ("msix.pending", |s| {
            s.msix.pending[0] = 8;
        }),
        ("transport.device_type", |s| {
            s.transport.device_type = 2;
        }),
        ("transport.status", |s| {
            s.transport.status = 4;
        }),
        ("transport.status", |s| {
            s.transport.status |= 0x10;
        }),
        ("transport.negotiated_features", |s| {
            s.transport.negotiated_features |= 1 << 40;
        }),
        ("transport.negotiated_features", |s| {
            s.transport.negotiated_features &= !VERSION_1;
        }),
        ("transport.isr", |s| {
            s.transport.isr = 4;
        }),
        ("transport.queue_vectors", |s| {
            s.transport.queue_vectors[0] = 3;
        }),
        ("transport.queue_vectors", |s| {
            s.transport.queue_vectors.truncate(1);
        }),
        ("transport.config_vector", |s| {
            s.transport.config_vector = 0xfffe;
        }),
        ("transport.queues", |s| {
            s.transport.queues.truncate(1);
        }),
        ("transport.queues.max_size", |s| {
            s.transport.queues[1].max_size = 32;
        }),
        ("transport.queues.event_idx_enabled", |s| {
            s.transport.queues[1].event_idx_enabled = false;
        }),
        ("transport.queues.ready", |s| {
            s.transport.status = 3;
        }),
        ("queue 1", |s| {
            s.transport.queues[1].size = 0;
        }),
        ("queue 1", |s| {
            s.transport.queues[1].size = 32;
        }),
        ("queue 1", |s| {
            s.transport.queues[1].desc_table += 8;
        }),
        ("queue 1", |s| {
            s.transport.queues[1].used_ring = MEMORY;
        }),
        ("queue 1", |s| {
            s.transport.queues[1].avail_ring = u64::MAX - 1;
        }),
        ("Rng", |s| {
            s.device.push(0);
        }),
    ];
    let (source, saved) = paused();
    let target = Machine::with_memory(source.memory.clone());
    target.add(1, probe());
    target.root.quiesce_all();
    let before = target.root.save().unwrap();
    for (field, spoil) in spoilers {
        let mut bad = saved.clone();
        spoil(&mut bad[0]);
        let error = target.root.restore(&Default::default(), &bad).unwrap_err();
        let cause = match &error {
            crate::devices::pci::PciError::State { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        assert!(cause.contains(field), "{field}: {cause}");
        assert_eq!(target.root.save().unwrap(), before, "{field} left a trace");
    }
    target.root.restore(&Default::default(), &saved).unwrap();
    target.root.resume_all();
    assert_eq!(target.driver(1).status(), 15);
    let error = target.root.restore(&Default::default(), &saved);
    assert!(error.is_err(), "a device that works takes over nothing");
}

#[derive(Clone, Debug)]
enum Act {
    Bar(u64, Vec<u8>),
    ReadBar(u64, usize),
    Config(u64, Vec<u8>),
    Port(u8, Vec<u8>),
    Start,
    Pause,
    Resume,
    SaveRestore,
}

fn act() -> impl Strategy<Value = Act> {
    let bytes = || proptest::collection::vec(any::<u8>(), 1..=8);
    let offset = || {
        prop_oneof![
            4 => 0u64..0x40,
            1 => 0x3000u64..0x3010,
            1 => 0x4000u64..0x4040,
            1 => 0u64..0x8010,
        ]
    };
    prop_oneof![
        6 => (offset(), bytes()).prop_map(|(o, b)| Act::Bar(o, b)),
        3 => (offset(), 1usize..=8).prop_map(|(o, l)| Act::ReadBar(o, l)),
        2 => (0u64..0x1000, bytes()).prop_map(|(o, b)| Act::Config(o, b)),
        2 => (any::<u8>(), bytes()).prop_map(|(o, b)| Act::Port(o, b)),
        1 => Just(Act::Start),
        1 => Just(Act::Pause),
        1 => Just(Act::Resume),
        1 => Just(Act::SaveRestore),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_sequence_of_accesses_breaks_a_device(acts in proptest::collection::vec(act(), 0..80)) {
        let mut machine = machine();
        for act in acts {
            let bar = 0xc010_0000;
            match act {
                Act::Bar(offset, data) => machine.write(bar + offset, &data),
                Act::ReadBar(offset, len) => machine.read(bar + offset, &mut vec![0; len]),
                Act::Config(offset, data) => machine.ecam_write(1, offset, &data),
                Act::Port(register, data) => machine.port_write(1, register, &data),
                Act::Start => {
                    let driver = machine.driver(1);
                    if driver.bar == bar && driver.negotiate(VERSION_1) {
                        driver.describe_queue(0, SIZE).set_avail(3);
                        driver.enable_queue(0);
                        driver.set_status(15);
                        driver.kick(0);
                    }
                }
                Act::Pause => machine.root.quiesce_all(),
                Act::Resume => machine.root.resume_all(),
                Act::SaveRestore => {
                    machine.root.quiesce_all();
                    let (root, saved) = machine.root.save().unwrap();
                    let target = Machine::with_memory(machine.memory.clone());
                    target.add(1, probe());
                    // Whatever a guest can bring about can be saved and restored.
                    target.root.restore(&root, &saved).unwrap();
                    prop_assert_eq!(target.root.save().unwrap(), (root, saved));
                    machine = target;
                }
            }
        }
        machine.root.reset();
        machine.root.resume_all();
        assert_works(&machine.driver(1));
    }
}
