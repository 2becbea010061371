//! A guest that takes the place of another one: built empty, then given memory and state.

mod support;

use std::os::unix::fs::FileExt;

use godwit_proto::codes::ErrorCode;
use godwit_vmm::guest::{Attachments, Guest};
use support::{Running, has_kvm, spec};

const SELF_CHECK: &str = "heartbeat=20 every=50 check=8M,rate:20000,verify:50000 regs";

#[test]
fn a_waiting_guest_goes_on_as_the_one_whose_memory_and_state_it_gets() {
    if !has_kvm() {
        return;
    }
    let spec = godwit_proto::guest::GuestSpec {
        vcpus: 2,
        rng: true,
        ..spec(SELF_CHECK)
    };
    let mut source = Running::start(&spec);
    assert_eq!(source.report("check id=", "wrong"), 0);
    source.guest.pause().unwrap();

    let mut target = Running::build_waiting(&spec);
    assert_eq!(
        target.guest.resume().unwrap_err().code(),
        ErrorCode::WrongState
    );
    let (from, to) = (source.guest.ram(), target.guest.ram());
    let mut bytes = vec![0; 1 << 20];
    for offset in (0..from.bytes()).step_by(bytes.len()) {
        from.file().read_exact_at(&mut bytes, offset).unwrap();
        to.file().write_all_at(&bytes, offset).unwrap();
    }
    target
        .guest
        .take_state(&source.guest.save().unwrap())
        .unwrap();
    drop(source);
    target.guest.resume().unwrap();
    for _ in 0..3 {
        assert_eq!(target.report("check id=", "wrong"), 0);
        assert_eq!(target.report("regs id=", "wrong"), 0);
    }
}

#[test]
fn the_state_of_another_machine_is_refused() {
    if !has_kvm() {
        return;
    }
    let source = Running::build(&spec(""));
    let state = source.guest.save().unwrap();
    for change in [
        |s: &mut godwit_proto::guest::GuestSpec| s.vcpus = 2,
        |s: &mut godwit_proto::guest::GuestSpec| s.memory.size_bytes = 32 << 20,
        |s: &mut godwit_proto::guest::GuestSpec| s.rng = true,
    ] {
        let mut other = spec("");
        change(&mut other);
        let waiting = Guest::build_waiting(&other, Attachments::default()).unwrap();
        let error = waiting.take_state(&state).unwrap_err();
        assert_eq!(error.code(), ErrorCode::SnapshotInvalid, "{error}");
    }
    let waiting = Guest::build_waiting(&spec(""), Attachments::default()).unwrap();
    assert!(waiting.take_state(&state[..state.len() / 2]).is_err());
    assert!(waiting.take_state(&[]).is_err());
}
