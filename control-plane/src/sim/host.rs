//! One machine: its clock, its disk, its processes.

use std::collections::BTreeMap;
use std::time::Duration;

use godwit_proto::cluster::Ledger;
use godwit_proto::id::{Epoch, GuestId, NodeId};

use super::daemon::Daemon;
use super::process::Process;
use crate::state::State;

/// Names a guest process: the guest and the epoch it was made for.
pub(super) type Key = (GuestId, Epoch);

pub(super) struct Host {
    pub(super) id: NodeId,
    /// How far its clock's rate is off, in millionths.
    pub(super) rate_ppm: i64,
    /// What its clock said in the beginning.
    pub(super) offset: Duration,
    pub(super) disk: Disk,
    /// None while it is down.
    pub(super) daemon: Option<Daemon>,
    /// How often its daemon was started.
    pub(super) boot: u64,
    /// While the daemon is stopped it takes nothing up.
    pub(super) stopped_until: Option<Duration>,
    pub(super) processes: BTreeMap<Key, Process>,
    /// Until then it does not reach shared disks.
    pub(super) disks_out_until: Duration,
    /// The state as far as this node applied it, when it last led.
    pub(super) replica: State,
    pub(super) applied: usize,
}

/// What outlives everything.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) ledger: Ledger,
    /// The highest term that it voted in, or followed.
    pub(super) promised: u64,
}

impl Host {
    /// What its clock says.
    pub(super) fn clock(&self, now: Duration) -> Duration {
        let nanos = now.as_nanos() as i128 * i128::from(1_000_000 + self.rate_ppm) / 1_000_000;
        self.offset + Duration::from_nanos(nanos as u64)
    }

    /// When its clock says `local`, or `now` if it has already.
    pub(super) fn true_time(&self, local: Duration, now: Duration) -> Duration {
        let since = local.saturating_sub(self.offset).as_nanos() as i128;
        let nanos = (since * 1_000_000).div_euclid(i128::from(1_000_000 + self.rate_ppm)) + 1;
        Duration::from_nanos(nanos as u64).max(now)
    }
}
