//! Durable commits: of many clients at once, and of one.

use std::time::Duration;

use godwit_control_plane::workload::{Size, Workload};
use godwit_proto::cluster::{Command, Entry, EntryHeader, NodeCommand};
use godwit_proto::id::{NodeId, Timestamp};

use super::etcd::Members;
use super::grpc::Put;
use super::load::{Load, Ours, Seen};
use super::voters::Voters;
use super::{disk, wire};
use crate::bench::{Aim, Bench, BenchError, Row, Samples, rounds};

/// Clients at once.
const CLIENTS: usize = 256;
/// Bytes of etcd's value: with it a request is as long as one of ours.
const VALUE_BYTES: usize = 200;

/// What one kind of server did.
#[derive(Default)]
struct Measured {
    /// Commits a second, of many clients.
    many: Samples,
    /// Microseconds a commit, of one client: the median of each round.
    one: Samples,
    one_p99: Samples,
    failed: u64,
}

impl Measured {
    fn take(&mut self, many: &(Seen, f64), one: &(Seen, f64)) {
        self.failed += many.0.failed + one.0.failed;
        self.many.push(many.1);
        self.one.extend(one.0.latencies.median());
        self.one_p99.extend(one.0.latencies.quantile(0.99));
    }
}

pub(super) fn measure(bench: &Bench) -> Result<Vec<Row>, BenchError> {
    let folder = bench.file("commits");
    let voters = Voters::start(&folder)?;
    prepare(&voters)?;
    let etcd = match Members::start(&folder) {
        Ok(members) => Some(members),
        Err(why) => {
            eprintln!("bench: NO ETCD: its columns stay empty: {why}");
            None
        }
    };
    let lasting = Duration::from_secs(if bench.quick { 2 } else { 5 });
    let [many, one] = [CLIENTS, 1].map(|clients| Load { clients, lasting });
    let (mut ours, mut theirs, mut sync) =
        (Measured::default(), Measured::default(), Samples::new());
    rounds(bench.repeats(3, 9), Duration::from_secs(300), || {
        sync.extend(disk::sync(&folder, 300)?.median());
        let address = voters.address(voters.leader()?);
        let entry = encode(cordon());
        let seen = many.put(&address, |_| Ours::new(entry.clone()))?;
        ours.take(&seen, &one.put(&address, |_| Ours::new(entry.clone()))?);
        if let Some(members) = &etcd {
            let address = members.leader()?;
            let put = |number: usize| Put::new(&format!("key-{number}"), &[b'v'; VALUE_BYTES]);
            let seen = many.put(&address, put)?;
            theirs.take(&seen, &one.put(&address, put)?);
        }
        Ok(())
    })?;
    if ours.failed + theirs.failed > 0 {
        return Err(BenchError::NotSeen {
            program: "servers".into(),
            expected: "every request done".into(),
            said: format!(
                "{} of ours and {} of etcd's failed",
                ours.failed, theirs.failed
            ),
        });
    }
    let version = etcd.map_or("etcd".to_owned(), |members| members.version.clone());
    Ok(rows(&ours, &theirs, &sync, &version))
}

/// The node that requests are about.
const NODE: NodeId = NodeId::from_bytes([0x77; 16]);

/// Admits the node.
fn join() -> Command {
    let size = Size {
        nodes: 1,
        guests: 0,
        services: 1,
    };
    let mut report = Workload::new(size, 1).node(1);
    report.id = NODE;
    report.pools.clear();
    report.networks.clear();
    Command::Node(NodeCommand::Join {
        report: Box::new(report),
        lower_baseline: true,
    })
}

/// A change that can be made again and again, as long as etcd's value.
pub(super) fn cordon() -> Command {
    Command::Node(NodeCommand::Cordon {
        node: NODE,
        reason: "r".repeat(VALUE_BYTES),
    })
}

pub(super) fn encode(command: Command) -> Vec<u8> {
    let entry = Entry {
        header: EntryHeader {
            now: Timestamp::from_millis(1_750_000_000_000),
            actor: "bench".into(),
            request: None,
        },
        command,
    };
    entry.encode().expect("a short entry")
}

/// Admits the node that requests are about.
pub(super) fn prepare(voters: &Voters) -> Result<(), BenchError> {
    let leader = voters.leader()?;
    voters.tell(leader, wire::PROPOSE, &encode(join()))
}

fn rows(ours: &Measured, theirs: &Measured, sync: &Samples, version: &str) -> Vec<Row> {
    let how = "three processes each with its own store on one disk, loopback TCP; ours asked in \
               frames, etcd over gRPC";
    let p99 = |measured: &Measured| measured.one_p99.median().unwrap_or(f64::NAN);
    vec![
        Row::new(
            format!("durable commits, 3 voters, {CLIENTS} clients"),
            "commits/s",
            &ours.many,
            Aim::AtLeastOfPeer(4.0),
        )
        .beside(version, &theirs.many)
        .note(how),
        Row::new(
            "durable commit, 3 voters, one writer",
            "us",
            &ours.one,
            Aim::AtMostOfPeer(1.3),
        )
        .beside("one append and fdatasync", sync),
        Row::new(
            "durable commit, 3 voters, one writer",
            "us",
            &ours.one,
            Aim::Nothing,
        )
        .beside(version, &theirs.one)
        .note(format!("p99 {:.0} and {:.0} us", p99(ours), p99(theirs))),
    ]
}
