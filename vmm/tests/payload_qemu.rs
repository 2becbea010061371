//! The built-in guest under another hypervisor: that it needs nothing but what
//! a standard machine has, and that its findings are right, is best shown
//! where none of our own code runs beside it.
//!
//! Software emulation, so no `/dev/kvm`; skipped where QEMU is not installed.
#![allow(clippy::unwrap_used)] // a test may

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, Instant};

use godwit_vmm::payload;

const QEMU: &str = "qemu-system-x86_64";
const PATIENCE: Duration = Duration::from_secs(120);

fn qemu_is_there() -> bool {
    let found = Command::new(QEMU)
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok();
    if !found {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED: {QEMU} is not installed, the payload was not tried under it"
        );
    }
    found
}

/// A guest under QEMU; killed when dropped.
struct Guest {
    child: Child,
    lines: Receiver<String>,
    deadline: Instant,
}

impl Guest {
    /// `dir` takes the kernel image.
    fn start(dir: &Path, cmdline: &str, args: &[&str]) -> Self {
        let kernel = dir.join("payload.elf");
        fs::write(&kernel, payload::ELF).unwrap();
        let mut child = Command::new(QEMU)
            .args([
                "-accel",
                "tcg",
                "-m",
                "64",
                "-smp",
                "2",
                "-nodefaults",
                "-no-user-config",
            ])
            .args([
                "-display",
                "none",
                "-serial",
                "stdio",
                "-no-reboot",
                "-M",
                "q35",
                "-kernel",
            ])
            .arg(kernel)
            .args(["-append", cmdline])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            deadline: Instant::now() + PATIENCE,
        }
    }

    /// The next line that begins with `start`; panics at the guest's end.
    fn wait_for(&self, start: &str) -> String {
        let mut seen = Vec::new();
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) if line.starts_with(start) => return line,
                Ok(line) => seen.push(line),
                Err(error) => panic!("{error} before a line {start:?}; instead {seen:#?}"),
            }
        }
    }

    /// All lines until QEMU ends.
    fn finish(mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.lines.recv_timeout(left) {
                Ok(line) => lines.push(line),
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => panic!("no end after {lines:#?}"),
            }
        }
        assert!(self.child.wait().unwrap().success());
        lines
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The value of `key=` in a line.
fn value(line: &str, key: &str) -> u64 {
    let found = line
        .split(' ')
        .find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
    found
        .unwrap_or_else(|| panic!("no {key} in {line:?}"))
        .parse()
        .unwrap()
}

fn with<'a>(lines: &'a [String], start: &str) -> Vec<&'a String> {
    lines
        .iter()
        .filter(|line| line.starts_with(start))
        .collect()
}

#[test]
fn it_says_who_it_is_beats_and_powers_off() {
    if !qemu_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let lines = Guest::start(dir.path(), "heartbeat=50 for=1000 nonsense=1", &[]).finish();
    assert!(
        lines[0].starts_with("godwit-payload version=1 cpus=2 memory_bytes="),
        "{lines:?}"
    );
    let memory = value(&lines[0], "memory_bytes");
    assert!(((60 << 20)..=(64 << 20)).contains(&memory), "{memory}");
    assert_eq!(with(&lines, "error"), ["error option=nonsense=1"]);
    assert_eq!(with(&lines, "smp"), ["smp online=2"]);
    let beats = with(&lines, "heartbeat");
    assert!(beats.len() > 2, "{lines:#?}");
    for (seq, beat) in (1..).zip(&beats) {
        assert_eq!(value(beat, "seq"), seq);
    }
    let times: Vec<_> = beats.iter().map(|beat| value(beat, "time_ns")).collect();
    assert!(times.is_sorted_by(|a, b| b - a > 10_000_000), "{times:?}");
    assert_eq!(lines.last().unwrap(), "end how=poweroff");
}

#[test]
fn a_page_changed_behind_its_back_is_found_and_no_other() {
    if !qemu_is_there() {
        return;
    }
    const MEMORY: u64 = 64 << 20;
    let dir = tempfile::tempdir().unwrap();
    let memory = dir.path().join("memory");
    let backend = format!(
        "memory-backend-file,id=m,size=64M,share=on,mem-path={}",
        memory.display()
    );
    let args = ["-object", &backend, "-machine", "memory-backend=m"];
    let guest = Guest::start(dir.path(), "check=8M,rate:1,cpu:all every=100", &args);
    guest.wait_for("check id=0 cpu=0 filled");
    guest.wait_for("check id=0 cpu=1 pages=1024");
    // The region ends near the end of memory, in the part of the last worker.
    let at = MEMORY - (3 << 20);
    let mut file = File::options()
        .read(true)
        .write(true)
        .open(&memory)
        .unwrap();
    let mut byte = [0];
    file.seek(SeekFrom::Start(at + 1234)).unwrap();
    file.read_exact(&mut byte).unwrap();
    file.seek(SeekFrom::Start(at + 1234)).unwrap();
    file.write_all(&[!byte[0]]).unwrap();
    let wrong = guest.wait_for("check wrong");
    assert!(
        wrong.starts_with(&format!("check wrong gpa={at:#x} what=checksum ")),
        "{wrong}"
    );
    let count = |line: String| value(&line, "wrong");
    assert_eq!(count(guest.wait_for("check id=0 cpu=1 pages")), 1);
    assert_eq!(count(guest.wait_for("check id=0 cpu=0 pages")), 0);
    assert_eq!(
        count(guest.wait_for("check id=0 cpu=1 pages")),
        1,
        "put right, so counted once"
    );
}

