//! From the start of the process to the guest's first instruction, and to its first heartbeat.
//!
//! Both VMMs start the same ELF by its PVH entry. The first is a kernel whose first
//! instructions write a byte to the serial port: the byte's arrival in this
//! process, less the moment before the VMM was started, is what is measured.

use std::process::Command;
use std::time::Duration;

use super::super::guests::{BenchGuest, QemuMachine};
use super::super::{Aim, Bench, BenchError, Program, Row, Samples, rounds};
use super::{PATIENCE, image};

const LIMIT: Duration = Duration::from_secs(120);
/// QEMU's default firmware takes seconds where guest CPL0 is emulated.
const SLOW_LIMIT: Duration = Duration::from_secs(40);
const AIM: Aim = Aim::AtMostOfPeer(0.2);
const AIO: &str = "threads";

#[derive(Clone, Copy)]
enum Mark {
    Instruction,
    Heartbeat,
}

impl Mark {
    fn name(self) -> &'static str {
        match self {
            Self::Instruction => "process start to first guest instruction",
            Self::Heartbeat => "process start to first heartbeat",
        }
    }
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let fast = [QemuMachine::Microvm, QemuMachine::Q35];
    let slow = [QemuMachine::Q35SeaBios];
    let mut rows = Vec::new();
    for (mark, kernel) in [
        (Mark::Instruction, image::spark(bench)?),
        (Mark::Heartbeat, image::payload(bench)?),
    ] {
        let guest = BenchGuest::new(&kernel, "");
        let many = bench.repeats(7, 25);
        rows.extend(compare(bench, mark, &guest, &fast, many, LIMIT)?);
        let few = bench.repeats(1, 3);
        let rest = compare(bench, mark, &guest, &slow, few, SLOW_LIMIT)?;
        rows.extend(rest.into_iter().filter(|row| row.peer.is_some()));
    }
    Ok(rows)
}

fn compare(
    bench: &Bench,
    mark: Mark,
    guest: &BenchGuest,
    machines: &[QemuMachine],
    repeats: usize,
    limit: Duration,
) -> Result<Vec<Row>, BenchError> {
    let mut godwit = Samples::default();
    let mut qemu = vec![Samples::default(); machines.len()];
    rounds(repeats, limit, || {
        godwit.push_ms(time("godwit", &mut guest.godwit(bench), mark)?);
        if let Some(peer) = &bench.peer {
            for (samples, machine) in qemu.iter_mut().zip(machines) {
                let mut command = guest.qemu(peer, *machine, AIO);
                samples.push_ms(time(machine.name(), &mut command, mark)?);
            }
        }
        Ok(())
    })?;
    let row = |(machine, samples): (&QemuMachine, &Samples)| {
        Row::new(mark.name(), "ms", &godwit, AIM).beside(machine.name(), samples)
    };
    Ok(machines.iter().zip(&qemu).map(row).collect())
}

fn time(name: &str, command: &mut Command, mark: Mark) -> Result<Duration, BenchError> {
    let mut program = Program::start(name, command)?;
    match mark {
        Mark::Instruction => program.first_byte(PATIENCE),
        Mark::Heartbeat => program.line("heartbeat", PATIENCE).map(|(at, _)| at),
    }
}
