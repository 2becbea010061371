//! How the first vCPU starts: plain register values. Nothing here calls KVM.

use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

use super::error::BootError;
use super::write_structure;
use crate::memory::GuestMemory;
use crate::memory::layout::boot;

/// How a loaded kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// 32-bit protected mode without paging (Xen PVH ABI).
    Pvh {
        /// First instruction, guest physical.
        rip: u32,
        /// The `hvm_start_info`, goes into `ebx`.
        start_info: u64,
    },
    /// 64-bit long mode on identity-mapping page tables (Linux 64-bit boot protocol).
    Linux64 {
        /// First instruction, guest physical and linear.
        rip: u64,
        /// The `boot_params`, goes into `rsi`.
        zero_page: u64,
    },
}

/// The registers in which vCPU 0 starts. Everything that is not here keeps its reset value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BootRegisters {
    /// General registers.
    pub general: GeneralRegisters,
    /// Code segment.
    pub cs: Segment,
    /// DS, ES, FS, GS and SS alike.
    pub data: Segment,
    /// Task register.
    pub tr: Segment,
    /// Global descriptor table; [`super::load`] wrote it to memory.
    pub gdt: DescriptorTable,
    /// Interrupt descriptor table: empty, so that an early fault is a triple fault, not a walk
    /// through garbage.
    pub idt: DescriptorTable,
    /// Control register 0.
    pub cr0: u64,
    /// Control register 3: the page tables' root.
    pub cr3: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended feature enables.
    pub efer: u64,
}

/// The general registers that a boot protocol sets; all others are zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GeneralRegisters {
    /// Instruction pointer.
    pub rip: u64,
    /// Stack pointer.
    pub rsp: u64,
    /// PVH: the `hvm_start_info`.
    pub rbx: u64,
    /// Linux: the `boot_params`.
    pub rsi: u64,
    /// Flags: only the bit that is always set.
    pub rflags: u64,
}

/// A segment register with its hidden part. Present, and of privilege level 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Linear base address.
    pub base: u64,
    /// Last offset, bytes, after granularity.
    pub limit: u32,
    /// Index into the GDT times 8.
    pub selector: u16,
    /// Descriptor type (Intel SDM vol. 3, 3.4.5.1 and 3.5).
    pub kind: u8,
    /// 32-bit default operand size.
    pub db: bool,
    /// Code or data, not a system segment.
    pub code_or_data: bool,
    /// 64-bit code.
    pub long: bool,
    /// Limit counts pages.
    pub granular: bool,
}

/// Where a descriptor table lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DescriptorTable {
    /// Linear address.
    pub base: u64,
    /// Last offset, bytes.
    pub limit: u16,
}

/// Always-one bit of RFLAGS.
const RFLAGS_FIXED: u64 = 1 << 1;
const CR0_PE: u64 = 1;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;

/// Selectors that Linux wants at its 64-bit entry (`__BOOT_CS`, `__BOOT_DS`); PVH leaves them open.
const CS: u16 = 0x10;
const DS: u16 = 0x18;
const TR: u16 = 0x20;
/// Null, one unused, code, data, and a TSS that takes two slots in long mode.
const GDT_ENTRIES: usize = 6;

/// Execute/read, accessed.
const CODE: u8 = 0xb;
/// Read/write, accessed.
const DATA: u8 = 0x3;
/// Busy 32- or 64-bit TSS.
const BUSY_TSS: u8 = 0xb;
/// The smallest TSS, which the PVH ABI asks for.
const TSS_LIMIT: u32 = 0x67;

