//! A stream of version 1, kept for ever: what was written once must be read by every build that
//! speaks the version.

use super::populations::Random;
use super::*;
use crate::ports::PAGE_BYTES;

/// Batches of every kind. `GODWIT_WRITE_GOLDEN=1` writes it anew.
const GOLDEN: &[u8] = include_bytes!("golden/pages-v1.bin");

const PAGES: u64 = 8;

/// The memory in round 0, and in round 1.
fn guest(round: u8) -> FakeMemory {
    let memory = FakeMemory::new(PAGES);
    let mut random = Random::new(1);
    let noise: Vec<u8> = (0..PAGE_BYTES).map(|_| random.next() as u8).collect();
    memory
        .write(3, &b"godwit, ".repeat(PAGE_BYTES / 8))
        .unwrap();
    memory.write(5, &noise).unwrap();
    let mut page = vec![7; PAGE_BYTES];
    page[1000] = round;
    memory.write(6, &page).unwrap();
    memory
}

/// Room for copies of pages, but for no digests of their parts: as builds wrote that knew none.
const COPIES_BYTES: u64 = 300 << 10;

/// The stream that this build writes.
fn written() -> Vec<u8> {
    let mut pair = Pair::with_copies(PAGES, Compression::Level(1), COPIES_BYTES);
    let mut bytes = Vec::new();
    for round in 0..4 {
        let runs = if round == 0 { (0, PAGES) } else { (6, 1) };
        pair.encoder
            .encode(&guest(round), [runs], round.into(), &mut bytes)
            .unwrap();
    }
    bytes
}

#[test]
fn the_golden_stream_is_read() {
    if std::env::var_os("GODWIT_WRITE_GOLDEN").is_some() {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/src/page/tests/golden/pages-v1.bin"
        );
        std::fs::write(path, written()).unwrap();
    }
    let mut pair = Pair::new(PAGES, Compression::Off);
    let mut kinds = Vec::new();
    let mut input = GOLDEN;
    while let Some(batch) = pair.reader.next(&mut input).unwrap() {
        kinds.push(batch.header.kind);
        pair.decoder.apply(&batch, &pair.target).unwrap();
    }
    use BatchKind::{Delta, Raw, Zeros, Zstd};
    assert_eq!(kinds, [Zeros, Zstd, Raw, Zstd, Delta, Delta]);
    assert!(pair.target.all() == guest(3).all());
    assert_eq!(pair.target.touched(), 3);
}

/// Frames of zstd may differ from release to release; all else may not.
#[test]
fn what_is_written_is_golden_but_for_the_frames() {
    let others = |bytes: &[u8]| {
        let mut reader = BatchReader::new(1, PAGES);
        let (mut input, mut others) = (bytes, Vec::new());
        while let Some(batch) = reader.next(&mut input).unwrap() {
            let zstd = batch.header.kind == BatchKind::Zstd;
            let payload = if zstd { &[][..] } else { batch.payload };
            others.push((batch.header.kind, batch.list.to_vec(), payload.to_vec()));
        }
        others
    };
    assert_eq!(others(&written()), others(GOLDEN));
}
