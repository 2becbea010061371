//! Congestion control that keeps the queue before the link short.
//!
//! Cubic alone fills whatever buffer the slowest hop has, until packets are lost there: with 10 ms of
//! it, whatever else goes over the link waits 10 ms: the last words of a switch, and the page that a vCPU
//! stands still for. [`Shallow`] is Cubic with a bound: no more under way than the path carries in
//! its shortest round trip and [`QueueBound`] beyond it, at the best rate of the last second. The link
//! stays busy, for there is always something queued, but little. As long as no queue forms the
//! bound is not felt.
//!
//! Where others fill the queue, staying short would only mean to starve. When the round trip stays long
//! although little is under way the queue is not ours: for a while it is plain Cubic, then it looks
//! again. A path that became longer is taken for the same, and costs the bound, not throughput.
//!
//! [`Limit`] is pure: it is told of time and of what arrived. It refuses to pace: quinn does.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory, ControllerMetrics, Cubic, CubicConfig};
use quinn_proto::RttEstimator;

/// The queue that bulk may make while only messages wait behind it: sender and receiver may be kept
/// from a processor for so long without the link falling idle.
const PATIENT: Duration = Duration::from_millis(4);
/// The same while somebody may wait for a page.
const URGENT: Duration = Duration::from_millis(1);

/// On a long path a queue of this part of its round trip is not felt either.
const PART_OF_ROUND_TRIP: u32 = 8;

/// The least time over which a rate is measured; at least a round trip.
const MEASURED: Duration = Duration::from_millis(10);
/// How long the best rate counts: between one and two of these.
const MEMORY: Duration = Duration::from_millis(500);
/// How long the shortest round trip is looked for before a queue counts as another's, at least; and
/// in round trips of an empty path, for a queue of ours needs some to get shorter.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_ROUND_TRIPS: u32 = 8;
/// Arrivals without which a look says nothing.
const LOOK_SAMPLES: u32 = 10;
/// How long Cubic then has its way, at first; it doubles each time, so often at most.
const FIRST_CONTEST: Duration = Duration::from_secs(1);
const MOST_DOUBLINGS: u32 = 5;
/// Bytes that must arrive for one more to be under way, while the queue is shorter than it may be.
const GROWTH: u64 = 4;
/// The least that may be under way, in datagrams: QUIC's initial window.
const LEAST_DATAGRAMS: u64 = 10;

/// How long a queue the connections of a link may make; the link's owner changes it as it goes.
#[derive(Debug)]
pub(super) struct QueueBound(AtomicU64);

impl Default for QueueBound {
    fn default() -> Self {
        Self(AtomicU64::new(PATIENT.as_nanos() as u64))
    }
}

impl QueueBound {
    /// From now on somebody may wait for what comes behind bulk.
    pub(super) fn make_urgent(&self) {
        self.0.store(URGENT.as_nanos() as u64, Ordering::Relaxed);
    }

    fn time(&self) -> Duration {
        Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }
}

/// Bytes acknowledged since.
#[derive(Clone, Copy, Debug)]
struct Measuring {
    since: Instant,
    bytes: u64,
}

/// The shortest round trip since.
#[derive(Clone, Copy, Debug)]
struct Look {
    since: Instant,
    shortest: Duration,
    samples: u32,
}

/// How much may be under way for the queue to stay within a bound. Pure.
#[derive(Clone, Debug, Default)]
struct Limit {
    shortest: Option<Duration>,
    measuring: Option<Measuring>,
    /// The best rate of this time and of the one before, bytes per second.
    best: [f64; 2],
    best_since: Option<Instant>,
    /// The most bytes under way; `None` as long as no queue was too long.
    cap: Option<u64>,
    look: Option<Look>,
    contested_until: Option<Instant>,
    contests: u32,
}

impl Limit {
    /// Takes in that `bytes` arrived after `round_trip`; `busy`: there was always something to send.
    /// Returns whether the queue is short enough for more to be under way than so far.
    fn arrived(
        &mut self,
        now: Instant,
        (bytes, busy): (u64, bool),
        round_trip: Duration,
        bound: Duration,
    ) -> bool {
        let shortest = self.shortest.map_or(round_trip, |s| s.min(round_trip));
        self.shortest = Some(shortest);
        self.measure(now, bytes, round_trip);
        if self.is_contested(now) {
            return true;
        }
        let bound = bound.max(shortest / PART_OF_ROUND_TRIP);
        let within = shortest + bound;
        if busy {
            self.look(now, round_trip, within + bound * 2);
            if self.contested_until.is_some() {
                return true;
            }
        }
        if round_trip > within {
            let rate = self.best[0].max(self.best[1]);
            if busy && rate > 0.0 {
                self.cap = Some((rate * within.as_secs_f64()) as u64);
            }
        } else if round_trip < shortest + bound / 2 {
            self.cap = self.cap.map(|cap| cap + bytes / GROWTH);
        }
        round_trip <= within + bound
    }

