//! What arrives is what was sent, and takes as little as promised.

use proptest::prelude::*;

use super::populations::{Population, Random, generate};
use super::*;
use crate::PageSet;
use crate::ports::PAGE_BYTES;

const PAGES: u64 = 300;

#[derive(Clone, Debug)]
enum Change {
    Fill(Population, u64, u64, u64),
    Poke(u64, u64),
    Repeat(u64, u64),
}

fn change() -> impl Strategy<Value = Change> {
    let population = proptest::sample::select(populations::ALL.to_vec());
    prop_oneof![
        (population, 0..PAGES, 1u64..100, any::<u64>())
            .prop_map(|(p, first, count, seed)| Change::Fill(p, first, count, seed)),
        (0..PAGES, any::<u64>()).prop_map(|(page, seed)| Change::Poke(page, seed)),
        (0..PAGES, 0..PAGES).prop_map(|(from, to)| Change::Repeat(from, to)),
    ]
}

fn compression() -> impl Strategy<Value = Compression> {
    prop_oneof![
        Just(Compression::Auto),
        Just(Compression::Off),
        (-5i8..=3).prop_map(Compression::Level),
    ]
}

/// Changes `memory` and notes where.
fn make(change: &Change, memory: &FakeMemory, dirty: &mut PageSet) {
    match *change {
        Change::Fill(population, first, count, seed) => {
            let count = count.min(PAGES - first);
            memory
                .write(first, &generate(population, count as usize, seed))
                .unwrap();
            dirty.insert_run(first, count);
        }
        Change::Poke(page, seed) => {
            let mut random = Random::new(seed);
            let mut bytes = vec![0; PAGE_BYTES];
            memory.read(page, &mut bytes).unwrap();
            for _ in 0..random.below(8) {
                bytes[random.below(PAGE_BYTES as u64) as usize] = random.next() as u8;
            }
            memory.write(page, &bytes).unwrap();
            dirty.insert(page);
        }
        Change::Repeat(from, to) => {
            let mut bytes = vec![0; PAGE_BYTES];
            memory.read(from, &mut bytes).unwrap();
            memory.write(to, &bytes).unwrap();
            dirty.insert(to);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn after_rounds_of_changes_the_target_has_what_the_source_has(
        rounds in proptest::collection::vec(proptest::collection::vec(change(), 0..12), 1..6),
        compression in compression(),
        copies_bytes in prop_oneof![Just(0u64), Just(1 << 19), Just(DEFAULT_COPIES_BYTES)],
        feed in 1usize..9000,
    ) {
        let source = FakeMemory::new(PAGES);
        let mut pair = Pair::with_copies(PAGES, compression, copies_bytes);
        let mut wire_bytes = 0;
        for (round, changes) in rounds.iter().enumerate() {
            let mut dirty = if round == 0 { PageSet::full(PAGES) } else { PageSet::empty(PAGES) };
            changes.iter().for_each(|change| make(change, &source, &mut dirty));
            let mut out = Vec::new();
            pair.encoder.encode(&source, dirty.runs(), round as u32, &mut out).unwrap();
            wire_bytes += out.len() as u64;
            for mut input in out.chunks(feed) {
                while let Some(batch) = pair.reader.next(&mut input).unwrap() {
                    pair.decoder.apply(&batch, &pair.target).unwrap();
                }
            }
            prop_assert!(source.all() == pair.target.all(), "round {}", round);
            let encoded = pair.encoder.stats();
            let written = PageStats { unchanged: encoded.unchanged, ..pair.decoder.stats() };
            prop_assert_eq!(encoded, written);
            prop_assert_eq!(encoded.total().bytes, wire_bytes);
        }
        for page in 0..PAGES {
            prop_assert_eq!(pair.sent.digests().known(page), pair.received.known(page));
        }
        pair.reader.finish().unwrap();
    }
}

#[test]
fn memory_never_touched_is_neither_read_nor_written_and_takes_one_batch() {
    let source = FakeMemory::new(1 << 18);
    let mut pair = Pair::new(1 << 18, Compression::Auto);
    let wire_bytes = pair.send(&source, &[(0, 1 << 18)], 0);
    assert!(wire_bytes < 64, "{wire_bytes}");
    assert_eq!((source.reads(), pair.target.touched()), (0, 0));
    assert_eq!(pair.encoder.stats().zero.pages, 1 << 18);
}

#[test]
fn zeros_overwrite_what_the_target_had() {
    let source = FakeMemory::filled(&generate(Population::Text, 8, 1));
    let mut pair = Pair::new(8, Compression::Off);
    pair.send(&source, &[(0, 8)], 0);
    source.write_zeros(2, 3).unwrap();
    assert!(pair.send(&source, &[(2, 3)], 1) < 64);
    assert!(source.all() == pair.target.all());
}

#[test]
fn a_page_written_with_what_it_had_is_not_sent() {
    let source = FakeMemory::filled(&generate(Population::Random, 100, 1));
    let mut pair = Pair::new(100, Compression::Auto);
    pair.send(&source, &[(0, 100)], 0);
    assert_eq!(pair.send(&source, &[(0, 100)], 1), 0);
    assert_eq!(pair.encoder.stats().unchanged.pages, 100);
}

#[test]
fn what_was_lost_with_its_stream_is_sent_again_once_forgotten() {
    let source = FakeMemory::filled(&generate(Population::Random, 100, 1));
    let mut pair = Pair::new(100, Compression::Auto);
    pair.encoder
        .encode(&source, [(0, 100)], 0, &mut Vec::new())
        .unwrap();
    pair.sent.digests().forget(0, 100);
    pair.encoder = encoder(Arc::clone(&pair.sent), Compression::Auto);
    pair.send(&source, &[(0, 100)], 1);
    assert!(source.all() == pair.target.all());
}

#[test]
fn a_guest_that_returns_brings_only_what_changed() {
    let there = FakeMemory::filled(&generate(Population::Random, 200, 1));
    let mut trip = Pair::new(200, Compression::Auto);
    let first_bytes = trip.send(&there, &[(0, 200)], 0);
    let kept = trip.received.to_bytes();

    let changed = generate(Population::Random, 5, 2);
    trip.target.write(70, &changed).unwrap();
    let digests = Arc::new(DigestTable::from_bytes(&kept, 200).unwrap());
    let mut back = Pair::new(200, Compression::Auto);
    back.encoder = encoder(Arc::new(SentPages::new(digests, 0)), Compression::Auto);
    back.target = there;
    let return_bytes = back.send(&trip.target, &[(0, 200)], 0);
    assert!(back.target.all() == trip.target.all());
    assert!(
        return_bytes * 10 < first_bytes,
        "{return_bytes} after {first_bytes}"
    );
}

#[test]
fn small_changes_take_a_quarter_of_what_zstd_takes() {
    for population in [Population::Text, Population::Database, Population::Heap] {
        let run = |copies_bytes| {
            let source = FakeMemory::filled(&generate(population, 256, 1));
            let mut pair = Pair::with_copies(256, Compression::Level(1), copies_bytes);
            pair.send(&source, &[(0, 256)], 0);
            pair.send(&source, &[(0, 256)], 1);
            let mut random = Random::new(9);
            let mut last_bytes = 0;
            for round in 2..5 {
                for page in 0..256 {
                    let mut bytes = vec![0; PAGE_BYTES];
                    source.read(page, &mut bytes).unwrap();
                    let at = random.below(500) as usize * 8;
                    bytes[at..at + 8].copy_from_slice(&random.next().to_le_bytes());
                    source.write(page, &bytes).unwrap();
                }
                last_bytes = pair.send(&source, &[(0, 256)], round);
            }
            assert!(source.all() == pair.target.all());
            last_bytes
        };
        let (with_deltas, without) = (run(DEFAULT_COPIES_BYTES), run(0));
        assert!(
            with_deltas * 4 <= without,
            "{population:?}: {with_deltas} of {without}"
        );
    }
}

#[test]
fn each_content_takes_no_more_than_promised() {
    for (population, percent) in [
        (Population::Text, 36),
        (Population::Database, 16),
        (Population::Random, 101),
    ] {
        let source = FakeMemory::filled(&generate(population, 1024, 1));
        let wire_bytes = Pair::new(1024, Compression::Level(1)).send(&source, &[(0, 1024)], 0);
        let guest_bytes = 1024 * PAGE_BYTES as u64;
        assert!(
            wire_bytes * 100 <= guest_bytes * percent,
            "{population:?}: {wire_bytes}"
        );
    }
}

#[test]
fn deltas_are_given_up_while_pages_are_rewritten_whole_and_taken_up_afterwards() {
    const HOT_PAGES: u64 = 1024;
    let mut pair = Pair::new(HOT_PAGES, Compression::Off);
    let mut round = 0;
    let mut send = |pair: &mut Pair, bytes: &[u8]| {
        let source = FakeMemory::filled(bytes);
        pair.send(&source, &[(0, HOT_PAGES)], round);
        assert!(source.all() == pair.target.all());
        round += 1;
    };
    for seed in 0..6 {
        send(
            &mut pair,
            &generate(Population::Random, HOT_PAGES as usize, seed),
        );
    }
    assert_eq!(pair.encoder.stats().delta.pages, 0);
    let mut bytes = pair.target.all();
    for change in 0..6 {
        bytes
            .iter_mut()
            .step_by(PAGE_BYTES)
            .for_each(|byte| *byte ^= 1 << change);
        let before = pair.encoder.stats().delta.pages;
        send(&mut pair, &bytes);
        let made = pair.encoder.stats().delta.pages - before;
        assert!(change < 5 || made == HOT_PAGES, "{made} in the end");
    }
}

#[test]
fn a_level_that_makes_nothing_shorter_sends_raw_and_barely_more() {
    let source = FakeMemory::filled(&generate(Population::Random, 1024, 1));
    let mut pair = Pair::new(1024, Compression::Level(3));
    let wire_bytes = pair.send(&source, &[(0, 1024)], 0);
    assert!(wire_bytes <= 1024 * 4096 * 101 / 100, "{wire_bytes}");
    assert_eq!(pair.encoder.stats().raw.pages, 1024);
}

#[test]
fn what_looks_random_but_repeats_is_found_out() {
    // One random page over and over: no byte gives it away, only a look at the whole block.
    let page = generate(Population::Random, 1, 1);
    let source = FakeMemory::filled(&page.repeat(64 * 64));
    let mut pair = Pair::new(64 * 64, Compression::Level(1));
    pair.send(&source, &[(0, 64 * 64)], 0);
    assert!(source.all() == pair.target.all());
    let stats = pair.encoder.stats();
    assert!(stats.zstd.pages > stats.raw.pages, "{stats:?}");
}

#[test]
fn a_page_named_twice_ends_up_right() {
    let source = FakeMemory::filled(&generate(Population::Text, 10, 1));
    let mut pair = Pair::new(10, Compression::Level(1));
    pair.send(&source, &[(4, 2), (0, 10), (9, 1), (0, 1)], 0);
    assert!(source.all() == pair.target.all());
}

#[test]
fn pages_outside_the_guest_are_an_error_and_nothing_of_them_counts_as_sent() {
    let source = FakeMemory::filled(&generate(Population::Text, 10, 1));
    let mut pair = Pair::new(10, Compression::Level(1));
    for run in [(10, 1), (2, 9), (u64::MAX, 1), (2, u64::MAX)] {
        let mut out = Vec::new();
        let error = pair
            .encoder
            .encode(&source, [(0, 2), run], 0, &mut out)
            .unwrap_err();
        assert!(matches!(error, EncodeError::Outside { .. }), "{error}");
        assert!(out.is_empty());
    }
    pair.send(&source, &[(0, 10)], 0);
    assert!(source.all() == pair.target.all());
}

#[test]
fn streams_share_what_the_target_has() {
    let source = FakeMemory::filled(&generate(Population::Text, 128, 1));
    let mut pair = Pair::new(128, Compression::Level(1));
    pair.send(&source, &[(0, 128)], 0);
    let mut other = encoder(Arc::clone(&pair.sent), Compression::Level(1));
    let mut out = Vec::new();
    other.encode(&source, [(0, 128)], 1, &mut out).unwrap();
    assert!(out.is_empty(), "the other stream sent them");
}

#[test]
fn what_the_target_waits_for_is_sent_although_it_counts_as_sent() {
    let source = FakeMemory::new(8);
    source.write(2, &generate(Population::Text, 4, 1)).unwrap();
    let mut pair = Pair::new(8, Compression::Level(1));
    pair.encoder
        .encode(&source, [(0, 8)], 0, &mut Vec::new())
        .unwrap();
    pair.encoder = encoder(Arc::clone(&pair.sent), Compression::Off).sending_always();
    pair.send(&source, &[(0, 8)], 1);
    let stats = pair.encoder.stats();
    assert_eq!((stats.zero.pages, stats.raw.pages), (4, 4));
    assert!(source.all() == pair.target.all());
}

#[test]
fn each_page_is_read_once() {
    let source = FakeMemory::filled(&generate(Population::Text, 100, 1));
    let mut pair = Pair::new(100, Compression::Level(1));
    for round in 0..4 {
        let mut page = generate(Population::Text, 1, 1);
        page[9] = round;
        source.write(0, &page).unwrap();
        let before = source.reads();
        pair.send(&source, &[(0, 100)], round.into());
        assert_eq!(source.reads() - before, 100, "round {round}");
    }
}

#[test]
fn streams_on_threads_of_their_own_move_the_guest_together() {
    const STREAMS: u64 = 4;
    let source = FakeMemory::filled(&generate(Population::Heap, 64 * 16, 1));
    let target = FakeMemory::new(64 * 16);
    let digests = || Arc::new(DigestTable::new(64 * 16, SEED));
    let sent = Arc::new(SentPages::new(digests(), 1 << 20));
    let received = digests();
    for round in 0..3 {
        std::thread::scope(|scope| {
            for stream in 0..STREAMS {
                let (source, target) = (&source, &target);
                let mut encoder = encoder(Arc::clone(&sent), Compression::Level(1));
                let mut decoder = PageDecoder::new(Arc::clone(&received));
                scope.spawn(move || {
                    let part = 64 * 16 / STREAMS;
                    let mut out = Vec::new();
                    encoder
                        .encode(source, [(stream * part, part)], round, &mut out)
                        .unwrap();
                    let mut reader = BatchReader::new(1, 64 * 16);
                    let mut input = &out[..];
                    while let Some(batch) = reader.next(&mut input).unwrap() {
                        decoder.apply(&batch, target).unwrap();
                    }
                });
            }
        });
        assert!(source.all() == target.all(), "round {round}");
        let mut bytes = source.all();
        bytes
            .iter_mut()
            .step_by(3000)
            .for_each(|byte| *byte = byte.wrapping_add(1));
        source.write(0, &bytes).unwrap();
    }
    assert!(sent.memory_bytes() <= (1 << 20) + sent.digests().memory_bytes());
}
