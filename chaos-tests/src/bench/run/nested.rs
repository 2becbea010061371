//! virtio-blk and virtio-net as stock Linux sees them, in a host that is emulated.
//!
//! One guest of each VMM runs in the same emulated host; they take turns, and the
//! one whose turn it is not only waits. Emulation makes everything slow and an exit
//! cheap compared to copying, so only the ratio means something.

use std::time::Duration;

use super::super::{Aim, Bench, BenchError, Row, Samples, rounds};
use crate::nested::{self, Carried, Guest, GuestSpec, Host, HostSpec, Vmm, Work, vmm};

const LIMIT: Duration = Duration::from_secs(420);
const BOOT: Duration = Duration::from_secs(90);
const COMMAND: Duration = Duration::from_secs(60);
const SETUP: Duration = Duration::from_secs(20);
const SINK_PORT: u16 = 7003;

struct Case {
    name: &'static str,
    unit: &'static str,
    aim: Aim,
    /// Run in the guest; `NET` stands for its network.
    command: &'static str,
    /// From the line that the command ends with.
    read: fn(&str) -> Option<f64>,
}

const FASTER: Aim = Aim::AtLeastOfPeer(1.0);
const CASES: [Case; 6] = [
    Case {
        name: "nested Linux: virtio-blk write, 1 MiB direct",
        unit: "MB/s",
        aim: FASTER,
        command: "dd if=/dev/zero of=/dev/vda bs=1M count=48 oflag=direct",
        read: dd_rate,
    },
    Case {
        name: "nested Linux: virtio-blk read, 1 MiB direct",
        unit: "MB/s",
        aim: FASTER,
        command: "dd if=/dev/vda of=/dev/null bs=1M count=48 iflag=direct",
        read: dd_rate,
    },
    Case {
        name: "nested Linux: virtio-blk read, 4 KiB direct",
        unit: "MB/s",
        aim: FASTER,
        command: "dd if=/dev/vda of=/dev/null bs=4k count=500 iflag=direct",
        read: dd_rate,
    },
    Case {
        name: "nested Linux: virtio-blk write, 4 KiB direct",
        unit: "MB/s",
        aim: FASTER,
        command: "dd if=/dev/zero of=/dev/vda bs=4k count=500 oflag=direct",
        read: dd_rate,
    },
    Case {
        name: "nested Linux: virtio-net ping",
        unit: "ms",
        aim: Aim::AtMostOfPeer(1.0),
        command: "ping -q -c 40 -i 0.05 NET.1",
        read: ping_average,
    },
    Case {
        name: "nested Linux: virtio-net TCP send",
        unit: "MB/s",
        aim: FASTER,
        command: "dd if=/dev/zero bs=64k count=400 | nc -w 20 NET.1 7003",
        read: dd_rate,
    },
];

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let Some(assets) = bench.peer.as_ref().and_then(|peer| peer.assets()) else {
        eprintln!("bench: SKIPPED nested Linux: its pieces cannot be had here");
        let empty = Samples::new();
        let row = |case: &Case| {
            Row::new(case.name, case.unit, &empty, case.aim).note("skipped: no nested machine")
        };
        return Ok(CASES.iter().map(row).collect());
    };
    let mut spec = HostSpec::new("bench");
    spec.content.qemu = true;
    spec.content.programs.push(Carried {
        from: bench.godwit.clone(),
        to: vmm::GODWIT.to_owned(),
    });
    let host = Host::boot(assets, &spec)?;
    compare(bench, &host)
}

