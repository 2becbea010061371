//! The control protocol of a guest process.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use godwit_node::guest_process::client::{Client, ClientError};
use godwit_node::guest_process::spawn::{GuestProcess, SpawnError};
use godwit_proto::codes::ErrorCode;
use godwit_proto::frame::{self, FrameKind};
use godwit_proto::guest::{BootSpec, GuestSpec, HugePages, Kernel, MemorySpec, SerialSpec};
use godwit_proto::process::{ConsoleKind, ExitReason, GuestState, Overrides, Request, VERSIONS};
use godwit_proto::version::VersionRange;

use crate::support::{GODWIT, PATIENCE, field, godwit, has_kvm, names};

fn spec() -> GuestSpec {
    GuestSpec {
        name: "test".into(),
        vcpus: 1,
        memory: MemorySpec {
            size_bytes: 32 << 20,
            huge_pages: HugePages::None,
        },
        cpu_profile: "host".into(),
        boot: BootSpec {
            kernel: Kernel::BuiltIn,
            initrd: None,
            cmdline: None,
        },
        serial: SerialSpec::Null,
        disks: Vec::new(),
        nets: Vec::new(),
        rng: true,
        console: None,
    }
}

fn process(dir: &Path) -> GuestProcess {
    let process = GuestProcess::spawn(Path::new(GODWIT), dir);
    process.unwrap().kill_on_drop(true)
}

fn refused<T: std::fmt::Debug>(result: Result<T, ClientError>, code: ErrorCode) {
    match result {
        Err(ClientError::Refused(error)) => assert_eq!(error.code(), code, "{error}"),
        other => panic!("{other:?} in place of {code:?}"),
    }
}

fn exit_code(mut process: GuestProcess) -> Option<i32> {
    let status = process.wait(PATIENCE).unwrap().expect("it ends");
    status.expect("it is our child").code()
}

/// The next heartbeat on a console.
fn heartbeat(stream: &mut UnixStream, text: &mut Vec<u8>) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    loop {
        if let Some(end) = text.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = text.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            if line.starts_with("heartbeat") {
                return line;
            }
            continue;
        }
        let mut chunk = [0; 4096];
        let length = stream.read(&mut chunk).unwrap();
        assert!(length > 0, "the console ended");
        text.extend_from_slice(&chunk[..length]);
    }
}

#[test]
fn a_guest_lives_from_create_to_stop() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let process = process(dir.path());
    let mut client = process.client().unwrap();
    refused(client.stats(), ErrorCode::WrongState);
    client.create(&spec()).unwrap();
    assert_eq!(client.stats().unwrap().state, GuestState::Created);
    refused(client.create(&spec()), ErrorCode::WrongState);
    refused(client.pause(), ErrorCode::WrongState);
    client.start().unwrap();
    refused(client.start(), ErrorCode::WrongState);
    refused(client.save(), ErrorCode::WrongState);
    client.pause().unwrap();
    let paused = client.stats().unwrap();
    assert_eq!(paused.state, GuestState::Paused);
    assert!(client.save().unwrap().starts_with(b"GODWIT"));
    assert_eq!(
        client.stats().unwrap().vcpus,
        paused.vcpus,
        "a paused guest does not run"
    );
    client.resume().unwrap();
    client.press_power_button().unwrap();
    client.reset().unwrap();
    assert_eq!(client.stats().unwrap().state, GuestState::Running);
    assert_eq!(client.stop().unwrap(), ExitReason::Stopped);
    assert_eq!(exit_code(process), Some(0));
    assert_eq!(names(dir.path()), ["guest.log"], "the socket is gone");
}

#[test]
fn a_create_that_fails_leaves_room_for_another() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let process = process(dir.path());
    let mut client = process.client().unwrap();
    let bad = GuestSpec { vcpus: 0, ..spec() };
    refused(client.create(&bad), ErrorCode::ConfigInvalid);
    let serial = dir.path().join("new.log").to_str().unwrap().to_owned();
    let bad = GuestSpec {
        serial: SerialSpec::File(serial),
        cpu_profile: "none".into(),
        ..spec()
    };
    refused(client.create(&bad), ErrorCode::ConfigInvalid);
    assert_eq!(names(dir.path()), ["guest.log", "guest.sock"]);
    client.create(&spec()).unwrap();
    client.stop().unwrap();
}

#[test]
fn every_client_hears_of_the_end_and_the_process_has_its_exit_code() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let process = process(dir.path());
    let mut first = process.client().unwrap();
    let second = process.client().unwrap();
    let mut crashing = spec();
    crashing.boot.cmdline = Some("for=200 end=triple-fault".into());
    first.create(&crashing).unwrap();
    first.start().unwrap();
    for client in [first, second] {
        let reason = client.wait_exit(PATIENCE).unwrap();
        let ExitReason::TripleFault { vcpu: 0, registers } = reason else {
            panic!("{reason:?}");
        };
        assert!(registers.contains("rip="), "{registers}");
    }
    assert_eq!(exit_code(process), Some(20));
}

