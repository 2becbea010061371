//! Guest memory as a list of ranges, addressed by page number.

/// Bytes per page.
pub(crate) const PAGE: u64 = 4096;

/// Most ranges a span holds; a memory map with more loses the rest.
pub(crate) const MAX_RANGES: usize = 16;

/// Page-aligned ranges, in the order in which they are counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    ranges: [(u64, u64); MAX_RANGES],
    len: usize,
}

impl Span {
    pub(crate) const EMPTY: Self = Self {
        ranges: [(0, 0); MAX_RANGES],
        len: 0,
    };

    /// Adds the whole pages within `start..end`; false when there is no room.
    pub(crate) fn add(&mut self, start: u64, end: u64) -> bool {
        let start = start.checked_next_multiple_of(PAGE).unwrap_or(end);
        let end = end / PAGE * PAGE;
        if start >= end {
            return true;
        }
        if self.len == MAX_RANGES {
            return false;
        }
        self.ranges[self.len] = (start, end);
        self.len += 1;
        true
    }

    /// The ranges, each start and end.
    pub(crate) fn ranges(&self) -> &[(u64, u64)] {
        &self.ranges[..self.len]
    }

    pub(crate) fn pages(&self) -> u64 {
        self.ranges()
            .iter()
            .map(|(start, end)| (end - start) / PAGE)
            .sum()
    }

    /// Address of the page of that number.
    pub(crate) fn address(&self, mut page: u64) -> Option<u64> {
        for &(start, end) in self.ranges() {
            let pages = (end - start) / PAGE;
            if page < pages {
                return Some(start + page * PAGE);
            }
            page -= pages;
        }
        None
    }

    /// The pages `first..first + count` as a span of their own.
    pub(crate) fn part(&self, first: u64, count: u64) -> Self {
        let mut part = Self::default();
        let (mut skip, mut left) = (first, count);
        for &(start, end) in self.ranges() {
            let pages = (end - start) / PAGE;
            let skipped = skip.min(pages);
            skip -= skipped;
            let taken = left.min(pages - skipped);
            left -= taken;
            let from = start + skipped * PAGE;
            part.add(from, from + taken * PAGE);
        }
        part
    }

    /// Removes `count` pages of one range, the first that has them, from its
    /// start; returns their address.
    pub(crate) fn take(&mut self, count: u64) -> Option<u64> {
        let bytes = count.checked_mul(PAGE)?;
        for range in &mut self.ranges[..self.len] {
            if range.1 - range.0 >= bytes {
                let start = range.0;
                range.0 += bytes;
                return Some(start);
            }
        }
        None
    }

    /// Removes up to `count` pages from the end and returns them.
    pub(crate) fn split_end(&mut self, count: u64) -> Self {
        let kept = self.pages().saturating_sub(count);
        let taken = self.part(kept, count);
        *self = self.part(0, kept);
        taken
    }

    /// Removes the whole pages within `start..end`; false, and nothing is
    /// removed, when they are not all in one of the ranges.
    pub(crate) fn remove(&mut self, start: u64, end: u64) -> bool {
        let start = start.checked_next_multiple_of(PAGE).unwrap_or(end);
        let end = end / PAGE * PAGE;
        let holds = |range: &(u64, u64)| range.0 <= start && start < end && end <= range.1;
        let Some(index) = self.ranges().iter().position(holds) else {
            return false;
        };
        let mut rest = Self::default();
        for (at, range) in self.ranges().iter().enumerate() {
            let fits = if at == index {
                rest.add(range.0, start) && rest.add(end, range.1)
            } else {
                rest.add(range.0, range.1)
            };
            if !fits {
                return false;
            }
        }
        *self = rest;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Span {
        let mut span = Span::default();
        assert!(span.add(0x1800, 0x4fff)); // pages 2, 3
        assert!(span.add(0x10_0000, 0x10_3000)); // three more
        span
    }

    #[test]
    fn partial_pages_are_left_out() {
        assert_eq!(two().ranges(), [(0x2000, 0x4000), (0x10_0000, 0x10_3000)]);
        assert_eq!(two().pages(), 5);
    }

    #[test]
    fn page_numbers_run_through_the_ranges_in_order() {
        let found: Vec<_> = (0..6).map(|page| two().address(page)).collect();
        let want = [
            Some(0x2000),
            Some(0x3000),
            Some(0x10_0000),
            Some(0x10_1000),
            Some(0x10_2000),
            None,
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn parts_cover_the_whole_without_overlap() {
        let span = two();
        for cut in 0..=5 {
            let (a, b) = (span.part(0, cut), span.part(cut, 5 - cut));
            let joined: Vec<_> = (0..a.pages())
                .map(|p| a.address(p))
                .chain((0..b.pages()).map(|p| b.address(p)))
                .collect();
            let whole: Vec<_> = (0..5).map(|p| span.address(p)).collect();
            assert_eq!(joined, whole, "cut at {cut}");
        }
    }

    #[test]
    fn taking_finds_the_first_range_that_is_long_enough() {
        let mut span = two();
        assert_eq!(span.take(3), Some(0x10_0000));
        assert_eq!(span.take(1), Some(0x2000));
        assert_eq!(span.take(2), None);
        assert_eq!(span.pages(), 1);
    }

    #[test]
    fn splitting_takes_the_end_and_leaves_the_rest() {
        let mut span = two();
        assert_eq!(
            span.split_end(4).ranges(),
            [(0x3000, 0x4000), (0x10_0000, 0x10_3000)]
        );
        assert_eq!(span.ranges(), [(0x2000, 0x3000)]);
        assert_eq!(span.split_end(99).pages(), 1);
        assert_eq!(span.pages(), 0);
    }

    #[test]
    fn removing_cuts_a_range_in_two_or_refuses() {
        let mut span = two();
        assert!(!span.remove(0x3000, 0x5000), "reaches beyond the range");
        assert!(!span.remove(0x3000, 0x3000), "nothing");
        assert!(span.remove(0x10_1000, 0x10_2000));
        assert_eq!(
            span.ranges(),
            [
                (0x2000, 0x4000),
                (0x10_0000, 0x10_1000),
                (0x10_2000, 0x10_3000)
            ]
        );
        assert!(!span.remove(0x10_1000, 0x10_2000), "already gone");
    }
}
