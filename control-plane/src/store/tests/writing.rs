//! Writes that share commits, and those that are refused.

use godwit_proto::raft::LogId;
use tokio::sync::mpsc;

use super::disk::SimDisk;
use super::{all, append, entry, id, open};
use crate::store::StoreError;

#[tokio::test]
async fn appends_that_wait_share_a_commit() {
    let disk = SimDisk::new(Vec::new());
    let store = disk.open().unwrap();
    let before = disk.syncs();
    let (done, mut answers) = mpsc::unbounded_channel();
    for index in 0..1000 {
        let done = done.clone();
        let asked = store.append(vec![entry(1, index)], move |result| {
            done.send((index, result.is_ok())).unwrap();
        });
        asked.await.unwrap();
    }
    for index in 0..1000 {
        assert_eq!(answers.recv().await, Some((index, true)), "out of order");
    }
    let syncs = disk.syncs() - before;
    assert!(syncs < 500, "{syncs} commits of 1000 appends");
    assert_eq!(all(&store).await.len(), 1000);
}

#[tokio::test]
async fn entries_that_leave_a_gap_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    append(&store, vec![entry(1, 0), entry(1, 1)])
        .await
        .unwrap();
    for entries in [
        vec![entry(1, 3)],
        vec![entry(1, 1)],
        vec![entry(1, 2), entry(1, 4)],
    ] {
        let refused = store.append(entries, |_| unreachable!("it was refused"));
        assert!(matches!(
            *refused.await.unwrap_err(),
            StoreError::Gap { last: 1 | 2, .. }
        ));
    }
    append(&store, vec![entry(1, 2)]).await.unwrap();
    assert_eq!(all(&store).await.len(), 3);
}

#[tokio::test]
async fn what_is_committed_elsewhere_is_not_noted_beyond_this_disk() {
    let directory = tempfile::tempdir().unwrap();
    let reopened = async |committed: Option<LogId>| {
        let store = open(directory.path());
        store.save_committed(committed);
        store.close().await;
        let store = open(directory.path());
        let found = store.committed();
        store.close().await;
        found
    };
    assert_eq!(reopened(Some(id(1, 3))).await, None);
    let store = open(directory.path());
    append(&store, (0..6).map(|index| entry(1, index)).collect())
        .await
        .unwrap();
    store.close().await;
    assert_eq!(reopened(Some(id(1, 3))).await, Some(id(1, 3)));
    assert_eq!(reopened(Some(id(1, 6))).await, Some(id(1, 3)));
    assert_eq!(reopened(Some(id(1, 5))).await, Some(id(1, 5)));
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    append(&store, vec![entry(1, 0)]).await.unwrap();
    let other = store.clone();
    store.close().await;
    other.close().await;
    let error = append(&other, vec![entry(1, 1)]).await.unwrap_err();
    assert_eq!(error, StoreError::Closed.to_string());
    let vote = other.save_vote(super::vote(1)).await;
    assert!(matches!(vote, Err(error) if matches!(*error, StoreError::Closed)));
}
