//! The clock page that KVM keeps for each virtual CPU
//! (Linux, Documentation/virt/kvm/x86/msr.rst, MSR_KVM_SYSTEM_TIME_NEW).

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering::Acquire, Ordering::Relaxed};

/// `struct pvclock_vcpu_time_info`, written by the host at any time.
#[repr(C)]
pub(crate) struct PvClock {
    version: AtomicU32,
    _pad: u32,
    tsc_timestamp: AtomicU64,
    system_time: AtomicU64,
    tsc_to_system_mul: AtomicU32,
    /// tsc_shift (i8), flags (u8), two reserved bytes.
    shift_flags: AtomicU32,
}

const _: () = assert!(size_of::<PvClock>() == 32);

impl PvClock {
    /// Nanoseconds at the moment `tsc` reads the time stamp counter. `None`
    /// when the host has never written the page or will not stop writing it.
    pub(crate) fn nanoseconds(&self, tsc: impl Fn() -> u64) -> Option<u64> {
        for _ in 0..1_000 {
            let version = self.version.load(Acquire);
            if version == 0 {
                return None;
            }
            let stamp = self.tsc_timestamp.load(Acquire);
            let base = self.system_time.load(Acquire);
            let mul = self.tsc_to_system_mul.load(Acquire);
            let shift = self.shift_flags.load(Acquire) as i8;
            let delta = tsc().saturating_sub(stamp);
            if version & 1 == 0 && self.version.load(Relaxed) == version {
                return Some(base.wrapping_add(scale(delta, mul, shift)));
            }
        }
        None
    }
}

/// `(delta << shift) * mul / 2^32`.
pub(crate) fn scale(delta: u64, mul: u32, shift: i8) -> u64 {
    let delta = if shift >= 0 {
        u128::from(delta) << shift.min(63)
    } else {
        u128::from(delta) >> shift.unsigned_abs().min(63)
    };
    ((delta * u128::from(mul)) >> 32) as u64
}

/// The multiplier for [`scale`] with shift 0 from a frequency of at least
/// 1 MHz; exact to one part in 2^32 of a cycle.
pub(crate) fn multiplier(hertz: u64) -> (u32, i8) {
    // Below 1 GHz a cycle is longer than the multiplier can say: scale up.
    let mut shift = 0i8;
    let mut mul = (1_000_000_000u128 << 32) / u128::from(hertz.max(1_000_000));
    while mul > u128::from(u32::MAX) {
        mul >>= 1;
        shift += 1;
    }
    (mul as u32, shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(version: u32, stamp: u64, base: u64, mul: u32, shift: i8) -> PvClock {
        PvClock {
            version: AtomicU32::new(version),
            _pad: 0,
            tsc_timestamp: AtomicU64::new(stamp),
            system_time: AtomicU64::new(base),
            tsc_to_system_mul: AtomicU32::new(mul),
            shift_flags: AtomicU32::new(u32::from(shift as u8)),
        }
    }

    #[test]
    fn a_page_never_written_has_no_time() {
        assert_eq!(page(0, 0, 5, 1, 0).nanoseconds(|| 1), None);
    }

    #[test]
    fn a_page_that_stays_odd_has_no_time() {
        assert_eq!(page(3, 0, 5, 1, 0).nanoseconds(|| 1), None);
    }

    #[test]
    fn time_is_base_plus_scaled_ticks() {
        // 2 GHz: half a nanosecond per tick.
        assert_eq!(
            page(2, 1_000, 50, 1 << 31, 0).nanoseconds(|| 3_000),
            Some(1_050)
        );
        assert_eq!(
            page(2, 1_000, 50, 1 << 31, -1).nanoseconds(|| 3_000),
            Some(550)
        );
        assert_eq!(
            page(2, 1_000, 50, 1 << 31, 1).nanoseconds(|| 3_000),
            Some(2_050)
        );
    }

    #[test]
    fn a_counter_behind_the_stamp_does_not_wrap() {
        assert_eq!(page(2, 1_000, 50, 1 << 31, 0).nanoseconds(|| 10), Some(50));
    }

    #[test]
    fn a_frequency_becomes_a_multiplier_that_gives_a_second_per_second() {
        for hertz in [
            1_000_000,
            999_999_999,
            1_000_000_000,
            2_596_132_000,
            5_000_000_000,
        ] {
            let (mul, shift) = multiplier(hertz);
            let second = scale(hertz, mul, shift);
            assert!(
                second.abs_diff(1_000_000_000) < 10,
                "{hertz} Hz gave {second} ns"
            );
        }
    }
}
