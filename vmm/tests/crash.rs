//! A guest that cannot go on ends with a reason and its registers, and the process lives to say so.

mod support;

use godwit_vmm::guest::GuestEvent;
use godwit_vmm::vcpu::{Crash, CrashCause};
use support::{Running, has_kvm, spec};

fn crash(cmdline: &str) -> Crash {
    let guest = Running::start(&spec(cmdline));
    match guest.event() {
        GuestEvent::Crashed(crash) => crash,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_triple_fault_is_reported_with_registers() {
    if !has_kvm() {
        return;
    }
    let crash = crash("for=20 end=triple-fault");
    assert_eq!(crash.cause, CrashCause::TripleFault);
    assert!(crash.registers.contains("rip=") && crash.registers.contains("cr3="));
}

#[test]
fn a_kvm_internal_error_is_reported_with_its_suberror() {
    if !has_kvm() {
        return;
    }
    let crash = crash("for=20 end=kvm-error");
    assert!(
        matches!(crash.cause, CrashCause::InternalError { .. }),
        "{crash}"
    );
    assert!(crash.registers.contains("rip="));
}

#[test]
fn an_access_where_nothing_is_harms_nobody() {
    if !has_kvm() {
        return;
    }
    let mut guest = Running::start(&spec("for=20 end=bad-mmio"));
    guest.line("end ");
    assert_eq!(guest.event(), GuestEvent::PowerOff);
}

#[test]
fn a_crashed_guest_can_be_reset() {
    if !has_kvm() {
        return;
    }
    let mut guest = Running::start(&spec("for=20 end=triple-fault"));
    assert!(matches!(guest.event(), GuestEvent::Crashed(_)));
    guest.guest.reset().unwrap();
    guest.line("end ");
    assert!(matches!(guest.event(), GuestEvent::Crashed(_)));
}
