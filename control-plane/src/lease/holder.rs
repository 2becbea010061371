//! The node's end of its lease.

use std::time::Duration;

use godwit_proto::id::Incarnation;

use super::bound::ClockBound;
use super::table::Grant;

/// The lease of this node, by its own clock.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeLease {
    bound: ClockBound,
    incarnation: Incarnation,
    until: Option<Duration>,
}

impl NodeLease {
    /// A node without a lease.
    #[must_use]
    pub const fn new(bound: ClockBound) -> Self {
        Self {
            bound,
            incarnation: Incarnation::new(0),
            until: None,
        }
    }

    /// A renewal came that was asked for at `asked`. It counts from the asking: that was before the
    /// leader's answer, however long both were on their way.
    pub fn renewed(&mut self, asked: Duration, grant: Grant) {
        if grant.incarnation < self.incarnation {
            return;
        }
        if grant.incarnation > self.incarnation {
            self.incarnation = grant.incarnation;
            self.until = None;
        }
        let until = asked + self.bound.hold(grant.valid_for);
        self.until = self.until.max(Some(until));
    }

    /// Which lease it is.
    #[must_use]
    pub const fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Until when guests may be run on it.
    #[must_use]
    pub const fn until(&self) -> Option<Duration> {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_counts_from_the_asking_and_an_older_answer_takes_nothing_away() {
        let bound = ClockBound {
            drift_ppm: 0,
            margin: Duration::ZERO,
        };
        let s = Duration::from_secs;
        let grant = |incarnation, seconds| Grant {
            incarnation: Incarnation::new(incarnation),
            valid_for: s(seconds),
        };
        let mut lease = NodeLease::new(bound);
        lease.renewed(s(5), grant(1, 10));
        assert_eq!(lease.until(), Some(s(15)));
        lease.renewed(s(3), grant(1, 10));
        assert_eq!(lease.until(), Some(s(15)));
        lease.renewed(s(6), grant(2, 3));
        assert_eq!(lease.until(), Some(s(9)), "another lease, another end");
        lease.renewed(s(7), grant(1, 10));
        assert_eq!(lease.until(), Some(s(9)));
    }
}
