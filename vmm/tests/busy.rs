//! A guest that never leaves the processor by itself.

mod support;

use std::time::Duration;

use support::{Running, has_kvm, spec};

#[test]
fn a_guest_that_hangs_can_be_paused_and_stopped() {
    if !has_kvm() {
        return;
    }
    // No timer, no device, no halt: nothing but the kick takes it out.
    let mut guest = Running::start(&spec("end=hang"));
    guest.line("end how=hang");
    std::thread::sleep(Duration::from_millis(100));
    guest.guest.pause().unwrap();
    guest.guest.resume().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    drop(guest);
}
