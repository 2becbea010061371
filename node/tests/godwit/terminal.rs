//! The terminal is raw while the guest has it, and afterwards as it was.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, OutputModes, tcgetattr};

use crate::support::{GODWIT, PATIENCE, has_kvm};

/// How the guest is ended.
#[derive(Clone, Copy, Debug)]
enum How {
    Keys,
    Signal(Signal),
}

#[test]
fn the_terminal_is_raw_for_the_guest_and_as_before_afterwards() {
    if !has_kvm() {
        return;
    }
    for how in [
        How::Keys,
        How::Signal(Signal::TERM),
        How::Signal(Signal::HUP),
    ] {
        let control = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&control).unwrap();
        unlockpt(&control).unwrap();
        let name = ptsname(&control, Vec::new()).unwrap();
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let terminal = File::from(rustix::fs::open(name, flags, Mode::empty()).unwrap());
        let before = tcgetattr(&terminal).unwrap();
        let end = || Stdio::from(terminal.try_clone().unwrap());
        let mut child = Command::new(GODWIT)
            .args(["run", "--memory", "32M"])
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut control = File::from(control);
        let mut shown = String::new();
        while !shown.contains("heartbeat seq=2 ") {
            let mut chunk = [0; 4096];
            let length = control.read(&mut chunk).unwrap();
            shown.push_str(&String::from_utf8_lossy(&chunk[..length]));
        }
        let raw = tcgetattr(&terminal).unwrap();
        assert!(
            !raw.local_modes
                .intersects(LocalModes::ICANON | LocalModes::ISIG | LocalModes::ECHO)
        );
        assert!(raw.output_modes.contains(OutputModes::OPOST));
        assert!(shown.contains("Ctrl-A x to leave"), "{shown}");
        match how {
            // Ctrl-C is the guest's.
            How::Keys => control.write_all(b"\x03\x01x").unwrap(),
            How::Signal(signal) => kill_process(Pid::from_child(&child), signal).unwrap(),
        }
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                panic!("{how:?} did not end it");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        assert_eq!(status.code(), Some(0), "{how:?}");
        let after = tcgetattr(&terminal).unwrap();
        assert_eq!(after.local_modes, before.local_modes, "{how:?}");
        assert_eq!(after.input_modes, before.input_modes, "{how:?}");
        assert_eq!(after.output_modes, before.output_modes, "{how:?}");
        assert_eq!(after.control_modes, before.control_modes, "{how:?}");
    }
}
