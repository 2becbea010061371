//! Pause, save and restore of state at four vCPUs, idle and busy.
//!
//! Godwit's guest runs in this process, as in a guest process, so what is timed is
//! the call. QEMU's pause is the round trip of `stop` on its control socket, which
//! adds some tens of microseconds. QEMU has no call that saves or restores state
//! without memory and files around it: nothing is put beside those.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use godwit_proto::guest::{BootSpec, GuestSpec, HugePages, Kernel, MemorySpec, SerialSpec};
use godwit_vmm::devices::terminal::Sink;
use godwit_vmm::guest::{Attachments, Guest, RestoreOptions};
use serde_json::json;

use super::super::guests::{BenchGuest, QemuMachine};
use super::super::qmp::Qmp;
use super::super::{Aim, Bench, BenchError, Program, Row, Samples, rounds};
use super::{PATIENCE, image};

const VCPUS: u32 = 4;
const MEMORY_MIB: u64 = 64;
const LIMIT: Duration = Duration::from_secs(45);
/// Between two pauses, so that the guest is at its work again.
const RUN: Duration = Duration::from_millis(15);
const IDLE: &str = "heartbeat=100";
const BUSY: &str = "heartbeat=100 dirty=16M,cpu:all";

/// A guest's load, by the line that shows that it is under way.
struct Load {
    name: &'static str,
    cmdline: &'static str,
    sign: &'static str,
}

const LOADS: [Load; 2] = [
    Load {
        name: "idle",
        cmdline: IDLE,
        sign: "smp online=4",
    },
    Load {
        name: "busy",
        cmdline: BUSY,
        sign: "dirty id=",
    },
];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let mut rows = Vec::new();
    for load in &LOADS {
        rows.extend(under(bench, load)?);
    }
    Ok(rows)
}

fn under(bench: &Bench, load: &Load) -> Result<Vec<Row>, BenchError> {
    let folder = bench.file(&format!("paused-{}", load.name));
    let (output, lines) = channel();
    let guest = Guest::build(&spec(load.cmdline), attachments(output))?;
    guest.resume()?;
    await_line(&lines, load.sign)?;
    let mut peer = QemuGuest::start(bench, load)?;

    let [
        mut pauses,
        mut peer_pauses,
        mut saves,
        mut restores,
        mut whole,
    ] = [const { Samples::new() }; 5];
    rounds(bench.repeats(15, 60), LIMIT, || {
        let begin = Instant::now();
        guest.pause()?;
        pauses.push_ms(begin.elapsed());
        let begin = Instant::now();
        guest.save()?;
        saves.push_ms(begin.elapsed());
        // The other VMM's guest must not compete with a busy one here.
        if let Some(peer) = &mut peer {
            peer_pauses.push_ms(peer.pause()?);
        }
        guest.resume()?;
        std::thread::sleep(RUN);
        Ok(())
    })?;
    drop(peer);
    guest.pause()?;
    guest.snapshot(&folder)?;
    drop(guest);
    rounds(bench.repeats(5, 20), LIMIT, || {
        let (state, all) = restore(&folder)?;
        restores.push_ms(state);
        whole.push_ms(all);
        Ok(())
    })?;

    let name = |what: &str| format!("{what}, {VCPUS} vCPUs, {}", load.name);
    Ok(vec![
        Row::new(name("pause"), "ms", &pauses, Aim::AtMost(1.0))
            .beside("QEMU microvm, QMP stop", &peer_pauses),
        Row::new(name("save state"), "ms", &saves, Aim::AtMost(2.0)),
        Row::new(name("restore state"), "ms", &restores, Aim::AtMost(2.0)),
        Row::new(
            name("build machine and restore it, 64 MiB read"),
            "ms",
            &whole,
            Aim::Nothing,
        ),
    ])
}

fn restore(folder: &Path) -> Result<(Duration, Duration), BenchError> {
    let begin = Instant::now();
    let guest = Guest::restore(folder, &RestoreOptions::default(), Attachments::default())?;
    let all = begin.elapsed();
    let state = guest.state_restore_time().expect("it was just restored");
    Ok((state, all))
}

fn spec(cmdline: &str) -> GuestSpec {
    GuestSpec {
        name: "bench".to_owned(),
        vcpus: VCPUS,
        memory: MemorySpec {
            size_bytes: MEMORY_MIB << 20,
            huge_pages: HugePages::None,
        },
        cpu_profile: "host".to_owned(),
        boot: BootSpec {
            kernel: Kernel::BuiltIn,
            initrd: None,
            cmdline: Some(cmdline.to_owned()),
        },
        serial: SerialSpec::Null,
        disks: Vec::new(),
        nets: Vec::new(),
        rng: true,
        console: None,
    }
}

/// The guest's serial output in this process.
struct Output(Sender<Vec<u8>>);

impl Sink for Output {
    fn write(&mut self, bytes: &[u8]) {
        // Nobody listens any more once the guest is under way.
        let _ = self.0.send(bytes.to_vec());
    }
}

fn attachments(output: Sender<Vec<u8>>) -> Attachments {
    Attachments {
        serial: Box::new(Output(output)),
        ..Attachments::default()
    }
}

fn await_line(output: &Receiver<Vec<u8>>, sign: &str) -> Result<(), BenchError> {
    let deadline = Instant::now() + PATIENCE;
    let mut text = String::new();
    while !text.contains(sign) {
        let left = deadline.saturating_duration_since(Instant::now());
        match output.recv_timeout(left) {
            Ok(bytes) => text.push_str(&String::from_utf8_lossy(&bytes)),
            Err(_) => {
                return Err(BenchError::NotSeen {
                    program: "the guest".to_owned(),
                    expected: sign.to_owned(),
                    said: text,
                });
            }
        }
    }
    Ok(())
}

/// The same guest under QEMU, paused whenever it is not measured.
struct QemuGuest {
    qmp: Qmp,
    _program: Program,
}

impl QemuGuest {
    fn start(bench: &Bench, load: &Load) -> Result<Option<Self>, BenchError> {
        let Some(peer) = &bench.peer else {
            return Ok(None);
        };
        let socket = bench.file(&format!("qmp-{}", load.name));
        let mut guest = BenchGuest::new(&image::payload(bench)?, load.cmdline);
        guest.cpus = VCPUS;
        guest.memory_mib = MEMORY_MIB;
        let mut command = guest.qemu(peer, QemuMachine::Microvm, "threads");
        let server = format!("unix:{},server=on,wait=off", socket.display());
        let mut program = Program::start("QEMU", command.args(["-qmp", &server]))?;
        program.line(load.sign, PATIENCE)?;
        let mut qmp = Qmp::connect(&socket)?;
        qmp.run("stop", &json!({}))?;
        Ok(Some(Self {
            qmp,
            _program: program,
        }))
    }

    fn pause(&mut self) -> Result<Duration, BenchError> {
        self.qmp.run("cont", &json!({}))?;
        std::thread::sleep(RUN);
        let begin = Instant::now();
        self.qmp.run("stop", &json!({}))?;
        Ok(begin.elapsed())
    }
}
