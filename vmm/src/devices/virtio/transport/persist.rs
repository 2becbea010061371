//! Save and restore of a virtio-pci function: the whole contract.
//!
//! A record is checked in full before anything of it is taken over, so a refused record leaves the
//! function as it was. What the guest could have written through registers is accepted; what it
//! could not (fixed configuration bits, features never offered, vectors that do not exist, rings
//! outside memory) is refused by name.

use std::sync::atomic::Ordering;

use godwit_proto::state::pci::VirtioTransportState;
use godwit_proto::state::pci::{MsixEntry as SavedEntry, MsixState, PciDeviceState};

use crate::devices::pci::{CONFIG_SIZE, MSIX_ENABLE, MSIX_FUNCTION_MASK, MsixEntry, StateError};

use super::pci_device::State;
use super::queue::QueueRegisters;
use super::{NO_VECTOR, feature, status};

const STATUS_BITS: u8 = status::ACKNOWLEDGE
    | status::DRIVER
    | status::DRIVER_OK
    | status::FEATURES_OK
    | status::NEEDS_RESET
    | status::FAILED;
const ISR_BITS: u8 = 3;

pub(super) fn save(state: &State) -> Result<PciDeviceState, StateError> {
    if !state.paused {
        return Err(StateError::Running);
    }
    let mut config = vec![0; CONFIG_SIZE];
    state.config.read(0, &mut config);
    let registers = &state.registers;
    let interrupt = &registers.interrupt;
    let event_idx = registers.event_idx();
    let control = state.msix.control();
    Ok(PciDeviceState {
        slot: state.slot,
        config,
        msix: MsixState {
            enabled: control & MSIX_ENABLE != 0,
            function_masked: control & MSIX_FUNCTION_MASK != 0,
            entries: state.msix.entries().iter().map(saved_entry).collect(),
            pending: state.msix.pending(),
        },
        transport: VirtioTransportState {
            device_type: state.device.device_type() as u16,
            status: registers.status(),
            device_feature_select: registers.device_feature_select,
            driver_feature_select: registers.driver_feature_select,
            negotiated_features: registers.driver_features,
            config_generation: interrupt.generation.load(Ordering::Acquire),
            config_vector: interrupt.config_vector.load(Ordering::Acquire),
            queue_vectors: interrupt
                .queue_vectors
                .iter()
                .map(|v| v.load(Ordering::Acquire))
                .collect(),
            queues: registers.queues.iter().map(|q| q.save(event_idx)).collect(),
            queue_select: registers.queue_select,
            isr: interrupt.isr.load(Ordering::Acquire),
        },
        device: state.device.save(),
    })
}

/// Takes a record over; the caller then applies the configuration space.
pub(super) fn restore(state: &mut State, saved: &PciDeviceState) -> Result<(), StateError> {
    if state.registers.status() != 0 {
        return Err(StateError::Running);
    }
    check_config(state, saved)?;
    check_msix(state, &saved.msix)?;
    check_transport(state, &saved.transport)?;
    let queues = check_queues(state, &saved.transport)?;
    // The last thing that can fail, and it leaves the device unchanged.
    state.device.restore(&saved.device)?;

    state.paused = true;
    state.restored = true;
    state.config.set(0, &saved.config);
    let mut control = 0;
    if saved.msix.enabled {
        control |= MSIX_ENABLE;
    }
    if saved.msix.function_masked {
        control |= MSIX_FUNCTION_MASK;
    }
    let entries: Vec<MsixEntry> = saved.msix.entries.iter().map(entry).collect();
    state.msix.restore(control, &entries, &saved.msix.pending);

    let transport = &saved.transport;
    let registers = &mut state.registers;
    registers.device_feature_select = transport.device_feature_select;
    registers.driver_feature_select = transport.driver_feature_select;
    registers.driver_features = transport.negotiated_features;
    registers.queue_select = transport.queue_select;
    registers.queues = queues;
    let interrupt = &registers.interrupt;
    interrupt
        .msix_enabled
        .store(saved.msix.enabled, Ordering::Release);
    interrupt
        .generation
        .store(transport.config_generation, Ordering::Release);
    interrupt
        .config_vector
        .store(transport.config_vector, Ordering::Release);
    for (register, vector) in interrupt.queue_vectors.iter().zip(&transport.queue_vectors) {
        register.store(*vector, Ordering::Release);
    }
    interrupt.isr.store(transport.isr, Ordering::Release);
    interrupt.status.store(transport.status, Ordering::Release);
    Ok(())
}

fn saved_entry(entry: &MsixEntry) -> SavedEntry {
    SavedEntry {
        address: entry.address,
        data: entry.data,
        masked: entry.control != 0,
    }
}

fn entry(saved: &SavedEntry) -> MsixEntry {
    MsixEntry {
        address: saved.address,
        data: saved.data,
        control: u32::from(saved.masked),
    }
}

/// An error unless `ok`.
fn check(
    ok: bool,
    field: &'static str,
    found: impl Into<u64>,
    need: impl FnOnce() -> String,
) -> Result<(), StateError> {
    if ok {
        return Ok(());
    }
    Err(StateError::Field {
        field,
        found: found.into(),
        need: need(),
    })
}

fn check_len(field: &'static str, found: usize, need: usize) -> Result<(), StateError> {
    check(found == need, field, found as u64, || {
        format!("it must have {need} elements")
    })
}

