//! Virtio devices behind PCI, driven by the built-in guest on the real KVM: MSI-X by irqfd,
//! doorbells by ioeventfd.

mod support;

use std::time::Duration;

use support::{Running, field, has_kvm, spec};

/// The built-in guest with an entropy device that it draws `bytes` from.
fn drawing(bytes: u64) -> godwit_proto::guest::GuestSpec {
    let mut spec = spec(&format!("rng=bytes:{bytes}"));
    spec.rng = true;
    spec
}

#[test]
fn the_guest_draws_entropy_through_msix_and_doorbells() {
    if !has_kvm() {
        return;
    }
    let mut guest = Running::start(&drawing(1 << 18));
    let line = guest.line("rng ");
    assert!(line.contains("check=ok"), "{line}");
    assert_eq!(field(&line, "bytes"), 1 << 18);
    assert_eq!(field(&line, "errors"), 0);
}

#[test]
fn pauses_lose_neither_a_doorbell_nor_an_interrupt() {
    if !has_kvm() {
        return;
    }
    let mut guest = Running::start(&drawing(1 << 22));
    guest.line("godwit-payload ");
    for _ in 0..50 {
        guest.guest.pause().unwrap();
        guest.guest.resume().unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    let line = guest.line("rng ");
    assert!(line.contains("check=ok"), "{line}");
}

#[test]
fn a_device_at_work_goes_on_after_a_snapshot_is_restored() {
    if !has_kvm() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let mut guest = Running::start(&drawing(1 << 24));
    guest.line("godwit-payload ");
    for generation in 0..3 {
        let snapshot = directory.path().join(generation.to_string());
        std::thread::sleep(Duration::from_millis(10));
        guest.guest.pause().unwrap();
        assert!(guest.drain().iter().all(|line| !line.starts_with("rng ")));
        guest.guest.snapshot(&snapshot).unwrap();
        drop(guest);
        guest = Running::restore(&snapshot, false);
        guest.guest.resume().unwrap();
    }
    let line = guest.line("rng ");
    assert!(line.contains("check=ok"), "{line}");
    assert_eq!(field(&line, "bytes"), 1 << 24);
}
