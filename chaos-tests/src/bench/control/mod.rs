//! Subject `control`: commits of three voters, a leader that is killed, placement.
//!
//! Voters are processes of their own, this program once more as `bench voter`, with a store on the
//! disk each; they and the clients speak over loopback TCP, framed as in `wire`. etcd runs beside
//! them, three members as well, asked over gRPC by a client as small as ours. Both clusters are up
//! all the time, and asked in turn.

mod commits;
mod disk;
mod etcd;
mod grpc;
mod load;
mod placement;
mod takeover;
mod voter;
mod voters;
mod wire;

use super::{Bench, BenchError, Document, Row};

pub use voter::run as run_voter;

type Part = (&'static str, fn(&Bench) -> Result<Vec<Row>, BenchError>);

/// The parts, by name.
const PARTS: [Part; 4] = [
    ("commits", commits::measure),
    ("takeover", takeover::measure),
    ("placement", placement::decisions),
    ("state", placement::state),
];

/// The names of the parts.
pub(super) fn parts() -> Vec<&'static str> {
    PARTS.map(|(name, _)| name).to_vec()
}

pub(super) fn measure(bench: &Bench, document: &mut Document) {
    for (name, part) in PARTS {
        document.add(bench, name, part);
    }
}

fn system(doing: &str) -> impl FnOnce(std::io::Error) -> BenchError {
    let doing = doing.to_owned();
    move |source| BenchError::System { doing, source }
}
