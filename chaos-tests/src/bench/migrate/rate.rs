//! How many bytes of the guest move in a second when only the machine limits them.

use std::fs;
use std::time::Duration;

use super::super::guests::BenchGuest;
use super::super::{Aim, Bench, BenchError, Row, Samples, image, rounds};
use super::corpus::Kind;
use super::link::{Link, Speed};
use super::qemu::{Channels, Tuning};
use super::trip::{Asked, Mover, once};
use super::{best, heartbeat, tls};

const LIMIT: Duration = Duration::from_secs(90);
const CONTENT_MIB: u64 = 768;
const OTHER_MIB: u64 = 64;
const TUNINGS: [Tuning; 3] = [
    Tuning::of(Channels::One).with_tls(),
    Tuning::of(Channels::Multi(2)).with_tls(),
    Tuning::of(Channels::MultiZstd(2)).with_tls(),
];
const OPEN: Tuning = Tuning::of(Channels::Multi(2));

pub(super) fn encrypted(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let link = Link::new(Speed::Unshaped)?;
    let mut rows = Vec::new();
    for kind in [Kind::Random, Kind::Files] {
        rows.extend(of_content(bench, &link, kind)?);
    }
    Ok(rows)
}

fn of_content(bench: &Bench, link: &Link, kind: Kind) -> Result<Vec<Row>, BenchError> {
    let mut guest = BenchGuest::new(&image::payload(bench)?, &heartbeat::words());
    guest.memory_mib = CONTENT_MIB + OTHER_MIB;
    let content = kind.content(bench, CONTENT_MIB)?;
    let bytes = fs::read(&content.file).map_err(|source| BenchError::System {
        doing: format!("read {}", content.file.display()),
        source,
    })?;
    guest.content = Some(content);
    let rate = |time: Duration| bytes.len() as f64 / 1e6 / time.as_secs_f64();
    let (mut godwit, mut limit, mut open) = (Samples::new(), Samples::new(), Samples::new());
    let mut tried = TUNINGS.map(|tuning| (tuning, Samples::new()));
    rounds(bench.repeats(2, 7), LIMIT, || {
        let asked = Asked::default();
        godwit.push(rate(
            once(bench, link, &guest, Mover::Godwit, &asked)?.total,
        ));
        limit.push(rate(tls::copy(link, &bytes)?));
        if let Some(peer) = &bench.peer {
            for (tuning, samples) in &mut tried {
                let mover = Mover::Qemu(peer, *tuning);
                samples.push(rate(once(bench, link, &guest, mover, &asked)?.total));
            }
            let mover = Mover::Qemu(peer, OPEN);
            open.push(rate(once(bench, link, &guest, mover, &asked)?.total));
        }
        Ok(())
    })?;
    let what = format!("encrypted, unshaped, {}", kind.name());
    let mut rows = vec![
        Row::new(&what, "MB/s", &godwit, Aim::AtLeastOfPeer(1.2))
            .beside("copy over TLS and TCP", &limit),
    ];
    if let Some((tuning, samples)) = best(&tried, true) {
        rows.push(
            Row::new(&what, "MB/s", &godwit, Aim::AtLeastOfPeer(1.5))
                .beside(tuning.name(), samples),
        );
        rows.push(
            Row::new(&what, "MB/s", &godwit, Aim::Nothing)
                .beside(format!("{}, not encrypted", OPEN.name()), &open),
        );
    }
    Ok(rows)
}
