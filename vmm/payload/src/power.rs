//! The ways in which the guest ends.

use crate::cpu::CpuBlock;
use crate::gate;
use crate::line;
use crate::logic::acpi::{Fadt, Register};
use crate::logic::options::End;

/// Sleep type for soft-off (5) in place, and the enable bit (ACPI 6.5, 4.8.3.7).
const SLEEP_CONTROL_OFF: u8 = 5 << 2 | 1 << 5;
/// Sleep enable with type 0, which the common PC firmware's \_S5 says.
const PM1_OFF: u16 = 1 << 13;
const KEYBOARD_COMMAND: u16 = 0x64;
const KEYBOARD_RESET: u8 = 0xfe;

/// Ends the machine; says how on the way.
pub fn end(cpu: &CpuBlock, fadt: &Fadt, end: End) -> ! {
    line!(cpu, "end how={}", name(end));
    match end {
        End::Poweroff => poweroff(cpu, fadt),
        End::Reset => reset(fadt),
        End::Halt => {}
        End::TripleFault => gate::triple_fault(),
        End::Hang => loop {
            core::hint::spin_loop();
        },
        End::BadMmio(address) => {
            crate::paging::map_existing(address, 4);
            // SAFETY: this is the point: nothing is there, the host must cope.
            let found = unsafe {
                (address as *mut u32).write_volatile(0xdead_beef);
                (address as *const u32).read_volatile()
            };
            line!(cpu, "bad-mmio addr={address:#x} found={found:#x}");
            poweroff(cpu, fadt);
        }
        End::KvmError(address) => {
            crate::paging::map_existing(address, 1);
            gate::jump_to_nowhere(address);
        }
        End::Fault => {
            // SAFETY: beyond all that is mapped; the fault handler reports it.
            unsafe { (0x7f00_dead_0000 as *mut u32).write_volatile(0) };
        }
    }
    gate::park()
}

fn name(end: End) -> &'static str {
    match end {
        End::Poweroff => "poweroff",
        End::Reset => "reset",
        End::Halt => "halt",
        End::TripleFault => "triple-fault",
        End::Hang => "hang",
        End::BadMmio(_) => "bad-mmio",
        End::KvmError(_) => "kvm-error",
        End::Fault => "fault",
    }
}

fn poweroff(cpu: &CpuBlock, fadt: &Fadt) {
    match (fadt.sleep_control, fadt.pm1a_control) {
        (Some(register), _) => store(register, SLEEP_CONTROL_OFF),
        (None, Some(port)) => gate::out16(port, PM1_OFF),
        (None, None) => line!(cpu, "error end=poweroff reason=no-sleep-control"),
    }
}

fn reset(fadt: &Fadt) {
    if let Some((register, value)) = fadt.reset {
        store(register, value);
    }
    gate::out8(KEYBOARD_COMMAND, KEYBOARD_RESET);
}

fn store(register: Register, value: u8) {
    match register {
        Register::Io(port) => gate::out8(port, value),
        Register::Memory(address) => {
            crate::paging::map_existing(address, 1);
            // SAFETY: a device register the tables name.
            unsafe { (address as *mut u8).write_volatile(value) };
        }
    }
}
