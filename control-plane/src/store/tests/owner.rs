//! Whose a store is, and what becomes of one that is gone.

use std::fs;

use godwit_proto::codes::ErrorCode;
use godwit_proto::id::{ClusterId, NodeId};
use godwit_proto::raft::StoreIdentity;

use super::{append, config, entry, identity, open};
use crate::store::{Store, StoreConfig, StoreError};

#[tokio::test]
async fn a_store_of_another_node_or_cluster_is_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    open(directory.path()).close().await;
    let others = [
        StoreIdentity {
            node: NodeId::from_bytes([7; 16]),
            ..identity()
        },
        StoreIdentity {
            cluster: ClusterId::from_bytes([7; 16]),
            ..identity()
        },
    ];
    for has_owner_file in [true, false] {
        for other in others {
            let error = Store::open(&StoreConfig {
                identity: other,
                ..config(directory.path())
            });
            let error = error.unwrap_err();
            assert!(
                matches!(error, StoreError::OtherOwner { wanted, .. } if wanted == other),
                "{error}"
            );
            assert_eq!(error.to_coded_error().code(), ErrorCode::Store);
        }
        if has_owner_file {
            fs::remove_file(directory.path().join("store.owner")).unwrap();
        }
    }
    open(directory.path()).close().await;
    assert!(
        directory.path().join("store.owner").exists(),
        "it is written anew"
    );
}

#[tokio::test]
async fn a_store_that_is_gone_is_not_begun_anew() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    append(&store, vec![entry(1, 0)]).await.unwrap();
    store.close().await;
    let file = directory.path().join("store.redb");
    let bytes = fs::read(&file).unwrap();
    for is_gone in [false, true] {
        match is_gone {
            true => fs::remove_file(&file).unwrap(),
            false => fs::write(&file, []).unwrap(),
        }
        let error = Store::open(&config(directory.path())).unwrap_err();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        assert!(error.to_coded_error().fix.unwrap().contains("join again"));
    }
    fs::write(&file, bytes).unwrap();
    open(directory.path()).close().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_had_is_an_error_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    fs::write(&file, "not a directory").unwrap();
    let error = Store::open(&config(&file.join("store"))).unwrap_err();
    assert!(error.to_string().contains("file/store"), "{error}");
}
