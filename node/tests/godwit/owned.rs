//! A guest process that a cluster gave its guest to: it runs the guest only while it may.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use godwit_node::guest_process::client::{Client, ClientError};
use godwit_node::guest_process::mandate::boot_time;
use godwit_node::guest_process::spawn::GuestProcess;
use godwit_proto::codes::ErrorCode;
use godwit_proto::guest::{BootSpec, GuestSpec, HugePages, Kernel, MemorySpec, SerialSpec};
use godwit_proto::id::{Epoch, GuestId, MigrationId};
use godwit_proto::process::{
    AwaitRequest, ExitReason, GuestState, Leaving, Mandate, MandateState, Origin, Overrides,
    Parting, Proof,
};

use crate::moving::request;
use crate::support::{GODWIT, PATIENCE, has_kvm};

const MOVE: MigrationId = MigrationId::from_bytes([3; 16]);

fn spec() -> GuestSpec {
    GuestSpec {
        name: "owned".into(),
        vcpus: 1,
        memory: MemorySpec {
            size_bytes: 64 << 20,
            huge_pages: HugePages::None,
        },
        cpu_profile: "host".into(),
        boot: BootSpec {
            kernel: Kernel::BuiltIn,
            initrd: None,
            cmdline: Some("heartbeat=20 check=16M,rate:2000,verify:10000".into()),
        },
        serial: SerialSpec::Null,
        disks: Vec::new(),
        nets: Vec::new(),
        rng: false,
        console: None,
    }
}

fn mandate(epoch: u64, origin: Origin) -> Mandate {
    Mandate {
        guest: GuestId::from_bytes([1; 16]),
        epoch: Epoch::new(epoch),
        leased: true,
        origin,
    }
}

fn proof(epoch: u64, good_for: Duration) -> Proof {
    Proof {
        epoch: Epoch::new(epoch),
        until_ns: u64::try_from((boot_time() + good_for).as_nanos()).unwrap(),
    }
}

/// A process with a client.
fn process(dir: &Path, name: &str) -> (GuestProcess, Client) {
    let dir = dir.join(name);
    std::fs::create_dir(&dir).unwrap();
    let process = GuestProcess::spawn(Path::new(GODWIT), &dir).unwrap();
    let client = process.client().unwrap();
    (process.kill_on_drop(true), client)
}

/// One that runs a guest under epoch 5.
fn running(dir: &Path, name: &str) -> (GuestProcess, Client) {
    let (process, mut client) = process(dir, name);
    client.mandate(mandate(5, Origin::Fresh)).unwrap();
    client.create(&spec()).unwrap();
    client.prove(proof(5, PATIENCE)).unwrap();
    until(&mut client, |client| state(client) == GuestState::Running);
    (process, client)
}

fn state(client: &mut Client) -> GuestState {
    client.stats().unwrap().state
}

fn until(client: &mut Client, mut holds: impl FnMut(&mut Client) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds(client) {
        assert!(Instant::now() < deadline, "{:?}", client.standing());
        thread::sleep(Duration::from_millis(5));
    }
}

fn leaving(client: &mut Client) -> Option<Leaving> {
    let departure = client.standing().unwrap().departure?;
    assert_eq!(departure.migration, MOVE);
    Some(departure.stage)
}

fn awaiting(client: &mut Client) -> (String, String) {
    let request = AwaitRequest {
        listen: "127.0.0.1:0".into(),
        patience_ms: 60_000,
        overrides: Overrides::default(),
        overcommit: true,
    };
    client.await_guest(request).unwrap()
}

#[test]
fn a_leased_guest_runs_with_a_proof_stops_without_and_goes_on_with_the_next() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_process, mut client) = process(dir.path(), "one");
    client.mandate(mandate(5, Origin::Fresh)).unwrap();
    client.create(&spec()).unwrap();
    assert_eq!(state(&mut client), GuestState::Created);
    // Asking does not help either.
    client.start().unwrap();
    assert_eq!(state(&mut client), GuestState::Created);
    client.prove(proof(4, PATIENCE)).unwrap();
    assert_eq!(
        state(&mut client),
        GuestState::Created,
        "of an earlier epoch"
    );
    client.prove(proof(5, Duration::from_secs(1))).unwrap();
    assert_eq!(state(&mut client), GuestState::Running);
    // Nobody says anything any more: the process stops the guest by itself.
    drop(client);
    let mut client = _process.client().unwrap();
    until(&mut client, |client| state(client) == GuestState::Paused);
    assert_eq!(client.standing().unwrap().state, MandateState::Suspended);
    client.start().unwrap();
    assert_eq!(state(&mut client), GuestState::Paused);
    client.prove(proof(5, PATIENCE)).unwrap();
    assert_eq!(state(&mut client), GuestState::Running);
}

