//! A TCP connection that would notice: both ends send numbered records without pause, and check that
//! every record of the other end comes once, whole and in order.
//!
//! `numbered listen PORT` takes one connection, `numbered connect ADDRESS:PORT STOP-FILE` makes it.
//! They go on until the file is there at the connecting end, then each sends what it has begun and
//! waits for all that the other has sent. There is no second try: a connection that breaks is a
//! failure. Each second, and at the end, a line says how it goes:
//!
//! ```text
//! NUMBERED sent=1200 received=1198 gap_max_ms=12
//! NUMBERED done sent=1300 received=1300 gap_max_ms=12
//! ```
//!
//! It is carried into machines that have little else, so it uses nothing but the standard library.

use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const RECORD_BYTES: usize = 512;
/// Between two records; the pace is that of an interactive service, not of a copy.
const PAUSE: Duration = Duration::from_millis(5);
/// A connection on which nothing moves for so long is lost.
const SILENCE: Duration = Duration::from_secs(120);
const REPORT: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["listen", port] => listen(port),
        ["connect", address, stop_file] => connect(address, Path::new(stop_file)),
        _ => Err("usage: numbered listen PORT | numbered connect ADDRESS:PORT STOP-FILE".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("NUMBERED failed: {error}");
            ExitCode::FAILURE
        }
    }
}

fn listen(port: &str) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port.parse()?))?;
    let (stream, _) = listener.accept()?;
    let ends = Ends::default();
    ends.run(&stream, || ends.other_is_done.load(Ordering::Acquire))
}

fn connect(address: &str, stop_file: &Path) -> Result<(), Box<dyn Error>> {
    let stream = TcpStream::connect(address)?;
    Ends::default().run(&stream, || stop_file.exists())
}

/// What both threads of one end share.
#[derive(Default)]
struct Ends {
    sent: AtomicU64,
    received: AtomicU64,
    gap_max_ms: AtomicU64,
    other_is_done: AtomicBool,
}

impl Ends {
    fn run(
        &self,
        stream: &TcpStream,
        is_over: impl Fn() -> bool + Sync,
    ) -> Result<(), Box<dyn Error>> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let (sent, received) = thread::scope(|scope| {
            let receiver = scope.spawn(|| failing_both(stream, self.receive(stream)));
            let sent = failing_both(stream, self.send(stream, &is_over));
            (sent, receiver.join())
        });
        sent?;
        received.map_err(|_| "the receiving thread panicked")??;
        println!("NUMBERED done {}", self.report());
        Ok(())
    }

    fn send(&self, mut stream: &TcpStream, is_over: &dyn Fn() -> bool) -> io::Result<()> {
        let mut reported = Instant::now();
        for number in 0.. {
            if is_over() {
                break;
            }
            stream.write_all(&record(number))?;
            self.sent.store(number + 1, Ordering::Release);
            if reported.elapsed() >= REPORT {
                reported = Instant::now();
                println!("NUMBERED {}", self.report());
            }
            thread::sleep(PAUSE);
        }
        stream.shutdown(Shutdown::Write)
    }

    fn receive(&self, mut stream: &TcpStream) -> io::Result<()> {
        let mut bytes = [0; RECORD_BYTES];
        let mut last = None;
        for number in 0.. {
            if !read_record(&mut stream, &mut bytes)? {
                break;
            }
            if bytes != record(number) {
                let found = u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
                let text = format!("record {number} came as number {found}, or damaged");
                return Err(io::Error::new(ErrorKind::InvalidData, text));
            }
            self.received.store(number + 1, Ordering::Release);
            let now = Instant::now();
            let gap = last.replace(now).map_or(Duration::ZERO, |last| now - last);
            self.gap_max_ms
                .fetch_max(gap.as_millis() as u64, Ordering::AcqRel);
        }
        self.other_is_done.store(true, Ordering::Release);
        Ok(())
    }

    fn report(&self) -> String {
        format!(
            "sent={} received={} gap_max_ms={}",
            self.sent.load(Ordering::Acquire),
            self.received.load(Ordering::Acquire),
            self.gap_max_ms.load(Ordering::Acquire),
        )
    }
}

/// A direction that fails ends the other one, too.
fn failing_both(stream: &TcpStream, result: io::Result<()>) -> io::Result<()> {
    result.inspect_err(|_| {
        // It may be gone already.
        let _ = stream.shutdown(Shutdown::Both);
    })
}

/// The number, and bytes that follow from it.
fn record(number: u64) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    let mut word = number;
    for piece in bytes.chunks_exact_mut(8) {
        piece.copy_from_slice(&word.to_le_bytes());
        // The multiplier and the increment of Knuth's MMIX generator.
        word = word
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
    }
    bytes
}

/// Whether there was another record; a part of one is an error.
fn read_record(stream: &mut impl Read, bytes: &mut [u8; RECORD_BYTES]) -> io::Result<bool> {
    let mut have = 0;
    while have < bytes.len() {
        match stream.read(&mut bytes[have..]) {
            Ok(0) if have == 0 => return Ok(false),
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => have += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An end that receives `bytes` and then the end of the stream.
    fn received(bytes: &[u8]) -> (io::Result<()>, u64) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (near, _) = listener.accept().unwrap();
        far.write_all(bytes).unwrap();
        drop(far);
        let ends = Ends::default();
        let result = ends.receive(&near);
        (result, ends.received.into_inner())
    }

    #[test]
    fn what_is_lost_repeated_cut_or_changed_is_noticed() {
        let [first, second, third] = [0, 1, 2].map(record);
        let whole = [first, second, third].concat();
        assert!(matches!(received(&whole), (Ok(()), 3)));
        for (what, bytes) in [
            ("lost", [first, third].concat()),
            ("repeated", [first, first, second].concat()),
            ("swapped", [second, first, third].concat()),
            ("cut", whole[..whole.len() - 1].to_vec()),
        ] {
            assert!(received(&bytes).0.is_err(), "{what}");
        }
        let mut changed = whole;
        changed[RECORD_BYTES + 300] ^= 1;
        let (result, count) = received(&changed);
        assert!(result.is_err() && count == 1);
    }

    #[test]
    fn both_ends_agree_when_nothing_is_wrong() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, _) = listener.accept().unwrap();
        let (one, other) = (Ends::default(), Ends::default());
        thread::scope(|scope| {
            scope.spawn(|| {
                let enough = || one.received.load(Ordering::Acquire) >= 20;
                one.run(&near, enough).unwrap();
            });
            let done = || other.other_is_done.load(Ordering::Acquire);
            other.run(&far, done).unwrap();
        });
        assert_eq!(one.sent.into_inner(), other.received.into_inner());
        assert_eq!(other.sent.into_inner(), one.received.into_inner());
    }
}