fn check_config(state: &State, saved: &PciDeviceState) -> Result<(), StateError> {
    check(saved.slot == state.slot, "slot", saved.slot, || {
        format!("the device is in slot {}", state.slot)
    })?;
    check_len("config", saved.config.len(), CONFIG_SIZE)?;
    if let Some(at) = (0..CONFIG_SIZE).find(|&at| !state.config.admits(at, &saved.config[at..=at]))
    {
        return Err(StateError::Field {
            field: "config",
            found: u64::from(saved.config[at]),
            need: format!("byte {at:#x} is fixed or has fixed bits"),
        });
    }
    let control = u16::from_le_bytes([
        saved.config[state.msix_header + 2],
        saved.config[state.msix_header + 3],
    ]);
    let enabled = control & MSIX_ENABLE != 0;
    check(
        enabled == saved.msix.enabled,
        "msix.enabled",
        saved.msix.enabled,
        || format!("message control in config says {enabled}"),
    )?;
    let masked = control & MSIX_FUNCTION_MASK != 0;
    check(
        masked == saved.msix.function_masked,
        "msix.function_masked",
        saved.msix.function_masked,
        || format!("message control in config says {masked}"),
    )
}

fn check_msix(state: &State, saved: &MsixState) -> Result<(), StateError> {
    let vectors = state.msix.entries().len();
    check_len("msix.entries", saved.entries.len(), vectors)?;
    check_len("msix.pending", saved.pending.len(), vectors.div_ceil(64))?;
    for entry in &saved.entries {
        check(
            entry.address.is_multiple_of(4),
            "msix.entries.address",
            entry.address,
            || "its two lowest bits are reserved".into(),
        )?;
    }
    let beyond = saved.pending.last().map_or(0, |last| match vectors % 64 {
        0 => 0,
        used => last >> used,
    });
    check(beyond == 0, "msix.pending", beyond, || {
        format!("there are {vectors} vectors")
    })
}

fn check_transport(state: &State, saved: &VirtioTransportState) -> Result<(), StateError> {
    let kind = state.device.device_type();
    check(
        saved.device_type == kind as u16,
        "transport.device_type",
        saved.device_type,
        || format!("the device is {kind:?}"),
    )?;
    check(
        saved.status & !STATUS_BITS == 0 && status_in_order(saved.status),
        "transport.status",
        saved.status,
        || "its bits do not come in this combination".into(),
    )?;
    let offered = state.registers.offered;
    let negotiated = saved.negotiated_features;
    if saved.status & status::FEATURES_OK != 0 {
        check(
            negotiated & !offered == 0,
            "transport.negotiated_features",
            negotiated,
            || format!("this device offers {offered:#x} only"),
        )?;
        check(
            negotiated & feature::VERSION_1 != 0,
            "transport.negotiated_features",
            negotiated,
            || "VIRTIO_F_VERSION_1 must be in it".into(),
        )?;
    }
    check(
        saved.isr & !ISR_BITS == 0,
        "transport.isr",
        saved.isr,
        || "only its two lowest bits exist".into(),
    )?;
    let queues = state.registers.queues.len();
    check_len("transport.queue_vectors", saved.queue_vectors.len(), queues)?;
    let vectors = state.msix.entries().len();
    let exists = |vector: u16| vector == NO_VECTOR || usize::from(vector) < vectors;
    for &vector in &saved.queue_vectors {
        check(exists(vector), "transport.queue_vectors", vector, || {
            format!("there are {vectors} vectors")
        })?;
    }
    check(
        exists(saved.config_vector),
        "transport.config_vector",
        saved.config_vector,
        || format!("there are {vectors} vectors"),
    )
}

fn status_in_order(bits: u8) -> bool {
    let needs = |bit: u8, earlier: u8| bits & bit == 0 || bits & earlier == earlier;
    needs(status::DRIVER, status::ACKNOWLEDGE)
        && needs(status::FEATURES_OK, status::DRIVER)
        && needs(status::DRIVER_OK, status::FEATURES_OK)
}

fn check_queues(
    state: &State,
    saved: &VirtioTransportState,
) -> Result<Vec<QueueRegisters>, StateError> {
    let here = &state.registers.queues;
    check_len("transport.queues", saved.queues.len(), here.len())?;
    let event_idx = saved.negotiated_features & feature::RING_EVENT_IDX != 0;
    let set_up = saved.status & status::FEATURES_OK != 0;
    let mut queues = Vec::with_capacity(here.len());
    for (index, (saved, here)) in (0u16..).zip(saved.queues.iter().zip(here)) {
        check(
            saved.max_size == here.max_size,
            "transport.queues.max_size",
            saved.max_size,
            || format!("queue {index} has {} entries at most", here.max_size),
        )?;
        check(
            saved.event_idx_enabled == event_idx,
            "transport.queues.event_idx_enabled",
            saved.event_idx_enabled,
            || format!("the negotiated features say {event_idx}"),
        )?;
        let queue = QueueRegisters::from(*saved);
        if queue.enabled {
            check(set_up, "transport.queues.ready", true, || {
                "no queue is enabled before FEATURES_OK".into()
            })?;
            queue
                .build(event_idx, &state.memory)
                .map_err(|source| StateError::Queue {
                    queue: index,
                    source,
                })?;
        }
        queues.push(queue);
    }
    Ok(queues)
}
