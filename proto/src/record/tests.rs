use rkyv::{Archive, Deserialize, Serialize};

use super::*;
use crate::state::memory::{MemoryLayout, MemoryRange};
use crate::state::power::GedState;

/// Version 1 of a record that version 2 gave a unit.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
struct DelayV1 {
    seconds: u32,
}
record!(DelayV1, Kind::Clock, version = 1);

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
struct Delay {
    nanoseconds: u64,
}
record!(Delay, Kind::Clock, version = 2, previous = DelayV1);

impl From<DelayV1> for Delay {
    fn from(old: DelayV1) -> Self {
        Self {
            nanoseconds: u64::from(old.seconds) * 1_000_000_000,
        }
    }
}

#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
struct DelayV3 {
    picoseconds: u64,
}
record!(DelayV3, Kind::Clock, version = 3);

fn layout() -> MemoryLayout {
    MemoryLayout {
        size_bytes: 0x100_0000,
        page_size: 4096,
        ranges: vec![MemoryRange {
            start: 0,
            len: 0x100_0000,
        }],
    }
}

fn sequence(build: impl FnOnce(&mut RecordWriter)) -> Vec<u8> {
    let mut writer = RecordWriter::new();
    build(&mut writer);
    writer.finish().unwrap()
}

fn unknown_kind(mandatory: bool) -> RecordHeader {
    RecordHeader {
        kind: 0xfffe,
        version: 7,
        mandatory,
    }
}

#[test]
fn a_build_reads_its_own_version_and_the_one_before() {
    let old = DelayV1 { seconds: 3 }.encode().unwrap();
    assert_eq!(
        Delay::decode(&old).unwrap(),
        Delay {
            nanoseconds: 3_000_000_000
        }
    );
    let own = Delay { nanoseconds: 5 };
    assert_eq!(Delay::decode(&own.encode().unwrap()).unwrap(), own);
}

#[test]
fn a_newer_version_is_refused_by_name() {
    let newer = DelayV3 { picoseconds: 1 }.encode().unwrap();
    let error = Delay::decode(&newer).unwrap_err();
    let RecordError::NewerVersion {
        kind: Kind::Clock,
        found: 3,
        supported: 2,
    } = error
    else {
        panic!("{error}");
    };
    assert!(error.is_from_newer_build());
}

#[test]
fn a_version_two_back_is_refused_by_name() {
    let old = DelayV1 { seconds: 3 }.encode().unwrap();
    let error = DelayV3::decode(&old).unwrap_err();
    let RecordError::OlderVersion {
        kind: Kind::Clock,
        found: 1,
        supported: 3,
    } = error
    else {
        panic!("{error}");
    };
    assert!(!error.is_from_newer_build());
}

#[test]
fn a_newer_optional_record_counts_as_absent_but_a_mandatory_one_does_not() {
    let optional = sequence(|w| w.push_optional(&DelayV3 { picoseconds: 1 }).unwrap());
    let mut reader = RecordReader::new(&optional).unwrap();
    assert_eq!(reader.optional::<Delay>().unwrap(), None);
    reader.finish().unwrap();

    let mandatory = sequence(|w| w.push(&DelayV3 { picoseconds: 1 }).unwrap());
    let error = RecordReader::new(&mandatory)
        .unwrap()
        .optional::<Delay>()
        .unwrap_err();
    assert!(matches!(error, RecordError::NewerVersion { .. }), "{error}");
}

#[test]
fn an_unknown_mandatory_record_fails_with_its_kind_and_version() {
    let bytes = sequence(|w| w.append_payload(unknown_kind(true), b"new").unwrap());
    let error = RecordReader::new(&bytes).unwrap_err();
    assert!(error.is_from_newer_build());
    assert_eq!(
        error.to_string(),
        "record 0xfffe version 7 is not known and must not be skipped"
    );
}

#[test]
fn an_unknown_optional_record_is_skipped() {
    let bytes = sequence(|w| {
        w.append_payload(unknown_kind(false), b"new").unwrap();
        w.push(&layout()).unwrap();
    });
    let mut reader = RecordReader::new(&bytes).unwrap();
    assert_eq!(reader.one::<MemoryLayout>().unwrap(), layout());
    reader.finish().unwrap();
}

#[test]
fn a_missing_a_doubled_and_an_unused_record_are_told_apart() {
    let bytes = sequence(|w| {
        w.push(&GedState { pending: 1 }).unwrap();
        w.push(&GedState { pending: 2 }).unwrap();
    });
    let mut reader = RecordReader::new(&bytes).unwrap();
    let error = reader.one::<MemoryLayout>().unwrap_err();
    assert!(
        matches!(
            error,
            RecordError::Missing {
                kind: Kind::MemoryLayout
            }
        ),
        "{error}"
    );
    let error = RecordReader::new(&bytes)
        .unwrap()
        .one::<GedState>()
        .unwrap_err();
    assert!(
        matches!(
            error,
            RecordError::Duplicate {
                kind: Kind::Ged,
                count: 2
            }
        ),
        "{error}"
    );
    assert_eq!(reader.remaining().len(), 2);
    let error = reader.finish().unwrap_err();
    assert!(
        matches!(error, RecordError::Unused { kind: Kind::Ged }),
        "{error}"
    );
}

