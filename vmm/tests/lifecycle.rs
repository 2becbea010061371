//! A guest from power-on to power-off, on the real KVM.

mod support;

use std::time::{Duration, Instant};

use godwit_vmm::guest::GuestEvent;
use support::{Running, field, has_kvm, spec};

#[test]
fn the_built_in_guest_beats() {
    if !has_kvm() {
        return;
    }
    let mut guest = Running::start(&spec(""));
    guest.line("godwit-payload ");
    let first = guest.line("heartbeat ");
    let second = guest.line("heartbeat ");
    assert_eq!(field(&second, "seq"), field(&first, "seq") + 1);
    assert!(field(&second, "time_ns") > field(&first, "time_ns"));
}

#[test]
fn a_paused_guest_is_silent_and_goes_on_where_it_was() {
    if !has_kvm() {
        return;
    }
    let mut guest = Running::start(&spec("heartbeat=20"));
    let before = guest.line("heartbeat ");
    guest.guest.pause().unwrap();
    guest.drain();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(guest.drain(), Vec::<String>::new());
    guest.guest.resume().unwrap();
    let after = guest.line("heartbeat ");
    assert!(field(&after, "seq") > field(&before, "seq"));
}

#[test]
fn waiting_ends_at_the_deadline_and_when_interrupted() {
    if !has_kvm() {
        return;
    }
    let guest = Running::start(&spec(""));
    assert_eq!(
        guest
            .guest
            .wait(Some(Instant::now() + Duration::from_millis(50))),
        None
    );
    guest.guest.interrupt();
    assert_eq!(guest.guest.wait(None), None);
}

#[test]
fn a_guest_that_powers_off_says_so() {
    if !has_kvm() {
        return;
    }
    let guest = Running::start(&spec("for=100 end=poweroff"));
    assert_eq!(guest.event(), GuestEvent::PowerOff);
}

#[test]
fn a_guest_that_resets_starts_over() {
    if !has_kvm() {
        return;
    }
    let mut guest = Running::start(&spec("heartbeat=10 for=100 end=reset"));
    for _ in 0..3 {
        guest.line("godwit-payload ");
        let beat = guest.line("heartbeat ");
        assert!(field(&beat, "seq") <= 1, "{beat}");
        assert_eq!(guest.event(), GuestEvent::Reset);
        guest.guest.reset().unwrap();
    }
}

#[test]
fn the_largest_guest_has_all_its_vcpus() {
    if !has_kvm() {
        return;
    }
    let mut config = spec("");
    config.vcpus = godwit_vmm::config::MAX_VCPUS;
    let mut guest = Running::start(&config);
    let online = guest.line("smp online=");
    assert_eq!(field(&online, "online"), 64);
    guest.guest.pause().unwrap();
}

#[test]
fn the_smallest_and_the_largest_memory_work() {
    if !has_kvm() {
        return;
    }
    for bytes in [16 << 20, 1 << 40] {
        let mut config = spec("for=20 end=poweroff");
        config.memory.size_bytes = bytes;
        let mut guest = Running::start(&config);
        let ready = guest.line("godwit-payload ");
        assert!(field(&ready, "memory_bytes") > bytes * 9 / 10, "{ready}");
        assert_eq!(guest.event(), GuestEvent::PowerOff);
    }
}
