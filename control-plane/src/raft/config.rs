//! What a replica is told when it is opened.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use godwit_proto::id::{ClusterId, NodeId};
use openraft::{Config, SnapshotPolicy, StepDownPolicy};

use super::error::OpenError;
use crate::store::DEFAULT_WINDOW_BYTES;

/// What a replica is told when it is opened.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// The node.
    pub node: NodeId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// The directory of its store, for itself; made if it is not there.
    pub directory: PathBuf,
    /// When it acts.
    pub timing: Timing,
    /// How much it keeps.
    pub limits: Limits,
}

/// When a replica acts. All replicas of a cluster must have the same.
///
/// A follower waits for `election_max` after the last sign of life of the leader, so that the
/// leader can rely on it, and then for a time drawn between `election_min` and `election_max`
/// before it stands for election itself. With the defaults that is 280 to 360 ms; the vote and the
/// first commit of the new leader come on top, some milliseconds each. A vote has to be on the
/// voter's disk within `election_min`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two signs of life of a leader.
    pub heartbeat: Duration,
    /// The least that a follower waits, beyond what the leader relies on.
    pub election_min: Duration,
    /// The most; and what the leader relies on.
    pub election_max: Duration,
    /// How long a proposal, or a read, may take before it is given up.
    pub deadline: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(40),
            election_min: Duration::from_millis(100),
            election_max: Duration::from_millis(180),
            deadline: Duration::from_secs(2),
        }
    }
}

/// How much a replica keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// After so many entries there is a new snapshot.
    pub snapshot_entries: u64,
    /// Or after so many bytes of commands.
    pub snapshot_bytes: usize,
    /// Entries that stay in the log although a snapshot has them, for followers that are behind.
    pub kept_entries: u64,
    /// How much of the end of the log is kept in memory, in bytes.
    pub window_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            snapshot_entries: 20_000,
            snapshot_bytes: 32 << 20,
            kept_entries: 5_000,
            window_bytes: DEFAULT_WINDOW_BYTES,
        }
    }
}

/// The most entries in one message.
const MAX_ENTRIES: u64 = 2048;

impl ReplicaConfig {
    pub(super) fn to_library(&self) -> Result<Arc<Config>, OpenError> {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX / 4);
        let timing = &self.timing;
        let election_max = millis(timing.election_max);
        let config = Config {
            cluster_name: self.cluster.to_string(),
            heartbeat_interval: millis(timing.heartbeat),
            election_timeout_min: millis(timing.election_min),
            election_timeout_max: election_max,
            install_snapshot_timeout: 60_000,
            max_payload_entries: MAX_ENTRIES,
            replication_lag_threshold: super::replica::MAX_LAG,
            snapshot_policy: SnapshotPolicy::LogsSinceLast(self.limits.snapshot_entries.max(1)),
            max_in_snapshot_log_to_keep: self.limits.kept_entries,
            purge_batch_size: 256,
            removed_leader_step_down: StepDownPolicy::After(election_max),
            // A leader without a quorum lets others be elected by those who hear it and others.
            quorum_loss_probe_interval: Some(election_max.saturating_mul(2)),
            enable_pre_vote: Some(true),
            backoff: "20ms 40ms 80ms ...400ms".into(),
            allow_log_reversion: Some(false),
            // What is applied is not on disk when a leader starts again: it has to be elected.
            enable_leader_restore: Some(false),
            ..Config::default()
        };
        let valid = config.validate();
        valid
            .map(Arc::new)
            .map_err(|error| OpenError::Timing(error.to_string()))
    }
}
