//! Stock Linux guests on machines without hardware virtualisation.
//!
//! QEMU's software emulation of an AMD processor includes SVM with nested paging.
//! A Debian kernel booted on it (the *host*, L1) has a real `/dev/kvm`; there the
//! freshly built `godwit` runs stock Debian kernels (the *guests*, L2):
//!
//! ```text
//! this machine (L0)   test -> Host ----- QEMU (TCG, emulated SVM) --------+
//! emulated host (L1)            init, agent, /dev/kvm: Debian kernel      |
//!                               godwit run | QEMU for comparison          |
//! nested guest (L2)                 init: Debian kernel, busybox          |
//! ```
//!
//! [`Assets`] holds the pieces, fetched as Debian packages; [`Host`] boots the
//! machine and runs commands in it; [`Process`] is a program that keeps running
//! there with its console at hand; [`Vmm`] knows how to start a [`GuestSpec`]
//! under Godwit or, for comparison, under QEMU.
//!
//! It asserts correctness, never speed: everything here is an order of magnitude
//! slower than hardware. It needs no privilege and no network but the download.

pub mod apt;
pub mod assets;
pub mod cpio;
pub mod external;
pub mod host;
pub mod image;
pub mod libraries;
pub mod modules;
pub mod process;
pub mod vmm;

pub use assets::{Assets, AssetsError};
pub use host::{Host, HostError, HostSpec, Output};
pub use image::{Carried, HostContent};
pub use process::Process;
pub use vmm::{Guest, GuestSpec, Vmm, Work};
