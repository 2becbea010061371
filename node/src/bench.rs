//! What a user measures of two hosts of theirs: test guests that move from here to there.
//!
//! The guest is the built-in one, so that it writes its memory at a rate that is known; each trip has a new one,
//! which lives in this process until it is gone. The other host takes them all by one token
//! (`godwit receive --bench`), and ends each when it is there.

mod summary;

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use godwit_migration::report::{Outcome, Receipt};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::guest::{BootSpec, GuestSpec, HugePages, Kernel, MemorySpec, SerialSpec};
use godwit_proto::migrate::Mode;
use godwit_proto::process::{ConsoleKind, ExitReason, MigrateRequest};

use crate::guest_process::machine::{Machine, MachineOptions};
pub use summary::Measured;

/// How long a guest may take until it has written all that it is to write.
const READY: Duration = Duration::from_secs(300);
/// It then goes on like this for a while.
const STEADY: Duration = Duration::from_millis(500);
/// How often a target is asked again that has not taken the last guest apart yet.
const TRIES: u32 = 50;
/// Between two such tries.
const TRY_PAUSE: Duration = Duration::from_millis(100);

/// What the guests do.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Memory of a guest.
    pub memory_bytes: u64,
    /// Its vCPUs.
    pub vcpus: u32,
    /// How much of its memory it writes.
    pub dirty_bytes: u64,
    /// Pages a second; 0 for as fast as it can.
    pub dirty_rate: u64,
    /// The order, by the test guest's names.
    pub pattern: &'static str,
    /// Percent of random words of pages that are written whole; `None`: 8 bytes of a page are changed.
    pub entropy: Option<u8>,
}

impl Workload {
    fn command_line(&self) -> String {
        let Self {
            dirty_bytes,
            dirty_rate,
            pattern,
            ..
        } = self;
        let entropy = self.entropy.map(|percent| format!(",entropy:{percent}"));
        format!(
            "heartbeat=100 every=100 dirty={dirty_bytes},rate:{dirty_rate},pattern:{pattern}{}",
            entropy.unwrap_or_default()
        )
    }

    fn spec(&self) -> GuestSpec {
        GuestSpec {
            name: "bench".into(),
            vcpus: self.vcpus,
            memory: MemorySpec {
                size_bytes: self.memory_bytes,
                huge_pages: HugePages::None,
            },
            cpu_profile: "host".into(),
            boot: BootSpec {
                kernel: Kernel::BuiltIn,
                initrd: None,
                cmdline: Some(self.command_line()),
            },
            serial: SerialSpec::Null,
            disks: Vec::new(),
            nets: Vec::new(),
            rng: true,
            console: None,
        }
    }
}

/// Moves `times` guests as `request` says, one after the other; `tell` hears of each.
///
/// # Errors
/// A guest could not be built, or was not moved: the rest is not tried.
pub fn migrate(
    workload: &Workload,
    request: &MigrateRequest,
    times: u32,
    mut tell: impl FnMut(&str),
) -> Result<Measured, CodedError> {
    if request.mode == Some(Mode::Local) {
        let text = "a measurement is one of two hosts: mode local stays on this one";
        return Err(CodedError::new(ErrorCode::Usage, text));
    }
    let mut receipts = Vec::new();
    for trip in 1..=times {
        let receipt = move_one(workload, request, trip > 1)?;
        tell(&format!("{trip} of {times}: {}", summary::line(&receipt)));
        receipts.push(receipt);
    }
    Ok(Measured::new(workload.clone(), receipts))
}

fn move_one(
    workload: &Workload,
    request: &MigrateRequest,
    again: bool,
) -> Result<Receipt, CodedError> {
    let options = MachineOptions {
        attachable: true,
        ..MachineOptions::default()
    };
    let machine =
        Machine::new(options).map_err(|error| CodedError::from_error(ErrorCode::Other, &error))?;
    machine.create(&workload.spec())?;
    let moved = run_until_steady(&machine).and_then(|()| {
        let mut tries = 0;
        loop {
            match machine.migrate(request) {
                // The target was not reached; it may be taking the last guest apart.
                Err(_) if again && tries < TRIES => {
                    tries += 1;
                    thread::sleep(TRY_PAUSE);
                }
                other => return other,
            }
        }
    });
    machine.end(ExitReason::Stopped);
    let receipt = moved?;
    match &receipt.outcome {
        Some(Outcome::Completed) => Ok(receipt),
        outcome => {
            let errors = outcome.as_ref().map_or(&[][..], Outcome::errors);
            let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
            let code = errors.first().map_or(ErrorCode::Other, CodedError::code);
            let text = format!("a guest was not moved: {}", texts.join("; "));
            Err(CodedError::new(code, text))
        }
    }
}

/// Lets the guest run until it has written all its memory once, and on for a while.
fn run_until_steady(machine: &Machine) -> Result<(), CodedError> {
    let failed = |error: std::io::Error| CodedError::from_error(ErrorCode::Console, &error);
    let (ours, its) = UnixStream::pair().map_err(failed)?;
    machine.attach(ConsoleKind::Serial, its)?;
    machine.start()?;
    let deadline = Instant::now() + READY;
    let mut lines = BufReader::new(ours);
    let mut line = String::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let text = format!("the test guest did not get ready within {READY:?}");
            return Err(CodedError::new(ErrorCode::TimedOut, text));
        }
        let stream = lines.get_ref();
        stream.set_read_timeout(Some(left)).map_err(failed)?;
        line.clear();
        if lines.read_line(&mut line).map_err(failed)? == 0 {
            let text = "the test guest has ended before it was moved";
            return Err(CodedError::new(ErrorCode::WrongState, text));
        }
        if line.starts_with("error ") {
            let text = format!("the test guest cannot do this: {}", line.trim_end());
            return Err(CodedError::new(ErrorCode::Usage, text));
        }
        if line.starts_with("dirty ") && line.contains(" rate=") {
            break;
        }
    }
    thread::sleep(STEADY);
    Ok(())
}
