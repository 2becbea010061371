//! The interrupt controllers and the timer inside KVM.

use rkyv::{Archive, Deserialize, Serialize};

use crate::record;
use crate::record::Kind;

/// The in-kernel PICs, I/O APIC and PIT. The local APICs are with their vCPUs.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct IrqchipState {
    /// The union of `kvm_irqchip` for `KVM_IRQCHIP_PIC_MASTER`.
    pub pic_master: [u8; 512],
    /// The union of `kvm_irqchip` for `KVM_IRQCHIP_PIC_SLAVE`.
    pub pic_slave: [u8; 512],
    /// The union of `kvm_irqchip` for `KVM_IRQCHIP_IOAPIC`.
    pub ioapic: [u8; 512],
    /// `kvm_pit_state2`; absent in a machine without a PIT.
    pub pit2: Option<[u8; 112]>,
}
record!(IrqchipState, Kind::Irqchip, version = 1);
