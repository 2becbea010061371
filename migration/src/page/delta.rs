//! The difference of a page to what the other side has of it: pairs of (bytes to skip, bytes to
//! replace), each as a varint, the new bytes after the second. What follows the last pair is equal.

use super::varint;
use crate::ports::PAGE_BYTES;

/// The longest difference that is worth sending; beyond it a compressed page is about as short.
pub(super) const MAX_DELTA_BYTES: usize = PAGE_BYTES / 4;

/// Equal bytes that end a replacement. Fewer cost less as part of it than a new pair does.
const MIN_EQUAL_BYTES: usize = 4;

/// Why bytes are no difference of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeltaError {
    /// An integer or the new bytes are cut off.
    #[error("the difference of a page is cut off")]
    CutOff,
    /// It goes on after the end of the page, or replaces nothing.
    #[error("the difference of a page replaces {length} bytes after skipping {skip} at {at}")]
    Outside {
        /// Where in the page the pair starts.
        at: usize,
        /// Bytes to skip.
        skip: u64,
        /// Bytes to replace.
        length: u64,
    },
}

/// Appends the difference from `base` to `page`, two pages, and says so; leaves `out` as it was
/// when that takes more than `limit` bytes.
pub(super) fn encode(base: &[u8], page: &[u8], limit: usize, out: &mut Vec<u8>) -> bool {
    assert_eq!(base.len(), page.len(), "two versions of one page");
    let start = out.len();
    let mut at = 0;
    while let Some(from) = next_difference(base, page, at) {
        let end = end_of_difference(base, page, from, limit);
        varint::push((from - at) as u64, out);
        varint::push((end - from) as u64, out);
        if out.len() - start + (end - from) > limit {
            out.truncate(start);
            return false;
        }
        out.extend_from_slice(&page[from..end]);
        at = end;
    }
    true
}

/// Turns `page` from the base into the new content. When it fails, `page` is partly changed.
///
/// # Errors
/// When `delta` is no difference of a page of this length.
pub(super) fn apply(mut delta: &[u8], page: &mut [u8]) -> Result<(), DeltaError> {
    let mut at = 0;
    while !delta.is_empty() {
        let skip = varint::take(&mut delta).ok_or(DeltaError::CutOff)?;
        let length = varint::take(&mut delta).ok_or(DeltaError::CutOff)?;
        let outside = DeltaError::Outside { at, skip, length };
        let room = (page.len() - at) as u64;
        if length == 0 || skip > room || length > room - skip {
            return Err(outside);
        }
        let (skip, length) = (skip as usize, length as usize);
        let (new, rest) = delta.split_at_checked(length).ok_or(DeltaError::CutOff)?;
        page[at + skip..][..length].copy_from_slice(new);
        at += skip + length;
        delta = rest;
    }
    Ok(())
}

/// The first byte at or after `from` that differs.
fn next_difference(base: &[u8], page: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    for (old, new) in base[from..].chunks(64).zip(page[from..].chunks(64)) {
        if old != new {
            let inside = old.iter().zip(new).position(|(old, new)| old != new);
            return Some(at + inside.expect("the blocks differ"));
        }
        at += old.len();
    }
    None
}

/// Where the difference that starts at `from` ends; not looked for further than `limit`.
fn end_of_difference(base: &[u8], page: &[u8], from: usize, limit: usize) -> usize {
    let mut end = from + 1;
    let last = page.len().min(
        from.saturating_add(limit)
            .saturating_add(1 + MIN_EQUAL_BYTES),
    );
    for at in from + 1..last {
        if base[at] != page[at] {
            end = at + 1;
        } else if at - end >= MIN_EQUAL_BYTES - 1 {
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn changed(base: &[u8], changes: &[(usize, Vec<u8>)]) -> Vec<u8> {
        let mut page = base.to_vec();
        for (at, new) in changes {
            let length = new.len().min(PAGE_BYTES - at);
            page[*at..at + length].copy_from_slice(&new[..length]);
        }
        page
    }

    proptest! {
        #[test]
        fn a_difference_turns_the_base_into_the_page(
            fill in any::<u8>(),
            changes in proptest::collection::vec((0..PAGE_BYTES, proptest::collection::vec(any::<u8>(), 1..80)), 0..40),
            limit in 0..PAGE_BYTES,
        ) {
            let base = vec![fill; PAGE_BYTES];
            let page = changed(&base, &changes);
            let mut delta = vec![1, 2, 3];
            if encode(&base, &page, limit, &mut delta) {
                prop_assert!(delta.len() - 3 <= limit);
                let mut again = base;
                apply(&delta[3..], &mut again).unwrap();
                prop_assert_eq!(again, page);
            } else {
                prop_assert_eq!(delta, [1, 2, 3], "nothing is left of an attempt");
            }
        }

        #[test]
        fn any_bytes_are_applied_or_refused(delta in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = apply(&delta, &mut [0; PAGE_BYTES]);
        }
    }

    #[test]
    fn one_changed_word_takes_as_good_as_nothing() {
        let base = [7; PAGE_BYTES];
        let page = changed(&base, &[(2048, vec![1; 8])]);
        let mut delta = Vec::new();
        assert!(encode(&base, &page, MAX_DELTA_BYTES, &mut delta));
        assert_eq!(delta.len(), 2 + 1 + 8);
    }

    #[test]
    fn equal_pages_differ_by_nothing_and_other_pages_by_too_much() {
        let mut delta = Vec::new();
        assert!(encode(&[7; PAGE_BYTES], &[7; PAGE_BYTES], 0, &mut delta));
        assert!(delta.is_empty());
        assert!(!encode(
            &[7; PAGE_BYTES],
            &[8; PAGE_BYTES],
            MAX_DELTA_BYTES,
            &mut delta
        ));
    }

    #[test]
    fn a_difference_beyond_the_page_is_refused() {
        let mut page = [0; PAGE_BYTES];
        let outside = |delta: &[u8], page: &mut [u8]| {
            matches!(apply(delta, page), Err(DeltaError::Outside { .. }))
        };
        // Skips 4096 and replaces one byte; skips 2^63; replaces nothing.
        assert!(outside(&[0x80, 0x20, 1, 9], &mut page));
        let far = [
            0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1, 1, 9,
        ];
        assert!(outside(&far, &mut page));
        assert!(outside(&[0, 0], &mut page));
        assert_eq!(apply(&[0, 5, 1, 2], &mut page), Err(DeltaError::CutOff));
        assert_eq!(apply(&[0x80], &mut page), Err(DeltaError::CutOff));
    }
}
