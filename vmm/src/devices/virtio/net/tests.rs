//! The card driven through its rings: against a packet socket that stands in for the tap, against
//! drivers that break the rules, and against a real tap in a network namespace.

mod announce;

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use virtio_bindings::bindings::virtio_net::*;
use virtio_queue::QueueT;
use vm_memory::{Bytes, GuestAddress};

use super::config::MAX_FRAME_BYTES;
use super::tap::TapQueue;
use super::*;
use crate::devices::virtio::testing::*;
use crate::devices::virtio::{Activation, ActiveQueue, VirtioDevice};
use crate::kvm::tap_ioctl;
use crate::memory::GuestMemory;

const RX: u64 = 0x10_0000;
const TX: u64 = 0x11_0000;
const CONTROL: u64 = 0x12_0000;
const SEND: u64 = 0x20_0000;
const COMMAND: u64 = 0x30_0000;
const RECEIVE: u64 = 0x40_0000;
const MEMORY: usize = 0x200_0000;
const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

const BASE: u64 = 1 << VIRTIO_NET_F_STATUS
    | 1 << VIRTIO_NET_F_CTRL_VQ
    | 1 << VIRTIO_NET_F_GUEST_ANNOUNCE
    | 1 << VIRTIO_NET_F_MAC;
const MERGEABLE: u64 = BASE | 1 << VIRTIO_NET_F_MRG_RXBUF;

fn config() -> NetConfig {
    NetConfig {
        id: "net0".into(),
        tap: "stand-in".into(),
        mac: Some(MAC),
        queue_pairs: 1,
        offload: false,
    }
}

struct Rig {
    memory: GuestMemory,
    rx: TestRing,
    tx: TestRing,
    control: TestRing,
    interrupt: Arc<Recorder>,
    device: Net,
    features: u64,
}

impl Rig {
    /// A card on a packet socket, and the socket's other end.
    fn stand_in(features: u64) -> (Self, UnixDatagram) {
        Self::named_stand_in("net0", features)
    }

    /// One whose threads can be told from those of other tests.
    fn named_stand_in(id: &str, features: u64) -> (Self, UnixDatagram) {
        let config = NetConfig {
            id: id.into(),
            ..config()
        };
        let (near, far) = UnixDatagram::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        far.set_read_timeout(Some(PATIENCE)).unwrap();
        let tap = TapQueue::stand_in(File::from(OwnedFd::from(near)));
        (Self::new(Net::with_taps(&config, vec![tap]), features), far)
    }

    fn new(device: Net, features: u64) -> Self {
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let mut rig = Self::new_idle(device, memory, features);
        let queues = rig.queues();
        rig.activate(queues);
        rig
    }

    fn new_idle(device: Net, memory: GuestMemory, features: u64) -> Self {
        Self {
            rx: TestRing::new(&memory, RX, 256),
            tx: TestRing::new(&memory, TX, 256),
            control: TestRing::new(&memory, CONTROL, 64),
            memory,
            interrupt: Arc::default(),
            device,
            features,
        }
    }

    fn queues(&self) -> Vec<ActiveQueue> {
        vec![
            self.rx.active(0, false),
            self.tx.active(1, false),
            self.control.active(2, false),
        ]
    }

    fn activate(&mut self, queues: Vec<ActiveQueue>) {
        let activation = Activation {
            memory: self.memory.clone(),
            features: self.features,
            queues,
            interrupt: self.interrupt.clone(),
        };
        self.device.activate(activation).unwrap();
    }

    /// Gives the card receive buffers of `len` bytes; buffer n of all lies at `buffer(n)`.
    fn post_receive(&mut self, count: u64, len: u32) {
        for _ in 0..count {
            let head = u64::from(self.rx.next_head());
            self.rx.post(&[writable(buffer(head), len)]);
        }
        self.rx.kick();
    }

