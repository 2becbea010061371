//! A guest's state as records: what is in it, in which order.

use std::sync::atomic::Ordering;

use godwit_proto::record::RecordWriter;
use godwit_proto::state::memory::{MemoryLayout, MemoryRange};

use super::Guest;
use super::error::GuestError;

/// The state of a paused guest, memory aside.
pub(super) fn records(guest: &Guest) -> Result<RecordWriter, GuestError> {
    let machine = &guest.machine;
    if machine.shared.yield_requested.load(Ordering::Acquire) {
        // Power-off or reset is on its way to the owner, and would not be part of the state.
        return Err(GuestError::WrongState {
            request: "save",
            is: "is about to end or reset",
        });
    }
    let mut records = RecordWriter::new();
    records.push(&guest.spec)?;
    records.push(&layout(guest))?;
    // The moment that all of it is of.
    let clock = machine.vm.save_clock()?;
    // vCPUs save themselves, all at the same time.
    let answers: Vec<_> = machine
        .vcpus
        .iter()
        .map(|vcpu| vcpu.save(clock.clock_ns))
        .collect::<Result<_, _>>()?;
    let irqchip = machine.vm.save_irqchip()?;
    for answer in answers {
        records.push(&answer.wait_done()?)?;
    }
    records.push(&irqchip)?;
    records.push(&clock)?;
    records.push(&machine.serial.save())?;
    records.push(&machine.power.save())?;
    let (root, devices) = machine.pci.save()?;
    records.push(&root)?;
    for device in &devices {
        records.push(device)?;
    }
    Ok(records)
}

pub(super) fn layout(guest: &Guest) -> MemoryLayout {
    let ram = &guest.machine.ram;
    MemoryLayout {
        size_bytes: ram.bytes(),
        page_size: ram.huge_pages().page_bytes() as u32,
        ranges: ram
            .slots()
            .iter()
            .map(|slot| MemoryRange {
                start: slot.guest_address,
                len: slot.len,
            })
            .collect(),
    }
}
