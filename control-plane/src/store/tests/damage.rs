//! Files that are not what was written.

use std::fs;
use std::path::Path;

use godwit_proto::raft::{LogEntry, SnapshotHead, Vote};
use godwit_proto::record::{Kind, Record};
use redb::{Database, TableDefinition};

use super::disk::Random;
use super::{all, append, config, entry, id, is_damage, membership, open, vote};
use crate::store::{Ends, Logged, Store, StoreError};

const FILE: &str = "store.redb";

/// All that is in a store.
#[derive(Debug, PartialEq)]
struct Content {
    entries: Vec<Logged>,
    ends: Ends,
    vote: Option<Vote>,
    snapshot: Option<(SnapshotHead, Vec<Vec<u8>>)>,
}

impl Content {
    async fn of(store: &Store) -> Self {
        let snapshot = store.snapshot().await.unwrap();
        Self {
            entries: all(store).await,
            ends: store.ends(),
            vote: store.vote(),
            snapshot: snapshot.map(|found| (found.head, found.chunks)),
        }
    }
}

/// A store with something of everything.
async fn fill(directory: &Path) -> Store {
    let store = open(directory);
    append(&store, (0..60).map(|index| entry(1, index)).collect())
        .await
        .unwrap();
    let chunks = vec![vec![3; 5000], vec![4; 100]];
    let saved = store.save_snapshot(Some(id(1, 20)), membership(1), &chunks);
    saved.await.unwrap();
    store.purge(id(1, 10)).await.unwrap();
    store.save_vote(vote(2)).await.unwrap();
    append(&store, vec![entry(2, 60)]).await.unwrap();
    store
}

/// What opening the store gives with `bytes` in place of its file.
async fn opened_with(directory: &Path, bytes: &[u8]) -> Result<Content, StoreError> {
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join(FILE), bytes).unwrap();
    fs::copy(
        directory.join("store.owner"),
        other.path().join("store.owner"),
    )
    .unwrap();
    let opened = Store::open(&config(other.path()));
    // What is refused once is refused again.
    if let Err(error) = &opened {
        let again = Store::open(&config(other.path()));
        assert!(again.is_err(), "after {error} it was opened");
        let coded = error.to_coded_error();
        assert!(coded.fix.is_some(), "{coded}");
        assert!(
            is_damage(error) || matches!(error, StoreError::Database { .. }),
            "{error}"
        );
    }
    let store = opened?;
    let content = Content::of(&store).await;
    store.close().await;
    Ok(content)
}

/// Positions in a file that are worth damaging: where something is.
fn positions(bytes: &[u8], count: usize) -> Vec<usize> {
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let mut random = Random(7);
    let any = (0..count).map(|_| used[usize::try_from(random.below(used.len() as u64)).unwrap()]);
    // The whole header, and anything else by chance.
    (0..320).step_by(2).chain(any).collect()
}

#[tokio::test]
async fn every_cut_and_many_flipped_bits_are_errors_or_harmless() {
    let directory = tempfile::tempdir().unwrap();
    let store = fill(directory.path()).await;
    let whole = Content::of(&store).await;
    // As a process leaves it that is killed, and as one does that ends.
    let killed = fs::read(directory.path().join(FILE)).unwrap();
    store.close().await;
    let closed = fs::read(directory.path().join(FILE)).unwrap();
    assert_eq!(opened_with(directory.path(), &killed).await.unwrap(), whole);
    assert_eq!(opened_with(directory.path(), &closed).await.unwrap(), whole);

    let (mut refused, mut harmless, mut undone) = (0, 0, 0);
    for (bytes, is_closed) in [(&closed, true), (&killed, false)] {
        for at in positions(bytes, 200) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            match opened_with(directory.path(), &damaged).await {
                Err(_) => refused += 1,
                Ok(content) if content == whole => harmless += 1,
                // The last commit before a crash: see the specification.
                Ok(content) if !is_closed => {
                    let kept = content.entries.len();
                    assert_eq!(content.entries, whole.entries[..kept], "byte {at}");
                    assert!(kept + 1 >= whole.entries.len(), "byte {at}: {kept} entries");
                    assert_eq!(content.vote, whole.vote);
                    undone += 1;
                }
                Ok(_) => panic!("byte {at} of a closed store: something else is read"),
            }
        }
        for cut in (0..bytes.len()).step_by(bytes.len() / 25) {
            let opened = opened_with(directory.path(), &bytes[..cut]).await;
            assert!(
                opened.is_err() || opened.unwrap() == whole,
                "cut to {cut} bytes"
            );
        }
    }
    println!("{refused} refused, {harmless} harmless, {undone} undid the last commit");
    assert!(refused > 50, "hardly any damage was noticed: {refused}");
}

#[tokio::test]
async fn a_store_that_was_found_damaged_stays_closed() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path()).await.close().await;
    fs::write(directory.path().join("store.damaged"), "").unwrap();
    let error = Store::open(&config(directory.path())).unwrap_err();
    assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
}

/// Puts `record` into the log, past all code of ours.
fn put(directory: &Path, index: u64, record: &[u8]) {
    let log: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
    let database = Database::open(directory.join(FILE)).unwrap();
    let write = database.begin_write().unwrap();
    write
        .open_table(log)
        .unwrap()
        .insert(index, record)
        .unwrap();
    write.commit().unwrap();
}

#[tokio::test]
async fn a_log_with_a_gap_or_a_wrong_entry_is_damaged() {
    let right = entry(2, 61).to_record().encode().unwrap();
    let mut flipped = right.clone();
    *flipped.last_mut().unwrap() ^= 1;
    for (index, record) in [(61, &flipped), (62, &right), (70, &right)] {
        let directory = tempfile::tempdir().unwrap();
        fill(directory.path()).await.close().await;
        put(directory.path(), index, record);
        let error = Store::open(&config(directory.path())).unwrap_err();
        assert!(is_damage(&error), "{index}: {error}");
    }
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path()).await.close().await;
    put(directory.path(), 61, &right);
    open(directory.path()).close().await;
}

#[tokio::test]
async fn a_store_of_a_newer_build_says_so() {
    let directory = tempfile::tempdir().unwrap();
    fill(directory.path()).await.close().await;
    let mut record = entry(2, 61).to_record().encode().unwrap();
    record[2] = u8::try_from(LogEntry::VERSION + 1).unwrap();
    let crc = crc32c::crc32c_append(crc32c::crc32c(&record[..12]), &record[16..]);
    record[12..16].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(record[0], Kind::RaftLogEntry.number().to_le_bytes()[0]);
    put(directory.path(), 61, &record);
    let error = Store::open(&config(directory.path())).unwrap_err();
    assert!(
        error.to_coded_error().fix.unwrap().contains("newer build"),
        "{error}"
    );
}
