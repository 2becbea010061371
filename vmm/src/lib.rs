//! One guest on KVM: memory, vCPUs, devices, boot, pause, save, restore.
//!
//! This crate runs exactly one virtual machine inside one process, with threads and no async
//! runtime. It never knows that another host exists: moving a guest is `godwit-migration`'s work,
//! through what this crate offers (pause, save, the dirty log, userfaultfd).
//!
//! Guests, disks and saved state are untrusted. Whatever they contain ends in an error that names
//! the cause, never in a panic.

pub mod boot;
pub mod bus;
pub mod config;
pub mod cpu;
pub mod devices;
pub mod guest;
pub mod interrupt;
pub mod kvm;
pub mod memory;
pub mod payload;
#[cfg(test)]
mod skip;
pub mod vcpu;