fn compare(bench: &Bench, host: &Host) -> Result<Vec<Row>, BenchError> {
    host.check(
        &format!("background sink 'nc -ll -p {SINK_PORT} -e dd of=/dev/null bs=64k'"),
        SETUP,
    )?;
    let mut godwit = Linux::boot(host, Vmm::Godwit, 1)?;
    let mut qemu = Linux::boot(host, Vmm::Qemu, 2)?;
    let mut samples = [const { [const { Samples::new() }; 2] }; CASES.len()];
    rounds(bench.repeats(2, 7), LIMIT, || {
        for (case, samples) in CASES.iter().zip(&mut samples) {
            samples[0].push(godwit.run(case)?);
            samples[1].push(qemu.run(case)?);
        }
        Ok(())
    })?;
    let row = |(case, [godwit, qemu]): (&Case, &[Samples; 2])| {
        Row::new(case.name, case.unit, godwit, case.aim).beside("QEMU q35, same host", qemu)
    };
    Ok(CASES.iter().zip(&samples).map(row).collect())
}

/// A guest with a shell on its console.
struct Linux<'host> {
    guest: Guest<'host>,
    net: String,
    commands: u32,
}

impl<'host> Linux<'host> {
    fn boot(host: &'host Host, vmm: Vmm, index: u8) -> Result<Self, BenchError> {
        let mut spec = GuestSpec::new(&format!("bench-{vmm}"), 1, Work::Shell);
        spec.index = index;
        vmm::prepare(host, &spec)?;
        let mut guest = vmm.start(host, &spec)?;
        guest.console.await_line("L2-SHELL", BOOT)?;
        let mut linux = Self {
            guest,
            net: format!("10.77.{index}"),
            commands: 0,
        };
        linux.ask("ip addr add NET.2/24 dev eth0; ip link set eth0 up")?;
        // Blocks that were never written cost both VMMs the same once and nothing later.
        linux.ask("dd if=/dev/zero of=/dev/vda bs=1M oflag=direct")?;
        Ok(linux)
    }

    fn run(&mut self, case: &Case) -> Result<f64, BenchError> {
        let answer = self.ask(case.command)?;
        (case.read)(&answer).ok_or_else(|| BenchError::Report {
            line: answer,
            key: case.unit.to_owned(),
        })
    }

    /// The last line of what `command` writes to either output.
    fn ask(&mut self, command: &str) -> Result<String, nested::HostError> {
        self.commands += 1;
        let command = command.replace("NET", &self.net);
        // The console shows what is typed; there the two halves of the mark are apart.
        let mark = format!("BENCH-{}:", self.commands);
        let typed = format!(
            "{{ {command}; }} >/tmp/said 2>&1; echo BENCH\"\"-{}: $(tail -n 1 /tmp/said)\n",
            self.commands
        );
        self.guest.console.type_text(&typed)?;
        let line = self.guest.console.await_line(&mark, COMMAND)?;
        let answer = line.split_once(&mark).map_or("", |(_, answer)| answer);
        Ok(answer.trim().to_owned())
    }
}

/// MB/s out of `50331648 bytes (48.0MB) copied, 0.812 seconds, 59.1MB/s`.
fn dd_rate(line: &str) -> Option<f64> {
    let bytes: f64 = line.split(' ').next()?.parse().ok()?;
    let seconds: f64 = line
        .split_once("copied, ")?
        .1
        .split(' ')
        .next()?
        .parse()
        .ok()?;
    (seconds > 0.0).then_some(bytes / seconds / 1e6)
}

/// The average out of `round-trip min/avg/max = 0.5/0.7/1.1 ms`.
fn ping_average(line: &str) -> Option<f64> {
    line.split_once("min/avg/max = ")?
        .1
        .split('/')
        .nth(1)?
        .parse()
        .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_of_busybox_are_understood() {
        let line = "50331648 bytes (48.0MB) copied, 0.812000 seconds, 59.1MB/s";
        assert_eq!(dd_rate(line).map(f64::round), Some(62.0));
        assert_eq!(dd_rate("dd: /dev/vda: No such file or directory"), None);
        let line = "round-trip min/avg/max = 0.512/0.733/1.101 ms";
        assert_eq!(ping_average(line), Some(0.733));
        assert_eq!(ping_average("40 packets transmitted, 0 received"), None);
    }
}
