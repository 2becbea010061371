//! What one node has left, in the units that are compared a million times a second.

use godwit_proto::cluster::{Capacity, GuestTemplate, Overcommit};

/// A whole node's share of anything: shares are numbers from 0 to this, and beyond when more was
/// promised than there is.
pub const WHOLE: u32 = 1 << 20;

/// Memory and processors: what a node has, or what a guest takes.
///
/// Memory is counted in MiB: a guest's is rounded up, a node's is rounded down. Processors are
/// counted in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amount {
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Processors in thousandths.
    pub cpu_milli: u64,
}

impl Amount {
    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            memory_mib: self.memory_mib + other.memory_mib,
            cpu_milli: self.cpu_milli + other.cpu_milli,
        }
    }

    /// What guests may be promised of a node.
    #[must_use]
    pub fn allocatable(capacity: &Capacity, overcommit: Overcommit) -> Self {
        let memory = capacity
            .memory_bytes
            .saturating_sub(capacity.reserved_bytes)
            >> 20;
        Self {
            memory_mib: memory.saturating_mul(overcommit.memory_permille.into()) / 1000,
            cpu_milli: u64::from(capacity.cpus) * u64::from(overcommit.cpu_permille),
        }
    }

    /// What a guest takes.
    #[must_use]
    pub fn of_guest(template: &GuestTemplate) -> Self {
        Self {
            memory_mib: template.memory_bytes.div_ceil(1 << 20),
            cpu_milli: u64::from(template.vcpus) * 1000,
        }
    }
}

/// What a node may promise, and has promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Host {
    pub(super) total: Amount,
    pub(super) used: Amount,
    /// 2^52 divided by each total, so that shares need no division.
    per_memory: u64,
    per_cpu: u64,
    /// Migrations that it takes part in.
    pub(super) migrations: u32,
    /// Guests that it holds room for.
    pub(super) guests: u32,
}

impl Host {
    pub(super) fn set_total(&mut self, total: Amount) {
        self.total = total;
        let reciprocal = |total: u64| (1 << 52) / total.max(1);
        self.per_memory = reciprocal(total.memory_mib);
        self.per_cpu = reciprocal(total.cpu_milli);
    }

    pub(super) fn take(&mut self, amount: Amount) {
        self.used.memory_mib += amount.memory_mib;
        self.used.cpu_milli += amount.cpu_milli;
        self.guests += 1;
    }

    /// Gives back what was [taken](Self::take) before.
    pub(super) fn give_back(&mut self, amount: Amount) {
        self.used.memory_mib -= amount.memory_mib;
        self.used.cpu_milli -= amount.cpu_milli;
        self.guests -= 1;
    }

    pub(super) const fn free(&self) -> Amount {
        Amount {
            memory_mib: self.total.memory_mib.saturating_sub(self.used.memory_mib),
            cpu_milli: self.total.cpu_milli.saturating_sub(self.used.cpu_milli),
        }
    }

    pub(super) const fn fits(&self, amount: Amount) -> bool {
        self.used.memory_mib + amount.memory_mib <= self.total.memory_mib
            && self.used.cpu_milli + amount.cpu_milli <= self.total.cpu_milli
    }

    /// The larger of both shares used; 0 only when nothing is used.
    pub(super) fn load(&self) -> u32 {
        let (memory, cpu) = self.shares(Amount::default());
        match memory.max(cpu) {
            0 if self.guests > 0 => 1,
            load => load,
        }
    }

    /// How far both shares would be apart with `amount` more.
    pub(super) fn skew_with(&self, amount: Amount) -> u32 {
        let (memory, cpu) = self.shares(amount);
        memory.abs_diff(cpu)
    }

    fn shares(&self, more: Amount) -> (u32, u32) {
        // What is beyond four times the whole is all the same; up to there the product is below
        // four times 2^52.
        let share = |used: u64, total: u64, reciprocal: u64| match used > 4 * total {
            true => 4 * WHOLE,
            false => ((used * reciprocal) >> 32) as u32,
        };
        (
            share(
                self.used.memory_mib + more.memory_mib,
                self.total.memory_mib,
                self.per_memory,
            ),
            share(
                self.used.cpu_milli + more.cpu_milli,
                self.total.cpu_milli,
                self.per_cpu,
            ),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(memory_mib: u64, cpu_milli: u64) -> Host {
        let mut host = Host::default();
        host.set_total(Amount {
            memory_mib,
            cpu_milli,
        });
        host
    }

    #[test]
    fn what_is_promised_follows_the_ratios_and_leaves_the_reserve() {
        let capacity = Capacity {
            memory_bytes: (64 << 30) + 1,
            reserved_bytes: 4 << 30,
            cpus: 16,
        };
        let overcommit = Overcommit {
            cpu_permille: 2_500,
            memory_permille: 1_100,
        };
        let amount = Amount::allocatable(&capacity, overcommit);
        assert_eq!(amount.memory_mib, 60 * 1024 * 11 / 10);
        assert_eq!(amount.cpu_milli, 40_000);
        let absurd = Capacity {
            memory_bytes: 1,
            reserved_bytes: u64::MAX,
            cpus: u32::MAX,
        };
        assert_eq!(Amount::allocatable(&absurd, overcommit).memory_mib, 0);
    }

    #[test]
    fn a_guest_fits_to_the_last_byte_and_not_beyond() {
        let mut host = host(1024, 4000);
        let half = Amount {
            memory_mib: 512,
            cpu_milli: 1000,
        };
        assert!(host.fits(half) && host.load() == 0);
        host.take(half);
        assert!(host.fits(half));
        assert!(host.load().abs_diff(WHOLE / 2) <= 1);
        host.take(half);
        assert!(!host.fits(Amount {
            memory_mib: 1,
            cpu_milli: 0
        }));
        assert!(host.fits(Amount {
            memory_mib: 0,
            cpu_milli: 2000
        }));
        assert!(host.load().abs_diff(WHOLE) <= 1);
        host.give_back(half);
        host.give_back(half);
        assert_eq!((host.load(), host.guests), (0, 0));
    }

    #[test]
    fn a_node_that_shrinks_below_what_it_promised_takes_nothing_and_breaks_nothing() {
        let mut host = host(1024, 4000);
        host.take(Amount {
            memory_mib: 1024,
            cpu_milli: 4000,
        });
        host.set_total(Amount::default());
        assert_eq!(host.free(), Amount::default());
        assert!(!host.fits(Amount {
            memory_mib: 1,
            cpu_milli: 0
        }));
        assert_eq!(host.load(), 4 * WHOLE);
    }
}