#[test]
fn a_guest_that_cannot_be_started_elsewhere_needs_no_proof() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_process, mut client) = process(dir.path(), "one");
    let free = Mandate {
        leased: false,
        ..mandate(5, Origin::Fresh)
    };
    client.mandate(free).unwrap();
    client.create(&spec()).unwrap();
    until(&mut client, |client| state(client) == GuestState::Running);
    client.set_leased(true).unwrap();
    assert_eq!(state(&mut client), GuestState::Paused);
    client.set_leased(false).unwrap();
    assert_eq!(state(&mut client), GuestState::Running);
}

#[test]
fn a_later_epoch_destroys_a_copy_and_an_earlier_one_does_not() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_process, mut client) = running(dir.path(), "one");
    client.revoke(Epoch::new(5)).unwrap();
    assert_eq!(state(&mut client), GuestState::Running);
    match client.mandate(mandate(6, Origin::Fresh)) {
        Err(ClientError::Refused(error)) => assert_eq!(error.code(), ErrorCode::WrongState),
        other => panic!("{other:?}"),
    }
    client.revoke(Epoch::new(6)).unwrap();
    match client.wait_exit(PATIENCE).unwrap() {
        ExitReason::Failed(error) => assert_eq!(error.code(), ErrorCode::StaleEpoch),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_is_handed_over_when_the_window_is_open_and_not_before() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_source, mut source) = running(dir.path(), "source");
    let (_target, mut target) = process(dir.path(), "target");
    target.mandate(mandate(6, Origin::Moved(MOVE))).unwrap();
    target.prove(proof(6, PATIENCE)).unwrap();
    let (to, token) = awaiting(&mut target);
    source.leave(MOVE, request(&to, &token)).unwrap();
    until(&mut source, |source| {
        leaving(source) == Some(Leaving::AwaitsWindow)
    });
    thread::sleep(Duration::from_millis(300));
    assert_eq!(leaving(&mut source), Some(Leaving::AwaitsWindow));
    assert_eq!(state(&mut source), GuestState::Running);
    source.open_window().unwrap();
    until(&mut source, |source| {
        matches!(
            leaving(source),
            Some(Leaving::Ended {
                parting: Parting::Moved,
                ..
            })
        )
    });
    assert_eq!(state(&mut source), GuestState::Paused);
    source.prove(proof(5, PATIENCE)).unwrap();
    assert_eq!(state(&mut source), GuestState::Paused);
    until(&mut target, |target| state(target) == GuestState::Running);
    let standing = target.standing().unwrap();
    assert_eq!(standing.state, MandateState::Running);
    assert_eq!(standing.mandate.unwrap().epoch, Epoch::new(6));
}

#[test]
fn a_target_without_a_proof_never_runs_the_guest_and_the_source_does_under_a_later_epoch() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_source, mut source) = running(dir.path(), "source");
    let (_target, mut target) = process(dir.path(), "target");
    target.mandate(mandate(6, Origin::Moved(MOVE))).unwrap();
    let (to, token) = awaiting(&mut target);
    source.leave(MOVE, request(&to, &token)).unwrap();
    source.open_window().unwrap();
    until(&mut source, |source| {
        matches!(
            leaving(source),
            Some(Leaving::Ended {
                parting: Parting::NeverRan(_),
                ..
            })
        )
    });
    let standing = source.standing().unwrap();
    assert_eq!(standing.state, MandateState::Over);
    // It gave the guest up: a proof of the same epoch is worth nothing.
    source.prove(proof(5, PATIENCE)).unwrap();
    assert_eq!(state(&mut source), GuestState::Paused);
    source.mandate(mandate(7, Origin::Fresh)).unwrap();
    source.prove(proof(7, PATIENCE)).unwrap();
    assert_eq!(state(&mut source), GuestState::Running);
}
