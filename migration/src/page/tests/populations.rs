//! Contents of guest memory, made from a seed.

use crate::ports::PAGE_BYTES;

/// What fills the pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::page) enum Population {
    Zeros,
    /// Prose: words drawn by Zipf's law from a vocabulary of 4,000, with the habits of sentences.
    Text,
    /// Records of one table: rising keys, few distinct names, dates, small numbers, padding.
    Database,
    /// Objects of a running program: pointers into few regions, small integers, free space.
    Heap,
    Random,
}

pub(in crate::page) const ALL: [Population; 5] = [
    Population::Zeros,
    Population::Text,
    Population::Database,
    Population::Heap,
    Population::Random,
];

/// xorshift64*: good enough to look random, and the same everywhere.
#[derive(Clone, Debug)]
pub(in crate::page) struct Random(u64);

impl Random {
    pub(in crate::page) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(in crate::page) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(in crate::page) fn below(&mut self, limit: u64) -> u64 {
        (self.next() >> 11) % limit
    }
}

/// `pages` pages.
pub(in crate::page) fn generate(population: Population, pages: usize, seed: u64) -> Vec<u8> {
    let length = pages * PAGE_BYTES;
    let mut random = Random::new(seed);
    let mut bytes = Vec::with_capacity(length + PAGE_BYTES);
    match population {
        Population::Zeros => {}
        Population::Text => text(&mut bytes, length, &mut random),
        Population::Database => database(&mut bytes, length, &mut random),
        Population::Heap => heap(&mut bytes, length, &mut random),
        Population::Random => {
            while bytes.len() < length {
                bytes.extend_from_slice(&random.next().to_le_bytes());
            }
        }
    }
    bytes.resize(length, 0);
    bytes
}

fn text(bytes: &mut Vec<u8>, length: usize, random: &mut Random) {
    const SYLLABLES: [&str; 24] = [
        "an", "ber", "con", "de", "er", "fal", "gra", "hin", "in", "jo", "ket", "lo", "men", "no",
        "or", "pre", "qui", "re", "sta", "tion", "un", "ver", "wit", "yes",
    ];
    let vocabulary: Vec<String> = (0..4000)
        .map(|rank: u64| {
            let syllables = 1 + u64::from(rank > 60) + random.below(2);
            (0..syllables)
                .map(|_| SYLLABLES[random.below(24) as usize])
                .collect()
        })
        .collect();
    let mut words = 0;
    while bytes.len() < length {
        // Squaring a uniform draw twice comes close to Zipf's law.
        let uniform = random.below(1 << 20) as f64 / f64::from(1 << 20);
        let rank = (vocabulary.len() as f64).powf(uniform) as usize - 1;
        bytes.extend_from_slice(vocabulary[rank].as_bytes());
        words += 1;
        bytes.extend_from_slice(if words % 12 == 0 { b".\n" } else { b" " });
    }
}

fn database(bytes: &mut Vec<u8>, length: usize, random: &mut Random) {
    const NAMES: [&[u8; 12]; 8] = [
        b"Anderson    ",
        b"Brown       ",
        b"Garcia      ",
        b"Johnson     ",
        b"Martinez    ",
        b"Nguyen      ",
        b"Smith       ",
        b"Williams    ",
    ];
    let mut key = 1_000_000u64;
    while bytes.len() < length {
        key += 1;
        bytes.extend_from_slice(&key.to_be_bytes());
        bytes.extend_from_slice(NAMES[random.below(8) as usize]);
        bytes.extend_from_slice(&[0; 20]);
        bytes.extend_from_slice(b"2026-0");
        bytes.push(b'1' + random.below(9) as u8);
        bytes.extend_from_slice(b"-01 00:00:00  ACTIVE  ");
        bytes.extend_from_slice(&(random.below(10_000) as u32).to_le_bytes());
        bytes.extend_from_slice(&[0; 55]);
    }
}

fn heap(bytes: &mut Vec<u8>, length: usize, random: &mut Random) {
    while bytes.len() < length {
        let word = match random.below(8) {
            0..=2 => 0x7f3a_8000_0000 + random.below(1 << 14) * 16,
            3..=4 => random.below(256),
            _ => 0,
        };
        bytes.extend_from_slice(&word.to_le_bytes());
    }
}
