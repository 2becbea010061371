//! What Prometheus is told: requests, and counts of the cluster's objects as this node sees them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use godwit_control_plane::state::State;
use godwit_proto::api::{GuestState, NodeState};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::{Family, MetricConstructor};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::cluster::Cluster;

/// Ends of the histogram's buckets, in seconds.
const BUCKETS: [f64; 10] = [0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0, 10.0];

/// A kind of request, and how it ended. Routes are few, so these are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answered {
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Route {
    method: &'static str,
    route: String,
}

#[derive(Clone, Copy)]
struct Times;

impl MetricConstructor<Histogram> for Times {
    fn new_metric(&self) -> Histogram {
        Histogram::new(BUCKETS)
    }
}

/// All that Prometheus is told.
pub(super) struct Metrics {
    registry: Registry,
    answered: Family<Answered, Counter>,
    times: Family<Route, Histogram, Times>,
}

impl Metrics {
    pub(super) fn new(cluster: &Arc<dyn Cluster>) -> Self {
        let mut registry = Registry::with_prefix("godwit");
        let answered = Family::default();
        registry.register(
            "http_requests",
            "Requests to the API, by how they ended",
            answered.clone(),
        );
        let times = Family::new_with_constructor(Times);
        registry.register(
            "http_request_seconds",
            "Time until the answer to a request began",
            times.clone(),
        );
        registry.register_collector(Box::new(OfCluster(Arc::downgrade(cluster))));
        cluster.register_metrics(&mut registry);
        Self {
            registry,
            answered,
            times,
        }
    }

    /// Counts a request.
    pub(super) fn answered(
        &self,
        method: &'static str,
        route: &str,
        status: StatusCode,
        time: Duration,
    ) {
        let route = route.to_owned();
        self.times
            .get_or_create(&Route {
                method,
                route: route.clone(),
            })
            .observe(time.as_secs_f64());
        self.answered
            .get_or_create(&Answered {
                method,
                route,
                status: status.as_u16(),
            })
            .inc();
    }

    /// Everything, as text of the OpenMetrics format.
    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("a string takes all that is written to it");
        text
    }
}

/// What is counted when it is asked for.
struct OfCluster(std::sync::Weak<dyn Cluster>);

impl fmt::Debug for OfCluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OfCluster")
    }
}

impl Collector for OfCluster {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let Some(cluster) = self.0.upgrade() else {
            return Ok(());
        };
        let status = cluster.status();
        let mut counts = Counts::default();
        cluster.read(&mut |state| counts = Counts::of(state));
        let plain = [
            (
                "raft_term",
                "Term of the election that this node knows of",
                status.term,
            ),
            ("raft_voters", "Nodes that vote", status.voters.len() as u64),
            (
                "raft_has_leader",
                "Whether this node knows of a leader",
                u64::from(status.leader.is_some()),
            ),
            (
                "raft_is_leader",
                "Whether this node is the leader",
                u64::from(status.leader == Some(status.node)),
            ),
            (
                "raft_has_quorum",
                "Whether a majority of the voters can be reached, as far as this node knows",
                u64::from(status.quorum),
            ),
            (
                "state_revision",
                "Revision of the state that is applied here",
                status.revision.get(),
            ),
            (
                "migrations_under_way",
                "Migrations that have not ended",
                counts.migrations,
            ),
        ];
        for (name, help, value) in plain {
            gauge(&mut encoder, name, help, value)?;
        }
        let nodes = NodeState::ALL.map(NodeState::name).into_iter();
        let nodes = nodes.zip(counts.nodes);
        gauge_by_state(&mut encoder, "nodes", "Nodes by state", nodes)?;
        let guests = GuestState::ALL.map(GuestState::name).into_iter();
        let guests = guests.zip(counts.guests);
        gauge_by_state(&mut encoder, "guests", "Guests by state", guests)
    }
}

fn gauge(encoder: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    constant(value).encode(metric)
}

fn gauge_by_state(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (&'static str, u64)>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (state, value) in values {
        constant(value).encode(metric.encode_family(&[("state", state)])?)?;
    }
    Ok(())
}

fn constant(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}

/// Objects by state, in the order of the states.
#[derive(Default)]
struct Counts {
    nodes: [u64; NodeState::ALL.len()],
    guests: [u64; GuestState::ALL.len()],
    migrations: u64,
}

impl Counts {
    fn of(state: &State) -> Self {
        let mut counts = Self::default();
        for node in state.nodes() {
            counts.nodes[NodeState::from(node.state) as usize] += 1;
        }
        for guest in state.guests() {
            counts.guests[GuestState::from(&guest.observed.state) as usize] += 1;
        }
        let under_way = state.migrations().filter(|m| !m.phase.is_finished());
        counts.migrations = under_way.count() as u64;
        counts
    }
}
