//! Values for every register that CPL3 can hold, and the look whether they
//! are still there. The second part is an FXSAVE area (Intel SDM 1, 10.5.1).

use super::random::Random;

/// General registers but RSP, in the order of `tasks/regs.s`.
pub(crate) const GENERAL: usize = 15;
const AREA: usize = 64;

const CONTROL: usize = 0;
const MXCSR: usize = 3;
const ST0: usize = 4;
const XMM0: usize = 20;
const XMM_END: usize = 52;

/// All exceptions masked, round to zero; not what follows from a reset.
const X87_CONTROL: u64 = 0x0f7f;
const ALL_VALID: u64 = 0xff << 32;
const MXCSR_VALUE: u64 = 0x7f80;
/// Sign and exponent of an ordinary number.
const EXPONENT: u64 = 0x4001;

/// What the registers hold.
#[repr(C, align(16))]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Registers {
    pub(crate) area: [u64; AREA],
    pub(crate) general: [u64; GENERAL],
}

impl Registers {
    pub(crate) const ZERO: Self = Self {
        area: [0; AREA],
        general: [0; GENERAL],
    };

    /// Different values for every round.
    pub(crate) fn fill(&mut self, round: u64) {
        let mut random = Random::new(round);
        *self = Self::ZERO;
        for value in &mut self.general {
            *value = random.next();
        }
        self.area[CONTROL] = X87_CONTROL | ALL_VALID;
        self.area[MXCSR] = MXCSR_VALUE;
        for st in self.area[ST0..XMM0].chunks_exact_mut(2) {
            st[0] = random.next() | 1 << 63;
            st[1] = EXPONENT;
        }
        for xmm in &mut self.area[XMM0..XMM_END] {
            *xmm = random.next();
        }
    }

    /// Calls `wrong` with the place, the value expected and the one found of
    /// each word that differs. Places from [`GENERAL`] on are words of the area.
    pub(crate) fn compare(&self, found: &Self, mut wrong: impl FnMut(usize, u64, u64)) {
        for (place, (want, have)) in self.general.iter().zip(&found.general).enumerate() {
            if want != have {
                wrong(place, *want, *have);
            }
        }
        for (place, (want, have)) in self.area.iter().zip(&found.area).enumerate() {
            let mask = mask(place);
            if want & mask != have & mask {
                wrong(GENERAL + place, want & mask, have & mask);
            }
        }
    }
}

/// The bits of a word of the area that are ours.
fn mask(place: usize) -> u64 {
    match place {
        CONTROL => 0xffff | ALL_VALID,
        MXCSR => 0xffff,
        ST0..XMM0 if !place.is_multiple_of(2) => 0xffff,
        ST0..XMM_END => u64::MAX,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(want: &Registers, have: &Registers) -> Vec<usize> {
        let mut places = Vec::new();
        want.compare(have, |place, _, _| places.push(place));
        places
    }

    #[test]
    fn every_register_counts_and_nothing_else_does() {
        let mut want = Registers::ZERO;
        want.fill(1);
        assert_eq!(wrong(&want, &want), []);
        for place in 0..GENERAL {
            let mut have = want.clone();
            have.general[place] ^= 1 << 40;
            assert_eq!(wrong(&want, &have), [place]);
        }
        for place in 0..AREA {
            let mut have = want.clone();
            have.area[place] ^= 1;
            let ours = place == CONTROL || place == MXCSR || (ST0..XMM_END).contains(&place);
            assert_eq!(!wrong(&want, &have).is_empty(), ours, "word {place}");
        }
    }

    #[test]
    fn no_two_rounds_are_alike() {
        let (mut a, mut b) = (Registers::ZERO, Registers::ZERO);
        a.fill(1);
        b.fill(2);
        assert_eq!(wrong(&a, &b).len(), GENERAL + 8 + 32);
    }
}