#[test]
fn memory_is_dirtied_at_the_rate_asked_for() {
    if !qemu_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let line = "dirty=4M,rate:500,theta:0.9,entropy:50 regs=cpu:0 for=4000";
    let lines = Guest::start(dir.path(), line, &[]).finish();
    assert_eq!(
        with(&lines, "dirty id=0 cpu=1 filled=1024").len(),
        1,
        "{lines:#?}"
    );
    let reports = with(&lines, "dirty id=0 cpu=1 pages");
    assert!(!reports.is_empty(), "{lines:#?}");
    // A busy machine may fall behind, but nothing makes it run ahead.
    assert!(
        reports
            .iter()
            .all(|line| (1..=510).contains(&value(line, "rate"))),
        "{reports:?}"
    );
    let regs = with(&lines, "regs id=1 cpu=0");
    assert!(
        !regs.is_empty() && regs.iter().all(|line| value(line, "wrong") == 0),
        "{lines:#?}"
    );
}

#[test]
fn a_second_boot_finds_what_the_first_wrote_and_a_hole_where_one_was_made() {
    if !qemu_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    File::create(&disk).unwrap().set_len(1 << 20).unwrap();
    let drive = format!("file={},if=none,id=d,format=raw", disk.display());
    let args = [
        "-drive",
        &drive,
        "-device",
        "virtio-blk-pci,drive=d,disable-legacy=on",
    ];
    let lines = Guest::start(dir.path(), "blk=rate:100,flush:20 for=4000", &args).finish();
    assert_eq!(
        with(&lines, "blk-verify"),
        ["blk-verify device=0 blocks=256 last=0 complete=0 empty=256 bad=0"]
    );
    let written = with(&lines, "blk writes")
        .last()
        .expect("a report")
        .to_string();
    let acknowledged = value(&written, "last");
    assert!(
        acknowledged > 20 && value(&written, "verified") > 0,
        "{written}"
    );
    for key in ["lost", "repeated", "errors"] {
        assert_eq!(value(&written, key), 0, "{written}");
    }
    let durable = value(&written, "durable");
    assert!(durable > 0 && durable <= acknowledged, "{written}");

    let verify = |why: &str| {
        let lines = Guest::start(dir.path(), "blk=mode:verify end=poweroff", &args).finish();
        let found = with(&lines, "blk-verify").first().expect(why).to_string();
        (
            value(&found, "last"),
            value(&found, "complete"),
            value(&found, "bad"),
        )
    };
    let (last, complete, bad) = verify("the second boot's verdict");
    assert!(
        last >= acknowledged && complete == last && bad == 0,
        "{last} {complete} {bad}"
    );

    // Undo write 7 and tear write 8.
    let mut file = File::options().write(true).open(&disk).unwrap();
    file.seek(SeekFrom::Start(7 * 4096)).unwrap();
    file.write_all(&[0; 4096]).unwrap();
    file.seek(SeekFrom::Start(8 * 4096 + 512)).unwrap();
    file.write_all(&[0; 512]).unwrap();
    let (after, complete, bad) = verify("the third boot's verdict");
    assert_eq!((after, complete, bad), (last, 6, 1));
}

#[test]
fn entropy_is_read_and_a_missing_device_is_named() {
    if !qemu_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let args = [
        "-device",
        "pcie-root-port,id=below,slot=1",
        "-device",
        "virtio-rng-pci,bus=below",
    ];
    let lines = Guest::start(dir.path(), "rng=bytes:9000 net blk end=reset", &args).finish();
    let rng = with(&lines, "rng");
    assert_eq!(rng.len(), 1, "{lines:#?}");
    assert_eq!(value(rng[0], "bytes"), 9_000);
    assert!(rng[0].contains("check=ok"), "{rng:?}");
    let errors = with(&lines, "error");
    assert_eq!(
        errors,
        [
            "error workload=net reason=no-device",
            "error workload=blk reason=no-device"
        ]
    );
    assert_eq!(lines.last().unwrap(), "end how=reset");
}

#[test]
fn a_fault_is_reported_with_its_address() {
    if !qemu_is_there() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let guest = Guest::start(dir.path(), "end=fault", &[]);
    let fault = guest.wait_for("fault vector=14");
    assert!(fault.contains(" addr=0x7f00dead0000 error=0x6 "), "{fault}");
    assert!(fault.contains(" cs=0x23 cpu=0"), "{fault}");
}
