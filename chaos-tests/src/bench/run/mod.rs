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
    document.add(bench, "start", start::measure);
    document.add(bench, "idle memory", memory::measure);
    document.add(bench, "pause, save, restore", pause::measure);
    document.add(bench, "snapshot", snapshot::measure);
    document.add(bench, "lazy restore", lazy::measure);
    document.add(bench, "virtio-blk", block::measure);
    document.add(bench, "virtio-net", net::measure);
    document.add(bench, "nested Linux", nested::measure);
}