#[test]
fn a_restored_guest_continues_its_heartbeat() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let process_a = process(dir.path());
    let mut client = process_a.client().unwrap();
    client.create(&spec()).unwrap();
    let console = process_a
        .client()
        .unwrap()
        .attach_console(ConsoleKind::Serial)
        .unwrap();
    client.start().unwrap();
    let (mut stream, mut text) = (console.stream, console.received);
    heartbeat(&mut stream, &mut text);
    heartbeat(&mut stream, &mut text);
    client.pause().unwrap();
    let snap = dir.path().join("snap").to_str().unwrap().to_owned();
    client.snapshot(&snap).unwrap();
    refused(client.snapshot(&snap), ErrorCode::SnapshotWrite);
    client.resume().unwrap();
    let last = heartbeat(&mut stream, &mut text);
    client.stop().unwrap();

    let other = tempfile::tempdir().unwrap();
    let process_b = process(other.path());
    let mut client = process_b.client().unwrap();
    client.restore(&snap, true, Overrides::default()).unwrap();
    let console = process_b
        .client()
        .unwrap()
        .attach_console(ConsoleKind::Serial)
        .unwrap();
    client.resume().unwrap();
    let (mut stream, mut text) = (console.stream, console.received);
    let first = heartbeat(&mut stream, &mut text);
    let second = heartbeat(&mut stream, &mut text);
    assert_eq!(
        field(&first, "seq"),
        field(&last, "seq"),
        "{first} after {last}"
    );
    assert_eq!(field(&second, "seq"), field(&first, "seq") + 1);
    assert!(field(&second, "time_ns") > field(&first, "time_ns"));
    client.stop().unwrap();
}

#[test]
fn hostile_clients_are_let_go_and_hurt_nobody() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let process = process(dir.path());
    let mut good = process.client().unwrap();
    good.create(&spec()).unwrap();
    good.start().unwrap();
    let hello = frame::encode_hello(VERSIONS);
    let stats = Request::Stats.to_frame(1).unwrap();
    let mut flipped = stats.clone();
    *flipped.last_mut().unwrap() ^= 1;
    let mut oversized = stats[..24].to_vec();
    oversized[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    let crc = crc32c::crc32c(&oversized[..20]);
    oversized[20..24].copy_from_slice(&crc.to_le_bytes());
    let newer = frame::encode_hello(VersionRange::new(900, 901).unwrap());
    let response = frame::encode(FrameKind::Response, 1, b"", 4).unwrap();
    let cases: [(&str, Vec<u8>); 7] = [
        ("garbage", vec![0xa5; 4096]),
        ("a request before hello", stats.clone()),
        ("a wrong version", newer),
        ("a damaged request", [&hello[..], &flipped].concat()),
        ("an oversized request", [&hello[..], &oversized].concat()),
        ("a response", [&hello[..], &response].concat()),
        ("hello twice", [&hello[..], &hello].concat()),
    ];
    for (what, bytes) in cases {
        let mut stream = UnixStream::connect(process.socket()).unwrap();
        stream.write_all(&bytes).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut answer = Vec::new();
        // A reset in place of an end: our bytes were not even read.
        let ended = stream.read_to_end(&mut answer);
        let reset = ended
            .as_ref()
            .is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
        assert!(ended.is_ok() || reset, "{what}: {ended:?}");
        assert!(answer.starts_with(b"GDWF"), "{what}: it is told why");
        assert_eq!(good.stats().unwrap().state, GuestState::Running, "{what}");
    }
    // Clients that stop halfway, and one that leaves without its answer.
    let mut halfway = UnixStream::connect(process.socket()).unwrap();
    halfway.write_all(&stats[..10]).unwrap();
    for bytes in [
        [&hello[..], &stats[..30]].concat(),
        [&hello[..], &stats].concat(),
    ] {
        let mut stream = UnixStream::connect(process.socket()).unwrap();
        stream.write_all(&bytes).unwrap();
    }
    assert_eq!(good.stats().unwrap().state, GuestState::Running);
    good.stop().unwrap();
    assert_eq!(
        exit_code(process),
        Some(0),
        "also with a client halfway in a frame"
    );
}

#[test]
fn a_bounded_number_of_clients_is_served() {
    let dir = tempfile::tempdir().unwrap();
    let process = process(dir.path());
    let mut clients: Vec<Client> = (0..16).map(|_| process.client().unwrap()).collect();
    let mut late = process.client().unwrap();
    let refusal = late.stats().unwrap_err();
    assert!(refusal.to_string().contains("16 clients"), "{refusal}");
    clients.pop();
    let deadline = std::time::Instant::now() + PATIENCE;
    while !matches!(
        process.client().and_then(|mut client| client.stats()),
        Err(ClientError::Refused(error)) if error.code() == ErrorCode::WrongState
    ) {
        assert!(
            std::time::Instant::now() < deadline,
            "a place is free again"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_client_that_is_killed_leaves_the_guest_alone() {
    if !has_kvm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let process = process(dir.path());
    let mut client = process.client().unwrap();
    client.create(&spec()).unwrap();
    client.start().unwrap();
    let socket = process.socket().to_str().unwrap();
    let mut other = std::process::Command::new(GODWIT)
        .args(["vmm-ctl", "--socket", socket, "console"])
        .stdout(std::process::Stdio::null())
        .stdin(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(200));
    other.kill().unwrap();
    other.wait().unwrap();
    assert_eq!(client.stats().unwrap().state, GuestState::Running);
    client.stop().unwrap();
}

#[test]
fn a_process_is_found_again_through_its_socket() {
    let dir = tempfile::tempdir().unwrap();
    let process = process(dir.path());
    let adopted = GuestProcess::adopt(process.socket()).unwrap();
    assert_eq!(adopted.pid(), process.pid());
    let second = GuestProcess::spawn(Path::new(GODWIT), dir.path());
    let Err(SpawnError::Ended { said, .. }) = second else {
        panic!("{second:?}");
    };
    assert!(said.contains("another process listens"), "{said}");
    process.client().unwrap().stop().unwrap();
    assert_eq!(exit_code(process), Some(0));
}

#[test]
fn a_process_that_nobody_wants_ends() {
    let dir = tempfile::tempdir().unwrap();
    let ended = godwit(dir.path(), &["vmm", "--socket", "g.sock", "--idle", "0"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("nobody wanted a guest"),
        "{}",
        ended.stderr
    );
    assert!(names(dir.path()).is_empty());
}
