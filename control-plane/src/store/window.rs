//! The end of the log in memory.

use std::collections::VecDeque;
use std::ops::Range;

use super::Logged;

/// The end of the log in memory, without gaps: all that is not on disk yet, and as much before it
/// as a budget allows.
#[derive(Debug)]
pub(super) struct Window {
    entries: VecDeque<Logged>,
    bytes: usize,
    budget_bytes: usize,
}

impl Window {
    pub(super) const fn new(budget_bytes: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            bytes: 0,
            budget_bytes,
        }
    }

    /// The index of the first entry here.
    pub(super) fn first(&self) -> Option<u64> {
        self.entries.front().map(|entry| entry.id.index)
    }

    pub(super) fn push(&mut self, entry: Logged) {
        self.bytes += entry.weight();
        self.entries.push_back(entry);
    }

    /// Forgets every entry from `index` on.
    pub(super) fn truncate(&mut self, index: u64) {
        while self.entries.back().is_some_and(|e| e.id.index >= index) {
            let dropped = self.entries.pop_back();
            self.bytes -= dropped.map_or(0, |entry| entry.weight());
        }
    }

    /// Forgets every entry up to and with `index`.
    pub(super) fn purge(&mut self, index: u64) {
        while self.entries.front().is_some_and(|e| e.id.index <= index) {
            self.pop_front();
        }
    }

    /// Forgets the oldest entries beyond the budget, but none after `durable`.
    pub(super) fn trim(&mut self, durable: u64) {
        while self.bytes > self.budget_bytes
            && self.entries.front().is_some_and(|e| e.id.index <= durable)
        {
            self.pop_front();
        }
    }

    /// The entries of `range` that are here, as many as fit `budget_bytes`, at least one.
    pub(super) fn read(&self, range: Range<u64>, budget_bytes: usize) -> Vec<Logged> {
        let Some(first) = self.first() else {
            return Vec::new();
        };
        let skipped = usize::try_from(range.start.saturating_sub(first)).unwrap_or(usize::MAX);
        let wanted = self.entries.iter().skip(skipped);
        let wanted = wanted.take_while(|entry| entry.id.index < range.end);
        within(wanted.cloned(), budget_bytes)
    }

    fn pop_front(&mut self) {
        let dropped = self.entries.pop_front();
        self.bytes -= dropped.map_or(0, |entry| entry.weight());
    }
}

/// The first of `entries`, and those after it as far as all fit `budget_bytes`.
pub(super) fn within(entries: impl Iterator<Item = Logged>, budget_bytes: usize) -> Vec<Logged> {
    let mut taken = Vec::new();
    let mut bytes = 0;
    for entry in entries {
        bytes += entry.weight();
        if bytes > budget_bytes && !taken.is_empty() {
            break;
        }
        taken.push(entry);
    }
    taken
}

#[cfg(test)]
mod tests {
    use godwit_proto::id::NodeId;
    use godwit_proto::raft::LogId;

    use super::*;
    use crate::store::Payload;

    fn blank(index: u64) -> Logged {
        Logged {
            id: LogId {
                term: 1,
                leader: NodeId::from_bytes([1; 16]),
                index,
            },
            payload: Payload::Blank,
        }
    }

    fn window(range: Range<u64>, budget_bytes: usize) -> Window {
        let mut window = Window::new(budget_bytes);
        range.for_each(|index| window.push(blank(index)));
        window
    }

    fn indexes(entries: &[Logged]) -> Vec<u64> {
        entries.iter().map(|entry| entry.id.index).collect()
    }

    #[test]
    fn what_is_not_on_disk_stays_whatever_the_budget() {
        let mut window = window(3..9, 0);
        window.trim(5);
        assert_eq!(window.first(), Some(6));
        window.trim(100);
        assert_eq!((window.first(), window.bytes), (None, 0));
    }

    #[test]
    fn the_budget_keeps_the_newest() {
        let entry = blank(0).weight();
        let mut window = window(0..10, 4 * entry);
        window.trim(100);
        assert_eq!(indexes(&window.read(0..99, usize::MAX)), [6, 7, 8, 9]);
    }

    #[test]
    fn a_read_gives_the_part_that_is_here_and_fits() {
        let window = window(3..9, 0);
        let entry = blank(0).weight();
        assert_eq!(indexes(&window.read(0..5, usize::MAX)), [3, 4]);
        assert_eq!(indexes(&window.read(7..99, usize::MAX)), [7, 8]);
        assert_eq!(indexes(&window.read(9..99, usize::MAX)), [0; 0]);
        assert_eq!(indexes(&window.read(4..9, 2 * entry)), [4, 5]);
        assert_eq!(indexes(&window.read(4..9, 0)), [4], "never nothing");
    }

    #[test]
    fn ends_are_cut_off() {
        let mut window = window(3..9, usize::MAX);
        window.truncate(7);
        window.purge(4);
        assert_eq!(indexes(&window.read(0..99, usize::MAX)), [5, 6]);
        window.truncate(0);
        assert_eq!((window.first(), window.bytes), (None, 0));
    }
}
