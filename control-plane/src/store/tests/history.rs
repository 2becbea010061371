//! Any history, beside a log that is a plain vector.

use proptest::prelude::*;
use tempfile::TempDir;

use super::{append, entry, id, membership, open};
use crate::store::{Ends, Logged, Store};

#[derive(Clone, Debug)]
enum Step {
    Append(u8),
    /// Keeps so many in 256 of what is not purged.
    Truncate(u8),
    /// A snapshot and a purge up to so many in 256 of it.
    Purge(u8),
    Read(u8, u8, u16),
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u8..40).prop_map(Step::Append),
        1 => any::<u8>().prop_map(Step::Truncate),
        1 => any::<u8>().prop_map(Step::Purge),
        4 => any::<(u8, u8, u16)>().prop_map(|(from, to, budget)| Step::Read(from, to, budget)),
        1 => Just(Step::Reopen),
    ]
}

/// The log as it should be: entries from index `first` on.
#[derive(Default)]
struct Model {
    term: u64,
    first: u64,
    entries: Vec<Logged>,
    purged: Option<godwit_proto::raft::LogId>,
}

impl Model {
    fn end(&self) -> u64 {
        self.first + self.entries.len() as u64
    }

    /// So many in 256 of the entries, as an index.
    fn at(&self, share: u8) -> u64 {
        self.first + self.entries.len() as u64 * u64::from(share) / 256
    }

    fn ends(&self) -> Ends {
        Ends {
            purged: self.purged,
            last: self.entries.last().map(|entry| entry.id).or(self.purged),
        }
    }
}

async fn take(store: &mut Store, model: &mut Model, directory: &TempDir, step: Step) {
    match step {
        Step::Append(count) => {
            let indexes = model.end()..model.end() + u64::from(count);
            let entries: Vec<_> = indexes.map(|index| entry(model.term, index)).collect();
            append(store, entries.clone()).await.unwrap();
            model.entries.extend(entries);
        }
        Step::Truncate(share) => {
            let keep = model.at(share) - model.first;
            model.entries.truncate(usize::try_from(keep).unwrap());
            model.term += 1;
            store.truncate_after(model.ends().last).await.unwrap();
        }
        Step::Purge(share) => {
            let upto = model.at(share);
            let Some(found) = model.entries.iter().find(|e| e.id.index == upto) else {
                return;
            };
            let upto = found.id;
            let chunks = vec![vec![share; 100], vec![]];
            let saved = store
                .save_snapshot(Some(upto), membership(1), &chunks)
                .await;
            saved.unwrap();
            store.purge(upto).await.unwrap();
            model.entries.retain(|entry| entry.id.index > upto.index);
            model.first = upto.index + 1;
            model.purged = Some(upto);
            assert_eq!(store.snapshot().await.unwrap().unwrap().chunks, chunks);
        }
        Step::Read(from, to, budget) => {
            let range = model.at(from)..model.at(to).max(model.at(from));
            let found = store.entries(range.clone(), budget.into()).await.unwrap();
            let inside = |entry: &&Logged| range.contains(&entry.id.index);
            let wanted: Vec<_> = model.entries.iter().filter(inside).cloned().collect();
            assert!(wanted.starts_with(&found), "{range:?}");
            assert_eq!(found.is_empty(), wanted.is_empty(), "{range:?}");
            let all = store.entries(range, usize::MAX).await.unwrap();
            assert_eq!(all, wanted);
        }
        Step::Reopen => {
            store.close().await;
            *store = open(directory.path());
        }
    }
    assert_eq!(store.ends(), model.ends());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 48,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn any_history_reads_as_a_plain_log_does_before_and_after_it_is_opened_again(
        steps in proptest::collection::vec(step(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let directory = TempDir::new().unwrap();
            let mut store = open(directory.path());
            let mut model = Model { term: 1, ..Model::default() };
            for step in steps.into_iter().chain([Step::Reopen, Step::Read(0, 255, 0)]) {
                take(&mut store, &mut model, &directory, step).await;
            }
            let end = id(model.term, model.end());
            prop_assert!(store.entries(end.index..u64::MAX, 0).await.unwrap().is_empty());
            store.close().await;
            Ok(())
        })?;
    }
}
