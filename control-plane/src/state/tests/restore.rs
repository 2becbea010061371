//! Snapshots: what was written comes back, anything else is refused.

use godwit_proto::cluster::{Command, NodeCommand, Object, Settings, StateHeader};
use godwit_proto::id::{BaselineId, Revision, Timestamp};
use godwit_proto::record::RecordWriter;

use super::restored;
use crate::invariants;
use crate::state::{Restore, RestoreError, State};
use crate::workload::{Random, Size, Workload};

fn workload() -> Workload {
    let size = Size {
        nodes: 30,
        guests: 900,
        services: 9,
    };
    Workload::full(size, 6)
}

fn restore(chunks: &[Vec<u8>]) -> Result<State, RestoreError> {
    let mut restore = Restore::new();
    for chunk in chunks {
        restore.push(chunk)?;
    }
    restore.finish()
}

#[test]
fn a_state_comes_back_from_its_snapshot_and_goes_on_alike() {
    let mut workload = workload();
    let mut twin = workload.clone();
    twin.state = restored(&workload.state);
    assert!(twin.state.snapshot().unwrap() == workload.state.snapshot().unwrap());
    assert_eq!(invariants::check(&twin.state), []);
    let node = workload.state.nodes().next().unwrap().id;
    let cordon = || {
        Command::Node(NodeCommand::Cordon {
            node,
            reason: "x".into(),
        })
    };
    assert_eq!(workload.apply(cordon()), twin.apply(cordon()));
    assert!(twin.state.snapshot().unwrap() == workload.state.snapshot().unwrap());
    assert!(
        workload.state.snapshot().unwrap().len() > 2,
        "more than one chunk"
    );
}

#[test]
fn a_snapshot_that_lost_or_gained_a_chunk_is_refused() {
    let chunks = workload().state.snapshot().unwrap();
    for lost in 0..chunks.len() {
        let mut chunks = chunks.clone();
        chunks.remove(lost);
        assert!(restore(&chunks).is_err(), "without chunk {lost}");
    }
    for twice in 0..chunks.len() {
        let mut chunks = chunks.clone();
        chunks.push(chunks[twice].clone());
        assert!(restore(&chunks).is_err(), "with chunk {twice} twice");
    }
    assert!(matches!(restore(&[]), Err(RestoreError::NoHeader)));
}

#[test]
fn a_damaged_chunk_is_refused_wherever_it_is_damaged() {
    let chunks = workload().state.snapshot().unwrap();
    let mut random = Random::new(1);
    for _ in 0..200 {
        let mut chunks = chunks.clone();
        let chunk = random.below(chunks.len() as u64) as usize;
        let at = random.below(chunks[chunk].len() as u64) as usize;
        chunks[chunk][at] ^= 1 << random.below(8);
        assert!(restore(&chunks).is_err(), "chunk {chunk}, byte {at}");
    }
}

#[test]
fn a_snapshot_whose_numbers_or_references_cannot_be_is_refused() {
    let made = |revision: u64, objects: &[Object]| {
        let mut writer = RecordWriter::new();
        let header = StateHeader {
            revision: Revision::new(revision),
            now: Timestamp::from_millis(0),
            last_baseline: BaselineId::new(0),
            oldest_change: Revision::new(0),
            reign: None,
            objects: objects.len() as u64,
        };
        writer.push(&header).unwrap();
        for object in objects {
            object.push_to(&mut writer).unwrap();
        }
        restore(&[writer.finish().unwrap()])
    };
    let settings = Object::Settings(Settings::default());
    assert!(made(1, std::slice::from_ref(&settings)).is_ok());
    assert!(made(u64::MAX, std::slice::from_ref(&settings)).is_err());
    assert!(made(1, &[settings.clone(), settings.clone()]).is_err());
    assert!(made(1, &[]).is_err());
    let workload = workload();
    let running = workload.state.guests().next().unwrap().clone();
    let homeless = made(1, &[settings.clone(), Object::Guest(running)]);
    assert!(matches!(homeless, Err(RestoreError::Inconsistent { .. })));
    let node = workload.state.nodes().next().unwrap().clone();
    assert!(
        made(1, &[settings, Object::Node(node)]).is_err(),
        "a node has a lease"
    );
}
