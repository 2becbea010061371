//! The bytes never change unnoticed. Blessed anew only with `GODWIT_BLESS=1`; a golden file of an
//! earlier version is kept and must still be read.

use std::collections::BTreeSet;
use std::path::PathBuf;

use godwit_proto::record::{Kind, RawRecord, RecordError};
use godwit_proto::state::check_payload;

use crate::samples;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

#[test]
fn every_sample_is_written_as_its_golden_file_and_read_back_from_it() {
    let bless = std::env::var_os("GODWIT_BLESS").is_some_and(|value| value == "1");
    for sample in samples::all() {
        let path = directory().join(&sample.name).with_added_extension("bin");
        if bless {
            std::fs::write(&path, &sample.bytes).unwrap();
        }
        let golden = std::fs::read(&path).unwrap_or_else(|error| {
            panic!("{}: {error}; GODWIT_BLESS=1 writes it", path.display());
        });
        assert!(
            golden == sample.bytes,
            "{} is written differently than in {}: is a new version needed?",
            sample.name,
            path.display(),
        );
        assert_eq!((sample.is_sample)(&golden), Ok(true), "{}", sample.name);
    }
}

#[test]
fn every_golden_file_belongs_to_a_sample() {
    let samples: BTreeSet<String> = samples::all()
        .iter()
        .map(|sample| format!("{}.bin", sample.name))
        .collect();
    let files: BTreeSet<String> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(files, samples);
    assert_eq!(
        samples.len(),
        samples::all().len(),
        "two samples have the same name"
    );
}

#[test]
fn every_kind_of_record_that_can_be_read_has_a_golden_file() {
    let with_sample: BTreeSet<u16> = samples::records()
        .iter()
        .map(|sample| u16::from_le_bytes([sample.bytes[0], sample.bytes[1]]))
        .collect();
    for &kind in Kind::ALL {
        let record = RawRecord {
            kind,
            version: 1,
            mandatory: true,
            payload: &[],
        };
        let readable = !matches!(
            check_payload(&record),
            Err(RecordError::UnknownMandatory { .. } | RecordError::Unused { .. })
        );
        assert_eq!(readable, with_sample.contains(&kind.number()), "{kind}");
    }
}
