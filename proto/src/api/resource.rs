//! Pools, volumes, networks.

use serde::{Deserialize, Serialize};

use super::{Named, Time};
use crate::cluster;

/// Whether nodes see the same files in a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PoolKind {
    /// Each node has its own.
    Local,
    /// All have the same.
    Shared,
}

impl From<cluster::PoolKind> for PoolKind {
    fn from(kind: cluster::PoolKind) -> Self {
        match kind {
            cluster::PoolKind::Local => Self::Local,
            cluster::PoolKind::Shared => Self::Shared,
        }
    }
}

impl From<PoolKind> for cluster::PoolKind {
    fn from(kind: PoolKind) -> Self {
        match kind {
            PoolKind::Local => Self::Local,
            PoolKind::Shared => Self::Shared,
        }
    }
}

/// `POST /v1/pools`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreatePool {
    /// Its name.
    pub name: String,
    /// Whether nodes see the same files in it.
    pub kind: PoolKind,
    /// Its absolute path on every node that reaches it.
    pub path: String,
}

/// A pool: a directory in which volumes are files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The state's revision when it last changed.
    pub revision: u64,
    /// When it was made.
    pub created: Time,
    /// Whether nodes see the same files in it.
    pub kind: PoolKind,
    /// Its path on every node that reaches it.
    pub path: String,
    /// Nodes that reach it.
    pub nodes: Vec<Named>,
}

/// `POST /v1/volumes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateVolume {
    /// Its name.
    pub name: String,
    /// Its pool, by name or id.
    pub pool: String,
    /// The node that has it, by name or id; for a local pool, and always there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Its size in bytes.
    pub size_bytes: u64,
}

/// A volume: a raw disk image in a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its id, which is also its file's name.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The state's revision when it last changed.
    pub revision: u64,
    /// When it was made.
    pub created: Time,
    /// Its pool.
    pub pool: Named,
    /// The node that has it, in a local pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Named>,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// The guest whose disk it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached: Option<Named>,
}

/// `POST /v1/networks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateNetwork {
    /// Its name.
    pub name: String,
    /// The bridge's name on every node that has it.
    pub bridge: String,
}

/// A network: a bridge that exists on nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The state's revision when it last changed.
    pub revision: u64,
    /// When it was made.
    pub created: Time,
    /// The bridge's name on every node that has it.
    pub bridge: String,
    /// Nodes that have it.
    pub nodes: Vec<Named>,
}
