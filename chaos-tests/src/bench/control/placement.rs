//! What the control plane decides, and what its state costs.

use std::time::{Duration, Instant};

use godwit_control_plane::workload::{Churn, Size, Workload};

use super::system;
use crate::bench::{Aim, Bench, BenchError, Row, Samples, rounds};

const SIZE: Size = Size {
    nodes: 5_000,
    guests: 100_000,
    services: 500,
};
/// Decisions before the clock runs.
const WARM_UP: usize = 2_000;
const DECISIONS: usize = 100_000;

/// What this thread has had of a processor, in seconds (Linux,
/// `Documentation/scheduler/sched-stats.rst`).
fn cpu_seconds() -> Result<f64, BenchError> {
    let path = "/proc/thread-self/schedstat";
    let stat = std::fs::read_to_string(path).map_err(system("read schedstat"))?;
    let nanoseconds = stat
        .split_whitespace()
        .next()
        .and_then(|n| n.parse::<f64>().ok());
    let nanoseconds = nanoseconds.ok_or_else(|| BenchError::Report {
        line: stat.clone(),
        key: "time on a processor".into(),
    })?;
    Ok(nanoseconds / 1e9)
}

/// Where guests go.
pub(super) fn decisions(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let mut churn = Churn::new(Workload::full(SIZE, 1), 1_000);
    churn.decide(WARM_UP);
    let (mut rates, mut found, mut asked) = (Samples::new(), 0, 0);
    rounds(bench.repeats(3, 10), Duration::from_secs(60), || {
        let begin = cpu_seconds()?;
        found += churn.decide(DECISIONS);
        asked += DECISIONS;
        rates.push(DECISIONS as f64 / (cpu_seconds()? - begin));
        Ok(())
    })?;
    let row = Row::new(
        "placement, 5,000 nodes, 100,000 guests",
        "decisions/s of a core",
        &rates,
        Aim::AtLeast(50_000.0),
    );
    Ok(vec![row.note(format!("{found} of {asked} found a place"))])
}

/// What a snapshot takes: the copy, for which applying waits, and the bytes, for which it does not.
pub(super) fn state(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let state = Workload::full(SIZE, 1).state;
    let (mut copies, mut bytes, mut length) = (Samples::new(), Samples::new(), 0);
    rounds(bench.repeats(5, 15), Duration::from_secs(60), || {
        let begin = Instant::now();
        let copy = state.clone();
        copies.push_ms(begin.elapsed());
        let begin = Instant::now();
        let chunks = copy.snapshot().map_err(|error| BenchError::Report {
            line: error.to_string(),
            key: "snapshot".into(),
        })?;
        bytes.push_ms(begin.elapsed());
        length = chunks.iter().map(Vec::len).sum();
        Ok(())
    })?;
    let what = "state of 5,000 nodes and 100,000 guests";
    let mib = length as f64 / f64::from(1 << 20);
    Ok(vec![
        Row::new(
            format!("{what}: copied for a snapshot"),
            "ms",
            &copies,
            Aim::Nothing,
        ),
        Row::new(
            format!("{what}: written as a snapshot"),
            "ms",
            &bytes,
            Aim::Nothing,
        )
        .note(format!("{mib:.0} MiB")),
    ])
}
