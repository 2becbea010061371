//! virtio-net as the built-in guest sees it, on a tap in a network namespace of its own.
//!
//! The namespace belongs to a sleeping process and goes with it. This process
//! enters it with one thread, from which the VMMs are started as well. QEMU has no
//! vhost, which Godwit does not use either, and its default firmware.

use std::fs::File;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::super::guests::{BenchGuest, QemuMachine};
use super::super::program::number;
use super::super::{Aim, Bench, BenchError, Program, Row, Samples, rounds};
use super::{PATIENCE, image};
use crate::nested::external;

const LIMIT: Duration = Duration::from_secs(90);
const SETUP: Duration = Duration::from_secs(10);
const NAMESPACE_SECONDS: &str = "900";
const TAP: &str = "tap0";
const HOST: &str = "10.0.2.2";
const GUEST_ECHO: &str = "10.0.2.15:7";
const DISCARD: u16 = 9;
/// An answer that takes longer is lost.
const ECHO_LIMIT: Duration = Duration::from_secs(2);
const ECHO_BYTES: usize = 64;
/// Answers that are not measured: addresses are looked up meanwhile.
const WARM_UP: usize = 50;

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let result = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let _namespace = enter_namespace()?;
            let rows = [transmit(bench)?, echo(bench)?];
            Ok(rows.concat())
        });
        thread.join()
    });
    result.expect("measuring does not panic")
}

/// Moves this thread into a new network namespace with a tap.
fn enter_namespace() -> Result<Program, BenchError> {
    let mut sleep = Command::new("unshare");
    // It says something as soon as it is in its namespace.
    let script = format!("echo; exec sleep {NAMESPACE_SECONDS}");
    sleep.args(["--net", "sh", "-c", &script]);
    let mut owner = Program::start("unshare", &mut sleep)?;
    owner.first_byte(SETUP)?;
    let path = format!("/proc/{}/ns/net", owner.pid());
    let entered = File::open(&path).and_then(|namespace| {
        let kind = Some(LinkNameSpaceType::Network);
        Ok(move_into_link_name_space(namespace.as_fd(), kind)?)
    });
    entered.map_err(|source| BenchError::System {
        doing: format!("enter {path}"),
        source,
    })?;
    for command in [
        "link set lo up".to_owned(),
        format!("tuntap add {TAP} mode tap"),
        format!("address add {HOST}/24 dev {TAP}"),
        format!("link set {TAP} up"),
    ] {
        external::run(Command::new("ip").args(command.split(' ')), SETUP)?;
    }
    Ok(owner)
}

fn both(
    bench: &Bench,
    cmdline: &str,
    repeats: usize,
    mut measure: impl FnMut(Program) -> Result<f64, BenchError>,
) -> Result<(Samples, Samples), BenchError> {
    let mut guest = BenchGuest::new(&image::payload(bench)?, cmdline);
    guest.tap = Some(TAP.to_owned());
    let (mut godwit, mut qemu) = (Samples::new(), Samples::new());
    rounds(repeats, LIMIT, || {
        godwit.push(measure(Program::start(
            "godwit",
            &mut guest.godwit(bench),
        )?)?);
        if let Some(peer) = &bench.peer {
            let mut command = guest.qemu(peer, QemuMachine::Q35SeaBios, "threads");
            qemu.push(measure(Program::start("QEMU", &mut command)?)?);
        }
        Ok(())
    })?;
    Ok((godwit, qemu))
}

/// Datagrams that the guest sends as fast as it can, to a socket that is not read.
fn transmit(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let _ear = bind(DISCARD)?;
    let duration_ms = bench.repeats(500, 1000);
    let mut rows = Vec::new();
    for size in [1472, 64] {
        let cmdline = format!(
            "heartbeat=1000 net-bench=0,to:{HOST},port:{DISCARD},size:{size},for:{duration_ms} \
             end=poweroff"
        );
        let (godwit, qemu) = both(bench, &cmdline, bench.repeats(2, 7), |mut program| {
            let (_, line) = program.line("net-bench", PATIENCE)?;
            number(&line, "pps")
        })?;
        let what = format!("virtio-net transmit, {size}-byte datagrams");
        rows.push(
            Row::new(what, "packets/s", &godwit, Aim::AtLeastOfPeer(1.0))
                .beside("QEMU q35, tap without vhost", &qemu),
        );
    }
    Ok(rows)
}

/// A datagram to the guest and back: the median of many, for each start of a guest.
fn echo(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let socket = bind(0)?;
    let rounds = bench.repeats(500, 2000);
    let cmdline = "heartbeat=1000 net=0";
    let (godwit, qemu) = both(bench, cmdline, bench.repeats(2, 7), |mut program| {
        program.line("net ip=", PATIENCE)?;
        round_trip_us(&socket, rounds)
    })?;
    let what = "virtio-net round trip, UDP echo";
    let row = Row::new(what, "us", &godwit, Aim::AtMostOfPeer(1.0));
    Ok(vec![row.beside("QEMU q35, tap without vhost", &qemu)])
}

fn bind(port: u16) -> Result<UdpSocket, BenchError> {
    UdpSocket::bind((HOST, port))
        .and_then(|socket| {
            socket.set_read_timeout(Some(ECHO_LIMIT))?;
            Ok(socket)
        })
        .map_err(failed("make a socket"))
}

fn round_trip_us(socket: &UdpSocket, count: usize) -> Result<f64, BenchError> {
    let mut times = Samples::new();
    let mut answer = [0; ECHO_BYTES];
    for number in 0..count + WARM_UP {
        let mut question = [0; ECHO_BYTES];
        question[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let begin = Instant::now();
        socket
            .send_to(&question, GUEST_ECHO)
            .map_err(failed("send to the guest"))?;
        // An answer that comes late belongs to an earlier question.
        while socket.recv(&mut answer).map_err(failed("hear the guest"))? != ECHO_BYTES
            || answer != question
        {}
        if number >= WARM_UP {
            times.push(begin.elapsed().as_secs_f64() * 1e6);
        }
    }
    Ok(times.median().expect("at least one was taken"))
}

fn failed(doing: &str) -> impl Fn(std::io::Error) -> BenchError {
    let doing = doing.to_owned();
    move |source| BenchError::System {
        doing: doing.clone(),
        source,
    }
}
