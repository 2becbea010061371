//! Subject `run`: one guest, from its start to its devices.

mod block;
mod image;
mod lazy;
mod memory;
mod nested;
mod net;
mod pause;
mod snapshot;
mod start;

use super::{Bench, Document};

/// How long a program may take to show something that takes it seconds at worst.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

pub(super) fn measure(bench: &Bench, document: &mut Document) {
    document.add("start", || start::measure(bench));
    document.add("idle memory", || memory::measure(bench));
    document.add("pause, save, restore", || pause::measure(bench));
    document.add("snapshot", || snapshot::measure(bench));
    document.add("lazy restore", || lazy::measure(bench));
    document.add("virtio-blk", || block::measure(bench));
    document.add("virtio-net", || net::measure(bench));
    document.add("nested Linux", || nested::measure(bench));
}
