//! The library's own tests of a store, over ours.

use godwit_proto::id::{ClusterId, NodeId};
use godwit_proto::raft::StoreIdentity;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;

use crate::raft::log::Log;
use crate::raft::machine::Machine;
use crate::raft::types::{Peer, TypeConfig};
use crate::store::{Store, StoreConfig};

impl From<u64> for Peer {
    fn from(number: u64) -> Self {
        let mut bytes = [0; 16];
        bytes[8..].copy_from_slice(&number.to_be_bytes());
        Self(NodeId::from_bytes(bytes))
    }
}

struct Builder;

impl StoreBuilder<TypeConfig, Log, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<TypeConfig>> {
        let directory = TempDir::new().unwrap();
        let config = StoreConfig {
            directory: directory.path().to_owned(),
            identity: StoreIdentity {
                cluster: ClusterId::from_bytes([1; 16]),
                node: NodeId::from_bytes([2; 16]),
            },
            // So little that reads go to the disk as well.
            window_bytes: 1000,
        };
        let store = Store::open(&config).unwrap();
        let machine = Machine::open(store.clone()).await.unwrap();
        Ok((directory, Log(store), machine))
    }
}

#[test]
fn the_library_s_own_tests_of_a_store_pass() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(Suite::test_all(Builder)).unwrap();
}
