//! What the HTTP API says and is told, as JSON: one type for each document. The paths are in
//! `docs/spec/api.md`.
//!
//! A request with a field that is not known is refused, and so is one with a value of the wrong
//! type. An answer may have fields that an older client does not know: it skips them. Ids are text
//! (8-4-4-4-12 hexadecimal digits), times are RFC 3339 in UTC, other numbers have their unit in
//! their name. Nothing here is checked for meaning: the state machine of the control plane does
//! that.
//!
//! | module | holds |
//! |---|---|
//! | `error` | a failure |
//! | `guest`, `placement` | guests, where they could go and why |
//! | `node`, `cluster` | members, the cluster as a whole |
//! | `migration`, `operation` | what is under way |
//! | `resource`, `rule` | pools, volumes, networks, placement rules |
//! | `event` | what happened, and the lines of a watch |
//! | `page` | lists |
//! | `time` | times |

mod cluster;
mod error;
mod event;
mod guest;
mod migration;
mod node;
mod operation;
mod page;
mod placement;
mod resource;
mod rule;
mod time;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::cluster::Labels;

pub use cluster::{ClusterStatus, Configure, Counts, Lease, Overcommit, Settings, Strategy};
pub use error::Failure;
pub use event::{Event, EventName, ObjectName, WatchLine};
pub use guest::{
    Boot, Cpu, CreateGuest, Disk, Failover, Guest, GuestState, HugePages, Intent, MigrateGuest,
    Moving, NetworkCard, NewDisk, NewNetworkCard, StartGuest,
};
pub use migration::{Migration, MigrationPhase, Reason};
pub use node::{Cordon, LeaseState, Node, NodeState, ReplaceLabels, Scheduling};
pub use operation::{Blocker, Operation, OperationState};
pub use page::{Page, Read, Written};
pub use placement::{Explanation, Score, Verdict, VerdictKind};
pub use resource::{CreateNetwork, CreatePool, CreateVolume, Network, Pool, PoolKind, Volume};
pub use rule::{CreateRule, Rule, RuleKind, Scope, Strength};
pub use time::Time;

/// The header by which a request that is sent twice is done once: 1 to 255 printable characters.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The header of an answer that says at which revision it was read.
pub const REVISION: &str = "godwit-revision";
/// The header of an answer that may be older than the request.
pub const STALE: &str = "godwit-stale";
/// The protocol that a connection is upgraded to for a guest's console.
pub const CONSOLE_PROTOCOL: &str = "godwit-console";
/// The longest body of a request, in bytes.
pub const MAX_BODY_BYTES: usize = 64 << 10;

/// An object that another one names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Named {
    /// Its id.
    pub id: String,
    /// Its name; its id once it is gone.
    pub name: String,
}

/// Labels as JSON has them.
pub type LabelMap = BTreeMap<String, String>;

/// The labels of a map.
#[must_use]
pub fn labels(map: &LabelMap) -> Labels {
    map.iter().collect()
}

/// Labels as a map.
#[must_use]
pub fn label_map(labels: &Labels) -> LabelMap {
    let labels = labels.iter();
    labels
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

/// For fields that are on unless they are turned off.
const fn yes() -> bool {
    true
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_false(value: &bool) -> bool {
    !*value
}
