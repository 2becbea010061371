//! `godwit cluster status`.

use std::process::ExitCode;

use clap::Args;
use godwit_proto::api::{ClusterStatus, Counts, Named};

use super::session::Reach;
use super::table::Facts;

/// Say where the cluster stands, as this node sees it; works without a majority, too
#[derive(Args, Debug)]
pub(super) struct Status {
    #[command(flatten)]
    reach: Reach,
}

impl Status {
    pub(super) fn execute(&self) -> ExitCode {
        self.reach.run(|session| {
            let document = session.client.get("/v1/cluster")?;
            session.write(document, facts)
        })
    }
}

fn facts(status: &ClusterStatus) -> String {
    let names = |named: &[Named]| -> String {
        let names = named.iter().map(|named| named.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let leader = match &status.leader {
        Some(leader) => format!("{}, term {}", leader.name, status.term),
        None => format!("none known, term {}", status.term),
    };
    let majority = match status.quorum {
        true => "reachable",
        false => "NOT reachable: nothing can be changed, reads need --stale",
    };
    let facts = Facts::default()
        .add("cluster", &status.name)
        .add(
            "node",
            format!("{} (version {})", status.node.name, status.version),
        )
        .add("leader", leader)
        .add("majority", majority)
        .add("voters", names(&status.voters))
        .add("learners", names(&status.learners))
        .add("revision", status.revision.to_string())
        .add("nodes", counts(&status.nodes))
        .add("guests", counts(&status.guests))
        .add("migrations", format!("{} under way", status.migrations));
    facts.to_string()
}

fn counts(counts: &Counts) -> String {
    let counts = counts
        .iter()
        .map(|(state, count)| format!("{count} {state}"));
    match counts.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "none".into(),
        some => some,
    }
}
