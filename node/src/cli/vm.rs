//! `godwit vm`: guests of the cluster.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use godwit_proto::api::{Explanation, Guest, GuestState, Intent, StartGuest, VerdictKind, Written};
use godwit_proto::codes::{CodedError, ErrorCode};
use hyper::Method;
use serde_json::Value;

use super::client::{read, segment};
use super::session::{Reach, Session};
use super::table::{Facts, Table, bytes};
use super::text::{age, labels, sign};
use super::vm_create::Create;
use super::vm_migrate::{Forecast, Migrate};

/// How often is looked how far something is.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Make, run, move and look at guests of the cluster
#[derive(Args, Debug)]
pub(super) struct Vm {
    #[command(flatten)]
    reach: Reach,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Box<Create>),
    /// List guests
    #[command(visible_alias = "ls")]
    List {
        /// Only those on this node, by name or id
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        /// Only those with these labels
        #[arg(long, value_name = "KEY=VALUE[,KEY=VALUE...]")]
        label: Option<String>,
    },
    /// Show a guest
    Show(Name),
    /// Start a guest, and wait until it runs
    Start {
        #[command(flatten)]
        guest: Name,
        /// The node, by name or id; chosen by the scheduler unless it is given
        #[arg(long, value_name = "NODE")]
        node: Option<String>,
        #[command(flatten)]
        wait: Wait,
    },
    /// Stop a guest, and wait until it has stopped
    Stop {
        #[command(flatten)]
        guest: Name,
        #[command(flatten)]
        wait: Wait,
    },
    /// Delete a stopped guest; its volumes stay
    #[command(visible_alias = "rm")]
    Delete(Name),
    /// Connect this terminal with a guest's console; Ctrl-A x leaves it
    Console {
        #[command(flatten)]
        guest: Name,
        /// The virtio console in place of the serial port
        #[arg(long)]
        r#virtio: bool,
    },
    Migrate(Migrate),
    Forecast(Forecast),
    /// Say where a guest would go, and why not elsewhere
    Explain(Name),
}

/// A guest by name or id.
#[derive(Args, Clone, Debug)]
pub(super) struct Name {
    /// The guest, by name or id
    #[arg(value_name = "GUEST")]
    pub(super) name: String,
}

impl Name {
    /// The guest's path, and what follows it.
    pub(super) fn path(&self, rest: &str) -> String {
        format!("/v1/guests/{}{rest}", segment(&self.name))
    }
}

/// Whether and how long is waited.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Wait {
    /// Return when it is decided, not when it is done
    #[arg(long)]
    no_wait: bool,
    /// Longest time to wait, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    timeout: u64,
}

impl Vm {
    pub(super) fn execute(&self) -> ExitCode {
        self.reach.run(|session| match &self.command {
            Command::Create(create) => create.run(session),
            Command::List { node, label } => list(session, node.as_deref(), label.as_deref()),
            Command::Show(guest) => session.show(&guest.path(""), facts),
            Command::Start { guest, node, wait } => {
                let request = StartGuest { node: node.clone() };
                let path = guest.path("/start");
                let started = session.client.write(&Method::POST, &path, Some(&request))?;
                tell_started(session, &started, *wait)
            }
            Command::Stop { guest, wait } => stop(session, guest, *wait),
            Command::Delete(guest) => {
                let path = guest.path("");
                let deleted = session.client.change::<()>(&Method::DELETE, &path, None)?;
                session.done(&deleted, &format!("guest {} is deleted", guest.name))
            }
            Command::Console { guest, r#virtio } => {
                let which = if *r#virtio { "virtio" } else { "serial" };
                let path = guest.path(&format!("/console?which={which}"));
                session.client.console(&path)
            }
            Command::Migrate(migrate) => migrate.run(session),
            Command::Forecast(forecast) => forecast.run(session),
            Command::Explain(guest) => session.show(&guest.path("/explain"), explained),
        })
    }
}

fn list(session: &mut Session, node: Option<&str>, label: Option<&str>) -> Result<(), CodedError> {
    let mut query = Vec::new();
    for (name, value) in [("node", node), ("label", label)] {
        if let Some(value) = value {
            query.push(format!("{name}={}", segment(value)));
        }
    }
    let path = match query.is_empty() {
        true => "/v1/guests".to_owned(),
        false => format!("/v1/guests?{}", query.join("&")),
    };
    let columns = [
        "NAME", "STATE", "NODE", "VCPUS", "MEMORY", "FAILOVER", "AGE",
    ];
    session.list(&path, &columns, |guest: &Guest| {
        vec![
            guest.name.clone(),
            state(guest),
            place(guest),
            guest.vcpus.to_string(),
            bytes(guest.memory_bytes),
            failover(guest),
            age(guest.created),
        ]
    })
}

/// What a guest does, and what it is to do where that differs.
fn state(guest: &Guest) -> String {
    let state = guest.state.name();
    match guest.intent {
        Intent::Stopped if guest.node.is_some() => format!("{state}, to be stopped"),
        _ if guest.moving.is_some() => format!("{state}, moving"),
        _ => state.into(),
    }
}

fn place(guest: &Guest) -> String {
    let node = guest.node.as_ref().map_or("", |node| &node.name);
    match &guest.moving {
        Some(moving) => format!("{node} -> {}", moving.target.name),
        None => node.into(),
    }
}

fn failover(guest: &Guest) -> String {
    use godwit_proto::api::Failover;
    match guest.failover {
        Failover::Never => "never".into(),
        Failover::Restart { priority } => format!("restart={priority}"),
    }
}

