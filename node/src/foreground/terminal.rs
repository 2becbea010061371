//! The terminal in raw mode: every key goes to the guest, Ctrl-C too.
//!
//! Whatever ends the program puts the terminal back first: the guard's drop, a panic (through the
//! panic hook), and signals (through [`super::signals`], which end in that drop). Only SIGKILL and a
//! crash of the program itself do not. Output processing stays on, so that lines of ours
//! and of guests that write bare newlines begin at the left.

use std::io::{self, Stdin};
use std::panic;
use std::sync::{Mutex, Once, PoisonError};

use rustix::termios::{OptionalActions, OutputModes, Termios, tcgetattr, tcgetpgrp, tcsetattr};

/// How the terminal was, while it is raw.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Standard input in raw mode, until this is dropped.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Makes the terminal of `stdin` raw; `None` when it is no terminal.
    ///
    /// # Errors
    /// The kernel's answer; nothing was changed then.
    pub fn enter(stdin: &Stdin) -> io::Result<Option<Self>> {
        let Ok(before) = tcgetattr(stdin) else {
            return Ok(None);
        };
        restore_on_panic();
        let mut raw = before.clone();
        raw.make_raw();
        raw.output_modes |= before.output_modes & (OutputModes::OPOST | OutputModes::ONLCR);
        // Set before the change, so that there is no moment at which nobody would put it back.
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let guard = Self(());
        tcsetattr(stdin, OptionalActions::Now, &raw)?;
        Ok(Some(guard))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether a terminal at `stdin` may be read: a background job that did so would be stopped.
/// True for what is no terminal.
#[must_use]
pub fn is_ours(stdin: &Stdin) -> bool {
    tcgetpgrp(stdin).map_or(true, |group| group == rustix::process::getpgrp())
}

fn restore() {
    let before = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(before) = before {
        // There is nobody left to tell when the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &before);
    }
}

fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let next = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            restore();
            next(info);
        }));
    });
}
