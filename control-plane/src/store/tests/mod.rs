//! Tests of the store: its promises, one file each.

mod crash;
mod damage;
mod disk;
mod history;
mod kill;
mod owner;
mod snapshots;
mod writing;

use std::path::Path;

use godwit_proto::cluster::{ClusterCommand, Command as StateCommand, Entry, EntryHeader};
use godwit_proto::id::{ClusterId, NodeId, Timestamp};
use godwit_proto::raft::{LogId, Member, Membership, StoreIdentity, StoredMembership, Vote};

use super::{Command, Logged, Payload, Store, StoreConfig, StoreError};

fn identity() -> StoreIdentity {
    StoreIdentity {
        cluster: ClusterId::from_bytes([1; 16]),
        node: NodeId::from_bytes([2; 16]),
    }
}

fn config(directory: &Path) -> StoreConfig {
    StoreConfig {
        directory: directory.to_owned(),
        identity: identity(),
        // Some entries, so that both memory and disk are read.
        window_bytes: 4000,
    }
}

fn open(directory: &Path) -> Store {
    Store::open(&config(directory)).unwrap()
}

fn id(term: u64, index: u64) -> LogId {
    LogId {
        term,
        leader: NodeId::from_bytes([3; 16]),
        index,
    }
}

/// An entry whose content follows from its place.
fn entry(term: u64, index: u64) -> Logged {
    let payload = match index % 5 {
        0 => Payload::Blank,
        1 => Payload::Membership(membership(index).membership.into()),
        _ => Payload::Command(command(term, index)),
    };
    Logged {
        id: id(term, index),
        payload,
    }
}

fn command(term: u64, index: u64) -> Command {
    let entry = Entry {
        header: EntryHeader {
            now: Timestamp::from_millis(term * 1_000_000 + index),
            actor: "x".repeat(usize::try_from(index % 300).unwrap()),
            request: None,
        },
        command: StateCommand::Cluster(ClusterCommand::RaiseBaseline),
    };
    Command::new(entry).unwrap()
}

fn membership(index: u64) -> StoredMembership {
    let node = NodeId::from_bytes([9; 16]);
    StoredMembership {
        log: Some(id(1, index)),
        membership: Membership {
            configs: vec![vec![node]],
            members: vec![Member {
                id: node,
                address: format!("node:{index}"),
            }],
        },
    }
}

fn vote(term: u64) -> Vote {
    Vote {
        term,
        node: NodeId::from_bytes([4; 16]),
        committed: term.is_multiple_of(2),
    }
}

/// Appends and waits until it is durable.
async fn append(store: &Store, entries: Vec<Logged>) -> Result<(), String> {
    let (done, outcome) = tokio::sync::oneshot::channel();
    let told = store.append(entries, |result| {
        let _ = done.send(result);
    });
    told.await.map_err(|error| error.to_string())?;
    let outcome = outcome.await.map_err(|error| error.to_string())?;
    outcome.map_err(|error| error.to_string())
}

async fn all(store: &Store) -> Vec<Logged> {
    store.entries(0..u64::MAX, usize::MAX).await.unwrap()
}

fn is_damage(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Damaged { .. } | StoreError::Record { .. } | StoreError::Command { .. }
    )
}
