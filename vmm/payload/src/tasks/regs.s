# Runs at CPL3. void regs_hold(const Registers *in, Registers *out, u64 loops)
# `Registers` (logic/registers.rs): a 512-byte FXSAVE area, then 15 words.
.set GENERAL, 512
.text
.globl regs_hold
regs_hold:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    push %rsi
    push %rdx
    fxrstor (%rdi)
    mov GENERAL+0x00(%rdi), %rax
    mov GENERAL+0x08(%rdi), %rbx
    mov GENERAL+0x10(%rdi), %rcx
    mov GENERAL+0x18(%rdi), %rdx
    mov GENERAL+0x20(%rdi), %rsi
    mov GENERAL+0x30(%rdi), %rbp
    mov GENERAL+0x38(%rdi), %r8
    mov GENERAL+0x40(%rdi), %r9
    mov GENERAL+0x48(%rdi), %r10
    mov GENERAL+0x50(%rdi), %r11
    mov GENERAL+0x58(%rdi), %r12
    mov GENERAL+0x60(%rdi), %r13
    mov GENERAL+0x68(%rdi), %r14
    mov GENERAL+0x70(%rdi), %r15
    mov GENERAL+0x28(%rdi), %rdi
1:  decq (%rsp)
    jnz 1b
    push %rdi
    mov 16(%rsp), %rdi
    mov %rax, GENERAL+0x00(%rdi)
    mov %rbx, GENERAL+0x08(%rdi)
    mov %rcx, GENERAL+0x10(%rdi)
    mov %rdx, GENERAL+0x18(%rdi)
    mov %rsi, GENERAL+0x20(%rdi)
    mov %rbp, GENERAL+0x30(%rdi)
    mov %r8,  GENERAL+0x38(%rdi)
    mov %r9,  GENERAL+0x40(%rdi)
    mov %r10, GENERAL+0x48(%rdi)
    mov %r11, GENERAL+0x50(%rdi)
    mov %r12, GENERAL+0x58(%rdi)
    mov %r13, GENERAL+0x60(%rdi)
    mov %r14, GENERAL+0x68(%rdi)
    mov %r15, GENERAL+0x70(%rdi)
    pop %rax
    mov %rax, GENERAL+0x28(%rdi)
    fxsave (%rdi)
    fninit
    movl $0x1f80, (%rsp)            # what compiled code expects
    ldmxcsr (%rsp)
    pop %rdx
    pop %rsi
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret
