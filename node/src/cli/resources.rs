//! `godwit pool`, `godwit volume`, `godwit network`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use godwit_proto::api::{
    CreateNetwork, CreatePool, CreateVolume, Named, Network, Pool, PoolKind, Volume,
};
use godwit_proto::codes::CodedError;
use hyper::Method;
use serde::Serialize;

use super::client::segment;
use super::guest_args::Size;
use super::session::{Reach, Session};
use super::table::bytes;
use super::text::{age, sign};
use super::vm_create::absolute;

/// Directories in which volumes are files
#[derive(Args, Debug)]
pub(super) struct PoolArgs {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: PoolCommand,
}

#[derive(Debug, Subcommand)]
enum PoolCommand {
    /// Make a pool known
    Create {
        /// Its name: a-z, 0-9 and dashes
        name: String,
        /// The directory on every node that reaches it
        #[arg(long, value_name = "DIR")]
        path: String,
        /// Whether each node has its own files there, or all the same
        #[arg(long, value_enum)]
        kind: KindArg,
    },
    /// List pools
    #[command(visible_alias = "ls")]
    List,
    /// Forget an empty pool; its directory stays
    #[command(visible_alias = "rm")]
    Delete {
        /// The pool, by name or id
        pool: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KindArg {
    /// Each node has its own files
    Local,
    /// All nodes have the same files
    Shared,
}

impl PoolArgs {
    pub(super) fn execute(&self) -> ExitCode {
        self.reach.run(|session| match &self.command {
            PoolCommand::Create { name, path, kind } => {
                let request = CreatePool {
                    name: name.clone(),
                    kind: match kind {
                        KindArg::Local => PoolKind::Local,
                        KindArg::Shared => PoolKind::Shared,
                    },
                    path: absolute(path)?,
                };
                create(session, "pool", name, &request)
            }
            PoolCommand::List => {
                let columns = ["NAME", "KIND", "PATH", "NODES", "AGE"];
                session.list("/v1/pools", &columns, |pool: &Pool| {
                    let (name, path) = (pool.name.clone(), pool.path.clone());
                    vec![
                        name,
                        sign(&pool.kind),
                        path,
                        names(&pool.nodes),
                        age(pool.created),
                    ]
                })
            }
            PoolCommand::Delete { pool } => delete(session, "pool", pool),
        })
    }
}

/// Disk images in pools
#[derive(Args, Debug)]
pub(super) struct VolumeArgs {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: VolumeCommand,
}

#[derive(Debug, Subcommand)]
enum VolumeCommand {
    /// Make a volume
    Create {
        /// Its name: a-z, 0-9 and dashes
        name: String,
        /// Its pool, by name or id
        #[arg(long, value_name = "POOL")]
        pool: String,
        /// Its size: bytes, or with K, M, G or T
        #[arg(long, value_name = "SIZE")]
        size: Size,
        /// In a local pool the node that has it, by name or id
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
    },
    /// List volumes
    #[command(visible_alias = "ls")]
    List,
    /// Forget a volume that no guest has
    #[command(visible_alias = "rm")]
    Delete {
        /// The volume, by name or id
        volume: String,
    },
}

impl VolumeArgs {
    pub(super) fn execute(&self) -> ExitCode {
        self.reach.run(|session| match &self.command {
            VolumeCommand::Create {
                name,
                pool,
                size,
                node,
            } => {
                let request = CreateVolume {
                    name: name.clone(),
                    pool: pool.clone(),
                    node: node.clone(),
                    size_bytes: size.0,
                };
                create(session, "volume", name, &request)
            }
            VolumeCommand::List => {
                let columns = ["NAME", "POOL", "NODE", "SIZE", "GUEST", "AGE"];
                let name = |named: &Option<Named>| -> String {
                    named
                        .as_ref()
                        .map_or_else(String::new, |named| named.name.clone())
                };
                session.list("/v1/volumes", &columns, |volume: &Volume| {
                    vec![
                        volume.name.clone(),
                        volume.pool.name.clone(),
                        name(&volume.node),
                        bytes(volume.size_bytes),
                        name(&volume.attached),
                        age(volume.created),
                    ]
                })
            }
            VolumeCommand::Delete { volume } => delete(session, "volume", volume),
        })
    }
}

/// Bridges that guests are attached to
#[derive(Args, Debug)]
pub(super) struct NetworkArgs {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: NetworkCommand,
}

#[derive(Debug, Subcommand)]
enum NetworkCommand {
    /// Make a network known
    Create {
        /// Its name: a-z, 0-9 and dashes
        name: String,
        /// The bridge's name on every node that has it
        #[arg(long, value_name = "NAME")]
        bridge: String,
    },
    /// List networks
    #[command(visible_alias = "ls")]
    List,
    /// Forget a network that no guest is attached to; the bridge stays
    #[command(visible_alias = "rm")]
    Delete {
        /// The network, by name or id
        network: String,
    },
}

impl NetworkArgs {
    pub(super) fn execute(&self) -> ExitCode {
        self.reach.run(|session| match &self.command {
            NetworkCommand::Create { name, bridge } => {
                let request = CreateNetwork {
                    name: name.clone(),
                    bridge: bridge.clone(),
                };
                create(session, "network", name, &request)
            }
            NetworkCommand::List => {
                let columns = ["NAME", "BRIDGE", "NODES", "AGE"];
                session.list("/v1/networks", &columns, |network: &Network| {
                    let (name, bridge) = (network.name.clone(), network.bridge.clone());
                    vec![name, bridge, names(&network.nodes), age(network.created)]
                })
            }
            NetworkCommand::Delete { network } => delete(session, "network", network),
        })
    }
}

fn names(named: &[Named]) -> String {
    let names = named.iter().map(|named| named.name.as_str());
    names.collect::<Vec<_>>().join(",")
}

/// Makes an object of a kind.
pub(super) fn create<T: Serialize>(
    session: &mut Session,
    kind: &str,
    name: &str,
    request: &T,
) -> Result<(), CodedError> {
    let path = format!("/v1/{kind}s");
    let made = session.client.change(&Method::POST, &path, Some(request))?;
    session.done(&made, &format!("{kind} {name} is made"))
}

/// Deletes an object of a kind.
pub(super) fn delete(session: &mut Session, kind: &str, name: &str) -> Result<(), CodedError> {
    let path = format!("/v1/{kind}s/{}", segment(name));
    let deleted = session.client.change::<()>(&Method::DELETE, &path, None)?;
    session.done(&deleted, &format!("{kind} {name} is deleted"))
}
