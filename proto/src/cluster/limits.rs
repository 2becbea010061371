//! How much of each thing a cluster holds. A command that would go beyond is refused with
//! [`ErrorCode::LimitReached`](crate::codes::ErrorCode::LimitReached), never cut.

/// Members of a cluster.
pub const MAX_NODES: usize = 10_000;
/// Guests of a cluster, stopped ones too.
pub const MAX_GUESTS: usize = 200_000;
/// Volumes of a cluster.
pub const MAX_VOLUMES: usize = 400_000;
/// Pools of a cluster.
pub const MAX_POOLS: usize = 1_024;
/// Networks of a cluster.
pub const MAX_NETWORKS: usize = 1_024;
/// Placement rules of a cluster.
pub const MAX_RULES: usize = 4_096;
/// Distinct sets of CPU features that guests were promised.
pub const MAX_BASELINES: usize = 64;
/// Finished migrations that are remembered.
pub const MAX_FINISHED_MIGRATIONS: usize = 1_000;
/// Finished operations that are remembered.
pub const MAX_FINISHED_OPERATIONS: usize = 256;
/// Operations at once.
pub const MAX_RUNNING_OPERATIONS: usize = 1_024;
/// Events that are remembered.
pub const MAX_EVENTS: usize = 10_000;
/// Idempotency keys that are remembered; the oldest is forgotten first.
pub const MAX_REQUESTS: usize = 65_536;
/// Changes that are remembered for watchers; one that lags further has to read everything anew.
pub const MAX_CHANGES: usize = 65_536;

/// Characters of a name: those of a DNS label.
pub const MAX_NAME_BYTES: usize = 63;
/// Labels of one object.
pub const MAX_LABELS: usize = 32;
/// Bytes of a label's key, and of its value.
pub const MAX_LABEL_BYTES: usize = 63;
/// Bytes of a path, an address, a reason.
pub const MAX_TEXT_BYTES: usize = 1_024;
/// Bytes of a migration's receipt.
pub const MAX_RECEIPT_BYTES: usize = 64 << 10;
/// Volumes of one guest.
pub const MAX_GUEST_VOLUMES: usize = 16;
/// Network devices of one guest.
pub const MAX_GUEST_NETWORKS: usize = 16;
/// vCPUs of one guest.
pub const MAX_GUEST_VCPUS: u32 = 64;
/// Memory of one guest: 1 MiB to 1 TiB.
pub const GUEST_MEMORY_BYTES: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 40;
/// Names of features of one CPU.
pub const MAX_CPU_FEATURES: usize = 512;
/// XSAVE components of one CPU.
pub const MAX_XSAVE_COMPONENTS: usize = 64;
/// Blockers that an operation tells.
pub const MAX_BLOCKERS: usize = 64;
