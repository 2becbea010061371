//! The leader's end of the nodes' leases.

use std::collections::BTreeMap;
use std::time::Duration;

use godwit_proto::cluster::LeaseProfile;
use godwit_proto::id::{Incarnation, NodeId};

use super::bound::ClockBound;

/// The leases of all nodes, as one leader counts them by its own clock.
///
/// A renewal is good for the lease's length from the moment at which the leader last *knew* that it
/// was the leader: the beginning of the last round that a quorum answered. A leader that was
/// deposed without noticing thus grants less and less, and all that it ever granted has run out one
/// length after its successor was elected, by any clock.
///
/// So a new leader needs to know of its predecessor's grants only that they exist, which is
/// committed, and waits them out.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseTable {
    bound: ClockBound,
    /// The beginning of the last round that a quorum answered.
    confirmed: Duration,
    leases: BTreeMap<NodeId, Held>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Held {
    incarnation: Incarnation,
    length: Duration,
    /// Nobody can count on it after this.
    expires: Duration,
    /// It was said to have run out: it is not renewed any more, whatever becomes of that.
    lapsing: bool,
}

/// A renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    /// Which lease was renewed.
    pub incarnation: Incarnation,
    /// How long it is good for from now on, by the leader's clock.
    pub valid_for: Duration,
}

/// Why a lease is not renewed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenewError {
    /// The node has none, or another one.
    #[error("the node does not hold lease {incarnation}; it has to be granted one")]
    NotHeld {
        /// The one it asked for.
        incarnation: Incarnation,
    },
    /// The leader does not know whether it still is one.
    #[error("the leader has not heard from a quorum for {for_ms} ms")]
    Unconfirmed {
        /// Since when.
        for_ms: u64,
    },
}

impl LeaseTable {
    /// That of a leader elected at `now`; `held` are the leases that are committed as held.
    #[must_use]
    pub fn elected(
        now: Duration,
        bound: ClockBound,
        held: impl Iterator<Item = (NodeId, Incarnation, LeaseProfile)>,
    ) -> Self {
        let mut table = Self {
            bound,
            confirmed: now,
            leases: BTreeMap::new(),
        };
        for (node, incarnation, profile) in held {
            table.granted(node, incarnation, profile, now);
        }
        table
    }

    /// A quorum answered a round that began at `began`: nobody else was elected before that.
    pub fn confirmed(&mut self, began: Duration) {
        self.confirmed = self.confirmed.max(began);
    }

    /// That a node holds a lease was committed.
    pub fn granted(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        profile: LeaseProfile,
        now: Duration,
    ) {
        let length = Duration::from_millis(profile.duration_ms.into());
        let held = Held {
            incarnation,
            length,
            expires: now + length,
            lapsing: false,
        };
        self.leases.insert(node, held);
    }

    /// Takes up what is committed by now: `held` are all leases that are held. Those that are new were
    /// granted, those that are missing have lapsed or are those of nodes that are gone.
    pub fn follow(
        &mut self,
        now: Duration,
        held: impl Iterator<Item = (NodeId, Incarnation, LeaseProfile)>,
    ) {
        let mut known = std::mem::take(&mut self.leases);
        for (node, incarnation, profile) in held {
            match known.remove(&node) {
                Some(held) if held.incarnation == incarnation => {
                    self.leases.insert(node, held);
                }
                _ => self.granted(node, incarnation, profile, now),
            }
        }
    }

    /// Whether it counts this lease.
    #[must_use]
    pub fn counts(&self, node: NodeId, incarnation: Incarnation) -> bool {
        let held = self.leases.get(&node);
        held.is_some_and(|held| held.incarnation == incarnation)
    }

    /// Renews a lease.
    ///
    /// # Errors
    /// When the node holds another one, or the leader may have been deposed.
    pub fn renew(
        &mut self,
        node: NodeId,
        incarnation: Incarnation,
        now: Duration,
    ) -> Result<Grant, RenewError> {
        let held = self.leases.get_mut(&node);
        let held = held.filter(|held| held.incarnation == incarnation && !held.lapsing);
        let held = held.ok_or(RenewError::NotHeld { incarnation })?;
        let until = self.confirmed + held.length;
        let valid_for = until.saturating_sub(now);
        if valid_for.is_zero() {
            let silent = now.saturating_sub(self.confirmed).as_millis();
            return Err(RenewError::Unconfirmed {
                for_ms: u64::try_from(silent).unwrap_or(u64::MAX),
            });
        }
        held.expires = held.expires.max(until);
        Ok(Grant {
            incarnation,
            valid_for,
        })
    }