#[test]
fn records_of_a_kind_come_in_the_order_they_were_pushed() {
    let bytes = sequence(|w| {
        for pending in [3, 1, 2] {
            w.push(&GedState { pending }).unwrap();
        }
    });
    let mut reader = RecordReader::new(&bytes).unwrap();
    let pending: Vec<u8> = reader
        .many::<GedState>()
        .unwrap()
        .iter()
        .map(|state| state.pending)
        .collect();
    assert_eq!(pending, [3, 1, 2]);
    reader.finish().unwrap();
}

#[test]
fn a_sequence_is_refused_when_a_whole_record_was_lost_or_moved() {
    let record = |pending| GedState { pending }.encode().unwrap();
    let bytes = sequence(|w| {
        w.push(&GedState { pending: 1 }).unwrap();
        w.push(&GedState { pending: 2 }).unwrap();
    });
    let (magic, rest) = bytes.split_at(8);
    let end = &rest[record(1).len() * 2..];

    let lost = [magic, &record(1), end].concat();
    let error = RecordReader::new(&lost).unwrap_err();
    assert!(matches!(error, RecordError::End { count: 1 }), "{error}");

    let moved = [magic, &record(2), &record(1), end].concat();
    let error = RecordReader::new(&moved).unwrap_err();
    assert!(matches!(error, RecordError::End { count: 2 }), "{error}");

    let without_end = [magic, &record(1), &record(2)].concat();
    let error = RecordReader::new(&without_end).unwrap_err();
    assert!(matches!(error, RecordError::Truncated { .. }), "{error}");
}

#[test]
fn bytes_after_the_end_are_refused() {
    let mut bytes = sequence(|_| ());
    RecordReader::new(&bytes).unwrap().finish().unwrap();
    bytes.push(0);
    let error = RecordReader::new(&bytes).unwrap_err();
    assert!(
        matches!(error, RecordError::TrailingBytes { count: 1 }),
        "{error}"
    );

    let mut record = layout().encode().unwrap();
    record.extend_from_slice(b"xy");
    let error = MemoryLayout::decode(&record).unwrap_err();
    assert!(
        matches!(error, RecordError::TrailingBytes { count: 2 }),
        "{error}"
    );
}

#[test]
fn a_file_of_something_else_or_of_another_format_is_named() {
    let error = RecordReader::new(b"\x7fELF.....").unwrap_err();
    assert!(matches!(error, RecordError::NotASequence { .. }), "{error}");
    let error = RecordReader::new(b"").unwrap_err();
    assert!(
        matches!(
            error,
            RecordError::Truncated {
                needed: 8,
                found: 0
            }
        ),
        "{error}"
    );
    let error = RecordReader::new(b"GODWIT\x02\x00").unwrap_err();
    assert!(
        matches!(
            error,
            RecordError::SequenceVersion {
                found: 2,
                supported: 1
            }
        ),
        "{error}"
    );
    assert!(error.is_from_newer_build());
}

#[test]
fn a_record_of_another_kind_is_refused() {
    let error = GedState::decode(&layout().encode().unwrap()).unwrap_err();
    assert!(matches!(
        error,
        RecordError::WrongKind {
            found: 0x0010,
            wanted: Kind::Ged
        }
    ));
}

#[test]
fn reserved_header_bits_are_refused_even_with_a_right_checksum() {
    for (offset, value) in [(4, 0x03), (5, 0x80), (6, 1), (7, 1)] {
        let mut bytes = GedState { pending: 1 }.encode().unwrap();
        bytes[offset] = value;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..12]), &bytes[HEADER_BYTES..]);
        bytes[12..16].copy_from_slice(&crc.to_le_bytes());
        let error = GedState::decode(&bytes).unwrap_err();
        assert!(
            matches!(error, RecordError::UnknownFlags { .. }),
            "{offset}: {error}"
        );
    }
}

#[test]
fn length_and_count_are_bounded_on_both_sides() {
    let long = crate::state::serial::SerialState {
        in_buffer: vec![0; MAX_PAYLOAD_BYTES],
        ..Default::default()
    };
    assert!(matches!(long.encode(), Err(RecordError::TooLong { .. })));

    let mut bytes = GedState { pending: 1 }.encode().unwrap();
    bytes[8..12].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(
        GedState::decode(&bytes),
        Err(RecordError::TooLong { .. })
    ));

    let mut writer = RecordWriter::new();
    for _ in 0..MAX_RECORDS {
        writer.push(&GedState { pending: 0 }).unwrap();
    }
    let error = writer.push(&GedState { pending: 0 }).unwrap_err();
    assert!(matches!(error, RecordError::TooMany { .. }), "{error}");
    let full = writer.finish().unwrap();
    let mut reader = RecordReader::new(&full).unwrap();
    assert_eq!(reader.many::<GedState>().unwrap().len(), MAX_RECORDS);

    let record = GedState { pending: 0 }.encode().unwrap();
    let overfull = [&full[..8], &record.repeat(MAX_RECORDS + 1)].concat();
    let error = RecordReader::new(&overfull).unwrap_err();
    assert!(matches!(error, RecordError::TooMany { .. }), "{error}");
}