    /// The next frame the guest received, and how many buffers it took.
    fn receive(&mut self) -> (Vec<u8>, u16) {
        let (head, len) = self.rx.wait_used();
        let mut frame = vec![0; len as usize];
        let at = GuestAddress(buffer(head.into()));
        self.memory.read_slice(&mut frame, at).unwrap();
        let count = u16::from_le_bytes([frame[10], frame[11]]);
        for _ in 1..count {
            // The frame appears as a whole, so there is nothing to wait for.
            let (head, len) = self.rx.pop_used().expect("the rest of the frame");
            let mut part = vec![0; len as usize];
            let at = GuestAddress(buffer(head.into()));
            self.memory.read_slice(&mut part, at).unwrap();
            frame.extend(part);
        }
        (frame.split_off(12), count)
    }

    fn send(&mut self, packet: &[u8]) {
        self.memory.write_slice(packet, GuestAddress(SEND)).unwrap();
        let head = self.tx.post(&[readable(SEND, packet.len() as u32)]);
        self.tx.kick();
        assert_eq!(self.tx.wait_used(), (head, 0));
    }

    fn command(&mut self, class: u32, command: u32, data: &[u8]) -> u8 {
        let mut bytes = vec![class as u8, command as u8];
        bytes.extend_from_slice(data);
        self.memory
            .write_slice(&bytes, GuestAddress(COMMAND))
            .unwrap();
        let answer = COMMAND + 0x1000;
        self.control
            .post(&[readable(COMMAND, bytes.len() as u32), writable(answer, 1)]);
        self.control.kick();
        assert_eq!(self.control.wait_used().1, 1);
        self.memory.read_obj(GuestAddress(answer)).unwrap()
    }

    fn status(&self) -> u16 {
        let mut bytes = [0; 2];
        self.device.read_config(6, &mut bytes);
        u16::from_le_bytes(bytes)
    }

    fn expect_reset(&mut self, what: &str) {
        let interrupt = self.interrupt.clone();
        eventually(what, || interrupt.reset_cause().is_some());
        assert_eq!(
            self.device.quiesce().len(),
            3,
            "{what}: the queues must come back"
        );
    }
}

/// Where receive buffer `head` lies; each has 64 KiB and a bit.
fn buffer(head: u64) -> u64 {
    RECEIVE + head * 0x1_1000 % 0x180_0000
}

/// What the tap gives: a zeroed header, its last two bytes garbage, and a frame.
fn packet(frame: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 12];
    bytes[10] = 0xee;
    bytes.extend_from_slice(frame);
    bytes
}

fn frame(len: usize, seed: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + seed + (i >> 8)) as u8).collect()
}

#[test]
fn frames_reach_the_guest_with_their_content_whatever_the_buffers() {
    for (features, room) in [
        (MERGEABLE, 1536),
        (MERGEABLE, 0x1_1000),
        (MERGEABLE, 100),
        (BASE, 0x1_1000),
    ] {
        let (mut rig, far) = Rig::stand_in(features);
        let mut sent = 0;
        for (round, len) in [60, 1514, 64, 9000, 20_000, 14, 1524, 1525, 1, 5000]
            .into_iter()
            .enumerate()
        {
            rig.post_receive(len as u64 / u64::from(room) + 1 + 1, room);
            let expected = frame(len, round);
            far.send(&packet(&expected)).unwrap();
            let (seen, count) = rig.receive();
            assert_eq!(seen.len(), len);
            assert!(seen == expected, "round {round} with buffers of {room}");
            assert_eq!(usize::from(count), (len + 12).div_ceil(room as usize));
            sent += len as u64;
        }
        let handle = rig.device.handle();
        assert_eq!(handle.counters().rx_packets(), 10);
        assert_eq!(handle.counters().rx_bytes(), sent);
        assert_eq!(handle.counters().rx_dropped(), 0);
    }
}

