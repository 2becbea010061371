# Everything that runs at CPL0.
#
# A host that emulates guest CPL0 does about one and a half million of these
# instructions per second, so there are as few as possible and only integer
# ones: all tables are data laid out by the assembler, and every decision is
# made in Rust at CPL3. Nothing in here is particular to such a host.
#
# Entry is PVH: 32-bit protected mode, paging off, %ebx = hvm_start_info
# (Xen, docs/misc/pvh.pandoc). Application processors enter in real mode at
# `trampoline`, which Rust has copied below 1 MiB.

.set CR0_LONG,    0x80000033        # PG NE ET MP PE
.set CR4_LONG,    0x00000620        # PAE OSFXSR OSXMMEXCPT
.set MSR_EFER,    0xc0000080
.set EFER_LME,    0x100
.set SEL_KCODE,   0x08
.set SEL_UDATA,   0x1b
.set SEL_UCODE,   0x23
.set SEL_TSS0,    0x28
.set MAX_CPUS,    64
.set USER_FLAGS,  0x202             # IF

# struct CpuBlock (cpu.rs): one page; its end is the CPL0 stack.
.set CPU_IRQS,      0x00
.set CPU_STACK,     0x08
.set CPU_TSS_SEL,   0x10
.set CPU_FAULT,     0x20            # vector, error, rip, cr2, rsp, cs
.set CPU_TSS,       0x80
.set CPU_VECTORS,   0x100           # u64 counter per interrupt vector 0x20..

.set VECTOR_BASE,   0x20
.set VECTOR_COUNT,  0x20
.set X2APIC_EOI,    0x80b
.set XAPIC_EOI,     0xfee000b0

.section .note.pvh,"a",@note
.balign 4
    .long 4, 8, 18                  # name size, value size, XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .quad pvh_start

.section .boot,"awx",@progbits
boot_base:

.code32
.globl pvh_start
pvh_start:
    cli
    cld
    mov $CR4_LONG, %eax
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $MSR_EFER, %ecx
    mov $EFER_LME, %eax
    xor %edx, %edx
    wrmsr
    mov $CR0_LONG, %eax
    mov %eax, %cr0
    lgdt gdt_pointer
    ljmp $SEL_KCODE, $bsp_long

.code64
bsp_long:
    mov $boot_cpu, %esi
    mov $rust_main, %ecx
    mov %ebx, %edx                  # third argument: start info
    mov $0xff, %al                  # both legacy interrupt controllers masked
    out %al, $0x21
    out %al, $0xa1
# %rsi = struct CpuBlock, %rcx = entry at CPL3
enter_user:
    mov $SEL_UDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    lidt idt_pointer
    mov CPU_TSS_SEL(%rsi), %eax
    ltr %ax
    lea 0x1000(%rsi), %rsp
    pushq $SEL_UDATA
    pushq CPU_STACK(%rsi)
    pushq $USER_FLAGS
    pushq $SEL_UCODE
    pushq %rcx
    mov %rsi, %rdi
    iretq

# Application processor, in real mode, %cs = the page it was copied to.
.code16
.globl trampoline
trampoline:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    lgdtl trampoline_gdt - trampoline
    mov $CR4_LONG, %eax
    mov %eax, %cr4
    mov $pml4, %eax
    mov %eax, %cr3
    mov $MSR_EFER, %ecx
    mov $EFER_LME, %eax
    xor %edx, %edx
    wrmsr
    mov $CR0_LONG, %eax
    mov %eax, %cr0
    ljmpl $SEL_KCODE, $ap_long
.balign 8
trampoline_gdt:
    .word gdt_end - gdt - 1
    .long gdt
.globl trampoline_end
trampoline_end:

.code64
ap_long:
    xor %esi, %esi                  # the slot holds a CPU that awaits its
    xchg %rsi, ap_slot              # processor; one that comes late finds none
    mov $ap_main, %ecx
    test %rsi, %rsi
    jnz enter_user
park:
    cli
    hlt
    jmp park

# --- the service gate: int3 at CPL3, number in %eax (gate.rs) -------------
gate:
    jmp *gate_table(,%rax,8)
gate_outs:                          # %dx port, %rsi bytes, %rcx count
    rep outsb
    iretq
gate_out8:                          # %dx port, %edi value
    mov %edi, %eax
    out %al, %dx
    iretq
gate_out16:
    mov %edi, %eax
    out %ax, %dx
    iretq
gate_out32:
    mov %edi, %eax
    out %eax, %dx
    iretq
gate_in32:
    in %dx, %eax
    iretq
gate_rdmsr:                         # %ecx register -> %rax
    rdmsr
    shl $32, %rdx
    or %rdx, %rax
    iretq
gate_wrmsr:                         # %ecx register, %rdi value
    mov %rdi, %rax
    mov %rdi, %rdx
    shr $32, %rdx
    wrmsr
    iretq
gate_cpuid:                         # %edi leaf, %ecx subleaf, %rsi -> [u32; 4]
    push %rbx
    mov %edi, %eax
    cpuid
    mov %eax, (%rsi)
    mov %ebx, 4(%rsi)
    mov %ecx, 8(%rsi)
    mov %edx, 12(%rsi)
    pop %rbx
    iretq
gate_wait:                          # halt unless *%rdi != %rsi; no wake-up is
    cmp %rsi, (%rdi)                # lost: the gate masks interrupts until the
    jne 1f                          # instruction after sti
    sti
    hlt
1:  iretq
gate_load_cr3:
    mov %cr3, %rax
    mov %rax, %cr3
    iretq
