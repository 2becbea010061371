//! What a guest finds at the processor's old reset vector.
//!
//! There is no firmware, but Linux on hardware-reduced ACPI jumps to where firmware would be when it
//! restarts: it prefers EFI to the ACPI reset register then, finds no EFI, and falls back to the
//! BIOS (`arch/x86/kernel/reboot.c`). So a few instructions wait there that use the register.

use vm_memory::{Bytes, GuestAddress};

use super::error::BootError;
use crate::memory::GuestMemory;
use crate::memory::layout::{ACPI_RESET_PORT, ACPI_RESET_VALUE, boot};

/// 16-bit real-mode code: `mov dx, port; mov al, value; out dx, al; hlt; jmp to hlt`.
const CODE: [u8; 9] = {
    let port = ACPI_RESET_PORT.to_le_bytes();
    [
        0xba,
        port[0],
        port[1],
        0xb0,
        ACPI_RESET_VALUE,
        0xee,
        0xf4,
        0xeb,
        0xfd,
    ]
};

/// Puts the code to the vector.
pub(super) fn write(memory: &GuestMemory) -> Result<(), BootError> {
    let address = boot::RESET_VECTOR;
    memory
        .write_slice(&CODE, GuestAddress(address))
        .map_err(|source| BootError::Write { address, source })
}

const _: () = {
    assert!(boot::RESET_VECTOR + CODE.len() as u64 <= boot::HIGH_MEMORY_START);
    assert!(boot::ACPI_END <= boot::RESET_VECTOR);
};
