//! A set of guest pages.

/// Pages `0..pages` of a guest, one bit each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageSet {
    words: Vec<u64>,
    pages: u64,
}

impl PageSet {
    /// No page of a guest with `pages` pages.
    pub fn empty(pages: u64) -> Self {
        Self {
            words: vec![0; pages.div_ceil(64) as usize],
            pages,
        }
    }

    /// Every page.
    pub fn full(pages: u64) -> Self {
        let mut set = Self::empty(pages);
        set.insert_run(0, pages);
        set
    }

    /// How many pages the guest has.
    pub fn capacity(&self) -> u64 {
        self.pages
    }

    /// How many pages are in the set.
    pub fn count(&self) -> u64 {
        self.words.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Whether no page is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&w| w == 0)
    }

    /// Whether `page` is in the set; `false` for what is no page.
    pub fn contains(&self, page: u64) -> bool {
        page < self.pages && self.words[(page / 64) as usize] >> (page % 64) & 1 == 1
    }

    /// Puts `page` in; what is no page is left out.
    pub fn insert(&mut self, page: u64) {
        self.insert_run(page, 1);
    }

    /// Puts `count` pages from `first` on in; what is no page is left out.
    pub fn insert_run(&mut self, first: u64, count: u64) {
        let end = first.saturating_add(count).min(self.pages);
        self.for_words(first, end, |word, mask| *word |= mask);
    }

    /// Takes `count` pages from `first` on out.
    pub fn remove_run(&mut self, first: u64, count: u64) {
        let end = first.saturating_add(count).min(self.pages);
        self.for_words(first, end, |word, mask| *word &= !mask);
    }

    /// Puts all pages in that share a unit of `unit` pages with one of the set; units are aligned.
    pub fn widen(&mut self, unit: u64) {
        if unit <= 1 {
            return;
        }
        let mut from = 0;
        while let Some((first, count)) = self.next_run(from) {
            let start = first / unit * unit;
            let end = (first + count).div_ceil(unit) * unit;
            self.insert_run(start, end - start);
            from = end;
        }
    }

    /// Takes all pages out.
    pub fn clear(&mut self) {
        self.words.fill(0);
    }

    /// Adds all of `other`, a set over the same guest.
    pub fn union(&mut self, other: &Self) {
        assert_eq!(self.pages, other.pages, "sets of one guest");
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine |= theirs;
        }
    }

    /// Takes out what is not in `other`, a set over the same guest.
    pub fn intersect(&mut self, other: &Self) {
        assert_eq!(self.pages, other.pages, "sets of one guest");
        for (mine, theirs) in self.words.iter_mut().zip(&other.words) {
            *mine &= theirs;
        }
    }

    /// Whether all pages of `other` are in, a set over the same guest.
    pub fn contains_all(&self, other: &Self) -> bool {
        assert_eq!(self.pages, other.pages, "sets of one guest");
        let mut words = self.words.iter().zip(&other.words);
        words.all(|(mine, theirs)| theirs & !mine == 0)
    }

    /// The first run at or after `from`, as (first page, pages).
    pub fn next_run(&self, from: u64) -> Option<(u64, u64)> {
        let first = self.next(from, true)?;
        let end = self.next(first, false).unwrap_or(self.pages);
        Some((first, end - first))
    }

    /// All runs, rising, as (first page, pages).
    pub fn runs(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let run = self.next_run(from)?;
            from = run.0 + run.1;
            Some(run)
        })
    }

    fn for_words(&mut self, first: u64, end: u64, mut change: impl FnMut(&mut u64, u64)) {
        let mut page = first;
        while page < end {
            let bit = page % 64;
            let count = (64 - bit).min(end - page);
            let mask = (u64::MAX >> (64 - count)) << bit;
            change(&mut self.words[(page / 64) as usize], mask);
            page += count;
        }
    }

    fn next(&self, from: u64, set: bool) -> Option<u64> {
        let mut word = (from / 64) as usize;
        let mut mask = u64::MAX << (from % 64);
        while let Some(&bits) = self.words.get(word) {
            let bits = if set { bits } else { !bits } & mask;
            if bits != 0 {
                let page = word as u64 * 64 + u64::from(bits.trailing_zeros());
                return (page < self.pages).then_some(page);
            }
            mask = u64::MAX;
            word += 1;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_set_behaves_like_one(
            pages in 1u64..300,
            changes in proptest::collection::vec((any::<bool>(), 0u64..320, 0u64..80), 0..40),
        ) {
            let mut set = PageSet::empty(pages);
            let mut model = vec![false; pages as usize];
            for (insert, first, count) in changes {
                if insert { set.insert_run(first, count) } else { set.remove_run(first, count) }
                for page in first..first + count {
                    if let Some(bit) = model.get_mut(page as usize) {
                        *bit = insert;
                    }
                }
            }
            let members: Vec<u64> = (0..pages).filter(|&p| model[p as usize]).collect();
            prop_assert_eq!(set.count(), members.len() as u64);
            prop_assert_eq!(set.is_empty(), members.is_empty());
            let by_runs: Vec<u64> = set.runs().flat_map(|(first, count)| first..first + count).collect();
            prop_assert_eq!(by_runs, members);
            let runs: Vec<_> = set.runs().collect();
            prop_assert!(runs.windows(2).all(|w| w[0].0 + w[0].1 < w[1].0), "runs do not touch");
        }
    }

    #[test]
    fn a_widened_set_holds_whole_units() {
        let mut set = PageSet::empty(1000);
        set.insert_run(3, 2);
        set.insert_run(510, 4);
        set.insert(990);
        set.widen(8);
        let runs: Vec<_> = set.runs().collect();
        assert_eq!(runs, [(0, 8), (504, 16), (984, 8)]);
        let narrow = set.clone();
        set.widen(512);
        assert_eq!(set, PageSet::full(1000));
        assert!(set.contains_all(&narrow) && !narrow.contains_all(&set));
    }

    #[test]
    fn a_full_set_is_one_run() {
        assert_eq!(PageSet::full(130).runs().collect::<Vec<_>>(), [(0, 130)]);
        assert!(!PageSet::full(130).contains(130));
    }
}