impl Entry {
    /// The registers for this entry.
    pub fn registers(&self) -> BootRegisters {
        let long = matches!(self, Self::Linux64 { .. });
        let common = BootRegisters {
            general: GeneralRegisters {
                rsp: boot::STACK,
                rflags: RFLAGS_FIXED,
                ..Default::default()
            },
            cs: Segment {
                limit: u32::MAX,
                selector: CS,
                kind: CODE,
                db: !long,
                code_or_data: true,
                long,
                granular: true,
                ..Default::default()
            },
            data: Segment {
                limit: u32::MAX,
                selector: DS,
                kind: DATA,
                db: true,
                code_or_data: true,
                granular: true,
                ..Default::default()
            },
            tr: Segment {
                limit: TSS_LIMIT,
                selector: TR,
                kind: BUSY_TSS,
                ..Default::default()
            },
            gdt: DescriptorTable {
                base: boot::GDT,
                limit: (GDT_ENTRIES * 8 - 1) as u16,
            },
            cr0: CR0_PE | CR0_ET,
            ..Default::default()
        };
        match *self {
            Self::Pvh { rip, start_info } => BootRegisters {
                general: GeneralRegisters {
                    rip: u64::from(rip),
                    rbx: start_info,
                    ..common.general
                },
                ..common
            },
            Self::Linux64 { rip, zero_page } => BootRegisters {
                general: GeneralRegisters {
                    rip,
                    rsi: zero_page,
                    ..common.general
                },
                cr0: common.cr0 | CR0_PG,
                cr3: boot::PAGE_TABLES,
                cr4: CR4_PAE,
                efer: EFER_LME | EFER_LMA,
                ..common
            },
        }
    }

    /// Writes the GDT that the selectors of [`Entry::registers`] index.
    pub(super) fn write_gdt(&self, memory: &GuestMemory) -> Result<(), BootError> {
        let registers = self.registers();
        let mut table = [0; GDT_ENTRIES];
        for segment in [registers.cs, registers.data, registers.tr] {
            table[usize::from(segment.selector / 8)] = segment.descriptor();
        }
        let bytes: Vec<u8> = table.into_iter().flat_map(u64::to_le_bytes).collect();
        write_structure(memory, boot::GDT, &bytes)
    }
}

impl BootRegisters {
    /// The same in KVM's structures. `reset` is what a new vCPU's special registers are; what no
    /// boot protocol mentions, such as the local APIC's base, is taken from it.
    pub fn to_kvm(&self, reset: kvm_sregs) -> (kvm_regs, kvm_sregs) {
        let GeneralRegisters {
            rip,
            rsp,
            rbx,
            rsi,
            rflags,
        } = self.general;
        let general = kvm_regs {
            rip,
            rsp,
            rbx,
            rsi,
            rflags,
            ..Default::default()
        };
        let data = self.data.to_kvm();
        let special = kvm_sregs {
            cs: self.cs.to_kvm(),
            ds: data,
            es: data,
            fs: data,
            gs: data,
            ss: data,
            tr: self.tr.to_kvm(),
            gdt: self.gdt.to_kvm(),
            idt: self.idt.to_kvm(),
            cr0: self.cr0,
            cr3: self.cr3,
            cr4: self.cr4,
            efer: self.efer,
            ..reset
        };
        (general, special)
    }
}

impl DescriptorTable {
    fn to_kvm(self) -> kvm_dtable {
        kvm_dtable {
            base: self.base,
            limit: self.limit,
            ..Default::default()
        }
    }
}

impl Segment {
    fn to_kvm(self) -> kvm_segment {
        kvm_segment {
            base: self.base,
            limit: self.limit,
            selector: self.selector,
            type_: self.kind,
            present: 1,
            db: self.db.into(),
            s: self.code_or_data.into(),
            l: self.long.into(),
            g: self.granular.into(),
            ..Default::default()
        }
    }

    /// The descriptor that loads this segment (Intel SDM vol. 3, 3.4.5). All bases here are zero.
    fn descriptor(self) -> u64 {
        let bit = |set: bool, at: u32| u64::from(set) << at;
        let limit = u64::from(if self.granular {
            self.limit >> 12
        } else {
            self.limit
        });
        (limit & 0xffff)
            | (u64::from(self.kind) << 40)
            | bit(self.code_or_data, 44)
            | bit(true, 47)
            | ((limit >> 16) << 48)
            | bit(self.long, 53)
            | bit(self.db, 54)
            | bit(self.granular, 55)
    }
}
