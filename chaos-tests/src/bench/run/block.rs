//! virtio-blk as the built-in guest sees it.
//!
//! Both VMMs use the same file through the page cache, which holds all of it, so
//! the device model is measured and no disk. QEMU gets an I/O thread, and the better of
//! its two ways to do I/O counts. It needs its default firmware, which sets up PCI.

use std::time::Duration;

use super::super::guests::{BenchGuest, QemuMachine};
use super::super::program::number;
use super::super::{Aim, Bench, BenchError, Program, Row, Samples, rounds};
use super::snapshot::Scratch;
use super::{PATIENCE, image};

const DISK_MIB: u64 = 256;
const LIMIT: Duration = Duration::from_secs(60);
const AIO: [&str; 2] = ["threads", "io_uring"];

struct Case {
    name: &'static str,
    options: &'static str,
    unit: &'static str,
}

const CASES: [Case; 4] = [
    Case {
        name: "virtio-blk sequential read, 128 KiB, depth 32",
        options: "op:read,block:131072,depth:32",
        unit: "MB/s",
    },
    Case {
        name: "virtio-blk sequential write, 128 KiB, depth 32",
        options: "op:write,block:131072,depth:32",
        unit: "MB/s",
    },
    Case {
        name: "virtio-blk random read, 4 KiB, depth 32",
        options: "op:randread,block:4096,depth:32",
        unit: "IOPS",
    },
    Case {
        name: "virtio-blk random read, 4 KiB, depth 1",
        options: "op:randread,block:4096,depth:1",
        unit: "IOPS",
    },
];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let disk = Scratch::random_in(bench.folder.path(), DISK_MIB)?;
    let kernel = image::payload(bench)?;
    let duration_ms = bench.repeats(500, 1000);
    let mut rows = Vec::new();
    for case in &CASES {
        let cmdline = format!(
            "heartbeat=1000 blk-bench=0,{},for:{duration_ms} end=poweroff",
            case.options
        );
        let mut guest = BenchGuest::new(&kernel, &cmdline);
        guest.disk = Some(disk.0.clone());
        let (mut godwit, mut qemu) = (Samples::new(), [const { Samples::new() }; 2]);
        rounds(bench.repeats(2, 7), LIMIT, || {
            let program = Program::start("godwit", &mut guest.godwit(bench))?;
            godwit.push(result(program, case.unit)?);
            if let Some(peer) = &bench.peer {
                for (samples, aio) in qemu.iter_mut().zip(AIO) {
                    let mut command = guest.qemu(peer, QemuMachine::Q35SeaBios, aio);
                    let program = Program::start("QEMU", &mut command)?;
                    samples.push(result(program, case.unit)?);
                }
            }
            Ok(())
        })?;
        let by_median = |one: &usize, two: &usize| {
            let median = |index: usize| qemu[index].median().unwrap_or(0.0);
            median(*one).total_cmp(&median(*two))
        };
        let best = (0..AIO.len()).max_by(by_median).unwrap_or(0);
        rows.push(
            Row::new(case.name, case.unit, &godwit, Aim::AtLeastOfPeer(1.0))
                .beside(format!("QEMU q35, aio={}", AIO[best]), &qemu[best]),
        );
    }
    Ok(rows)
}

fn result(mut program: Program, unit: &str) -> Result<f64, BenchError> {
    let (_, line) = program.line("blk-bench", PATIENCE)?;
    if number(&line, "errors")? != 0.0 {
        return Err(BenchError::Report {
            line,
            key: "errors=0".to_owned(),
        });
    }
    let rate = number(&line, "iops")?;
    Ok(match unit {
        "IOPS" => rate,
        _ => rate * number(&line, "block")? / 1e6,
    })
}