    fn measure(&mut self, now: Instant, bytes: u64, round_trip: Duration) {
        let Some(measuring) = &mut self.measuring else {
            // What arrived at the very beginning was sent before.
            let (since, bytes) = (now, 0);
            self.measuring = Some(Measuring { since, bytes });
            return;
        };
        measuring.bytes += bytes;
        let elapsed = now.saturating_duration_since(measuring.since);
        if elapsed < MEASURED.max(round_trip) {
            return;
        }
        let rate = measuring.bytes as f64 / elapsed.as_secs_f64();
        let (since, bytes) = (now, 0);
        self.measuring = Some(Measuring { since, bytes });
        let since = *self.best_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= MEMORY {
            self.best = [0.0, self.best[0]];
            self.best_since = Some(now);
        }
        self.best[0] = self.best[0].max(rate);
    }

    /// Whether others fill the queue, as far as is known.
    fn is_contested(&mut self, now: Instant) -> bool {
        let is_over = self.contested_until.is_none_or(|until| now >= until);
        if is_over {
            self.contested_until = None;
        }
        !is_over
    }

    /// Looks whether the queue gets short when little of ours is under way.
    fn look(&mut self, now: Instant, round_trip: Duration, ours: Duration) {
        let look = self.look.get_or_insert(Look {
            since: now,
            shortest: round_trip,
            samples: 0,
        });
        look.shortest = look.shortest.min(round_trip);
        look.samples += 1;
        let enough = LOOK.max(self.shortest.unwrap_or_default() * LOOK_ROUND_TRIPS);
        if now.saturating_duration_since(look.since) < enough {
            return;
        }
        let is_long = look.shortest > ours;
        let says_something = look.samples >= LOOK_SAMPLES;
        self.look = None;
        if !says_something {
            return;
        }
        if is_long && self.cap.is_some() {
            let contest = FIRST_CONTEST * 2u32.saturating_pow(self.contests);
            self.contests = (self.contests + 1).min(MOST_DOUBLINGS);
            self.contested_until = Some(now + contest);
            self.cap = None;
        } else if !is_long {
            self.contests = 0;
        }
    }
}

/// The controller of one connection.
#[derive(Clone)]
struct Shallow {
    cubic: Cubic,
    limit: Limit,
    bound: Arc<QueueBound>,
    mtu: u64,
}

impl Shallow {
    fn limit(&self) -> u64 {
        let cap = self.limit.cap.unwrap_or(u64::MAX);
        cap.max(LEAST_DATAGRAMS * self.mtu)
    }
}

