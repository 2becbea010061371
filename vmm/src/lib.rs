//! One guest on KVM.
