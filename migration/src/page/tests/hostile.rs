//! A peer that sends garbage: refused with a reason, without panic and within bounded memory.

use godwit_proto::codes::ErrorCode;
use proptest::prelude::*;

use super::populations::{Population, Random, generate};
use super::wire::{HEADER_BYTES, MAX_BLOCK_BYTES};
use super::*;
use crate::ports::PAGE_BYTES;

const PAGES: u64 = 200;

/// One stream with batches of every kind.
fn stream() -> Vec<u8> {
    let source = FakeMemory::new(PAGES);
    source
        .write(10, &generate(Population::Text, 40, 1))
        .unwrap();
    source
        .write(90, &generate(Population::Random, 30, 2))
        .unwrap();
    let mut pair = Pair::new(PAGES, Compression::Level(1));
    let mut out = Vec::new();
    for round in 0..4u8 {
        let runs = if round == 0 { (0, PAGES) } else { (10, 40) };
        pair.encoder
            .encode(&source, [runs], round.into(), &mut out)
            .unwrap();
        for page in 10..50 {
            let mut bytes = vec![0; PAGE_BYTES];
            source.read(page, &mut bytes).unwrap();
            bytes[100] = round;
            source.write(page, &bytes).unwrap();
        }
    }
    let stats = pair.encoder.stats();
    assert!(stats.delta.pages > 0 && stats.zstd.pages > 0 && stats.raw.pages > 0);
    out
}