    /// The leases that have run out by every clock, to be committed as lapsed. They are not renewed
    /// again; they are told each time until they are [forgotten](Self::forget).
    pub fn lapsed(&mut self, now: Duration) -> Vec<(NodeId, Incarnation)> {
        let bound = self.bound;
        let mut lapsed = Vec::new();
        for (node, held) in &mut self.leases {
            if now >= lapses_at(bound, held) {
                held.lapsing = true;
                lapsed.push((*node, held.incarnation));
            }
        }
        lapsed
    }

    /// That a lease has lapsed was committed, or its node is gone.
    pub fn forget(&mut self, node: NodeId, incarnation: Incarnation) {
        if self
            .leases
            .get(&node)
            .is_some_and(|held| held.incarnation == incarnation)
        {
            self.leases.remove(&node);
        }
    }

    /// When to ask again what has lapsed.
    #[must_use]
    pub fn deadline(&self) -> Option<Duration> {
        let leases = self.leases.values();
        leases.map(|held| lapses_at(self.bound, held)).min()
    }
}

/// The end, and what clocks can add to it. A deposed leader's clock ran beside ours for up to a
/// length; so the whole length is outlasted, not what is left of it.
fn lapses_at(bound: ClockBound, held: &Held) -> Duration {
    let drift = bound.outlast(held.length).saturating_sub(held.length);
    held.expires + drift + bound.margin
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId::from_bytes([1; 16]);
    const FIRST: Incarnation = Incarnation::new(1);

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A lease of 10 s that is committed when the leader is elected, at 100 s.
    fn table() -> LeaseTable {
        let held = [(NODE, FIRST, LeaseProfile::DEFAULT)];
        LeaseTable::elected(s(100), ClockBound::DEFAULT, held.into_iter())
    }

    #[test]
    fn a_new_leader_waits_out_what_others_granted() {
        let mut table = table();
        assert_eq!(table.lapsed(s(110)), [], "the margin is not over");
        assert_eq!(table.lapsed(s(111)), [(NODE, FIRST)]);
        assert!(
            table
                .deadline()
                .is_some_and(|at| at > s(110) && at < s(111))
        );
        table.forget(NODE, FIRST);
        assert_eq!((table.lapsed(s(999)), table.deadline()), (Vec::new(), None));
    }

    #[test]
    fn a_renewal_counts_from_the_last_time_the_leader_knew_that_it_was_one() {
        let mut table = table();
        table.confirmed(s(104));
        let grant = table.renew(NODE, FIRST, s(106)).unwrap();
        assert_eq!(grant.valid_for, s(8));
        table.confirmed(s(101));
        assert_eq!(table.renew(NODE, FIRST, s(107)).unwrap().valid_for, s(7));
        assert!(table.lapsed(s(114)).is_empty());
        assert!(matches!(
            table.renew(NODE, FIRST, s(114)),
            Err(RenewError::Unconfirmed { for_ms: 10_000 })
        ));
        assert_eq!(table.lapsed(s(115)), [(NODE, FIRST)]);
    }

    #[test]
    fn a_table_that_follows_keeps_what_it_counts_and_forgets_what_is_gone() {
        let mut table = table();
        let other = NodeId::from_bytes([2; 16]);
        let held = [
            (NODE, FIRST, LeaseProfile::DEFAULT),
            (other, FIRST, LeaseProfile::FAST),
        ];
        table.follow(s(105), held.into_iter());
        assert!(table.counts(NODE, FIRST) && table.counts(other, FIRST));
        assert_eq!(table.lapsed(s(109)), [(other, FIRST)], "3 s from 105 s");
        assert_eq!(table.lapsed(s(111)).len(), 2, "10 s from 100 s");
        let held = [(NODE, FIRST.next(), LeaseProfile::DEFAULT)];
        table.follow(s(112), held.into_iter());
        assert!(!table.counts(NODE, FIRST) && !table.counts(other, FIRST));
        assert_eq!(table.lapsed(s(121)), []);
    }

    #[test]
    fn what_was_said_to_have_lapsed_is_not_renewed_even_if_that_is_never_committed() {
        let mut table = table();
        table.lapsed(s(111));
        table.confirmed(s(111));
        assert!(table.renew(NODE, FIRST, s(111)).is_err());
        assert_eq!(table.lapsed(s(112)), [(NODE, FIRST)], "it is told again");
        table.granted(NODE, FIRST.next(), LeaseProfile::FAST, s(112));
        assert!(table.renew(NODE, FIRST, s(112)).is_err());
        let grant = table.renew(NODE, FIRST.next(), s(112)).unwrap();
        assert_eq!(grant.valid_for, s(2));
    }
}
