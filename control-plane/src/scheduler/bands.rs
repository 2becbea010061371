//! Nodes by how loaded they are: the best node is looked for from one end, and seldom far.

use super::host::WHOLE;
use super::set::{NodeSet, Slot};

/// Bands: one for nodes without guests, the others of equal width.
const COUNT: usize = 65;

/// Nodes by load.
#[derive(Clone, Debug)]
pub(super) struct Bands {
    bands: Vec<NodeSet>,
    counts: [u32; COUNT],
    /// Of each slot, load and rank in one number: the lower is the better one to spread to.
    keys: Vec<u64>,
}

/// The band of a load.
fn band_of(load: u32) -> usize {
    match load {
        0 => 0,
        load => 1 + (load as usize * (COUNT - 1) / (WHOLE as usize + 1)).min(COUNT - 2),
    }
}

impl Bands {
    pub(super) fn new() -> Self {
        Self {
            bands: vec![NodeSet::new(); COUNT],
            counts: [0; COUNT],
            keys: Vec::new(),
        }
    }

    /// Adds a slot that is in no band.
    pub(super) fn insert(&mut self, slot: Slot, load: u32, rank: u32) {
        if slot.index() >= self.keys.len() {
            self.keys.resize(slot.index() + 1, 0);
        }
        self.keys[slot.index()] = key(load, rank);
        self.bands[band_of(load)].insert(slot);
        self.counts[band_of(load)] += 1;
    }

    /// Removes a slot that was inserted.
    pub(super) fn remove(&mut self, slot: Slot) {
        let band = band_of(self.load(slot));
        self.bands[band].remove(slot);
        self.counts[band] -= 1;
    }

    /// Notes that the load of a slot changed.
    pub(super) fn set_load(&mut self, slot: Slot, load: u32) {
        let (before, after) = (band_of(self.load(slot)), band_of(load));
        self.keys[slot.index()] = key(load, self.rank(slot));
        if before != after {
            self.bands[before].remove(slot);
            self.counts[before] -= 1;
            self.bands[after].insert(slot);
            self.counts[after] += 1;
        }
    }

    /// Notes the place of a slot among all nodes by id: the last word among equals.
    pub(super) fn set_rank(&mut self, slot: Slot, rank: u32) {
        self.keys[slot.index()] = key(self.load(slot), rank);
    }

    pub(super) fn load(&self, slot: Slot) -> u32 {
        (self.keys[slot.index()] >> 32) as u32
    }

    /// The number of the band that a slot is in; a higher one is more loaded.
    pub(super) fn band(&self, slot: Slot) -> usize {
        band_of(self.load(slot))
    }

    pub(super) fn rank(&self, slot: Slot) -> u32 {
        self.keys[slot.index()] as u32
    }

    /// The least loaded of `candidates` that `fits`.
    pub(super) fn emptiest(
        &self,
        candidates: &NodeSet,
        fits: impl Fn(Slot) -> bool,
    ) -> Option<Slot> {
        self.best(self.filled(), candidates, fits, |slot| {
            self.keys[slot.index()]
        })
    }

    /// Of the least loaded band that has any of `candidates` that `fits`, the one of the lowest
    /// `skew`.
    pub(super) fn most_even(
        &self,
        candidates: &NodeSet,
        fits: impl Fn(Slot) -> bool,
        skew: impl Fn(Slot) -> u32,
    ) -> Option<Slot> {
        let order = |slot| key(skew(slot), self.rank(slot));
        self.best(self.filled(), candidates, fits, order)
    }

    /// The most loaded of `candidates` that `fits`.
    pub(super) fn fullest(
        &self,
        candidates: &NodeSet,
        fits: impl Fn(Slot) -> bool,
    ) -> Option<Slot> {
        // Of equals the lower rank, as ever.
        let order = |slot: Slot| self.keys[slot.index()] ^ 0xffff_ffff_0000_0000;
        self.best(self.filled().rev(), candidates, fits, order)
    }

    /// The bands that have any node, the least loaded first.
    fn filled(&self) -> impl DoubleEndedIterator<Item = usize> {
        (0..COUNT).filter(|band| self.counts[*band] > 0)
    }

    /// The one with the lowest order in the first band that has any.
    fn best(
        &self,
        mut bands: impl Iterator<Item = usize>,
        candidates: &NodeSet,
        fits: impl Fn(Slot) -> bool,
        order: impl Fn(Slot) -> u64,
    ) -> Option<Slot> {
        bands.find_map(|band| {
            let mut best: Option<(u64, Slot)> = None;
            for slot in self.bands[band].iter_common(candidates) {
                let order = order(slot);
                if best.is_none_or(|(best, _)| order < best) && fits(slot) {
                    best = Some((order, slot));
                }
            }
            best.map(|(_, slot)| slot)
        })
    }
}

fn key(load: u32, rank: u32) -> u64 {
    u64::from(load) << 32 | u64::from(rank)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loads_are_in_rising_bands_and_nothing_is_beyond_the_last() {
        let bands: Vec<usize> = [0, 1, WHOLE / 2, WHOLE, WHOLE + 1, 4 * WHOLE]
            .map(band_of)
            .into();
        assert!(bands.is_sorted());
        assert_eq!((bands[0], bands[1], bands[5]), (0, 1, COUNT - 1));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn the_best_is_the_one_that_a_look_at_all_of_them_finds(
            loads in vec(0..WHOLE * 2, 1..200),
            changes in vec((any::<prop::sample::Index>(), 0..WHOLE * 2), 0..50),
            out in vec(any::<bool>(), 200),
        ) {
            let (mut bands, mut loads) = (Bands::new(), loads);
            let mut candidates = NodeSet::new();
            for (index, load) in loads.iter().enumerate() {
                let slot = Slot(index as u32);
                bands.insert(slot, *load, 1000 - slot.0);
                if !out[index] {
                    candidates.insert(slot);
                }
            }
            for (index, load) in changes {
                let index = index.index(loads.len());
                loads[index] = load;
                bands.set_load(Slot(index as u32), load);
            }
            let fits = |slot: Slot| !slot.0.is_multiple_of(3);
            let open: Vec<Slot> = candidates.iter().filter(|slot| fits(*slot)).collect();
            let key = |slot: &Slot| (loads[slot.index()], 1000 - slot.0);
            prop_assert_eq!(bands.emptiest(&candidates, fits), open.iter().copied().min_by_key(key));
            let fullest = open.iter().copied().min_by_key(|slot| {
                let (load, rank) = key(slot);
                (std::cmp::Reverse(load), rank)
            });
            prop_assert_eq!(bands.fullest(&candidates, fits), fullest);
        }
    }
}
