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
//! Both VMMs in one host, for a comparison within the same minute:
//!
//! ```no_run
//! # use std::time::Duration;
//! # use godwit_chaos_tests::nested::*;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut spec = HostSpec::new("compare");
//! spec.content.qemu = true;
//! spec.content.programs.push(Carried {
//!     from: "target/release/godwit".into(),
//!     to: vmm::GODWIT.to_owned(),
//! });
//! let host = Host::boot(&Assets::fetch()?, &spec)?;
//! for vmm in [Vmm::Godwit, Vmm::Qemu] {
//!     let guest = GuestSpec::new("shell", 2, Work::Shell);
//!     vmm::prepare(&host, &guest)?;
//!     let mut guest = vmm.start(&host, &guest)?;
//!     guest.console.await_line("L2-SHELL", Duration::from_secs(60))?;
//!     guest.console.type_text("dd if=/dev/vda of=/dev/null bs=1M iflag=direct; echo read=$?\n")?;
//!     guest.console.await_line("read=0", Duration::from_secs(60))?;
//! }
//! # Ok(())
//! # }
//! ```
//!
//! It asserts correctness, never speed: everything here is an order of magnitude
//! slower than hardware. It needs no privilege and no network but the download.

pub mod apt;
pub mod assets;
pub mod cpio;
pub mod etcd;
pub mod external;
mod files;
pub mod host;
pub mod image;
pub mod libraries;
pub mod load;
pub mod modules;
pub mod process;
pub mod vmm;

pub use assets::{Assets, AssetsError};
pub use host::{Host, HostError, HostSpec, Output};
pub use image::{Carried, HostContent};
pub use load::{Load, StressNg};
pub use process::Process;
pub use vmm::{Guest, GuestSpec, Vmm, Work};
