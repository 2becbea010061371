//! The test for pages of zeros.

/// Bytes looked at between two early exits; a cache line.
const BLOCK_BYTES: usize = 64;

/// Whether all of `bytes` are zero. Leaves at the first cache line that is not.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut blocks = bytes.chunks_exact(BLOCK_BYTES);
    // An OR over a block of fixed length becomes vector instructions; a search for a byte does not.
    blocks.all(|block| block.iter().fold(0, |or, &byte| or | byte) == 0)
        && blocks.remainder().iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::PAGE_BYTES;

    #[test]
    fn a_page_is_zero_until_any_one_byte_is_not() {
        let mut page = [0; PAGE_BYTES];
        assert!(is_zero(&page));
        for at in 0..PAGE_BYTES {
            page[at] = 0x80;
            assert!(!is_zero(&page), "byte {at}");
            page[at] = 0;
        }
    }

    #[test]
    fn bytes_after_the_last_whole_block_count() {
        let mut bytes = [0; 70];
        assert!(is_zero(&bytes));
        bytes[69] = 1;
        assert!(!is_zero(&bytes));
    }
}
