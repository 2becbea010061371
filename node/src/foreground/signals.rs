//! Signals that end the program in an orderly way.

use std::ffi::{c_int, c_void};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use libc::{SIGHUP, SIGINT, SIGQUIT, SIGTERM};
use vmm_sys_util::signal::register_signal_handler;

use crate::wait::Flag;

/// The signals that ask for the end.
const ENDING: [c_int; 4] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM];

static ARRIVED: OnceLock<Flag> = OnceLock::new();

/// Handlers for SIGHUP, SIGINT, SIGQUIT and SIGTERM. Readable once one of them has arrived.
#[derive(Clone, Copy, Debug)]
pub struct Signals(&'static Flag);

impl Signals {
    /// Installs the handlers, for the rest of the program.
    ///
    /// # Errors
    /// The kernel's answer.
    pub fn install() -> io::Result<Self> {
        let flag = match ARRIVED.get() {
            Some(flag) => flag,
            None => {
                let flag = Flag::new()?;
                ARRIVED.get_or_init(|| flag)
            }
        };
        for signal in ENDING {
            register_signal_handler(signal, on_signal).map_err(io::Error::from)?;
        }
        Ok(Self(flag))
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Only an atomic load and a system call: it may interrupt anything.
extern "C" fn on_signal(_number: c_int, _info: *mut libc::siginfo_t, _context: *mut c_void) {
    if let Some(flag) = ARRIVED.get() {
        flag.raise();
    }
}
