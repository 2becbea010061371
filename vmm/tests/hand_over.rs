//! A guest that takes the place of another one: built empty, then given memory and state.

mod support;

use std::os::unix::fs::FileExt;

use godwit_proto::codes::ErrorCode;
use godwit_vmm::guest::{Attachments, Guest};
use godwit_vmm::memory::post_copy::Arrival;
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

#[test]
fn a_guest_runs_while_its_memory_follows_and_is_not_reset_before_it_is_there() {
    if !has_kvm() {
        return;
    }
    const PAGE: usize = 4096;
    let spec = godwit_proto::guest::GuestSpec {
        vcpus: 2,
        rng: true,
        ..spec(SELF_CHECK)
    };
    let mut source = Running::start(&spec);
    assert_eq!(source.report("check id=", "wrong"), 0);
    source.guest.pause().unwrap();

    let mut target = Running::build_waiting(&spec);
    let from = source.guest.ram().clone();
    let pages = from.bytes() / PAGE as u64;
    let (sender, faults) = std::sync::mpsc::channel();
    let tell = move |arrival| sender.send(arrival).unwrap();
    target.guest.give_up_memory([(0, pages)]).unwrap();
    let memory = match target.guest.await_memory([(0, pages)], tell) {
        Ok(memory) => memory,
        Err(error) => return support::skipped!("{error}"),
    };
    let server = std::thread::spawn({
        let memory = memory.clone();
        move || {
            let mut page = [0; PAGE];
            for arrival in faults {
                let Arrival::Fault(number) = arrival else {
                    panic!("{arrival:?}");
                };
                let offset = number * PAGE as u64;
                from.file().read_exact_at(&mut page, offset).unwrap();
                memory.install(number, &page, |_, _| {}).unwrap();
            }
        }
    });
    let state = source.guest.save().unwrap();
    target.guest.take_state(&state).unwrap();
    target.guest.resume().unwrap();
    for _ in 0..2 {
        assert_eq!(target.report("check id=", "wrong"), 0);
        assert_eq!(target.report("regs id=", "wrong"), 0);
    }
    for refused in [
        target.guest.reset().unwrap_err(),
        target
            .guest
            .snapshot(&std::env::temp_dir().join("godwit-never-written"))
            .unwrap_err(),
    ] {
        assert_eq!(refused.code(), ErrorCode::WrongState, "{refused}");
    }
    // The rest, what was installed stays.
    let mut page = [0; PAGE];
    for number in 0..pages {
        let offset = number * PAGE as u64;
        source
            .guest
            .ram()
            .file()
            .read_exact_at(&mut page, offset)
            .unwrap();
        memory.install(number, &page, |_, _| {}).unwrap();
    }
    target.guest.memory_arrived();
    server.join().unwrap();
    assert_eq!(target.report("check id=", "wrong"), 0);
    target.guest.reset().unwrap();
}