gate_triple_fault:
    lidt null_pointer
    ud2
gate_jump:                          # %rdi: leave the guest where nothing is
    jmp *%rdi

# --- interrupts: count, acknowledge, return --------------------------------
.altmacro
.macro interrupt_entry number
interrupt_\number:
    pushq $\number
    jmp interrupt
.endm
.set i, 0
.rept VECTOR_COUNT
    interrupt_entry %i
    .set i, i + 1
.endr
interrupt:
    push %rax
    push %rcx
    push %rdx
    mov 24(%rsp), %eax
    mov %rsp, %rcx
    and $-4096, %rcx
    incq CPU_VECTORS(%rcx,%rax,8)
    incq CPU_IRQS(%rcx)
    xor %eax, %eax
    cmpb %al, x2apic_enabled
    je 1f
    xor %edx, %edx
    mov $X2APIC_EOI, %ecx
    wrmsr
    jmp 2f
1:  mov $XAPIC_EOI, %ecx
    mov %eax, (%rcx)
2:  pop %rdx
    pop %rcx
    pop %rax
    add $8, %rsp
    iretq

# --- faults: note what happened and continue in Rust, which reports it ------
.macro fault_entry number
fault_\number:
.if (\number == 8) | ((\number >= 10) & (\number <= 14)) | (\number == 17) | (\number == 21)
.else
    pushq $0
.endif
    pushq $\number
    jmp fault
.endm
.set i, 0
.rept 32
    fault_entry %i
    .set i, i + 1
.endr
fault:
    mov %rsp, %rdi
    and $-4096, %rdi
    popq CPU_FAULT(%rdi)
    popq CPU_FAULT+8(%rdi)
    mov (%rsp), %rax
    mov %rax, CPU_FAULT+16(%rdi)
    mov %cr2, %rax
    mov %rax, CPU_FAULT+24(%rdi)
    mov 24(%rsp), %rax
    mov %rax, CPU_FAULT+32(%rdi)
    mov 8(%rsp), %rax
    mov %rax, CPU_FAULT+40(%rdi)
    lea 0x1000(%rdi), %rsp
    pushq $SEL_UDATA
    pushq $fault_stack_top - 8
    pushq $2                        # interrupts stay masked
    pushq $SEL_UCODE
    pushq $fault_main
    iretq

# --- tables ---------------------------------------------------------------
.balign 16
gate_table:
    .quad gate_outs, gate_out8, gate_out16, gate_out32
    .quad gate_in32
    .quad gate_rdmsr, gate_wrmsr, gate_cpuid, gate_wait, gate_load_cr3
    .quad park, gate_triple_fault, gate_jump

gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word idt_end - idt - 1
    .quad idt
null_pointer:
    .word 0
    .quad 0

# Intel SDM 3A 3.4.5 and 8.2.3. Rust fills the TSS descriptors after the first.
.balign 16
.globl gdt
gdt:
    .quad 0
    .quad 0x00af9b000000ffff        # 0x08 CPL0 code, 64-bit
    .quad 0x00cf93000000ffff        # 0x10 CPL0 data
    .quad 0x00cff3000000ffff        # 0x18 CPL3 data
    .quad 0x00affb000000ffff        # 0x20 CPL3 code, 64-bit
.globl gdt_tss
gdt_tss:
    .word 0x67, boot_tss - boot_base
    .byte 0x20, 0x89, 0, 0
    .quad 0
    .fill (MAX_CPUS - 1) * 16, 1, 0
gdt_end:

# Intel SDM 3A 6.14.1. Vector 3 is the only one that CPL3 may call.
.macro idt_gate handler, access
    .word \handler - boot_base, SEL_KCODE
    .byte 0, \access
    .word 0x20
    .quad 0
.endm
.macro idt_fault number
    idt_gate fault_\number, 0x8e
.endm
.macro idt_interrupt number
    idt_gate interrupt_\number, 0x8e
.endm
.balign 16
idt:
.set i, 0
.rept 32
.if i == 3
    idt_gate gate, 0xee
.else
    idt_fault %i
.endif
    .set i, i + 1
.endr
.set i, 0
.rept VECTOR_COUNT
    idt_interrupt %i
    .set i, i + 1
.endr
idt_end:

.balign 4096
.globl boot_cpu
boot_cpu:
    .quad 0
    .quad boot_stack_top - 8        # as after a call (System V ABI 3.2.2)
    .quad SEL_TSS0
    .fill CPU_TSS - 0x18, 1, 0
boot_tss:
    .long 0
    .quad boot_cpu + 0x1000         # RSP0
    .fill 0x5a, 1, 0
    .word 0x68                      # no I/O bitmap
    .fill 0x1000 - CPU_TSS - 0x68, 1, 0

# The first 4 GiB in 2 MiB pages, all present, writable, user, accessed and
# dirty (Intel SDM 3A 4.5). Rust adds what lies higher.
.globl pml4
pml4:
    .quad pdpt + 0x27
    .fill 511 * 8, 1, 0
pdpt:
    .quad pd + 0x0027, pd + 0x1027, pd + 0x2027, pd + 0x3027
    .fill 508 * 8, 1, 0
pd:
.set i, 0
.rept 2048
    .quad 0xe7 + (i << 21)
    .set i, i + 1
.endr

.balign 8
.globl ap_slot
ap_slot:
    .quad 0
.globl x2apic_enabled
x2apic_enabled:
    .byte 0

.section .bss.stacks,"aw",@nobits
.balign 4096
    .skip 0x10000
boot_stack_top:
    .skip 0x2000
fault_stack_top:
.text
