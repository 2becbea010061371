//! What the fuzz targets do, in small and the same each time: every decoder on thousands of damaged
//! samples, with the checksums mended so that the damage reaches the archive. What is decoded may
//! be anything; nothing may panic, hang or take memory beyond a multiple of the input.

use godwit_proto::frame::{FrameDecoder, FrameKind};
use godwit_proto::migrate::{FromSource, FromTarget};
use godwit_proto::process::{RESPONSE_LIMITS, Request, Response};
use godwit_proto::record::{HEADER_BYTES, Kind, RawRecord, RecordReader};
use godwit_proto::state::check_payload;

use crate::samples;

const MUTATIONS_PER_SAMPLE: u64 = 2000;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    /// Damages `bytes` in one to four places: bits, whole numbers at their extremes, cuts,
    /// insertions, a piece copied elsewhere.
    fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.below(4) {
            if bytes.is_empty() {
                bytes.push(0);
            }
            let at = self.below(bytes.len());
            match self.below(6) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.next().to_le_bytes()[0],
                2 => bytes.truncate(at),
                3 => bytes.insert(at, self.next().to_le_bytes()[0]),
                4 => {
                    let value = [0u32, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX][self.below(5)];
                    let end = bytes.len().min(at + 4);
                    bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
                }
                _ => {
                    let length = self.below(bytes.len() - at) + 1;
                    let to = self.below(bytes.len() - length + 1);
                    bytes.copy_within(at..at + length, to);
                }
            }
        }
    }
}

#[test]
fn a_damaged_archive_in_an_intact_record_never_panics() {
    let mut refused = 0;
    for sample in samples::records() {
        let kind = Kind::from_number(u16::from_le_bytes([sample.bytes[0], sample.bytes[1]]));
        let kind = kind.unwrap();
        let mut random = Random(u64::from(kind.number()));
        for _ in 0..MUTATIONS_PER_SAMPLE {
            let mut payload = sample.bytes[HEADER_BYTES..].to_vec();
            random.damage(&mut payload);
            let record = RawRecord {
                kind,
                version: 1,
                mandatory: true,
                payload: &payload,
            };
            refused += u64::from(check_payload(&record).is_err());
        }
    }
    assert!(refused > 1000, "the damage reached only {refused} archives");
}

#[test]
fn a_damaged_archive_in_an_intact_message_never_panics() {
    let mut random = Random(1);
    let mut refused = 0;
    for sample in samples::all() {
        let (true, Some(at)) = (sample.bytes.starts_with(b"GDWF"), sample.payload_at) else {
            continue;
        };
        for _ in 0..MUTATIONS_PER_SAMPLE {
            let mut payload = sample.bytes[at..].to_vec();
            random.damage(&mut payload);
            let mut frame = godwit_proto::frame::Frame {
                kind: FrameKind::Request,
                version: 1,
                payload,
            };
            refused += u64::from(Request::from_frame(&frame).is_err());
            frame.kind = FrameKind::Response;
            refused += u64::from(Response::from_frame(&frame).is_err());
            frame.kind = FrameKind::FromSource;
            refused += u64::from(FromSource::from_frame(&frame).is_err());
            frame.kind = FrameKind::FromTarget;
            refused += u64::from(FromTarget::from_frame(&frame).is_err());
        }
    }
    assert!(refused > 1000, "the damage reached only {refused} archives");
}

#[test]
fn a_damaged_sequence_of_records_never_panics() {
    let sample = samples::all()
        .into_iter()
        .find(|sample| sample.name == "sequence.v1")
        .unwrap();
    let mut random = Random(2);
    for _ in 0..MUTATIONS_PER_SAMPLE {
        let mut bytes = sample.bytes.clone();
        random.damage(&mut bytes);
        if let Ok(reader) = RecordReader::new(&bytes) {
            assert_eq!(
                bytes, sample.bytes,
                "only the undamaged sequence has the right checksums"
            );
            reader
                .remaining()
                .iter()
                .for_each(|record| check_payload(record).unwrap());
        }
    }
}

#[test]
fn a_damaged_stream_of_frames_never_panics_and_keeps_its_bound() {
    let frames: Vec<u8> = samples::all()
        .iter()
        .filter(|sample| sample.bytes.starts_with(b"GDWF"))
        .flat_map(|sample| sample.bytes.clone())
        .collect();
    let mut random = Random(3);
    for _ in 0..MUTATIONS_PER_SAMPLE {
        let mut stream = frames.clone();
        random.damage(&mut stream);
        let mut decoder = FrameDecoder::new(RESPONSE_LIMITS);
        let mut rest = &stream[..];
        'stream: while !rest.is_empty() {
            let piece = random.below(rest.len()) + 1;
            let taken = decoder.push(&rest[..piece]);
            assert_ne!(taken, 0);
            rest = &rest[taken..];
            loop {
                match decoder.pop() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
            }
        }
    }
}