#[test]
fn the_largest_frame_fits_and_small_ones_after_it_too() {
    let (mut rig, far) = Rig::stand_in(MERGEABLE);
    rig.post_receive(200, 1536);
    for round in 0..3 {
        let large = frame(MAX_FRAME_BYTES, round);
        far.send(&packet(&large)).unwrap();
        let (seen, count) = rig.receive();
        assert!(seen == large);
        rig.post_receive(count.into(), 1536);
        for i in 0..100 {
            let small = frame(60 + i, i);
            far.send(&packet(&small)).unwrap();
            assert_eq!(rig.receive(), (small, 1));
            rig.post_receive(1, 1536);
        }
    }
}

#[test]
fn without_receive_buffers_the_tap_is_left_alone_until_there_are_some() {
    let (mut rig, far) = Rig::named_stand_in("starved", MERGEABLE);
    for i in 0..5 {
        far.send(&packet(&frame(100, i))).unwrap();
    }
    let handle = rig.device.handle();
    eventually("reading stops", || handle.counters().rx_starved() == 1);
    // A thread that spun would burn this time; one that waits uses next to none.
    let before = thread_ticks("rx0-starved");
    std::thread::sleep(Duration::from_millis(300));
    assert!(
        thread_ticks("rx0-starved") - before <= 5,
        "the receive thread spins"
    );
    rig.post_receive(2, 1536);
    assert_eq!(rig.receive().0, frame(100, 0));
    assert_eq!(rig.receive().0, frame(100, 1));
    rig.post_receive(3, 1536);
    for i in 2..5 {
        assert_eq!(rig.receive().0, frame(100, i));
    }
    assert_eq!(handle.counters().rx_dropped(), 0);
}

