//! Speed and bytes by content; prints a table. Run it with
//! `cargo test --release -p godwit-migration page::tests::bench -- --ignored --nocapture
//! --test-threads=1`. With `GODWIT_BENCH_FILE` the first 64 MiB of that file are measured too.

#![allow(clippy::disallowed_methods, reason = "it measures")]

use std::time::Instant;

use super::populations::{Population, generate};
use super::wire::MAX_BLOCK_PAGES;
use super::*;
use crate::ports::{PAGE_BYTES, PortError};

const PAGES: u64 = 16 << 10;

/// Memory without locks, as fast to read as the machine copies.
struct Flat(Vec<u8>);

impl GuestMemory for Flat {
    fn pages(&self) -> u64 {
        (self.0.len() / PAGE_BYTES) as u64
    }
    fn read(&self, first: u64, bytes: &mut [u8]) -> Result<(), PortError> {
        bytes.copy_from_slice(&self.0[first as usize * PAGE_BYTES..][..bytes.len()]);
        Ok(())
    }
    fn write(&self, _: u64, bytes: &[u8]) -> Result<(), PortError> {
        std::hint::black_box(bytes);
        Ok(())
    }
    fn write_zeros(&self, _: u64, _: u64) -> Result<(), PortError> {
        Ok(())
    }
    fn is_untouched(&self, _: u64, _: u64) -> bool {
        false
    }
}

fn megabytes_per_second(bytes: u64, start: Instant) -> f64 {
    bytes as f64 / 1e6 / start.elapsed().as_secs_f64()
}

/// Encodes and decodes `memory`; prints the best of three.
fn measure(name: &str, memory: &Flat, compression: Compression) {
    let guest_bytes = memory.0.len() as u64;
    let (mut encode, mut decode, mut ratio) = (0f64, 0f64, 0f64);
    let mut out = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        let digests = Arc::new(DigestTable::new(memory.pages(), SEED));
        let sent = Arc::new(SentPages::new(digests, DEFAULT_COPIES_BYTES));
        let clock = Box::new(move || start.elapsed());
        let mut encoder = PageEncoder::new(sent, CodecChooser::new(compression), clock);
        let mut reader = BatchReader::new(1, memory.pages());
        let received = Arc::new(DigestTable::new(memory.pages(), SEED));
        let mut decoder = PageDecoder::new(received);
        let (mut encode_seconds, mut decode_seconds) = (0.0, 0.0);
        for first in (0..memory.pages()).step_by(4 * MAX_BLOCK_PAGES) {
            out.clear();
            let start = Instant::now();
            encoder
                .encode(memory, [(first, 4 * MAX_BLOCK_PAGES as u64)], 0, &mut out)
                .unwrap();
            encode_seconds += start.elapsed().as_secs_f64();
            let start = Instant::now();
            let mut input = &out[..];
            while let Some(batch) = reader.next(&mut input).unwrap() {
                decoder.apply(&batch, memory).unwrap();
            }
            decode_seconds += start.elapsed().as_secs_f64();
        }
        encode = encode.max(guest_bytes as f64 / 1e6 / encode_seconds);
        decode = decode.max(guest_bytes as f64 / 1e6 / decode_seconds);
        ratio = encoder.stats().total().bytes as f64 / guest_bytes as f64;
    }
    println!(
        "{name:8} {compression:9?}: encode {encode:6.0} MB/s, decode {decode:6.0} MB/s, wire {ratio:.4}"
    );
}

