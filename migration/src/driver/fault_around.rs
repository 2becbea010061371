//! What else to ask for when a page is needed. Pure.
//!
//! A guest that walks through memory is served ahead of its steps, ever further, as files are read
//! ahead; one that jumps about gets little more than it asked for, since what others wait for comes
//! behind it. The page itself is always asked for first and alone.

use godwit_proto::migrate::PageRun;

/// Walks that are told apart at once: a few for each vCPU.
const WALKS: usize = 16;
/// Pages asked for behind the first of a walk.
const FIRST_PAGES: u64 = 3;
/// The most pages asked for ahead: 256 KiB, half a millisecond at 4 Gb/s.
const MOST_PAGES: u64 = 64;

/// Pages that somebody seems to walk through.
#[derive(Clone, Copy, Debug, Default)]
struct Walk {
    /// The last page that was needed.
    at: u64,
    /// The first one that was not asked for.
    next: u64,
    ahead: u64,
}

/// Recognises walks.
#[derive(Debug)]
pub(super) struct FaultAround {
    unit_pages: u64,
    walks: [Walk; WALKS],
    /// The walk that gives way to the next new one.
    hand: usize,
}

impl FaultAround {
    /// For memory in which `unit_pages` come together.
    pub(super) fn new(unit_pages: u64) -> Self {
        Self {
            unit_pages: unit_pages.max(1),
            walks: Default::default(),
            hand: 0,
        }
    }

    /// What to ask for, in this order.
    pub(super) fn fault(&mut self, page: u64) -> (PageRun, Option<PageRun>) {
        if self.unit_pages > 1 {
            let first = page - page % self.unit_pages;
            let count = self.unit_pages;
            return (PageRun { first, count }, None);
        }
        let one = PageRun {
            first: page,
            count: 1,
        };
        for walk in &mut self.walks {
            let is_known = walk.ahead > 0 && page > walk.at && page <= walk.next + walk.ahead;
            if is_known {
                walk.ahead = (walk.ahead * 2).min(MOST_PAGES);
                walk.at = page;
                // The guest may be faster than the link, and wait for what was asked for.
                let first = walk.next.max(page + 1);
                walk.next = first + walk.ahead;
                let count = walk.ahead;
                return (one, Some(PageRun { first, count }));
            }
        }
        let first = page + 1;
        self.walks[self.hand] = Walk {
            at: page,
            next: first + FIRST_PAGES,
            ahead: FIRST_PAGES,
        };
        self.hand = (self.hand + 1) % WALKS;
        let count = FIRST_PAGES;
        (one, Some(PageRun { first, count }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_is_served_ever_further_ahead() {
        let mut around = FaultAround::new(1);
        let mut page = 1000;
        let mut asked = 0;
        for _ in 0..20 {
            let (one, more) = around.fault(page);
            assert_eq!((one.first, one.count), (page, 1));
            let more = more.unwrap();
            asked = more.count;
            page = more.first + more.count;
        }
        assert_eq!(asked, MOST_PAGES);
    }

    #[test]
    fn jumps_get_little_more_than_they_ask_for_and_do_not_end_a_walk() {
        let mut around = FaultAround::new(1);
        around.fault(10);
        for jump in 1..8u64 {
            let (_, more) = around.fault(jump << 20);
            assert_eq!(more.unwrap().count, FIRST_PAGES);
        }
        assert_eq!(around.fault(14).1.unwrap().count, FIRST_PAGES * 2);
    }

    #[test]
    fn a_walk_that_overtakes_the_link_is_asked_for_behind_what_is_under_way() {
        let mut around = FaultAround::new(1);
        assert_eq!(around.fault(10).1.unwrap().first, 11);
        let (one, more) = around.fault(12);
        assert_eq!(one.first, 12);
        assert_eq!(more.unwrap().first, 14);
    }

    #[test]
    fn huge_pages_are_asked_for_whole() {
        let (whole, more) = FaultAround::new(512).fault(1000);
        assert_eq!((whole.first, whole.count, more), (512, 512, None));
    }
}
