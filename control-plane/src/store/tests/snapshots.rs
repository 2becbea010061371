//! Snapshots in the store.

use super::{append, entry, id, membership, open};
use crate::store::writer::Write;

#[tokio::test]
async fn an_older_snapshot_does_not_replace_a_newer_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    for (last, content) in [(10, 1), (5, 2), (10, 3)] {
        let chunks = vec![vec![content; 1000]; 3];
        let saved = store.save_snapshot(Some(id(1, last)), membership(1), &chunks);
        saved.await.unwrap();
        let kept = store.snapshot().await.unwrap().unwrap();
        assert_eq!(kept.head.last, Some(id(1, 10)));
        assert_eq!(kept.chunks, vec![vec![1; 1000]; 3]);
    }
    let chunks = vec![vec![4; 10]];
    let saved = store.save_snapshot(Some(id(1, 11)), membership(2), &chunks);
    saved.await.unwrap();
    store.close().await;
    let store = open(directory.path());
    let kept = store.snapshot().await.unwrap().unwrap();
    assert_eq!((kept.head.last, kept.chunks), (Some(id(1, 11)), chunks));
    assert_eq!(kept.head.membership, membership(2));
}

#[tokio::test]
async fn a_snapshot_that_was_not_completed_is_as_if_never_begun() {
    let directory = tempfile::tempdir().unwrap();
    let store = open(directory.path());
    append(&store, vec![entry(1, 0)]).await.unwrap();
    let whole = vec![vec![1; 10]];
    store
        .save_snapshot(None, membership(1), &whole)
        .await
        .unwrap();
    for chunk in 0..3 {
        let slot = store.slot().await.unwrap();
        let write = Write::Chunk {
            number: 9,
            chunk,
            bytes: vec![7; 2000],
        };
        store.finish(slot, write).await.unwrap();
    }
    let chunks = |store: &crate::store::Store| store.inner.disk().unwrap().count_chunks();
    assert_eq!(chunks(&store), 4);
    store.close().await;
    let store = open(directory.path());
    assert_eq!(chunks(&store), 1);
    assert_eq!(store.snapshot().await.unwrap().unwrap().chunks, whole);
}
