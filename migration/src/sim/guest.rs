//! A guest whose every access checks the page it touches, and the dirty log beneath it.

use super::Random;
use crate::PageSet;

/// Pages of the guest: 8 MiB.
pub(crate) const PAGES: u64 = 2048;

/// What the guest believes its memory to hold, wherever it runs: each page the number of its last
/// write.
#[derive(Clone, Debug)]
pub(crate) struct Guest {
    pub(crate) truth: Vec<u64>,
    pub(crate) writes: u64,
    random: Random,
}

/// Memory on one host.
#[derive(Clone, Debug)]
pub(crate) struct Memory {
    pub(crate) pages: Vec<u64>,
    /// Pages that an access waits for.
    pub(crate) missing: PageSet,
    logging: bool,
    armed: PageSet,
    dirty: PageSet,
}

impl Memory {
    pub(crate) fn new(pages: Vec<u64>) -> Self {
        let none = PageSet::empty(PAGES);
        Self {
            pages,
            missing: none.clone(),
            logging: false,
            armed: none.clone(),
            dirty: none,
        }
    }

    /// As the kernel does with `KVM_DIRTY_LOG_INITIALLY_SET`: all is dirty, nothing armed.
    pub(crate) fn start_log(&mut self) {
        self.logging = true;
        self.armed.clear();
        self.dirty = PageSet::full(PAGES);
    }

    pub(crate) fn collect(&mut self) -> PageSet {
        std::mem::replace(&mut self.dirty, PageSet::empty(PAGES))
    }

    /// A write to a page is only seen once it is armed again.
    pub(crate) fn arm(&mut self, pages: &PageSet) {
        // What is armed for the first time is no longer "initially set".
        for (first, count) in pages.runs() {
            self.dirty.remove_run(first, count);
        }
        self.armed.union(pages);
    }

    pub(crate) fn is_logging(&self) -> bool {
        self.logging
    }

    pub(crate) fn stop_log(&mut self) {
        self.logging = false;
    }

    fn write(&mut self, page: u64, value: u64) {
        self.pages[page as usize] = value;
        if self.logging && self.armed.contains(page) {
            self.armed.remove_run(page, 1);
            self.dirty.insert(page);
        }
    }
}

impl Guest {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            truth: vec![0; PAGES as usize],
            writes: 0,
            random: Random(seed ^ 0x6775_6573),
        }
    }

    /// Writes `count` pages of `memory`, checking each before. Stops at a missing page, and returns
    /// it.
    pub(crate) fn write(&mut self, memory: &mut Memory, count: u64, percent: u64) -> Option<u64> {
        for _ in 0..count * percent / 100 {
            let page = self.random.below(PAGES);
            if memory.missing.contains(page) {
                return Some(page);
            }
            let found = memory.pages[page as usize];
            assert_eq!(
                found, self.truth[page as usize],
                "the guest finds page {page} wrong"
            );
            self.writes += 1;
            self.truth[page as usize] = self.writes;
            memory.write(page, self.writes);
        }
        None
    }

    /// Every page that is there is as the guest left it.
    pub(crate) fn check(&self, memory: &Memory) {
        for page in 0..PAGES {
            let at = page as usize;
            assert!(
                memory.missing.contains(page) || memory.pages[at] == self.truth[at],
                "page {page} is {} in place of {}",
                memory.pages[at],
                self.truth[at]
            );
        }
    }
}
