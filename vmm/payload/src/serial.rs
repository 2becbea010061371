//! Lines on the first serial port. Each line goes out whole.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crate::cpu::CpuBlock;
use crate::{clock, gate};

const PORT: u16 = 0x3f8;
/// Bytes per pass through the gate; in between the clock is looked at, so that
/// a slow port does not look like a gap.
const CHUNK: usize = 16;
const CAPACITY: usize = 240;

static BUSY: AtomicBool = AtomicBool::new(false);

/// A line being written. What does not fit is cut off.
pub struct Line {
    bytes: [u8; CAPACITY],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        // One byte stays free for the line's end.
        let room = CAPACITY - 1 - self.len;
        let text = &text.as_bytes()[..text.len().min(room)];
        self.bytes[self.len..self.len + text.len()].copy_from_slice(text);
        self.len += text.len();
        Ok(())
    }
}

/// Writes one line; use [`line!`](crate::line).
pub fn print(cpu: &CpuBlock, text: fmt::Arguments<'_>) {
    let mut line = Line {
        bytes: [0; CAPACITY],
        len: 0,
    };
    // Cannot fail: see `write_str`.
    let _ = line.write_fmt(text);
    line.bytes[line.len] = b'\n';
    while BUSY
        .compare_exchange_weak(false, true, Acquire, Relaxed)
        .is_err()
    {
        clock::now(cpu);
        core::hint::spin_loop();
    }
    for chunk in line.bytes[..=line.len].chunks(CHUNK) {
        gate::outs(PORT, chunk);
        clock::now(cpu);
    }
    BUSY.store(false, Release);
}

/// Prints a formatted line on behalf of a processor.
#[macro_export]
macro_rules! line {
    ($cpu:expr, $($format:tt)*) => { $crate::serial::print($cpu, format_args!($($format)*)) };
}
