//! Power that goes at any moment, and a disk that fills up.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use godwit_proto::raft::{LogId, Vote};

use super::disk::{Random, SimDisk};
use super::{all, append, entry, vote};
use crate::store::{Logged, Store};

/// What a store can be asked to write.
#[derive(Clone, Debug)]
enum Step {
    Append(Vec<Logged>),
    Truncate(u64),
    Vote(Vote),
}

/// What a store is to hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    entries: Vec<Logged>,
    vote: Option<Vote>,
}

impl Model {
    fn step(&mut self, step: &Step) {
        match step {
            Step::Append(entries) => self.entries.extend(entries.iter().cloned()),
            Step::Truncate(keep) => self.entries.truncate(usize::try_from(*keep).unwrap()),
            Step::Vote(vote) => self.vote = Some(*vote),
        }
    }

    async fn of(store: &Store) -> Self {
        Self {
            entries: all(store).await,
            vote: store.vote(),
        }
    }

    fn last(&self) -> Option<LogId> {
        self.entries.last().map(|entry| entry.id)
    }

    fn random_step(&self, term: u64, random: &mut Random) -> Step {
        let length = self.entries.len() as u64;
        match random.below(8) {
            0 => Step::Truncate(length - random.below(length.min(4) + 1)),
            1 => Step::Vote(vote(term)),
            _ => {
                let next = length..length + 1 + random.below(6);
                Step::Append(next.map(|index| entry(term, index)).collect())
            }
        }
    }
}

/// Asks for a step; counts when it is durable.
async fn ask(store: &Store, step: &Step, model: &Model, durable: &Arc<AtomicUsize>) -> bool {
    match step {
        Step::Append(entries) => {
            let durable = Arc::clone(durable);
            // Not waited for, so that steps share commits.
            let asked = store.append(entries.clone(), move |result| {
                if result.is_ok() {
                    durable.fetch_add(1, Ordering::SeqCst);
                }
            });
            asked.await.is_ok()
        }
        Step::Truncate(_) => {
            let done = store.truncate_after(model.last()).await.is_ok();
            durable.fetch_add(usize::from(done), Ordering::SeqCst);
            done
        }
        Step::Vote(vote) => {
            let done = store.save_vote(*vote).await.is_ok();
            durable.fetch_add(usize::from(done), Ordering::SeqCst);
            done
        }
    }
}

async fn lose_power_once(seed: u64) {
    let mut random = Random(seed);
    let mut bytes = Vec::new();
    let mut model = Model::default();
    // Twice on the same disk: what was mended must bear another loss.
    for round in 0..2 {
        let disk = SimDisk::new(bytes);
        let store = disk.open().unwrap();
        assert_eq!(Model::of(&store).await, model, "seed {seed}, round {round}");
        disk.lose_power_after(random.below(400));
        let durable = Arc::new(AtomicUsize::new(0));
        let mut states = vec![model.clone()];
        for _ in 0..60 {
            let step = model.random_step(seed * 2 + round, &mut random);
            model.step(&step);
            states.push(model.clone());
            if !ask(&store, &step, &model, &durable).await {
                break;
            }
        }
        store.close().await;
        // The last step asked for may have become durable without being answered.
        let durable = durable.load(Ordering::SeqCst);
        bytes = disk.after_power_loss(&mut random);
        let store = SimDisk::new(bytes.clone()).open().unwrap();
        let found = Model::of(&store).await;
        let at = states.iter().position(|state| *state == found);
        let is_kept = states[durable..].contains(&found);
        assert!(
            is_kept,
            "seed {seed}, round {round}: {durable} steps of {} were acknowledged, found {at:?}",
            states.len() - 1
        );
        store.close().await;
        model = found;
    }
}

#[tokio::test]
async fn a_crash_that_loses_unsynced_writes_loses_nothing_acknowledged() {
    for seed in 0..150 {
        lose_power_once(seed).await;
    }
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_and_spoils_nothing() {
    let disk = SimDisk::new(Vec::new());
    let store = disk.open().unwrap();
    append(&store, vec![entry(1, 0)]).await.unwrap();
    disk.limit(disk.len());
    let mut acknowledged = 1;
    while append(&store, vec![entry(1, acknowledged)]).await.is_ok() {
        acknowledged += 1;
        assert!(acknowledged < 100_000, "the disk never fills up");
    }
    disk.limit(usize::MAX);
    assert!(
        append(&store, vec![entry(1, acknowledged + 1)])
            .await
            .is_err()
    );
    let error = store.save_vote(vote(3)).await.unwrap_err().to_coded_error();
    assert!(error.fix.unwrap().contains("free space"));
    store.close().await;

    let store = SimDisk::new(disk.bytes()).open().unwrap();
    assert_eq!(store.vote(), None);
    let found = all(&store).await;
    let wanted: Vec<_> = (0..acknowledged).map(|index| entry(1, index)).collect();
    assert!(
        found.starts_with(&wanted),
        "{} of {acknowledged}",
        found.len()
    );
}
