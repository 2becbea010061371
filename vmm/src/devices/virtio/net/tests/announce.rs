//! Announcements after a move, and the first frame that follows it.

use std::time::Instant;

use super::*;

const ACK: (u32, u32) = (VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK);
/// One that knows nothing of announcements.
const OLD_DRIVER: u64 = MERGEABLE & !(1 << VIRTIO_NET_F_GUEST_ANNOUNCE);

/// The frame with which `MAC` is announced, byte by byte (RFC 903), behind a virtio header.
fn expected() -> Vec<u8> {
    let mut packet = vec![0; 12];
    packet.extend([0xff; 6]);
    packet.extend(MAC);
    packet.extend([0x80, 0x35, 0, 1, 8, 0, 6, 4, 0, 3]);
    packet.extend(MAC);
    packet.extend([0; 4]);
    packet.extend(MAC);
    packet.extend([0; 4 + 18]);
    packet
}

fn received(far: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; 2000];
    let len = far.recv(&mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

fn nothing_comes(far: &UnixDatagram) {
    far.set_nonblocking(true).unwrap();
    let error = far.recv(&mut [0; 100]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    far.set_nonblocking(false).unwrap();
}

#[test]
fn the_card_announces_its_address_whatever_the_driver_can() {
    for features in [MERGEABLE, OLD_DRIVER, 0] {
        let (rig, far) = Rig::stand_in(features);
        rig.device.handle().announce();
        assert_eq!(received(&far), expected());
        assert_eq!(expected().len(), 12 + 60, "the shortest frame there is");
        let handle = rig.device.handle();
        assert_eq!(handle.counters().announced(), 1);
        assert_eq!(handle.counters().tx_packets(), 0);
    }
}

#[test]
fn nobody_is_announced_who_would_not_answer() {
    let (mut rig, far) = Rig::stand_in(MERGEABLE);
    let handle = rig.device.handle();
    handle.set_link_up(false);
    handle.announce();
    handle.set_link_up(true);
    let queues = rig.device.quiesce();
    handle.announce();
    assert!(!handle.is_active());
    nothing_comes(&far);
    rig.activate(queues);
    handle.announce();
    assert_eq!(received(&far), expected());
    // Nor with a card that is gone; and the tap is not held by who can still name it.
    drop(rig);
    handle.announce();
    let error = far.send(&[0; 60]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn an_announcement_is_asked_for_until_the_driver_answers() {
    let (mut rig, _far) = Rig::stand_in(MERGEABLE);
    let handle = rig.device.handle();
    handle.announce();
    assert_eq!((rig.status(), rig.interrupt.config_count()), (3, 1));
    handle.announce();
    assert_eq!((rig.status(), rig.interrupt.config_count()), (3, 1));
    // Not answered yet: it goes along with the state.
    let queues = rig.device.quiesce();
    let record = rig.device.save();
    let (mut other, _far) = Rig::stand_in(MERGEABLE);
    other.device.quiesce();
    other.device.restore(&record).unwrap();
    assert_eq!(other.status(), 3);
    let queues_of_other = other.queues();
    other.activate(queues_of_other);
    assert_eq!(other.interrupt.config_count(), 1);
    assert_eq!(other.command(ACK.0, ACK.1, &[]), VIRTIO_NET_OK as u8);
    assert_eq!(other.status(), 1);
    // Each round asks again.
    other.device.handle().announce();
    assert_eq!((other.status(), other.interrupt.config_count()), (3, 2));
    // A driver that cannot is not asked, not even what was asked of another before.
    rig.features = 1 << VIRTIO_NET_F_STATUS;
    rig.activate(queues);
    assert_eq!(rig.status(), 1);
    handle.announce();
    assert_eq!((rig.status(), rig.interrupt.config_count()), (1, 1));
}

#[test]
fn a_guest_whose_driver_never_heard_of_announcements_is_restored_and_only_the_card_speaks() {
    let (mut rig, _far) = Rig::stand_in(OLD_DRIVER);
    rig.device.quiesce();
    let record = rig.device.save();
    let (mut other, far) = Rig::stand_in(MERGEABLE);
    other.device.quiesce();
    other.features = OLD_DRIVER;
    other.device.restore(&record).unwrap();
    let queues = other.queues();
    other.activate(queues);
    other.device.handle().announce();
    assert_eq!(received(&far), expected());
    assert_eq!((other.status(), other.interrupt.config_count()), (1, 0));
    let answer = other.command(ACK.0, ACK.1, &[]);
    assert_eq!(answer, VIRTIO_NET_ERR as u8, "it did not negotiate that");
}

#[test]
fn answers_that_nobody_asked_for_or_that_come_in_floods_change_nothing() {
    let (mut rig, _far) = Rig::stand_in(MERGEABLE);
    for data in [vec![], vec![1], vec![0xff; 4096]] {
        assert_eq!(rig.command(ACK.0, ACK.1, &data), VIRTIO_NET_OK as u8);
        assert_eq!(rig.status(), 1);
    }
    // As many at once as the queue holds, over and over, while it is asked to announce itself.
    rig.memory
        .write_slice(&[ACK.0 as u8, ACK.1 as u8], GuestAddress(COMMAND))
        .unwrap();
    for _ in 0..50 {
        rig.device.handle().announce();
        for _ in 0..32 {
            rig.control
                .post(&[readable(COMMAND, 2), writable(COMMAND + 0x1000, 1)]);
        }
        rig.control.kick();
        for _ in 0..32 {
            assert_eq!(rig.control.wait_used().1, 1);
        }
        assert_eq!(rig.status(), 1);
    }
    assert!(rig.interrupt.reset_cause().is_none());
}

#[test]
fn an_announcer_makes_five_rounds_and_none_after_it_is_dropped() {
    let (mut rig, far) = Rig::stand_in(MERGEABLE);
    let handle = rig.device.handle();
    let announcer = Announcer::start(vec![handle.clone()]).unwrap();
    for round in 1..=5 {
        assert_eq!(received(&far), expected(), "round {round}");
        eventually("the driver is asked", || rig.status() == 3);
        assert_eq!(rig.command(ACK.0, ACK.1, &[]), VIRTIO_NET_OK as u8);
    }
    assert_eq!(rig.interrupt.config_count(), 5);
    drop(announcer);
    nothing_comes(&far);
    // Without waiting: a second one, stopped at once, has made its first round only.
    let before = Instant::now();
    drop(Announcer::start(vec![handle.clone()]).unwrap());
    if before.elapsed() < Duration::from_millis(50) {
        assert_eq!(handle.counters().announced(), 6);
    }
    let announced = handle.counters().announced();
    std::thread::sleep(Duration::from_millis(120));
    assert_eq!(handle.counters().announced(), announced);
}

#[test]
fn the_first_frame_is_the_guests_own_and_each_activation_has_one() {
    let (mut rig, far) = Rig::stand_in(MERGEABLE);
    let handle = rig.device.handle();
    handle.announce();
    received(&far);
    assert_eq!(handle.first_frame(), None);
    // One that was refused was heard by nobody.
    rig.send(&[0; 5]);
    assert_eq!(handle.first_frame(), None);
    let before = Instant::now();
    rig.send(&packet(&frame(60, 0)));
    let first = handle.first_frame().unwrap();
    assert!((before..=Instant::now()).contains(&first));
    rig.send(&packet(&frame(60, 1)));
    assert_eq!(handle.first_frame(), Some(first));
    let queues = rig.device.quiesce();
    rig.activate(queues);
    assert_eq!(handle.first_frame(), None);
    rig.send(&packet(&frame(60, 2)));
    assert!(handle.first_frame().unwrap() > first);
}

#[test]
fn a_bridge_learns_from_the_announcement_where_the_guest_is() {
    in_private_network(|| {
        let learnt = || {
            let shown = Command::new("bridge")
                .args(["fdb", "show", "br", "br0"])
                .output()
                .unwrap();
            let shown = String::from_utf8(shown.stdout).unwrap();
            let mut lines = shown.lines();
            lines.any(|l| l.starts_with("02:00:00:00:00:07 dev gw0"))
        };
        if !ip(&["link", "add", "br0", "type", "bridge"]) {
            return crate::skip::skipped!("no bridges");
        }
        if Command::new("bridge").arg("fdb").output().is_err() {
            return crate::skip::skipped!("no working `bridge` command");
        }
        let rig = Rig::new(Net::open(&tap_config("gw0", 1)).unwrap(), MERGEABLE);
        assert!(ip(&["link", "set", "gw0", "master", "br0", "up"]));
        assert!(ip(&["link", "set", "br0", "up"]));
        assert!(!learnt());
        // The port needs a moment before it learns, which is why there are several rounds.
        let _announcer = Announcer::start(vec![rig.device.handle()]).unwrap();
        eventually("the bridge knows the port", learnt);
    });
}
