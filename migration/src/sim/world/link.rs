//! The link: delay, bandwidth, order within a stream, cuts.

use std::time::Duration;

use super::{DETECTION, Happening, REDIAL, World};
use crate::{source, target};

impl World {
    pub(super) fn is_connected(&self, connection: u32) -> bool {
        self.link_up && connection == self.connection
    }

    pub(super) fn cut(&mut self) {
        if std::mem::replace(&mut self.link_up, false) {
            let connection = self.connection;
            let later = Duration::from_millis(self.random.below(200));
            self.at(self.now + DETECTION, Happening::SourceSeesCut(connection));
            self.at(
                self.now + DETECTION - later,
                Happening::TargetSeesCut(connection),
            );
        }
    }

    pub(super) fn connected(&mut self) {
        if self.for_good || self.source.is_none() || self.target.is_none() {
            return;
        }
        if self.link_up {
            // The source dropped a connection that was sound.
            self.target_event(target::Event::LinkLost);
        } else {
            let connection = self.connection;
            self.happen(Happening::TargetSeesCut(connection));
        }
        self.connection += 1;
        self.link_up = true;
        self.bulk_free = self.now;
        self.target_event(target::Event::LinkRestored);
        self.source_event(source::Event::LinkRestored);
    }

    /// When bytes that go out now have arrived, in order with others of their kind.
    pub(super) fn control_arrival(&mut self, way: usize, bytes: u64) -> Duration {
        let jitter = Duration::from_micros(self.random.below(100));
        let wire = Duration::from_nanos(bytes * 1_000_000_000 / self.setup.bandwidth);
        let arrival = self.now + self.setup.delay + wire + jitter;
        self.control_last[way] = self.control_last[way].max(arrival);
        self.control_last[way]
    }

    /// Takes the bulk streams' share of the link; streams overtake one another.
    pub(super) fn bulk_arrival(&mut self, stream: Option<u16>, pages: u64) -> Duration {
        let wire = Duration::from_nanos(pages * 4096 * 1_000_000_000 / self.setup.bandwidth);
        self.bulk_free = self.bulk_free.max(self.now) + wire;
        let jitter = Duration::from_micros(self.random.below(2000));
        let arrival = self.bulk_free + self.setup.delay + jitter;
        let last = &mut self.stream_last[usize::from(stream.unwrap_or(0))];
        *last = (*last).max(arrival);
        *last
    }

    pub(super) fn redial(&mut self) {
        // Dropping the connection loses what is on it.
        if self.link_up {
            self.connection += 1;
        }
        self.at(self.now + REDIAL, Happening::Connected);
    }
}