#[test]
#[ignore = "measures; run it alone and in release"]
fn print_speed_and_bytes_by_content() {
    let flat = Flat(generate(Population::Random, PAGES as usize, 1));
    let mut copy = vec![0u8; flat.0.len()];
    for _ in 0..2 {
        let start = Instant::now();
        copy.copy_from_slice(&flat.0);
        println!(
            "memcpy {:.0} MB/s",
            megabytes_per_second(flat.0.len() as u64, start)
        );
    }
    let start = Instant::now();
    let digests = flat
        .0
        .chunks(PAGE_BYTES)
        .fold(0, |or, page| or ^ SEED.digest(page));
    println!(
        "digest {:.0} MB/s ({digests:x})",
        megabytes_per_second(flat.0.len() as u64, start)
    );
    copy.fill(0);
    let start = Instant::now();
    assert!(copy.chunks(PAGE_BYTES).all(is_zero));
    println!(
        "zero test {:.0} MB/s",
        megabytes_per_second(copy.len() as u64, start)
    );
    let mut contents: Vec<(String, Vec<u8>)> = populations::ALL
        .iter()
        .map(|&population| {
            let bytes = generate(population, PAGES as usize, 1);
            (format!("{population:?}"), bytes)
        })
        .collect();
    if let Some(path) = std::env::var_os("GODWIT_BENCH_FILE") {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(PAGES as usize * PAGE_BYTES);
        bytes.truncate(bytes.len() / (256 * PAGE_BYTES) * (256 * PAGE_BYTES));
        contents.push(("file".into(), bytes));
    }
    for (name, bytes) in contents {
        let memory = Flat(bytes);
        for compression in [
            Compression::Auto,
            Compression::Off,
            Compression::Level(-5),
            Compression::Level(-1),
            Compression::Level(1),
            Compression::Level(3),
        ] {
            measure(&name, &memory, compression);
        }
    }
}

#[test]
#[ignore = "measures; run it alone and in release"]
fn print_bytes_of_small_changes() {
    const HOT_PAGES: u64 = 8 << 10;
    for population in [
        Population::Text,
        Population::Database,
        Population::Heap,
        Population::Random,
    ] {
        for (name, copies_bytes) in [("deltas", DEFAULT_COPIES_BYTES), ("zstd 1 alone", 0)] {
            let mut memory = Flat(generate(population, HOT_PAGES as usize, 1));
            let digests = Arc::new(DigestTable::new(HOT_PAGES, SEED));
            let sent = Arc::new(SentPages::new(digests, copies_bytes));
            let start = Instant::now();
            let clock = Box::new(move || start.elapsed());
            let chooser = CodecChooser::new(Compression::Level(1));
            let mut encoder = PageEncoder::new(sent, chooser, clock);
            let mut random = populations::Random::new(5);
            let (mut seconds, mut wire_bytes) = (0.0, 0);
            for round in 0..6 {
                let mut out = Vec::new();
                let start = Instant::now();
                encoder
                    .encode(&memory, [(0, HOT_PAGES)], round, &mut out)
                    .unwrap();
                (seconds, wire_bytes) = (start.elapsed().as_secs_f64(), out.len());
                for page in memory.0.chunks_exact_mut(PAGE_BYTES) {
                    let at = random.below(500) as usize * 8;
                    page[at..at + 8].copy_from_slice(&random.next().to_le_bytes());
                }
            }
            let guest_bytes = (HOT_PAGES * PAGE_BYTES as u64) as f64;
            println!(
                "8 bytes of each {population:?} page, {name:12}: encode {:6.0} MB/s, wire {:.4}",
                guest_bytes / 1e6 / seconds,
                wire_bytes as f64 / guest_bytes
            );
        }
    }
}

#[test]
#[ignore = "measures; run it alone and in release"]
fn print_cost_of_copies_of_no_use() {
    const HOT_PAGES: u64 = 8 << 10;
    for copies_bytes in [DEFAULT_COPIES_BYTES, 0] {
        let digests = Arc::new(DigestTable::new(HOT_PAGES, SEED));
        let sent = Arc::new(SentPages::new(digests, copies_bytes));
        let mut encoder = encoder(sent, Compression::Off);
        let mut memory = Flat(generate(Population::Random, HOT_PAGES as usize, 1));
        let mut out = Vec::new();
        for round in 0..8 {
            out.clear();
            let start = Instant::now();
            encoder
                .encode(&memory, [(0, HOT_PAGES)], round, &mut out)
                .unwrap();
            let speed = megabytes_per_second(memory.0.len() as u64, start);
            println!(
                "every byte rewritten, {copies_bytes} of copies, round {round}: {speed:.0} MB/s"
            );
            memory
                .0
                .iter_mut()
                .for_each(|byte| *byte = byte.wrapping_add(1));
        }
    }
}