fn facts(guest: &Guest) -> String {
    let failure = guest.failure.clone().map(CodedError::from);
    let disks = guest.disks.iter().map(|disk| {
        let mode = if disk.read_only { ", read-only" } else { "" };
        format!("{}: volume {}{mode}", disk.id, disk.volume.name)
    });
    let cards = guest.networks.iter();
    let cards =
        cards.map(|card| format!("{}: network {}, {}", card.id, card.network.name, card.mac));
    let boot = &guest.boot;
    let rate = guest.dirty_pages_per_second.unwrap_or(0);
    let facts = Facts::default()
        .add("name", &guest.name)
        .add("id", &guest.id)
        .add("state", state(guest))
        .add(
            "failure",
            failure.map_or_else(String::new, |error| error.to_string()),
        )
        .add("node", place(guest))
        .add(
            "epoch",
            guest
                .epoch
                .map_or_else(String::new, |epoch| epoch.to_string()),
        )
        .add("vcpus", format!("{} ({})", guest.vcpus, sign(&guest.cpu)))
        .add("memory", bytes(guest.memory_bytes))
        .add(
            "writes",
            match rate {
                0 => String::new(),
                rate => format!("{}/s", bytes(rate.saturating_mul(4096))),
            },
        )
        .add(
            "kernel",
            boot.kernel.as_deref().unwrap_or("built-in test guest"),
        )
        .add("initrd", boot.initrd.as_deref().unwrap_or(""))
        .add("cmdline", boot.cmdline.as_deref().unwrap_or(""))
        .add("disks", disks.collect::<Vec<_>>().join("\n"))
        .add("networks", cards.collect::<Vec<_>>().join("\n"))
        .add("failover", failover(guest))
        .add("labels", labels(&guest.labels))
        .add("selector", labels(&guest.node_selector))
        .add("created", guest.created.to_string());
    facts.to_string()
}

/// Where a guest goes, as a table.
pub(super) fn explained(explanation: &Explanation) -> String {
    let mut table = Table::new(&["NODE", "VERDICT", "LOAD", "WHY"]);
    for node in &explanation.nodes {
        table.row(vec![
            node.name.clone(),
            match node.verdict {
                VerdictKind::Chosen => "chosen".into(),
                VerdictKind::Fits => "fits".into(),
                VerdictKind::Rejected => "cannot".into(),
            },
            node.score.map_or_else(String::new, |score| {
                format!("{:.1} %", f64::from(score.load_permille) / 10.0)
            }),
            node.reasons.join("; "),
        ]);
    }
    let mut text = match &explanation.chosen {
        Some(node) => format!("guest {} goes to node {}\n", explanation.guest, node.name),
        None => format!("guest {} goes nowhere\n", explanation.guest),
    };
    text.push_str(&table.to_string());
    for remedy in &explanation.remedies {
        text.push_str(&format!("would help: {remedy}\n"));
    }
    text
}

/// Tells of a guest that is started, when it runs.
pub(super) fn tell_started(
    session: &mut Session,
    started: &Written<Value>,
    wait: Wait,
) -> Result<(), CodedError> {
    let guest = match wait.no_wait {
        true => read_guest(session, started)?,
        false => wait_for(session, &started.id, wait, |guest| {
            guest.state != GuestState::Starting
        })?,
    };
    if let Some(failure) = &guest.failure {
        return Err(failure.clone().into());
    }
    let (name, node) = (&guest.name, place(&guest));
    let line = match (guest.state, node.as_str()) {
        (GuestState::Starting, node) => format!("guest {name} is started on node {node}"),
        (GuestState::Stopped, _) => format!("guest {name} has ended"),
        (state, node) => format!("guest {name} is {} on node {node}", state.name()),
    };
    session.done(&guest, &line)
}

fn stop(session: &mut Session, guest: &Name, wait: Wait) -> Result<(), CodedError> {
    let path = guest.path("/stop");
    let stopping = session.client.write::<()>(&Method::POST, &path, None)?;
    let has_stopped = |guest: &Guest| guest.node.is_none();
    let stopped = match wait.no_wait {
        true => read_guest(session, &stopping)?,
        false => wait_for(session, &stopping.id, wait, has_stopped)?,
    };
    let line = match has_stopped(&stopped) {
        true => format!("guest {} has stopped", stopped.name),
        false => format!("guest {} is told to stop", stopped.name),
    };
    session.done(&stopped, &line)
}

/// The guest of a change, as it is then.
pub(super) fn read_guest(
    session: &mut Session,
    written: &Written<Value>,
) -> Result<Guest, CodedError> {
    match &written.object {
        Some(guest) => read(guest.clone()),
        None => session.fetch(&format!("/v1/guests/{}", segment(&written.id))),
    }
}

/// Waits until a guest is as wanted.
fn wait_for(
    session: &mut Session,
    id: &str,
    wait: Wait,
    wanted: impl Fn(&Guest) -> bool,
) -> Result<Guest, CodedError> {
    let patience = Duration::from_secs(wait.timeout);
    let began = Instant::now();
    loop {
        let guest: Guest = session.fetch(&format!("/v1/guests/{}", segment(id)))?;
        if wanted(&guest) {
            return Ok(guest);
        }
        if began.elapsed() >= patience {
            let message = format!(
                "guest {} is {} after {} s",
                guest.name,
                state(&guest),
                wait.timeout
            );
            let error = CodedError::new(ErrorCode::Busy, message);
            return Err(error.with_fix("it goes on; look with `godwit vm show`"));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
