//! `godwit node`: this machine's, and the members of the cluster.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use godwit_proto::api::{Cordon, Node, Scheduling};
use godwit_proto::codes::{CodedError, ErrorCode};
use hyper::Method;

use super::client::segment;
use super::daemon::Daemon;
use super::session::{Reach, Session};
use super::table::{Facts, bytes};
use super::text::{age, labels};

/// Run this machine's node; or look at the cluster's nodes, and keep guests off them
///
/// Without a command this is the daemon. Guests outlive it: it can be stopped, upgraded and started again
/// while they run.
#[derive(Args, Debug)]
pub(super) struct NodeArgs {
    #[command(flatten)]
    reach: Reach,
    #[command(flatten)]
    daemon: Daemon,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List nodes
    #[command(visible_alias = "ls")]
    List,
    /// Show a node
    Show(Name),
    /// Place no more guests on a node; those that are there stay
    Cordon {
        #[command(flatten)]
        node: Name,
        /// Why, for people
        #[arg(long, value_name = "TEXT", default_value = "")]
        reason: String,
    },
    /// Place guests on a node again; ends a drain
    Uncordon(Name),
    /// Move every guest away from a node, one after the other, and place none on it
    ///
    /// A guest that cannot be moved stays and runs on; `godwit node show` tells why.
    Drain {
        #[command(flatten)]
        node: Name,
        /// Return when it is begun, not when the node is empty
        #[arg(long)]
        no_wait: bool,
    },
    /// Take a node out of the cluster
    ///
    /// An empty node is simply gone. With --force its guests go with it, and those that other nodes can
    /// start are started there: only for a machine that does not run, and will not.
    Remove {
        #[command(flatten)]
        node: Name,
        /// Although it has guests
        #[arg(long)]
        force: bool,
    },
}

#[derive(Args, Clone, Debug)]
struct Name {
    /// The node, by name or id
    #[arg(value_name = "NODE")]
    name: String,
}

impl Name {
    fn path(&self, rest: &str) -> String {
        format!("/v1/nodes/{}{rest}", segment(&self.name))
    }
}

impl NodeArgs {
    pub(super) fn execute(&self) -> ExitCode {
        let Some(command) = &self.command else {
            return self.daemon.execute(self.reach.path());
        };
        self.reach.run(|session| match command {
            Command::List => list(session),
            Command::Show(node) => session.show(&node.path(""), facts),
            Command::Cordon { node, reason } => {
                let request = Cordon {
                    reason: reason.clone(),
                };
                let path = node.path("/cordon");
                let changed = session
                    .client
                    .change(&Method::POST, &path, Some(&request))?;
                session.done(&changed, &format!("node {} is cordoned", node.name))
            }
            Command::Uncordon(node) => {
                let path = node.path("/uncordon");
                let changed = session.client.change::<()>(&Method::POST, &path, None)?;
                session.done(&changed, &format!("node {} takes guests", node.name))
            }
            Command::Drain { node, no_wait } => drain(session, node, *no_wait),
            Command::Remove { node, force } => {
                let path = node.path(if *force { "?force=true" } else { "" });
                let changed = session.client.change::<()>(&Method::DELETE, &path, None)?;
                session.done(&changed, &format!("node {} is removed", node.name))
            }
        })
    }
}

/// How often is looked whether a node is empty.
const LOOK_EVERY: Duration = Duration::from_millis(250);

fn drain(session: &mut Session, node: &Name, no_wait: bool) -> Result<(), CodedError> {
    let path = node.path("/drain");
    let changed = session.client.change::<()>(&Method::POST, &path, None)?;
    if no_wait {
        return session.done(&changed, &format!("node {} is being emptied", node.name));
    }
    let mut left = u64::MAX;
    loop {
        let now: Node = session.fetch(&node.path(""))?;
        if now.guests == 0 {
            return session.done(&changed, &format!("node {} is empty", node.name));
        }
        if !matches!(now.scheduling, Scheduling::Draining { .. }) {
            let message = format!("node {} is not being emptied any more", node.name);
            return Err(CodedError::new(ErrorCode::Cancelled, message)
                .with_fix("look at `godwit event watch` for who ended that"));
        }
        if now.guests != left && !session.output.json {
            left = now.guests;
            eprintln!("{left} guests are left on node {}", node.name);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

fn list(session: &mut Session) -> Result<(), CodedError> {
    let columns = [
        "NAME",
        "STATE",
        "PLACEMENT",
        "GUESTS",
        "VCPUS",
        "MEMORY",
        "ADDRESS",
        "AGE",
    ];
    session.list("/v1/nodes", &columns, |node: &Node| {
        vec![
            node.name.clone(),
            node.state.name().into(),
            placement(node),
            node.guests.to_string(),
            format!("{} on {}", node.used_vcpus, node.cpus),
            memory(node),
            node.address.clone(),
            age(node.created),
        ]
    })
}

fn memory(node: &Node) -> String {
    format!(
        "{} of {}",
        bytes(node.used_memory_bytes),
        bytes(node.memory_bytes)
    )
}

fn placement(node: &Node) -> String {
    match &node.scheduling {
        Scheduling::Enabled => "enabled".into(),
        Scheduling::Cordoned { reason } if reason.is_empty() => "cordoned".into(),
        Scheduling::Cordoned { reason } => format!("cordoned ({reason})"),
        Scheduling::Draining { .. } => "draining".into(),
    }
}

fn facts(node: &Node) -> String {
    let names = |named: &[godwit_proto::api::Named]| -> String {
        let names = named.iter().map(|named| named.name.as_str());
        names.collect::<Vec<_>>().join(", ")
    };
    let lease = node.lease.map(|lease| {
        let held = if lease.held { "held" } else { "lapsed" };
        let seconds = |ms: u32| f64::from(ms) / 1e3;
        let (duration, renew) = (seconds(lease.duration_ms), seconds(lease.renew_ms));
        format!(
            "{held}, {duration} s, renewed every {renew} s, number {}",
            lease.incarnation
        )
    });
    let facts = Facts::default()
        .add("name", &node.name)
        .add("id", &node.id)
        .add("state", node.state.name())
        .add("lease", lease.unwrap_or_default())
        .add("placement", placement(node))
        .add("address", &node.address)
        .add("certificate", &node.certificate)
        .add("guests", node.guests.to_string())
        .add(
            "vcpus",
            format!("{} on {} processors", node.used_vcpus, node.cpus),
        )
        .add("memory", memory(node))
        .add(
            "cpu",
            match &node.cpu_level {
                Some(level) => format!("{}, {level}", node.cpu_vendor),
                None => node.cpu_vendor.clone(),
            },
        )
        .add("domain", &node.failure_domain)
        .add("pools", names(&node.pools))
        .add("networks", names(&node.networks))
        .add("labels", labels(&node.labels))
        .add("joined", node.created.to_string());
    facts.to_string()
}
