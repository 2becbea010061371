//! Pages that the target gives up before the guest is paused (MIG-45).

use godwit_proto::migrate::{MAX_RUNS, PageRun};

use crate::PageSet;

/// What was announced, and what of it is being given up.
#[derive(Debug)]
pub(super) struct Stale {
    /// All of it, of every announcement.
    pub(super) all: PageSet,
    /// The announcement that comes in.
    batch: PageSet,
    next: u64,
    busy: bool,
}

impl Stale {
    pub(super) fn new(pages: u64) -> Self {
        Self {
            all: PageSet::empty(pages),
            batch: PageSet::empty(pages),
            next: 0,
            busy: false,
        }
    }

    /// Whether nothing was announced.
    pub(super) fn is_none(&self) -> bool {
        self.next == 0 && !self.busy && self.all.is_empty()
    }

    /// Whether an announcement is not dealt with.
    pub(super) fn is_busy(&self) -> bool {
        self.busy || self.next > 0
    }

    /// Takes a piece of an announcement, rising; returns the pages when it was the last.
    pub(super) fn list(
        &mut self,
        runs: &[PageRun],
        last: bool,
    ) -> Result<Option<PageSet>, &'static str> {
        if self.busy || runs.len() > MAX_RUNS {
            return Err("stale pages before it was told that others are given up, or too many");
        }
        for run in runs {
            let end = run.first.checked_add(run.count);
            match end.filter(|&end| end <= self.all.capacity()) {
                Some(end) if run.count > 0 && run.first >= self.next => self.next = end,
                _ => return Err("stale pages out of order or outside the guest"),
            }
            self.batch.insert_run(run.first, run.count);
        }
        if !last {
            return Ok(None);
        }
        self.all.union(&self.batch);
        self.next = 0;
        self.busy = true;
        let none = PageSet::empty(self.all.capacity());
        Ok(Some(std::mem::replace(&mut self.batch, none)))
    }

    /// What was announced is given up; whether anything was.
    pub(super) fn is_given_up(&mut self) -> bool {
        std::mem::take(&mut self.busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, count: u64) -> PageRun {
        PageRun { first, count }
    }

    #[test]
    fn an_announcement_is_whole_in_order_and_alone() {
        let mut stale = Stale::new(100);
        assert!(stale.is_none());
        assert_eq!(stale.list(&[run(3, 4)], false), Ok(None));
        assert!(stale.is_busy() && !stale.is_none());
        let pages = stale.list(&[run(10, 2)], true).unwrap().unwrap();
        assert_eq!(pages.runs().collect::<Vec<_>>(), [(3, 4), (10, 2)]);
        assert!(stale.list(&[run(50, 1)], true).is_err(), "not yet");
        assert!(stale.is_given_up() && !stale.is_given_up());
        assert!(!stale.is_busy());
        assert!(stale.list(&[run(5, 1)], true).unwrap().is_some());
        assert_eq!(stale.all.count(), 6);
    }

    #[test]
    fn pages_out_of_order_or_outside_are_refused() {
        for runs in [
            [run(5, 2), run(6, 1)],
            [run(5, 2), run(99, 2)],
            [run(5, 0), run(7, 1)],
            [run(5, 1), run(u64::MAX, 2)],
        ] {
            assert!(Stale::new(100).list(&runs, true).is_err(), "{runs:?}");
        }
    }
}
