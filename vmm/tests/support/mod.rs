//! Running the built-in guest and reading what it reports.

#![allow(dead_code, unreachable_pub)] // each test file uses a part

use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use godwit_proto::guest::{BootSpec, GuestSpec, HugePages, Kernel, MemorySpec, SerialSpec};
use godwit_vmm::devices::serial::Sink;
use godwit_vmm::guest::{Attachments, DirtyTracking, Guest, GuestEvent, RestoreOptions};

/// Says that a test is skipped, past the test runner's capture of output.
macro_rules! skipped {
    ($($why:tt)*) => {{
        use std::io::Write;
        let _ = writeln!(std::io::stderr(), "SKIPPED: {}", format_args!($($why)*));
    }};
}
#[allow(unused_imports)] // not each test file skips by itself
pub(crate) use skipped;

/// Longer than anything here takes, even on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Whether guests can run here. Says so loudly when not.
pub fn has_kvm() -> bool {
    let usable = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .is_ok();
    if !usable {
        skipped!("/dev/kvm is missing or not permitted");
    }
    usable
}

/// The built-in guest with this command line.
pub fn spec(cmdline: &str) -> GuestSpec {
    GuestSpec {
        name: "test".into(),
        vcpus: 1,
        memory: MemorySpec {
            size_bytes: 64 << 20,
            huge_pages: HugePages::None,
        },
        cpu_profile: "host".into(),
        boot: BootSpec {
            kernel: Kernel::BuiltIn,
            initrd: None,
            cmdline: Some(cmdline.into()),
        },
        serial: SerialSpec::Null,
        disks: Vec::new(),
        nets: Vec::new(),
        rng: false,
        console: None,
    }
}

/// Cuts output into lines.
struct Lines {
    partial: Vec<u8>,
    lines: Sender<String>,
}

impl Sink for Lines {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = String::from_utf8_lossy(&self.partial).trim_end().to_owned();
                self.partial.clear();
                let _ = self.lines.send(line);
            } else {
                self.partial.push(byte);
            }
        }
    }
}

/// A guest and its output.
pub struct Running {
    pub guest: Guest,
    lines: Receiver<String>,
    /// Everything it has said so far.
    pub log: Vec<String>,
}

impl Running {
    pub fn build(spec: &GuestSpec) -> Self {
        Self::build_with(spec, DirtyTracking::Auto)
    }

    pub fn build_with(spec: &GuestSpec, dirty_tracking: DirtyTracking) -> Self {
        let (attachments, lines) = attachments(dirty_tracking);
        let guest = Guest::build(spec, attachments).expect("the guest builds");
        Self {
            guest,
            lines,
            log: Vec::new(),
        }
    }

    /// Builds it and lets it run.
    pub fn start(spec: &GuestSpec) -> Self {
        let running = Self::build(spec);
        running.guest.resume().expect("the guest starts");
        running
    }

    /// Builds one that waits for memory and state.
    pub fn build_waiting(spec: &GuestSpec) -> Self {
        let (attachments, lines) = attachments(DirtyTracking::Auto);
        let guest = Guest::build_waiting(spec, attachments).expect("the guest builds");
        Self {
            guest,
            lines,
            log: Vec::new(),
        }
    }

    pub fn restore(dir: &Path, lazy: bool) -> Self {
        let (attachments, lines) = attachments(DirtyTracking::Auto);
        let options = RestoreOptions {
            lazy,
            ..Default::default()
        };
        let guest = Guest::restore(dir, &options, attachments).expect("the snapshot restores");
        Self {
            guest,
            lines,
            log: Vec::new(),
        }
    }

    /// The next line that begins with `prefix`. Panics when none comes in time.
    pub fn line(&mut self, prefix: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.log.push(line.clone());
                    assert!(!line.starts_with("fault "), "{:#?}", self.log);
                    if line.starts_with(prefix) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!(
                        "no line {prefix:?} within {PATIENCE:?}; so far {:#?}",
                        self.log
                    )
                }
            }
        }
    }

    /// The number `key` of the next line that begins with `prefix` and has it.
    pub fn report(&mut self, prefix: &str, key: &str) -> u64 {
        loop {
            let line = self.line(prefix);
            if line.contains(&format!(" {key}=")) {
                return field(&line, key);
            }
        }
    }

    /// Lines that came and were not waited for.
    pub fn drain(&mut self) -> Vec<String> {
        let lines: Vec<_> = self.lines.try_iter().collect();
        self.log.extend(lines.iter().cloned());
        lines
    }

    pub fn event(&self) -> GuestEvent {
        self.guest
            .wait(Some(Instant::now() + PATIENCE))
            .expect("the guest ends in time")
    }
}

fn attachments(dirty_tracking: DirtyTracking) -> (Attachments, Receiver<String>) {
    let (sender, lines) = channel();
    let serial = Box::new(Lines {
        partial: Vec::new(),
        lines: sender,
    });
    (
        Attachments {
            serial,
            dirty_tracking,
            ..Attachments::default()
        },
        lines,
    )
}

/// The number behind `key=` in a line of the guest.
pub fn field(line: &str, key: &str) -> u64 {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        .and_then(|value| value.parse().ok())
        .unwrap_or_else(|| panic!("no number {key} in {line:?}"))
}
