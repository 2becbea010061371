//! The console behind its transport.

use std::sync::{Arc, Mutex};

use vm_memory::{Bytes, GuestAddress};

use super::worker::MAX_WRITE;
use super::{Console, ConsoleHandle, WindowSize};
use crate::devices::terminal::{InputPort, NullSink, Sink};
use crate::devices::virtio::VirtioDevice;
use crate::devices::virtio::mock::{
    BUFFERS, Desc, Driver, EVENT_IDX, F_NEXT, MEMORY, Machine, Ring, VERSION_1,
};

const SIZE: WindowSize = WindowSize {
    columns: 80,
    rows: 25,
};

#[derive(Clone, Default)]
struct Tape(Arc<Mutex<Vec<u8>>>);

impl Sink for Tape {
    fn write(&mut self, bytes: &[u8]) {
        self.0.lock().unwrap().extend_from_slice(bytes);
    }
}

struct Rig {
    machine: Machine,
    handle: ConsoleHandle,
    tape: Tape,
}

fn rig() -> Rig {
    on(Machine::new())
}

fn on(machine: Machine) -> Rig {
    let tape = Tape::default();
    let (console, handle) = Console::new(Box::new(tape.clone()), Some(SIZE)).unwrap();
    machine.add(1, Box::new(console));
    Rig {
        machine,
        handle,
        tape,
    }
}

fn text(machine: &Machine, address: u64, len: u32) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    machine
        .memory
        .read_slice(&mut bytes, GuestAddress(address))
        .unwrap();
    bytes
}

/// Has the driver receive until it got `expected`, in buffers of `len` bytes.
fn receive(driver: &Driver<'_>, ring: &mut Ring, expected: &[u8], len: u32) {
    let mut got = Vec::new();
    let mut head = 0;
    while got.len() < expected.len() {
        ring.push(head, &[(BUFFERS, len, true)]);
        driver.kick(0);
        let (used, written) = driver.wait_used(ring);
        assert_eq!(used, head);
        got.extend(text(driver.machine, BUFFERS, written));
        head = (head + 1) % ring.size;
    }
    assert_eq!(got, expected);
}

fn send(driver: &Driver<'_>, ring: &mut Ring, bytes: &[u8]) {
    let address = BUFFERS + 0x10_0000;
    driver
        .machine
        .memory
        .write_slice(bytes, GuestAddress(address))
        .unwrap();
    ring.push(0, &[(address, bytes.len() as u32, false)]);
    driver.kick(1);
    assert_eq!(driver.wait_used(ring), (0, 0));
}

#[test]
fn output_reaches_the_sink_before_its_buffer_comes_back() {
    let rig = rig();
    let driver = rig.machine.driver(1);
    let mut rings = driver.start(VERSION_1 | EVENT_IDX, 2, 16);
    let long: Vec<u8> = (0..100_000u32).map(|n| n as u8).collect();
    send(&driver, &mut rings[1], b"hello");
    send(&driver, &mut rings[1], &long);
    assert_eq!(*rig.tape.0.lock().unwrap(), [&b"hello"[..], &long].concat());
    let far = BUFFERS + 0x10_0000;
    let parts = [(far, 3, false), (far + 7, 0, false), (far + 10, 2, false)];
    rig.tape.0.lock().unwrap().clear();
    rings[1].push(2, &parts);
    driver.kick(1);
    assert_eq!(driver.wait_used(&mut rings[1]), (2, 0));
    assert_eq!(*rig.tape.0.lock().unwrap(), [0, 1, 2, 10, 11]);
}

#[test]
fn input_waits_for_buffers_and_fills_them_in_order() {
    let rig = rig();
    let driver = rig.machine.driver(1);
    assert_eq!(rig.handle.offer(b"early"), 0, "no driver works yet");
    let mut rings = driver.start(VERSION_1, 2, 16);
    let sent: Vec<u8> = (0..70_000u32).map(|n| (n % 251) as u8).collect();
    let taken = rig.handle.offer(&sent);
    assert_eq!(taken, 64 << 10, "the inbox is full");
    assert_eq!(rig.handle.offer(&sent[taken..]), 0);
    let _ = rig.handle.space().read();
    receive(&driver, &mut rings[0], &sent[..1000], 100);
    assert!(rig.handle.space().read().unwrap() > 0);
    assert_eq!(rig.handle.offer(&sent[taken..taken + 900]), 900);
    receive(&driver, &mut rings[0], &sent[1000..taken + 900], 4096);
}

#[test]
fn a_buffer_that_waits_gets_input_as_it_comes() {
    let rig = rig();
    let driver = rig.machine.driver(1);
    let mut rings = driver.start(VERSION_1 | EVENT_IDX, 2, 16);
    for n in 0..50u16 {
        rings[0].set_used_event(n);
        rings[0].push(n % 16, &[(BUFFERS, 16, true)]);
        driver.kick(0);
        assert_eq!(rig.handle.offer(&[n as u8]), 1);
        assert_eq!(driver.wait_used(&mut rings[0]), (n % 16, 1));
        assert_eq!(text(&rig.machine, BUFFERS, 1), [n as u8]);
    }
    rig.machine.root.quiesce_all();
    assert_eq!(driver.interrupts(1), 50);
}

