//! One guest on KVM.

pub mod payload;
