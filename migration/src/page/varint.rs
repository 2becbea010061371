//! Unsigned integers of variable length: seven bits a byte, low bits first, the top bit says "more".

/// The most bytes that an integer takes.
pub(crate) const MAX_BYTES: usize = 10;

/// Appends `value`.
pub(crate) fn push(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// An integer below 2^14 in two bytes, even where one would do: for one that is filled in later.
pub(crate) fn two_bytes(value: u16) -> [u8; 2] {
    debug_assert!(value < 1 << 14);
    [value as u8 | 0x80, (value >> 7) as u8]
}

/// Takes an integer from the front of `bytes`; `None` when it is cut off, longer than
/// [`MAX_BYTES`] or beyond 64 bits.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for (at, &byte) in bytes.iter().take(MAX_BYTES).enumerate() {
        let bits = u64::from(byte & 0x7f);
        let shifted = bits << (7 * at);
        if shifted >> (7 * at) != bits {
            return None;
        }
        value |= shifted;
        if byte < 0x80 {
            *bytes = &bytes[at + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_pushed_is_taken(values in proptest::collection::vec(any::<u64>(), 0..20), shift in 0u32..64) {
            let mut bytes = Vec::new();
            for &value in &values {
                push(value >> shift, &mut bytes);
            }
            let mut rest = &bytes[..];
            for &value in &values {
                prop_assert_eq!(take(&mut rest), Some(value >> shift));
            }
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn two_bytes_are_an_integer() {
        for value in [0, 1, 127, 128, 1024, (1 << 14) - 1] {
            assert_eq!(take(&mut &two_bytes(value)[..]), Some(value.into()));
        }
    }

    #[test]
    fn an_integer_cut_off_or_too_large_is_refused() {
        assert_eq!(take(&mut &[][..]), None);
        assert_eq!(take(&mut &[0x80; 3][..]), None);
        assert_eq!(take(&mut &[0xff; 11][..]), None);
        let mut beyond_64_bits = [0xff; 10];
        beyond_64_bits[9] = 2;
        assert_eq!(take(&mut &beyond_64_bits[..]), None);
    }
}
