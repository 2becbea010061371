//! The order in which memory follows a guest that runs at the target (MIG-40, MIG-41).

use godwit_proto::migrate::PageRun;

use crate::PageSet;

/// The most pages pushed at once: 2 MiB, so that a huge page of the target arrives whole.
pub const PUSH_PAGES: u64 = 512;
/// The most pages of one request.
pub const MAX_REQUEST_PAGES: u64 = 512;

/// What the target lacks, and where the next push comes from: right behind the last request, because
/// a guest that needed a page soon needs its neighbours.
#[derive(Clone, Debug)]
pub struct PushPlan {
    /// What the target lacked at the switch. Nothing else is ever sent.
    missing: PageSet,
    unsent: PageSet,
    cursor: u64,
}

impl PushPlan {
    /// Nothing of `missing` has been sent.
    pub fn new(missing: PageSet) -> Self {
        Self {
            unsent: missing.clone(),
            missing,
            cursor: 0,
        }
    }

    /// Pages not yet sent.
    pub fn unsent(&self) -> u64 {
        self.unsent.count()
    }

    /// The next pages to push, at most [`PUSH_PAGES`], not across a 2 MiB boundary; `None` when all
    /// have been sent.
    pub fn next_push(&mut self) -> Option<PageRun> {
        let (first, count) = self
            .unsent
            .next_run(self.cursor)
            .or_else(|| self.unsent.next_run(0))?;
        let to_boundary = PUSH_PAGES - first % PUSH_PAGES;
        let run = PageRun {
            first,
            count: count.min(to_boundary),
        };
        self.unsent.remove_run(run.first, run.count);
        self.cursor = run.first + run.count;
        Some(run)
    }

    /// What to send for a request, also when a push has it under way: the fault stream may be
    /// faster. `None` when the request is for pages that were never missing.
    pub fn request(&mut self, wanted: PageRun) -> Option<PageRun> {
        let end = wanted.first.checked_add(wanted.count)?;
        let (first, count) = self.missing.next_run(wanted.first)?;
        let end = end.min(first.saturating_add(count));
        if first >= end {
            return None;
        }
        let run = PageRun {
            first,
            count: (end - first).min(MAX_REQUEST_PAGES),
        };
        self.unsent.remove_run(run.first, run.count);
        self.cursor = run.first + run.count;
        Some(run)
    }

    /// After a cut: all that has not arrived is sent again (MIG-52).
    pub fn resume(&mut self, received: &PageSet) {
        self.unsent = self.missing.clone();
        for (first, count) in received.runs() {
            self.unsent.remove_run(first, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u64) -> PageRun {
        PageRun { first, count }
    }

    #[test]
    fn a_request_moves_the_push_behind_it_and_all_is_pushed_in_the_end() {
        let mut plan = PushPlan::new(PageSet::full(2000));
        assert_eq!(plan.next_push(), Some(run(0, 512)));
        assert_eq!(plan.request(run(1100, 16)), Some(run(1100, 16)));
        assert_eq!(
            plan.next_push(),
            Some(run(1116, 420)),
            "up to the boundary at 1536"
        );
        assert_eq!(plan.next_push(), Some(run(1536, 464)));
        assert_eq!(
            plan.next_push(),
            Some(run(512, 512)),
            "from the beginning again"
        );
        assert_eq!(plan.next_push(), Some(run(1024, 76)));
        assert_eq!(plan.next_push(), None);
        assert_eq!(plan.unsent(), 0);
    }

    #[test]
    fn what_was_never_missing_is_not_sent_whatever_is_asked() {
        let mut missing = PageSet::empty(100);
        missing.insert_run(10, 5);
        let mut plan = PushPlan::new(missing);
        assert_eq!(plan.request(run(20, 5)), None);
        assert_eq!(plan.request(run(u64::MAX, 2)), None);
        assert_eq!(plan.request(run(0, 0)), None);
        assert_eq!(plan.request(run(8, 90)), Some(run(10, 5)));
        assert_eq!(
            plan.request(run(10, 1)),
            Some(run(10, 1)),
            "asked again, sent again"
        );
    }

    #[test]
    fn after_a_cut_exactly_what_did_not_arrive_is_sent_again() {
        let mut plan = PushPlan::new(PageSet::full(100));
        while plan.next_push().is_some() {}
        let mut received = PageSet::empty(100);
        received.insert_run(0, 40);
        plan.resume(&received);
        plan.cursor = 0;
        assert_eq!(plan.next_push(), Some(run(40, 60)));
    }
}