#[test]
fn a_pause_a_save_and_a_restore_lose_no_input() {
    let source = rig();
    let driver = source.machine.driver(1);
    let mut rings = driver.start(VERSION_1 | 1, 2, 16);
    assert_eq!(source.handle.offer(b"taken"), 5);
    receive(&driver, &mut rings[0], b"ta", 2);
    source.machine.root.quiesce_all();
    assert_eq!(source.handle.offer(b"held"), 0, "paused");
    let (root, saved) = source.machine.root.save().unwrap();

    let target = on(Machine::with_memory(source.machine.memory.clone()));
    target.machine.root.restore(&root, &saved).unwrap();
    assert_eq!(target.machine.root.save().unwrap(), (root, saved));
    assert_eq!(target.handle.offer(b"!"), 0);
    target.machine.root.resume_all();
    assert_eq!(target.handle.space().read().unwrap(), 1);
    assert_eq!(target.handle.offer(b"!"), 1);
    let driver = target.machine.driver(1);
    rings[0].push(5, &[(BUFFERS, 16, true)]);
    driver.kick(0);
    let (_, len) = driver.wait_used(&mut rings[0]);
    assert!(b"ken!".starts_with(&text(&target.machine, BUFFERS, len)) && len >= 3);
    send(&driver, &mut rings[1], b"on");
    assert_eq!(*target.tape.0.lock().unwrap(), b"on");

    // The source, had the move failed, goes on with the same input.
    source.machine.root.resume_all();
    assert_eq!(source.handle.space().read().unwrap(), 1);
    assert_eq!(source.handle.offer(b"held"), 4);
}

#[test]
fn a_new_window_size_is_told_to_a_driver_that_works() {
    let rig = rig();
    let driver = rig.machine.driver(1);
    assert_eq!(driver.offered() & 1, 1);
    let config: [u8; 16] = driver.read_device_config(0);
    assert_eq!(config, [80, 0, 25, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let size = WindowSize {
        columns: 132,
        rows: 43,
    };
    rig.handle.resize(size);
    driver.start(VERSION_1 | 1, 2, 16);
    assert_eq!(driver.interrupts(0), 0);
    rig.handle.resize(size);
    assert_eq!(driver.interrupts(0), 0, "it is no other size");
    rig.handle.resize(SIZE);
    assert_eq!(driver.interrupts(0), 1);
    assert_eq!(driver.read_device_config(0), [80, 0, 25, 0]);
    driver.write_device_config(0, &[1; 4]);
    assert_eq!(driver.read_device_config(0), [80, 0, 25, 0]);
    let (unsized_console, _) = Console::new(Box::new(NullSink), None).unwrap();
    assert_eq!(unsized_console.features(), 0);
}

#[test]
fn a_driver_with_one_queue_must_reset() {
    let rig = rig();
    let driver = rig.machine.driver(1);
    driver.negotiate(VERSION_1);
    driver.describe_queue(1, 16);
    driver.enable_queue(1);
    driver.set_status(15);
    assert_eq!(driver.status(), 0x4f);
    let mut rings = driver.start(VERSION_1, 2, 16);
    send(&driver, &mut rings[1], b"ok");
    assert_eq!(*rig.tape.0.lock().unwrap(), b"ok");
}

#[test]
fn a_driver_that_breaks_the_rules_must_reset_and_is_served_again() {
    type Crime = (&'static str, u16, fn(&mut Ring));
    let crimes: [Crime; 6] = [
        ("output to write into", 1, |r| {
            r.push(0, &[(BUFFERS, 8, true)]);
        }),
        ("overlong output", 1, |r| {
            r.push(
                0,
                &[(BUFFERS, MAX_WRITE as u32, false), (BUFFERS, 1, false)],
            );
        }),
        ("output outside memory", 1, |r| {
            r.push(0, &[(MEMORY, 1, false)]);
        }),
        ("an output loop", 1, |r| {
            let desc = Desc {
                address: BUFFERS,
                len: 1,
                flags: F_NEXT,
                next: 0,
            };
            r.write_desc(0, desc);
            r.offer(0);
        }),
        ("a receive buffer to read", 0, |r| {
            r.push(0, &[(BUFFERS, 8, false)]);
        }),
        ("a receive ring from nowhere", 0, |r| r.set_avail(999)),
    ];
    let rig = rig();
    let driver = rig.machine.driver(1);
    for (crime, queue, commit) in crimes {
        let mut rings = driver.start(VERSION_1, 2, 16);
        rig.handle.offer(b"input");
        commit(&mut rings[usize::from(queue)]);
        driver.kick(queue);
        driver.wait_needs_reset();
        assert_eq!(rings[usize::from(queue)].used_idx(), 0, "{crime}");
        let mut rings = driver.start(VERSION_1, 2, 16);
        rig.tape.0.lock().unwrap().clear();
        send(&driver, &mut rings[1], b"again");
        assert_eq!(*rig.tape.0.lock().unwrap(), b"again", "after {crime}");
    }
}

#[test]
fn a_record_that_does_not_fit_is_refused_and_changes_nothing() {
    use godwit_proto::record::Record;
    use godwit_proto::state::console::ConsoleState;
    let (mut console, _) = Console::new(Box::new(NullSink), Some(SIZE)).unwrap();
    let before = console.save();
    let overlong = ConsoleState {
        columns: 1,
        rows: 1,
        input: vec![0; (64 << 10) + 1],
    };
    for bad in [Vec::new(), vec![0; 100], overlong.encode().unwrap()] {
        assert!(console.restore(&bad).is_err());
        assert_eq!(console.save(), before);
    }
}
