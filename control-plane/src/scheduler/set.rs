//! A set of nodes as one bit each.

/// The place of a node in every table of an [`Inventory`](super::Inventory). Given to another node
/// after this one is removed, so it never decides anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub(super) u32);

impl Slot {
    /// Its index into a table.
    pub(super) const fn index(self) -> usize {
        self.0 as usize
    }
}

/// A set of slots. Grows as needed; a slot beyond its end is not in it.
#[derive(Clone, Debug, Default)]
pub struct NodeSet {
    words: Vec<u64>,
}

impl NodeSet {
    /// The set without slots.
    #[must_use]
    pub const fn new() -> Self {
        Self { words: Vec::new() }
    }

    /// Adds a slot.
    pub fn insert(&mut self, slot: Slot) {
        let word = slot.index() / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        self.words[word] |= 1 << (slot.0 % 64);
    }

    /// Removes a slot.
    pub fn remove(&mut self, slot: Slot) {
        if let Some(word) = self.words.get_mut(slot.index() / 64) {
            *word &= !(1 << (slot.0 % 64));
        }
    }

    /// Whether the slot is in it.
    #[must_use]
    pub fn contains(&self, slot: Slot) -> bool {
        self.word(slot.index() / 64) >> (slot.0 % 64) & 1 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        let ones = self.words.iter().map(|word| word.count_ones() as usize);
        ones.sum()
    }

    /// Keeps what is in `other` too.
    pub fn intersect(&mut self, other: &Self) {
        for (index, word) in self.words.iter_mut().enumerate() {
            *word &= other.word(index);
        }
    }

    /// Removes what is in `other`.
    pub fn subtract(&mut self, other: &Self) {
        for (word, theirs) in self.words.iter_mut().zip(&other.words) {
            *word &= !theirs;
        }
    }

    /// Adds what is in `other`.
    pub fn unite(&mut self, other: &Self) {
        if self.words.len() < other.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, theirs) in self.words.iter_mut().zip(&other.words) {
            *word |= theirs;
        }
    }

    /// Removes everything.
    pub fn clear(&mut self) {
        self.words.clear();
    }

    /// Becomes `other`, in the memory that is there already.
    pub fn copy_from(&mut self, other: &Self) {
        self.words.clone_from(&other.words);
    }

    /// The slots, by number.
    pub fn iter(&self) -> impl Iterator<Item = Slot> + '_ {
        slots_of(self.words.iter().copied())
    }

    /// The slots that are in `other` too, by number.
    pub fn iter_common<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = Slot> + 'a {
        slots_of(self.words.iter().zip(&other.words).map(|(a, b)| a & b))
    }

    fn word(&self, index: usize) -> u64 {
        self.words.get(index).copied().unwrap_or_default()
    }
}

impl PartialEq for NodeSet {
    /// Whether both have the same slots, however long they grew.
    fn eq(&self, other: &Self) -> bool {
        let length = self.words.len().max(other.words.len());
        (0..length).all(|index| self.word(index) == other.word(index))
    }
}

impl Eq for NodeSet {}

fn slots_of(words: impl Iterator<Item = u64>) -> impl Iterator<Item = Slot> {
    (0..).zip(words).flat_map(|(index, mut word)| {
        std::iter::from_fn(move || {
            let bit = word.trailing_zeros();
            word &= word.checked_sub(1)?;
            Some(Slot(index * 64 + bit))
        })
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    fn set(slots: &BTreeSet<u32>) -> NodeSet {
        let mut set = NodeSet::new();
        slots.iter().for_each(|slot| set.insert(Slot(*slot)));
        set
    }

    fn slots(set: &NodeSet) -> BTreeSet<u32> {
        set.iter().map(|slot| slot.0).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_does_what_a_set_of_numbers_does(
            a in btree_set(0_u32..300, 0..60),
            b in btree_set(0_u32..300, 0..60),
        ) {
            let (left, right) = (set(&a), set(&b));
            prop_assert_eq!(&slots(&left), &a);
            prop_assert_eq!(left.len(), a.len());
            prop_assert_eq!(left.is_empty(), a.is_empty());
            prop_assert_eq!(left == right, a == b);
            let mut both = left.clone();
            both.intersect(&right);
            prop_assert_eq!(slots(&both), a.intersection(&b).copied().collect());
            let common: BTreeSet<u32> = left.iter_common(&right).map(|slot| slot.0).collect();
            prop_assert_eq!(common, slots(&both));
            let mut either = left.clone();
            either.unite(&right);
            prop_assert_eq!(slots(&either), a.union(&b).copied().collect());
            let mut rest = left.clone();
            rest.subtract(&right);
            prop_assert_eq!(slots(&rest), a.difference(&b).copied().collect());
            for slot in &a {
                prop_assert_eq!(right.contains(Slot(*slot)), b.contains(slot));
                either.remove(Slot(*slot));
            }
            prop_assert_eq!(slots(&either), b.difference(&a).copied().collect());
        }
    }
}
