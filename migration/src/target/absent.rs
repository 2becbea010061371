//! The pages that the guest goes without for now (MIG-40 to MIG-42).

use godwit_proto::migrate::PageRun;

use super::api::Command;
use crate::PageSet;
use crate::source::MAX_REQUEST_PAGES;

/// What is still to come, and what of it somebody waits for.
#[derive(Debug)]
pub(super) struct Absent {
    missing: PageSet,
    /// How many those are: counting them anew would take longer than a page fault.
    left: u64,
    wanted: PageSet,
}

impl Absent {
    pub(super) fn new(missing: PageSet) -> Self {
        Self {
            left: missing.count(),
            wanted: PageSet::empty(missing.capacity()),
            missing,
        }
    }

    pub(super) fn missing(&self) -> &PageSet {
        &self.missing
    }

    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// Somebody waits for pages of `run`. Asks for those that are missing and were not asked for
    /// before, if the source can be asked; else [`Absent::ask_again`] does.
    pub(super) fn fault(&mut self, run: PageRun, can_ask: bool, out: &mut Vec<Command>) {
        let end = run
            .first
            .saturating_add(run.count)
            .min(self.missing.capacity());
        let mut from = run.first;
        while let Some((first, count)) = self.missing.next_run(from).filter(|&(f, _)| f < end) {
            let stop = end.min(first + count);
            let mut page = first;
            while page < stop {
                let asked = self.wanted.next_run(page).filter(|&(f, _)| f < stop);
                let (until, next) = asked.map_or((stop, stop), |(f, n)| (f, (f + n).min(stop)));
                self.want(page, until, can_ask, out);
                page = next;
            }
            from = stop;
        }
    }

    /// Asks for pages up to `end` in pieces that fit a request (MIG-05).
    fn want(&mut self, first: u64, end: u64, can_ask: bool, out: &mut Vec<Command>) {
        let mut first = first;
        while first < end {
            let count = (end - first).min(MAX_REQUEST_PAGES);
            self.wanted.insert_run(first, count);
            if can_ask {
                out.push(Command::RequestPages(PageRun { first, count }));
            }
            first += count;
        }
    }

    /// Asks anew for all that somebody waits for: what was asked on another connection is lost.
    pub(super) fn ask_again(&mut self, out: &mut Vec<Command>) {
        let nothing = PageSet::empty(self.missing.capacity());
        let wanted = std::mem::replace(&mut self.wanted, nothing);
        for (first, count) in wanted.runs() {
            self.fault(PageRun { first, count }, true, out);
        }
    }

    /// Pages are in memory.
    pub(super) fn installed(&mut self, run: PageRun) {
        let end = run.first.saturating_add(run.count);
        let mut from = run.first;
        while let Some((first, count)) = self.missing.next_run(from).filter(|&(f, _)| f < end) {
            let count = count.min(end - first);
            self.left -= count;
            from = first + count;
        }
        self.missing.remove_run(run.first, run.count);
        self.wanted.remove_run(run.first, run.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(commands: &[Command]) -> Vec<(u64, u64)> {
        let run = |command: &Command| match command {
            Command::RequestPages(run) => (run.first, run.count),
            other => panic!("{other:?}"),
        };
        commands.iter().map(run).collect()
    }

    fn fault(absent: &mut Absent, first: u64, count: u64) -> Vec<(u64, u64)> {
        let mut out = Vec::new();
        absent.fault(PageRun { first, count }, true, &mut out);
        requests(&out)
    }

    #[test]
    fn only_what_is_missing_and_not_under_way_is_asked_for() {
        let mut missing = PageSet::empty(2000);
        missing.insert_run(10, 10);
        missing.insert_run(30, 1500);
        let mut absent = Absent::new(missing);
        assert_eq!(fault(&mut absent, 0, 12), [(10, 2)]);
        assert_eq!(fault(&mut absent, 0, 40), [(12, 8), (30, 10)]);
        assert_eq!(fault(&mut absent, 0, 40), []);
        assert_eq!(fault(&mut absent, 35, 10), [(40, 5)]);
        assert_eq!(fault(&mut absent, 100, 600), [(100, 512), (612, 88)]);
        assert_eq!(fault(&mut absent, u64::MAX, 7), []);
    }

    #[test]
    fn what_arrived_is_counted_once_and_what_waits_is_asked_for_again() {
        let mut absent = Absent::new(PageSet::full(100));
        assert_eq!(fault(&mut absent, 4, 8), [(4, 8)]);
        absent.installed(PageRun { first: 0, count: 6 });
        absent.installed(PageRun { first: 2, count: 6 });
        assert_eq!(absent.left(), 92);
        let mut out = Vec::new();
        absent.ask_again(&mut out);
        assert_eq!(requests(&out), [(8, 4)]);
        absent.installed(PageRun {
            first: 0,
            count: u64::MAX,
        });
        assert_eq!(absent.left(), 0);
        assert!(absent.missing().is_empty());
    }

    #[test]
    fn a_fault_while_nobody_can_be_asked_is_asked_for_later() {
        let mut absent = Absent::new(PageSet::full(100));
        let mut out = Vec::new();
        absent.fault(PageRun { first: 7, count: 2 }, false, &mut out);
        assert!(out.is_empty());
        absent.ask_again(&mut out);
        assert_eq!(requests(&out), [(7, 2)]);
    }
}
