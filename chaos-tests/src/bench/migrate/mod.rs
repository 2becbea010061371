//! Subject `migrate`: a guest that moves over a link between two network namespaces.
//!
//! Both VMMs move the same guest over the same link, in turn. What the guest did not
//! see of the time, what the wire carried and how long a command took are measured from
//! outside, alike for both; what either says of itself is in the notes. QEMU is set as
//! well as it could be: where several settings are tried, the best median is its.

mod blackout;
mod bytes;
mod corpus;
mod cost;
mod follow;
mod godwit;
mod heartbeat;
mod link;
mod qemu;
mod rate;
mod tls;
mod trip;

use super::{Bench, BenchError, Document, Row, Samples};
use qemu::Tuning;

type Part = (&'static str, fn(&Bench) -> Result<Vec<Row>, BenchError>);

/// The parts, by name.
const PARTS: [Part; 10] = [
    ("idle blackout", blackout::idle),
    ("busy blackout", blackout::half_the_link),
    ("four times the link", follow::four_times_the_link),
    ("post-copy faults", follow::faults),
    ("bytes", bytes::contents),
    ("small writes", bytes::small_writes),
    ("return", bytes::there_and_back),
    ("encrypted", rate::encrypted),
    ("throughput", cost::throughput),
    ("memory", cost::memory),
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

/// The tuning with the smallest median (or the largest, for a rate), with its samples.
fn best(tried: &[(Tuning, Samples)], larger_is_better: bool) -> Option<(&Tuning, &Samples)> {
    let sign = if larger_is_better { -1.0 } else { 1.0 };
    tried
        .iter()
        .filter_map(|(tuning, samples)| Some((tuning, samples, samples.median()? * sign)))
        .min_by(|one, two| one.2.total_cmp(&two.2))
        .map(|(tuning, samples, _)| (tuning, samples))
}