/// Feeds `bytes` in pieces of `feed`; returns how it ended, and the most memory the reader took.
fn feed(bytes: &[u8], feed: usize) -> (Result<u64, WireError>, Result<(), ApplyError>, usize) {
    let mut reader = BatchReader::new(1, PAGES);
    let mut decoder = PageDecoder::new(Arc::new(DigestTable::new(PAGES, SEED)));
    let target = FakeMemory::new(PAGES);
    let (mut batches, mut memory_bytes) = (0, 0);
    for mut input in bytes.chunks(feed) {
        loop {
            match reader.next(&mut input) {
                Ok(None) => break,
                Ok(Some(batch)) => {
                    batches += 1;
                    if let Err(error) = decoder.apply(&batch, &target) {
                        return (Ok(batches), Err(error), memory_bytes);
                    }
                }
                Err(error) => {
                    assert_eq!(reader.next(&mut input).unwrap_err(), error, "and for ever");
                    return (Err(error), Ok(()), memory_bytes);
                }
            }
            memory_bytes = memory_bytes.max(reader.memory_bytes());
        }
        memory_bytes = memory_bytes.max(reader.memory_bytes());
    }
    (reader.finish().map(|()| batches), Ok(()), memory_bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn a_mutated_stream_is_refused_within_bounded_memory(
        seed in any::<u64>(), mutations in 1usize..6, piece in 1usize..5000, near_headers in any::<bool>(),
    ) {
        let mut bytes = stream();
        let before = bytes.clone();
        let mut random = Random::new(seed);
        let span = if near_headers { 60 } else { bytes.len() as u64 };
        for _ in 0..mutations {
            let at = random.below(span) as usize;
            bytes[at] = random.next() as u8;
        }
        let (read, applied, memory_bytes) = feed(&bytes, piece);
        prop_assert!(bytes == before || read.is_err() || applied.is_err(), "a change went unnoticed");
        prop_assert!(memory_bytes <= 2 * (MAX_BLOCK_BYTES + 40_000), "{}", memory_bytes);
    }

    #[test]
    fn garbage_is_refused(bytes in proptest::collection::vec(any::<u8>(), HEADER_BYTES..2000), piece in 1usize..100) {
        prop_assert!(feed(&bytes, piece).0.is_err());
    }
}

#[test]
fn a_stream_cut_anywhere_but_between_batches_is_noticed() {
    let bytes = stream();
    let (whole, _, _) = feed(&bytes, 4096);
    let whole = whole.unwrap();
    let mut random = Random::new(1);
    let mut complete = 0;
    for _ in 0..200 {
        let length = random.below(bytes.len() as u64) as usize;
        match feed(&bytes[..length], 1 << 20).0 {
            Ok(batches) => complete += u64::from(batches < whole),
            Err(error) => assert!(matches!(error, WireError::CutOff { .. }), "{error}"),
        }
    }
    assert!(complete <= whole, "only between batches");
}

/// A first batch with two bytes changed.
fn with(changes: &[(usize, u8)]) -> Result<u64, WireError> {
    let mut bytes = encoded(
        &FakeMemory::filled(&generate(Population::Random, 2, 1)),
        Compression::Off,
    );
    for &(at, byte) in changes {
        bytes[at] = byte;
    }
    feed(&bytes, 1 << 20).0
}

#[test]
fn each_lie_of_a_header_has_its_reason() {
    use WireError as E;
    assert_eq!(with(&[]), Ok(1));
    assert!(matches!(with(&[(0, 0)]), Err(E::Magic { .. })));
    assert!(matches!(
        with(&[(2, 2)]),
        Err(E::Version {
            found: 2,
            expected: 1
        })
    ));
    assert!(matches!(with(&[(3, 4)]), Err(E::Kind { found: 4 })));
    assert!(matches!(
        with(&[(8, 1)]),
        Err(E::Sequence {
            found: 1,
            expected: 0
        })
    ));
    assert!(matches!(with(&[(16, 0)]), Err(E::Pages { found: 0, .. })));
    assert!(matches!(
        with(&[(16, 65)]),
        Err(E::Pages {
            found: 65,
            limit: 64
        })
    ));
    assert!(matches!(
        with(&[(20, 0)]),
        Err(E::ListLength { found: 0, .. })
    ));
    assert!(matches!(
        with(&[(21, 1)]),
        Err(E::ListLength {
            found: 0x102,
            limit: 40
        })
    ));
    assert!(matches!(with(&[(22, 1)]), Err(E::Reserved)));
    assert!(matches!(with(&[(23, 1)]), Err(E::Reserved)));
    assert!(matches!(with(&[(26, 1)]), Err(E::PayloadLength { .. })));
    assert!(matches!(with(&[(3, 0)]), Err(E::PayloadLength { .. })));
    assert!(matches!(with(&[(36, 199)]), Err(E::List | E::Run { .. })));
    assert!(matches!(with(&[(37, 2)]), Err(E::List)));
    assert!(matches!(with(&[(37, 0)]), Err(E::List)));
    assert_eq!(
        with(&[(23, 1)]).unwrap_err().code(),
        ErrorCode::PeerProtocol
    );
}

#[test]
fn a_batch_repeated_is_refused() {
    let bytes = encoded(
        &FakeMemory::filled(&generate(Population::Random, 2, 1)),
        Compression::Off,
    );
    let (read, _, _) = feed(&bytes.repeat(2), 1000);
    assert_eq!(
        read,
        Err(WireError::Sequence {
            found: 0,
            expected: 1
        })
    );
}

#[test]
fn a_round_that_falls_is_refused() {
    let digests = Arc::new(DigestTable::new(PAGES, SEED));
    let source = FakeMemory::filled(&generate(Population::Random, 2, 1));
    let mut encoder = encoder(Arc::new(SentPages::new(digests, 0)), Compression::Off);
    let mut bytes = Vec::new();
    encoder.encode(&source, [(0, 1)], 3, &mut bytes).unwrap();
    encoder.encode(&source, [(1, 1)], 3, &mut bytes).unwrap();
    let second = bytes.len() / 2;
    bytes[second + 4] = 2;
    let (read, _, _) = feed(&bytes, 1000);
    assert_eq!(read, Err(WireError::Round { found: 2, last: 3 }));
}

#[test]
fn pages_outside_the_guest_are_refused() {
    let bytes = encoded(&FakeMemory::new(PAGES + 1), Compression::Off);
    assert!(matches!(feed(&bytes, 1000).0, Err(WireError::Pages { .. })));
    let source = FakeMemory::new(2 * PAGES);
    source
        .write(PAGES, &generate(Population::Random, 1, 1))
        .unwrap();
    let digests = Arc::new(DigestTable::new(2 * PAGES, SEED));
    let mut encoder = encoder(Arc::new(SentPages::new(digests, 0)), Compression::Off);
    let mut bytes = Vec::new();
    encoder
        .encode(&source, [(PAGES, 1)], 0, &mut bytes)
        .unwrap();
    let outside = WireError::Run {
        first: PAGES,
        count: 1,
        pages: PAGES,
    };
    assert_eq!(feed(&bytes, 1000).0, Err(outside));
}

#[test]
fn a_delta_to_something_else_is_refused_and_changes_nothing() {
    let source = FakeMemory::filled(&generate(Population::Text, 4, 1));
    let mut pair = Pair::new(4, Compression::Off);
    let mut out = Vec::new();
    for round in 0..3u8 {
        let mut bytes = source.all();
        bytes[7] = round;
        source.write(0, &bytes[..PAGE_BYTES]).unwrap();
        pair.send(&source, &[(0, 4)], round.into());
    }
    let mut bytes = source.all();
    bytes[9] = 0;
    source.write(0, &bytes[..PAGE_BYTES]).unwrap();
    pair.encoder.encode(&source, [(0, 1)], 3, &mut out).unwrap();
    pair.target
        .write(0, &generate(Population::Text, 1, 99))
        .unwrap();
    let before = pair.target.all();
    let batch = pair.reader.next(&mut &out[..]).unwrap().unwrap();
    assert_eq!(batch.header.kind, BatchKind::Delta);
    let error = pair.decoder.apply(&batch, &pair.target).unwrap_err();
    assert!(matches!(error, ApplyError::Check { .. }), "{error}");
    assert!(pair.target.all() == before);
}

#[test]
fn memory_that_refuses_is_told_apart_from_a_peer_that_lies() {
    let bytes = encoded(
        &FakeMemory::filled(&generate(Population::Random, 2, 1)),
        Compression::Off,
    );
    let mut reader = BatchReader::new(1, 2);
    let batch = reader.next(&mut &bytes[..]).unwrap().unwrap();
    let mut decoder = PageDecoder::new(Arc::new(DigestTable::new(2, SEED)));
    let error = decoder.apply(&batch, &FakeMemory::new(1)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::Memory);
}