impl Controller for Shallow {
    fn on_sent(&mut self, now: Instant, bytes: u64, last_packet_number: u64) {
        self.cubic.on_sent(now, bytes, last_packet_number);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        let round_trip = now.saturating_duration_since(sent);
        let what = (bytes, !app_limited);
        let may_grow = self.limit.arrived(now, what, round_trip, self.bound.time());
        // Twice what is used is enough to begin with when the limit rises.
        if may_grow && self.cubic.window() / 2 <= self.limit() {
            self.cubic.on_ack(now, sent, bytes, app_limited, rtt);
        }
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.cubic
            .on_end_acks(now, in_flight, app_limited, largest_packet_num_acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        lost_bytes: u64,
    ) {
        self.cubic
            .on_congestion_event(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.mtu = new_mtu.into();
        self.cubic.on_mtu_update(new_mtu);
    }

    fn window(&self) -> u64 {
        self.cubic.window().min(self.limit())
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.cubic.metrics();
        metrics.congestion_window = self.window();
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        self.cubic.initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// Makes the controllers of a link's connections.
#[derive(Clone, Debug)]
pub(super) struct ShallowConfig {
    pub(super) bound: Arc<QueueBound>,
    pub(super) cubic: Arc<CubicConfig>,
}

impl ControllerFactory for ShallowConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Shallow {
            cubic: Cubic::new(self.cubic.clone(), now, current_mtu),
            limit: Limit::default(),
            bound: self.bound.clone(),
            mtu: current_mtu.into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const DATAGRAM: u64 = 1500;

    /// What the link's buffer holds.
    const BUFFER: Duration = Duration::from_millis(50);

    /// A sender that doubles what is under way for as long as it may, and takes a third off when the
    /// buffer is full.
    struct Path {
        limit: Limit,
        window: u64,
        now: Instant,
        rate: f64,
        empty: Duration,
        /// What others have queued.
        others: Duration,
        /// When what is under way was sent and left the queue.
        under_way: VecDeque<(Instant, Instant)>,
        idle_at: Instant,
    }

    impl Path {
        fn new(rate: f64, empty: Duration) -> Self {
            let now = Instant::now();
            Self {
                limit: Limit::default(),
                window: 10 * DATAGRAM,
                now,
                rate,
                empty,
                others: Duration::ZERO,
                under_way: VecDeque::new(),
                idle_at: now,
            }
        }

        /// Lets `time` pass; returns what arrived, bytes per second, and the longest queue.
        fn run(&mut self, time: Duration, bound: Duration) -> (f64, Duration) {
            let (until, mut arrived) = (self.now + time, 0);
            let mut longest = Duration::ZERO;
            while self.now < until {
                while self.under_way.len() as u64 * DATAGRAM < self.window {
                    let left = self.idle_at.max(self.now)
                        + Duration::from_secs_f64(DATAGRAM as f64 / self.rate);
                    if left - self.now > BUFFER {
                        self.window = self.under_way.len() as u64 * DATAGRAM * 2 / 3;
                        break;
                    }
                    longest = longest.max(left - self.now);
                    self.under_way.push_back((self.now, left));
                    self.idle_at = left;
                }
                let (sent, left) = self.under_way.pop_front().unwrap();
                self.now = left + self.empty + self.others;
                arrived += DATAGRAM;
                let what = (DATAGRAM, true);
                let round_trip = self.now - sent;
                if self.limit.arrived(self.now, what, round_trip, bound) {
                    self.window += DATAGRAM;
                }
                let cap = self.limit.cap.unwrap_or(u64::MAX);
                self.window = self.window.min(cap.max(10 * DATAGRAM));
            }
            (arrived as f64 / time.as_secs_f64(), longest)
        }
    }

    #[test]
    fn the_queue_gets_short_and_the_link_stays_busy_on_any_path() {
        for rate in [12.5e6, 125e6, 1.25e9] {
            for empty_us in [200, 5_000, 50_000] {
                let empty = Duration::from_micros(empty_us);
                let mut path = Path::new(rate, empty);
                path.run(Duration::from_secs(1), PATIENT);
                for bound in [PATIENT, URGENT] {
                    path.run(empty * 4 + Duration::from_millis(50), bound);
                    let (reached, longest) = path.run(Duration::from_secs(2), bound);
                    // Of the slowest link, the least that may be under way is more than that.
                    let least = Duration::from_secs_f64((10 * DATAGRAM) as f64 / rate);
                    let on = format!("{rate} B/s, {empty:?}, {bound:?}: {reached}, {longest:?}");
                    assert!(longest <= bound.max(empty / 8) * 3 + least, "{on}");
                    assert!(reached >= rate * 0.95, "{on}");
                }
            }
        }
    }

    #[test]
    fn a_long_path_is_filled_nearly_as_fast_as_without_a_bound() {
        let reached = |bound| {
            let mut path = Path::new(125e6, Duration::from_millis(50));
            path.run(Duration::from_secs(2), bound).0
        };
        let (bounded, unbounded) = (reached(PATIENT), reached(Duration::from_secs(1)));
        assert!(bounded >= unbounded * 0.8, "{bounded} of {unbounded}");
    }

    #[test]
    fn a_queue_of_others_is_no_reason_to_starve() {
        let mut path = Path::new(125e6, Duration::from_micros(200));
        path.run(Duration::from_secs(1), URGENT);
        assert!(path.limit.cap.is_some());
        path.others = Duration::from_millis(10);
        path.run(Duration::from_millis(300), URGENT);
        assert!(path.limit.contested_until.is_some() && path.limit.cap.is_none());
        // They are gone: after a second it looks again, and is short again soon.
        path.others = Duration::ZERO;
        path.run(Duration::from_millis(1200), URGENT);
        let (reached, longest) = path.run(Duration::from_secs(1), URGENT);
        assert!(path.limit.contested_until.is_none());
        assert!(longest <= URGENT * 3, "{longest:?}");
        assert!(reached >= 125e6 * 0.95, "{reached}");
    }

    #[test]
    fn who_says_little_is_not_limited_by_what_he_says() {
        let mut limit = Limit::default();
        let mut now = Instant::now();
        for _ in 0..1000 {
            now += Duration::from_millis(3);
            // An acknowledgement that was put off.
            limit.arrived(now, (100, false), Duration::from_millis(25), URGENT);
        }
        limit.arrived(now, (100, false), Duration::from_micros(200), URGENT);
        assert_eq!((limit.cap, limit.contested_until), (None, None));
    }
}
