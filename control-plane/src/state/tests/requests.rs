//! Repeated requests, stale revisions, watchers.

use godwit_proto::cluster::{
    Command, Entry, EntryHeader, NodeCommand, ObjectRef, PoolKind, ResourceCommand, Response,
};
use godwit_proto::codes::ErrorCode;
use godwit_proto::id::{PoolId, RequestId, Revision, Timestamp};

use crate::state::{Refusal, State, Watch};
use crate::workload::{Size, Workload};

fn create(number: u8, request: Option<u8>) -> Entry {
    Entry {
        header: EntryHeader {
            now: Timestamp::from_millis(u64::from(number)),
            actor: "ann".into(),
            request: request.map(|number| RequestId::from_bytes([number; 16])),
        },
        command: Command::Resource(ResourceCommand::CreatePool {
            id: PoolId::from_bytes([number; 16]),
            name: format!("pool-{number}"),
            kind: PoolKind::Local,
            path: "pools".into(),
        }),
    }
}

#[test]
fn a_request_that_is_sent_twice_is_done_once_and_answered_alike() {
    let mut state = State::new("test");
    let first = state.apply(&create(1, Some(9)));
    assert!(matches!(first, Response::Applied(applied)
        if applied.object == ObjectRef::Pool(PoolId::from_bytes([1; 16]))));
    state.apply(&create(2, None));
    assert_eq!(state.apply(&create(1, Some(9))), first);
    assert_eq!(state.revision(), Revision::new(2));
    let without_key = state.try_apply(&create(1, None));
    assert!(matches!(without_key, Err(Refusal::Exists { .. })));
}

#[test]
fn a_key_is_good_for_one_request_and_one_that_was_refused_may_be_tried_again() {
    let mut state = State::new("test");
    state.apply(&create(1, Some(9)));
    assert_eq!(
        state.try_apply(&create(2, Some(9))),
        Err(Refusal::KeyReused)
    );
    let mut entry = create(3, Some(8));
    if let Command::Resource(ResourceCommand::CreatePool { name, .. }) = &mut entry.command {
        name.clear();
    }
    assert!(matches!(
        state.try_apply(&entry),
        Err(Refusal::Invalid { .. })
    ));
    assert!(state.try_apply(&create(3, Some(8))).is_ok());
}

#[test]
fn what_was_decided_on_an_older_revision_is_refused() {
    let size = Size {
        nodes: 1,
        guests: 0,
        services: 0,
    };
    let mut workload = Workload::new(size, 1);
    let node = workload.state.nodes().next().unwrap().clone();
    let label = |expected| {
        Command::Node(NodeCommand::SetLabels {
            node: node.id,
            labels: [("disk", "ssd")].into_iter().collect(),
            expected,
        })
    };
    let read = node.meta.revision;
    let applied = workload.apply(label(Some(read))).unwrap();
    let refused = workload.apply(label(Some(read))).unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Conflict);
    workload.apply(label(Some(applied.revision))).unwrap();
    workload.apply(label(None)).unwrap();
}

#[test]
fn the_time_never_goes_back() {
    let mut state = State::new("test");
    state.apply(&create(9, None));
    state.apply(&create(3, None));
    assert_eq!(state.now(), Timestamp::from_millis(9));
    let created = state.pools().map(|pool| pool.meta.created.as_millis());
    assert_eq!(created.collect::<Vec<_>>(), [9, 9]);
}

#[test]
fn a_watcher_learns_of_each_change_and_reads_the_object_as_it_is() {
    let size = Size {
        nodes: 3,
        guests: 5,
        services: 1,
    };
    let mut workload = Workload::new(size, 1);
    let seen = workload.state.revision();
    let node = workload.state.nodes().next().unwrap().id;
    let cordon = NodeCommand::Cordon {
        node,
        reason: "x".into(),
    };
    workload.apply(Command::Node(cordon)).unwrap();
    let Watch::Changes { changes, next } = workload.state.changes_since(seen, 100) else {
        panic!("nothing was forgotten");
    };
    assert_eq!(changes.len(), 1);
    assert_eq!(
        (changes[0].object, changes[0].deleted),
        (ObjectRef::Node(node), false)
    );
    assert_eq!(next, workload.state.revision());
    let rest = workload.state.changes_since(next, 100);
    assert!(matches!(rest, Watch::Changes { changes, .. } if changes.is_empty()));
    let future = workload.state.changes_since(next.next(), 100);
    assert_eq!(future, Watch::Resync { next });
}