/// CPU time of the threads of this process with that name, clock ticks (10 ms).
fn thread_ticks(name: &str) -> u64 {
    let mut ticks = 0;
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else {
            continue;
        };
        let (head, tail) = stat.rsplit_once(')').unwrap();
        if head.ends_with(name) {
            let fields: Vec<&str> = tail.split_whitespace().collect();
            ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    ticks
}

#[test]
fn a_large_frame_waits_for_buffers_and_is_dropped_only_when_the_ring_cannot_hold_it() {
    let (mut rig, far) = Rig::stand_in(MERGEABLE);
    rig.post_receive(2, 1024);
    let large = frame(5000, 1);
    far.send(&packet(&large)).unwrap();
    let handle = rig.device.handle();
    eventually("reading stops", || handle.counters().rx_starved() == 1);
    assert_eq!(rig.rx.used_index(), 0, "no part of a frame may be seen");
    rig.post_receive(3, 1024);
    assert_eq!(rig.receive(), (large, 5));
    // All 256 buffers together are too small for this one; the next goes through.
    rig.post_receive(256, 100);
    far.send(&packet(&frame(40_000, 2))).unwrap();
    far.send(&packet(&frame(300, 3))).unwrap();
    assert_eq!(rig.receive(), (frame(300, 3), 4));
    assert_eq!(handle.counters().rx_dropped(), 1);
}

#[test]
fn a_frame_too_long_for_a_buffer_that_stands_alone_is_dropped() {
    let (mut rig, far) = Rig::stand_in(BASE);
    rig.post_receive(2, 1526);
    far.send(&packet(&frame(1515, 1))).unwrap();
    far.send(&packet(&frame(1514, 2))).unwrap();
    assert_eq!(rig.receive(), (frame(1514, 2), 1));
    assert_eq!(rig.device.handle().counters().rx_dropped(), 1);
}

#[test]
fn frames_leave_the_guest_as_they_are() {
    let (mut rig, far) = Rig::stand_in(MERGEABLE);
    let mut seen = vec![0; 70_000];
    for (round, len) in [14, 60, 1514, 9000, MAX_FRAME_BYTES]
        .into_iter()
        .enumerate()
    {
        let mut sent = packet(&frame(len, round));
        sent[10] = 0;
        rig.send(&sent);
        let n = far.recv(&mut seen).unwrap();
        assert!(seen[..n] == sent, "{len}");
    }
    // Scattered over many pieces, empty ones among them.
    let sent = packet(&frame(1000, 9));
    rig.memory.write_slice(&sent, GuestAddress(SEND)).unwrap();
    let mut pieces = vec![readable(SEND, 1), readable(SEND + 1, 0)];
    pieces.extend((0..100).map(|i| readable(SEND + 1 + i * 10, 10)));
    pieces.push(readable(SEND + 1001, 11));
    rig.tx.post(&pieces);
    rig.tx.kick();
    rig.tx.wait_used();
    let n = far.recv(&mut seen).unwrap();
    assert!(seen[..n] == sent);
    let handle = rig.device.handle();
    assert_eq!(handle.counters().tx_packets(), 6);
    assert_eq!(handle.counters().tx_dropped(), 0);
}

#[test]
fn what_is_no_frame_is_dropped_and_counted() {
    let (mut rig, far) = Rig::stand_in(MERGEABLE);
    for len in [1, 11, 12, 25, 12 + MAX_FRAME_BYTES + 1] {
        rig.send(&vec![0; len]);
    }
    assert_eq!(rig.device.handle().counters().tx_dropped(), 5);
    far.set_nonblocking(true).unwrap();
    let error = far.recv(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    // Frames that the tap refuses: nobody listens any more.
    drop(far);
    rig.send(&packet(&frame(100, 0)));
    assert_eq!(rig.device.handle().counters().tx_dropped(), 6);
    assert_eq!(rig.device.handle().counters().tx_packets(), 0);
}

#[test]
fn a_link_that_is_down_drops_both_ways_and_the_driver_is_told() {
    let (mut rig, far) = Rig::stand_in(MERGEABLE);
    assert_eq!(rig.status(), 1);
    let handle = rig.device.handle();
    handle.set_link_up(false);
    handle.set_link_up(false);
    assert_eq!((rig.status(), rig.interrupt.config_count()), (0, 1));
    rig.post_receive(4, 1536);
    far.send(&packet(&frame(60, 0))).unwrap();
    rig.send(&packet(&frame(60, 0)));
    eventually("the frame is dropped", || {
        handle.counters().rx_dropped() == 1
    });
    assert_eq!(handle.counters().tx_dropped(), 1);
    handle.set_link_up(true);
    assert_eq!((rig.status(), rig.interrupt.config_count()), (1, 2));
    far.send(&packet(&frame(60, 1))).unwrap();
    assert_eq!(rig.receive().0, frame(60, 1));
}

#[test]
fn commands_that_are_unknown_or_wrong_are_answered_with_an_error() {
    let (mut rig, _far) = Rig::stand_in(MERGEABLE);
    for (class, command, data) in [
        (0, 0, vec![1]),
        (
            VIRTIO_NET_CTRL_MQ,
            VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET,
            vec![1, 0],
        ),
        (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, vec![1]),
        (VIRTIO_NET_CTRL_ANNOUNCE, 1, vec![]),
        (255, 255, vec![0; 4096]),
    ] {
        assert_eq!(rig.command(class, command, &data), VIRTIO_NET_ERR as u8);
    }
    assert!(rig.interrupt.reset_cause().is_none());
}

#[test]
fn a_pause_loses_no_buffer_and_no_frame_that_was_not_read() {
    let (mut rig, far) = Rig::stand_in(MERGEABLE);
    rig.post_receive(100, 1536);
    for round in 0..30 {
        far.send(&packet(&frame(60, round))).unwrap();
        assert_eq!(rig.receive().0, frame(60, round));
        let queues = rig.device.quiesce();
        assert_eq!(
            queues.iter().map(|q| q.index).collect::<Vec<_>>(),
            [0, 1, 2]
        );
        // Buffers taken ahead of need are on the ring again.
        let rx = &queues[0].queue;
        assert_eq!(rx.next_avail(), rx.next_used());
        far.send(&packet(&frame(61, round))).unwrap();
        rig.activate(queues);
        assert_eq!(rig.receive().0, frame(61, round));
    }
    assert!(rig.device.quiesce().len() == 3 && rig.device.quiesce().is_empty());
}

#[test]
fn drivers_that_break_the_rules_make_the_device_need_a_reset() {
    type Act = fn(&mut Rig);
    let cases: [(&str, Act); 12] = [
        ("a loop to send", |rig| {
            rig.tx.put_desc(
                0,
                Desc {
                    flags: NEXT,
                    next: 0,
                    ..readable(SEND, 16)
                },
            );
            rig.tx.publish(0);
        }),
        ("a head to send outside the table", |rig| {
            rig.tx.publish(300);
        }),
        ("an available index that ran away", |rig| {
            rig.tx.set_avail_index(300);
        }),
        ("a frame outside memory", |rig| {
            rig.tx.post(&[readable(MEMORY as u64 - 1, 100)]);
        }),
        ("a writable frame to send", |rig| {
            rig.tx.post(&[writable(SEND, 100)]);
        }),
        ("a frame to send with a writable tail", |rig| {
            rig.tx.post(&[readable(SEND, 100), writable(SEND, 100)]);
        }),
        ("an overlong indirect frame", |rig| {
            for i in 0..1000 {
                let desc = Desc {
                    flags: NEXT,
                    next: i + 1,
                    ..readable(SEND, 1)
                };
                rig.tx.put_desc_at(RECEIVE, i, desc);
            }
            rig.tx.put_desc_at(RECEIVE, 1000, readable(SEND, 1));
            rig.tx.post(&[Desc {
                flags: INDIRECT,
                ..readable(RECEIVE, 1001 * 16)
            }]);
        }),
        ("a readable receive buffer", |rig| {
            rig.rx.post(&[readable(buffer(0), 1536)]);
        }),
        ("a receive buffer without room for a header", |rig| {
            rig.rx.post(&[writable(buffer(0), 11)]);
        }),
        ("a receive buffer outside memory", |rig| {
            rig.rx.post(&[writable(u64::MAX - 100, 1536)]);
        }),
        ("a command without room for the answer", |rig| {
            rig.control.post(&[readable(COMMAND, 2)]);
        }),
        ("half a command", |rig| {
            rig.control
                .post(&[readable(COMMAND, 1), writable(COMMAND, 1)]);
        }),
    ];
    for (what, act) in cases {
        let (mut rig, far) = Rig::stand_in(MERGEABLE);
        act(&mut rig);
        // Receive buffers are looked at when a frame comes.
        far.send(&packet(&frame(60, 0))).unwrap();
        rig.rx.kick();
        rig.tx.kick();
        rig.control.kick();
        rig.expect_reset(what);
    }
}

#[test]
fn queues_must_come_in_whole_pairs() {
    let (mut rig, _far) = Rig::stand_in(MERGEABLE);
    rig.device.quiesce();
    for indices in [
        vec![],
        vec![0],
        vec![1],
        vec![0, 2],
        vec![1, 2],
        vec![0, 1, 3],
        vec![0, 1, 2, 3],
    ] {
        let activation = Activation {
            memory: rig.memory.clone(),
            features: rig.features,
            queues: indices.iter().map(|i| rig.rx.active(*i, false)).collect(),
            interrupt: rig.interrupt.clone(),
        };
        assert!(rig.device.activate(activation).is_err(), "{indices:?}");
        assert!(rig.device.quiesce().is_empty());
    }
}

#[test]
fn a_saved_card_is_restored_and_a_wrong_record_changes_nothing() {
    let (mut rig, _far) = Rig::stand_in(MERGEABLE);
    rig.device.handle().announce();
    rig.device.quiesce();
    let record = rig.device.save();
    let (mut other, _far) = Rig::stand_in(MERGEABLE);
    other.device.quiesce();
    for cut in 0..record.len() {
        assert!(other.device.restore(&record[..cut]).is_err());
        let mut flipped = record.clone();
        flipped[cut] ^= 0x04;
        assert!(other.device.restore(&flipped).is_err(), "byte {cut}");
    }
    assert_eq!(other.status(), 1);
    other.device.restore(&record).unwrap();
    assert_eq!(other.device.save(), record);
    let different = NetConfig {
        mac: None,
        ..config()
    };
    let mut stranger = Net::with_taps(&different, vec![]);
    assert!(stranger.restore(&record).is_err());
}

#[test]
fn the_configuration_space_names_address_status_and_pairs() {
    let (rig, _far) = Rig::stand_in(MERGEABLE);
    let mut space = [0xff; 16];
    rig.device.read_config(0, &mut space);
    assert_eq!(space[..6], MAC);
    assert_eq!(space[6..], [1, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    rig.device.read_config(u64::MAX, &mut space);
    assert_eq!(space, [0; 16]);
}

#[test]
fn names_addresses_and_pairs_that_cannot_be_are_refused() {
    for tap in [
        "",
        "0123456789abcdef",
        "a/b",
        "tap%d",
        "a b",
        "a:b",
        "..",
        "t\u{e9}",
    ] {
        let config = NetConfig {
            tap: tap.into(),
            ..config()
        };
        assert!(
            matches!(Net::open(&config), Err(NetError::Name { .. })),
            "{tap}"
        );
    }
    for queue_pairs in [0, MAX_QUEUE_PAIRS + 1] {
        let config = NetConfig {
            queue_pairs,
            ..config()
        };
        assert!(matches!(
            Net::open(&config),
            Err(NetError::QueuePairs { .. })
        ));
    }
    for mac in [[0; 6], [1, 0, 0, 0, 0, 0], [0xff; 6]] {
        let config = NetConfig {
            mac: Some(mac),
            ..config()
        };
        assert!(matches!(Net::open(&config), Err(NetError::Mac { .. })));
    }
}

/// Runs `test` with a network namespace to itself, or says loudly why not.
fn in_private_network(test: fn()) {
    let thread = std::thread::spawn(move || {
        if let Err(error) = tap_ioctl::enter_private_network() {
            crate::skip::skipped!("no private network namespace: {error}");
        } else if let Err(error) = tap_ioctl::open_clone_device() {
            crate::skip::skipped!("no /dev/net/tun: {error}");
        } else if !ip(&["link", "set", "lo", "up"]) {
            crate::skip::skipped!("no working `ip` command");
        } else {
            test();
        }
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(arguments: &[&str]) -> bool {
    Command::new("ip")
        .args(arguments)
        .status()
        .is_ok_and(|status| status.success())
}

fn tap_config(tap: &str, queue_pairs: u16) -> NetConfig {
    NetConfig {
        tap: tap.into(),
        queue_pairs,
        offload: true,
        ..config()
    }
}

#[test]
fn a_tap_that_is_taken_or_of_another_kind_is_refused_and_let_go_with_the_card() {
    in_private_network(|| {
        let card = Net::open(&tap_config("gw0", 1)).unwrap();
        let error = Net::open(&tap_config("gw0", 1)).err().unwrap();
        assert!(matches!(error, NetError::Busy { .. }), "{error}");
        drop(card);
        let card = Net::open(&tap_config("gw0", 1)).unwrap();
        let error = Net::open(&tap_config("gw0", 2)).err().unwrap();
        assert!(
            matches!(error, NetError::Kind { .. } | NetError::Busy { .. }),
            "{error}"
        );
        drop(card);
        let error = Net::open(&tap_config("lo", 1)).err().unwrap();
        assert!(matches!(error, NetError::Kind { .. }), "{error}");
        assert!(ip(&["tuntap", "add", "gw1", "mode", "tap", "multi_queue"]));
        let error = Net::open(&tap_config("gw1", 1)).err().unwrap();
        assert!(matches!(error, NetError::Kind { .. }), "{error}");
        Net::open(&tap_config("gw1", 4)).unwrap();
    });
}

const HOST: [u8; 4] = [10, 99, 0, 1];
const GUEST: [u8; 4] = [10, 99, 0, 2];

/// An Ethernet frame with a UDP datagram; checksums left zero, which UDP over IPv4 allows.
fn udp_frame(to: [u8; 6], payload: &[u8], port: u16) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(to);
    frame.extend(MAC);
    frame.extend([8, 0]);
    let total = (28 + payload.len()) as u16;
    let mut header = vec![0x45, 0];
    header.extend(total.to_be_bytes());
    header.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    header.extend(GUEST);
    header.extend(HOST);
    let sum: u32 = header
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(header);
    frame.extend(7u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend((8 + payload.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}

#[test]
fn datagrams_pass_a_real_tap_both_ways() {
    in_private_network(|| {
        let all = MERGEABLE | config::OFFLOADS;
        let device = Net::open(&tap_config("gw0", 1)).unwrap();
        assert_eq!(device.features() & all, all);
        let mut rig = Rig::new(device, all);
        assert!(ip(&["addr", "add", "10.99.0.1/24", "dev", "gw0"]));
        assert!(ip(&["link", "set", "gw0", "mtu", "9000", "up"]));
        assert!(ip(&[
            "neigh",
            "add",
            "10.99.0.2",
            "lladdr",
            "02:00:00:00:00:07",
            "dev",
            "gw0"
        ]));
        let shown = Command::new("ip")
            .args(["-o", "link", "show", "gw0"])
            .output()
            .unwrap();
        let shown = String::from_utf8(shown.stdout).unwrap();
        let address = shown.split("link/ether ").nth(1).unwrap();
        let mut host_mac = [0; 6];
        for (byte, hex) in host_mac.iter_mut().zip(address[..17].split(':')) {
            *byte = u8::from_str_radix(hex, 16).unwrap();
        }
        let socket = UdpSocket::bind("10.99.0.1:0").unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let port = socket.local_addr().unwrap().port();
        rig.post_receive(200, 1536);
        for len in [1usize, 100, 1472, 8000] {
            let payload = frame(len, len);
            rig.send(&packet(&udp_frame(host_mac, &payload, port)));
            let mut seen = vec![0; 10_000];
            let (n, from) = socket.recv_from(&mut seen).unwrap();
            assert_eq!(from.to_string(), "10.99.0.2:7");
            assert!(seen[..n] == payload, "to the host, {len}");
            socket.send_to(&payload, "10.99.0.2:7").unwrap();
            // The host's stack may send its own frames in between.
            let received = (0..50).find_map(|_| {
                let (frame, count) = rig.receive();
                rig.post_receive(count.into(), 1536);
                (frame.len() > 42 && frame[23] == 17 && frame[30..34] == GUEST).then_some(frame)
            });
            assert!(received.unwrap()[42..] == payload, "to the guest, {len}");
        }
        assert_eq!(rig.device.handle().counters().rx_dropped(), 0);
        assert_eq!(rig.device.handle().counters().tx_dropped(), 0);
    });
}

#[test]
fn a_queue_that_joins_again_receives_again_and_one_that_left_costs_nothing() {
    in_private_network(|| {
        let config = NetConfig {
            id: "joins".into(),
            ..tap_config("gw0", 2)
        };
        let device = Net::open(&config).unwrap();
        let features = MERGEABLE | 1 << VIRTIO_NET_F_MQ;
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let mut rig = Rig::new_idle(device, memory, features);
        let second_at = RX + 3 * 0x1_0000;
        let mut second = TestRing::new(&rig.memory, second_at, 256);
        let second_tx = TestRing::new(&rig.memory, second_at + 0x1_0000, 256);
        for _ in 0..256 {
            rig.rx.post(&[writable(buffer(0), 1536)]);
            second.post(&[writable(buffer(1), 1536)]);
        }
        let queues = vec![
            rig.rx.active(0, false),
            rig.tx.active(1, false),
            second.active(2, false),
            second_tx.active(3, false),
            rig.control.active(4, false),
        ];
        rig.activate(queues);
        assert!(ip(&["addr", "add", "10.99.0.1/24", "dev", "gw0"]));
        assert!(ip(&["link", "set", "gw0", "up"]));
        assert!(ip(&[
            "neigh",
            "add",
            "10.99.0.2",
            "lladdr",
            "02:00:00:00:00:07",
            "dev",
            "gw0"
        ]));
        let (class, command) = (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET);
        let ok = VIRTIO_NET_OK as u8;
        for _ in 0..3 {
            assert_eq!(rig.command(class, command, &[2, 0]), ok);
            let before = second.used_index();
            // Flows are spread by their hash: many enough reach both queues.
            eventually("the second queue receives", || {
                let socket = UdpSocket::bind("10.99.0.1:0").unwrap();
                socket.send_to(b"flow", "10.99.0.2:7").unwrap();
                second.used_index() != before
            });
            assert_eq!(rig.command(class, command, &[1, 0]), ok);
            let before = thread_ticks("rx1-joins");
            std::thread::sleep(Duration::from_millis(200));
            assert!(
                thread_ticks("rx1-joins") - before <= 5,
                "the receive thread spins"
            );
        }
        assert!(rig.interrupt.reset_cause().is_none());
    });
}

#[test]
fn a_card_with_several_queues_uses_as_many_as_the_driver_says() {
    in_private_network(|| {
        let device = Net::open(&tap_config("gw0", 2)).unwrap();
        assert_eq!(device.queue_sizes(), [256, 256, 256, 256, 64]);
        let features = MERGEABLE | 1 << VIRTIO_NET_F_MQ;
        assert_eq!(device.features() & features, features);
        let memory = GuestMemory::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
        let rings: Vec<TestRing> = (0..5)
            .map(|i| TestRing::new(&memory, RX + i * 0x1_0000, 64))
            .collect();
        let mut rig = Rig::new_idle(device, memory, features);
        rig.control = TestRing::new(&rig.memory, RX + 4 * 0x1_0000, 64);
        let mut queues: Vec<_> = (0..4)
            .map(|i| rings[usize::from(i)].active(i, false))
            .collect();
        queues.push(rig.control.active(4, false));
        rig.activate(queues);
        let set = |rig: &mut Rig, pairs: u16| {
            let (class, command) = (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET);
            u32::from(rig.command(class, command, &pairs.to_le_bytes()))
        };
        for (pairs, answer) in [
            (0, VIRTIO_NET_ERR),
            (3, VIRTIO_NET_ERR),
            (2, VIRTIO_NET_OK),
            (2, VIRTIO_NET_OK),
            (1, VIRTIO_NET_OK),
            (2, VIRTIO_NET_OK),
        ] {
            assert_eq!(set(&mut rig, pairs), answer, "{pairs}");
        }
        // What is in use is saved, and comes back on another tap.
        let queues = rig.device.quiesce();
        assert_eq!(queues.len(), 5);
        let record = rig.device.save();
        let other = Net::open(&tap_config("gw1", 2)).unwrap();
        let mut other = Rig {
            device: other,
            ..rig
        };
        other.device.restore(&record).unwrap();
        other.activate(queues);
        assert_eq!(other.device.save(), record);
        assert_eq!(set(&mut other, 1), VIRTIO_NET_OK);
        assert_ne!(other.device.save(), record);
    });
}
