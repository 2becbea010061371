//! Damage of whole samples: every cut, every flipped bit.

use crate::samples;

#[test]
fn every_cut_of_every_sample_is_refused() {
    for sample in samples::all() {
        for length in 0..sample.bytes.len() {
            let outcome = (sample.is_sample)(&sample.bytes[..length]);
            assert!(
                outcome.is_err(),
                "{} cut to {length} bytes: {outcome:?}",
                sample.name
            );
        }
    }
}

#[test]
fn every_flipped_bit_of_every_sample_is_refused() {
    for sample in samples::all() {
        let mut bytes = sample.bytes.clone();
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            let outcome = (sample.is_sample)(&bytes);
            assert!(
                outcome.is_err(),
                "{} with bit {bit} flipped: {outcome:?}",
                sample.name
            );
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        assert_eq!((sample.is_sample)(&bytes), Ok(true));
    }
}
