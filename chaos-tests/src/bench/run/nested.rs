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
/// For a shell to start, and to empty the console's input for the last time.
const SHELL: Duration = Duration::from_secs(1);
const COMMAND: Duration = Duration::from_secs(60);

struct Case {
    name: &'static str,
    unit: &'static str,
    aim: Aim,
    /// Run in the guest; `NET` stands for its network.
    command: &'static str,
    outcome: Outcome,
}

/// How a command tells its result.
enum Outcome {
    /// It does this much, in the case's unit; the time is measured.
    Amount(f64),
    /// As the average of `ping`.
    Ping,
}

const FASTER: Aim = Aim::AtLeastOfPeer(1.0);
const CASES: [Case; 7] = [
    Case {
        name: "nested Linux: virtio-blk write, 1 MiB direct",
        unit: "MiB/s",
        aim: FASTER,
        command: "for i in 1 2 3 4 5 6; do dd if=/dev/zero of=/dev/vda bs=1M count=60 oflag=direct; done",
        outcome: Outcome::Amount(360.0),
    },
    Case {
        name: "nested Linux: virtio-blk read, 1 MiB direct",
        unit: "MiB/s",
        aim: FASTER,
        command: "for i in 1 2 3 4 5 6; do dd if=/dev/vda of=/dev/null bs=1M count=60 iflag=direct; done",
        outcome: Outcome::Amount(360.0),
    },
    Case {
        name: "nested Linux: virtio-blk read, 4 KiB direct, one at a time",
        unit: "IOPS",
        aim: FASTER,
        command: "dd if=/dev/vda of=/dev/null bs=4k count=1000 iflag=direct",
        outcome: Outcome::Amount(1000.0),
    },
    Case {
        name: "nested Linux: virtio-blk write, 4 KiB direct, one at a time",
        unit: "IOPS",
        aim: FASTER,
        command: "dd if=/dev/zero of=/dev/vda bs=4k count=1000 oflag=direct",
        outcome: Outcome::Amount(1000.0),
    },
    Case {
        name: "nested Linux: virtio-net ping",
        unit: "ms",
        aim: Aim::AtMostOfPeer(1.0),
        command: "ping -q -c 40 -i 0.05 NET.1",
        outcome: Outcome::Ping,
    },
    Case {
        name: "nested Linux: virtio-net TCP send",
        unit: "MiB/s",
        aim: FASTER,
        command: "dd if=/dev/zero bs=64k count=128 | nc -w 30 NET.1 7001",
        outcome: Outcome::Amount(8.0),
    },
    Case {
        name: "nested Linux: virtio-net TCP receive",
        unit: "MiB/s",
        aim: FASTER,
        command: "for i in 1 2 3 4 5 6 7 8; do wget -q -O /dev/null http://NET.1:7002/blob; done",
        outcome: Outcome::Amount(16.0),
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
    // Among them one that takes what is sent to it (and answers with its checksum).
    vmm::start_peer_services(host)?;
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
        // A shell that edits lines forgets what is typed while it sets up the console for that.
        guest.console.type_text("sh | cat\n")?;
        std::thread::sleep(host.scaled(SHELL));
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
        let uptime = "cut -d' ' -f1 /proc/uptime";
        let command = case.command;
        let timed = format!("t=$({uptime}); {command}; echo $t $({uptime})");
        let (answer, value) = match case.outcome {
            Outcome::Amount(amount) => {
                let answer = self.ask(&timed)?;
                let seconds = elapsed_seconds(&answer);
                (answer, seconds.map(|seconds| amount / seconds))
            }
            Outcome::Ping => {
                let answer = self.ask(command)?;
                let average = ping_average(&answer);
                (answer, average)
            }
        };
        value.ok_or_else(|| BenchError::Report {
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

/// The seconds between two readings of the guest's clock, which ticks a hundred times a second.
fn elapsed_seconds(line: &str) -> Option<f64> {
    let (begin, end) = line.split_once(' ')?;
    let seconds = end.parse::<f64>().ok()? - begin.parse::<f64>().ok()?;
    (seconds > 0.0).then_some(seconds)
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
        assert_eq!(elapsed_seconds("12.25 13.50"), Some(1.25));
        assert_eq!(elapsed_seconds("dd: /dev/vda: No such file"), None);
        assert_eq!(elapsed_seconds("2.00 2.00"), None);
        let line = "round-trip min/avg/max = 0.512/0.733/1.101 ms";
        assert_eq!(ping_average(line), Some(0.733));
        assert_eq!(ping_average("40 packets transmitted, 0 received"), None);
    }
}
