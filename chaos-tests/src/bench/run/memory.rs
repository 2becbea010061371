//! What an idle guest costs beyond its memory.
//!
//! The proportional set size (PSS) of all mappings of the process but the guest's
//! memory, which is a memfd under both VMMs. What the kernel holds for the
//! process (page tables, KVM's structures) is in neither.

use std::time::Duration;

use super::super::guests::{BenchGuest, QemuMachine};
use super::super::{Aim, Bench, BenchError, Program, Row, Samples, overhead, rounds};
use super::{PATIENCE, image};

const LIMIT: Duration = Duration::from_secs(60);
/// From the first heartbeat to the reading.
const SETTLE: Duration = Duration::from_secs(1);

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let guest = BenchGuest::new(&image::payload(bench)?, "");
    let (mut godwit, mut qemu) = (Samples::default(), Samples::default());
    rounds(bench.repeats(2, 5), LIMIT, || {
        let program = Program::start("godwit", &mut guest.godwit(bench))?;
        godwit.push(settled(program)?);
        if let Some(peer) = &bench.peer {
            let mut command = guest.qemu(peer, QemuMachine::Microvm, "threads");
            qemu.push(settled(Program::start("QEMU", &mut command)?)?);
        }
        Ok(())
    })?;
    let row = Row::new(
        "idle memory beyond the guest's (PSS)",
        "MiB",
        &godwit,
        Aim::AtMost(12.0),
    );
    Ok(vec![row.beside(QemuMachine::Microvm.name(), &qemu)])
}

fn settled(mut program: Program) -> Result<f64, BenchError> {
    program.line("heartbeat", PATIENCE)?;
    std::thread::sleep(SETTLE);
    overhead::mib(program.pid())
}
