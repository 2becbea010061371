//! A throttled vCPU does less and can still be paused at once.

mod support;

use support::{Running, has_kvm, spec};

/// Pages that the guest dirtied between two of its reports.
fn pages_of_a_second(guest: &mut Running) -> u64 {
    guest.drain();
    let first = guest.report("dirty id=", "pages");
    for _ in 0..4 {
        guest.report("dirty id=", "pages");
    }
    guest.report("dirty id=", "pages") - first
}

#[test]
fn a_throttled_guest_dirties_fewer_pages() {
    if !has_kvm() {
        return;
    }
    let mut guest = Running::start(&spec("every=200 dirty=16M,cpu:0"));
    let free = pages_of_a_second(&mut guest);
    guest.guest.throttle(0, 90).unwrap();
    let throttled = pages_of_a_second(&mut guest);
    // A tenth is asked for; the report is by the guest's clock, which goes on.
    assert!(
        throttled < free / 2,
        "{throttled} pages throttled, {free} free"
    );
    guest.guest.throttle(0, 0).unwrap();
    let freed = pages_of_a_second(&mut guest);
    assert!(
        freed > throttled,
        "{freed} pages freed, {throttled} throttled"
    );
}

#[test]
fn a_throttled_guest_pauses_resumes_and_ends() {
    if !has_kvm() {
        return;
    }
    let mut guest = Running::start(&spec("every=100 heartbeat=100 dirty=16M,cpu:0"));
    guest.guest.throttle(0, 99).unwrap();
    guest.guest.throttle(7, 50).unwrap();
    for _ in 0..20 {
        guest.guest.pause().unwrap();
        guest.guest.resume().unwrap();
    }
    guest.guest.throttle(0, 0).unwrap();
    guest.line("heartbeat ");
}
