//! Subject `run`: one guest, from its start to its devices.

mod block;
mod lazy;
mod memory;
mod nested;
mod net;
mod pause;
mod snapshot;
mod start;

use super::{Bench, BenchError, Document, Row, image};

/// How long a program may take to show something that takes it seconds at worst.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);

type Part = (&'static str, fn(&Bench) -> Result<Vec<Row>, BenchError>);

/// The parts, by name.
const PARTS: [Part; 8] = [
    ("start", start::measure),
    ("idle memory", memory::measure),
    ("pause, save, restore", pause::measure),
    ("snapshot", snapshot::measure),
    ("lazy restore", lazy::measure),
    ("virtio-blk", block::measure),
    ("virtio-net", net::measure),
    ("nested Linux", nested::measure),
];

/// The names of the parts.
pub(super) fn parts() -> Vec<&'static str> {
    PARTS.map(|(name, _)| name).to_vec()
}

pub(super) fn measure(bench: &Bench, document: &mut Document) {
    for (name, part) in PARTS {
        document.add(bench, name, part);
    }
}
