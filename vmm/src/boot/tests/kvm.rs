//! The first instructions of loaded kernels, run by KVM.

use kvm_ioctls::VcpuExit;

use super::*;
use crate::cpu::{self, CpuProfile};
use crate::kvm::Hypervisor;
use crate::memory::{GuestRam, HugePages};

/// `mov ax, 0x18; mov ds, ax; push rax; pop rax; mov dx, 0x3f8`: the GDT, the stack, the port. The
/// same bytes in 32- and 64-bit code.
const PROLOGUE: &[u8] = b"\x66\xb8\x18\x00\x8e\xd8\x50\x58\x66\xba\xf8\x03";
/// `mov eax, [ebx]; out dx, eax; hlt`: the magic number of the start info.
const PVH: &[u8] = b"\x8b\x03\xef\xf4";
/// `mov eax, [rsi + 0x202]; out dx, eax; hlt`: the magic number of the setup header.
const LINUX: &[u8] = b"\x8b\x86\x02\x02\x00\x00\xef\xf4";

/// Loads `kernel`, starts it and answers with the first thing that it writes to the serial port.
fn first_words(hypervisor: &Hypervisor, kernel: &[u8]) -> Vec<u8> {
    let size = 64 << 20;
    let ram = GuestRam::allocate(size, HugePages::None).unwrap();
    let entry = load(
        ram.memory(),
        &ram_ranges(size),
        KernelSource::Bytes(kernel),
        None,
        &Cmdline::new("").unwrap(),
        None,
    )
    .unwrap();

    let vm = hypervisor.create_vm().unwrap();
    vm.create_irqchip().unwrap();
    ram.attach(&vm).unwrap();
    let (mut vcpu, _kicker) = vm.create_vcpu(0).unwrap();
    let host = hypervisor.host_cpu().unwrap();
    let cpu = CpuProfile::Host
        .apply(&host, 1, cpu::Options::default())
        .unwrap();
    vcpu.set_cpuid(cpu.for_vcpu(0)).unwrap();
    let (general, special) = entry.registers().to_kvm(vcpu.sregs().unwrap());
    vcpu.set_registers(&general, &special).unwrap();
    match vcpu.run().unwrap() {
        VcpuExit::IoOut(0x3f8, bytes) => bytes.to_vec(),
        exit => {
            let exit = format!("{exit:?}");
            panic!("{exit}\n{}", vcpu.registers().unwrap());
        }
    }
}

#[test]
fn a_kernel_runs_from_its_first_instruction_with_its_boot_structure_in_hand() {
    let hypervisor = match Hypervisor::open() {
        Ok(hypervisor) => hypervisor,
        Err(error) => {
            crate::skip::skipped!("{error}");
            return;
        }
    };
    let code = |tail: &[u8]| [PROLOGUE, tail, &[0xf4; 16]].concat();
    let elf = |tail: &[u8]| {
        let mut elf = Elf::small();
        elf.body[..PROLOGUE.len() + tail.len() + 16].copy_from_slice(&code(tail));
        elf
    };
    let pvh = elf(PVH).pvh(LOAD).bytes();
    assert_eq!(first_words(&hypervisor, &pvh), 0x336e_c578u32.to_le_bytes());
    let linux = elf(LINUX).bytes();
    assert_eq!(first_words(&hypervisor, &linux), *b"HdrS");
    let mut compressed = bzimage(header());
    let at = 1024 + 0x200;
    compressed[at..at + code(LINUX).len()].copy_from_slice(&code(LINUX));
    assert_eq!(first_words(&hypervisor, &compressed), *b"HdrS");
}
