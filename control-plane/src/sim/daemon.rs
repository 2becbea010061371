//! A node's daemon: carries what comes to the controller and the agent, and does what they say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use godwit_proto::cluster::{DesiredState, Heartbeat, HeartbeatAnswer, Ledger};
use godwit_proto::id::Revision;

use super::Broken;
use super::log::Leader;
use super::world::{Event, Message, World};
use crate::agent::{Action, Agent, Found};

/// How often a leader asks whether it still is one.
const PING: Duration = Duration::from_millis(300);
/// How often a daemon looks around, in milliseconds.
const POLL_MS: (u64, u64) = (80, 240);
/// What was sent is not sent again before.
const PUSH_AGAIN: Duration = Duration::from_millis(500);

pub(super) enum Role {
    Follower,
    Candidate { term: u64, votes: BTreeSet<usize> },
    Leader(Box<Leader>),
}

pub(super) struct Daemon {
    pub(super) agent: Agent,
    pub(super) role: Role,
    /// Who was last heard to lead.
    pub(super) leader: Option<usize>,
    pub(super) election_at: Duration,
    ping_at: Duration,
    heartbeat_at: Duration,
    sequence: u64,
    /// When each heartbeat was sent, by this machine's clock.
    asked: BTreeMap<u64, Duration>,
    /// A ledger that is being written.
    writing: Option<Ledger>,
}

impl World {
    /// A daemon starts, with nothing but its disk and the guest processes that are there.
    pub(super) fn start_daemon(&mut self, host: usize) {
        if self.hosts[host].daemon.is_some() {
            return;
        }
        let clock = self.clock(host);
        let election_at = self.election_time(host);
        let bound = self.setup.bound();
        let found = &mut self.hosts[host];
        found.boot += 1;
        found.stopped_until = None;
        let ledger = match self.setup.broken {
            Broken::NoLedger => Ledger::default(),
            _ => found.disk.ledger.clone(),
        };
        found.daemon = Some(Daemon {
            agent: Agent::new(found.id, bound, true, &ledger),
            role: Role::Follower,
            leader: None,
            election_at,
            ping_at: clock,
            heartbeat_at: clock,
            sequence: 0,
            asked: BTreeMap::new(),
            writing: None,
        });
        self.note(|| format!("host {host}: daemon starts"));
        self.poll_again(host);
    }

    /// A daemon dies. What it was writing lies on the disk or does not.
    pub(super) fn kill_daemon(&mut self, host: usize) {
        let Some(daemon) = self.hosts[host].daemon.take() else {
            return;
        };
        self.note(|| format!("host {host}: daemon dies"));
        let written = self.random.one_in(2);
        let found = &mut self.hosts[host];
        found.boot += 1;
        if let Some(ledger) = daemon.writing.filter(|_| written) {
            found.disk.ledger = ledger;
        }
        // How processes ended was known to the daemon alone.
        found.processes.retain(|_, process| process.ended.is_none());
    }

    fn poll_again(&mut self, host: usize) {
        let boot = self.hosts[host].boot;
        let delay = self.between(POLL_MS.0, POLL_MS.1);
        self.after(delay, Event::Poll { host, boot });
    }

    pub(super) fn daemon_event(&mut self, host: usize, event: Event) {
        match event {
            Event::Poll { .. } => {
                self.poll(host);
                self.poll_again(host);
            }
            Event::Synced { term, id, .. } => self.synced(host, term, id),
            Event::Recorded { ledger, .. } => self.recorded(host, &ledger),
            Event::Deliver { from, message, .. } => self.message(host, from, message),
            _ => {}
        }
    }

    fn message(&mut self, host: usize, from: usize, message: Message) {
        match message {
            Message::Vote { term } => self.asked_for_vote(host, from, term),
            Message::Voted { term } => self.voted(host, from, term),
            Message::Append { term, id } => self.append(host, from, term, id),
            Message::Appended { term, id } => self.appended(host, from, term, id),
            Message::Ping { term, began } => self.pinged(host, from, term, began),
            Message::Pong { term, began } => self.ponged(host, from, term, began),
            Message::Higher { term } => self.higher(host, term),
            Message::Heartbeat(heartbeat) => self.heard(host, from, &heartbeat),
            Message::Answer(answer) => self.answered(host, &answer),
            Message::Push(desired) => self.learn(host, &desired),
            Message::Propose(command, request) => {
                if self.leader(host).is_some() {
                    self.propose(host, command, request);
                }
            }
            Message::ToProcess(..) => {}
        }
    }

    fn poll(&mut self, host: usize) {
        let clock = self.clock(host);
        let is_voter = host < self.setup.voters;
        let Some(daemon) = &mut self.hosts[host].daemon else {
            return;
        };
        match daemon.role {
            Role::Leader(_) => {
                if clock >= daemon.ping_at {
                    daemon.ping_at = clock + PING;
                    self.ping(host);
                }
                self.lead(host);
            }
            Role::Follower | Role::Candidate { .. } => {
                if is_voter && clock >= daemon.election_at {
                    self.campaign(host);
                }
            }
        }
        let due = self.hosts[host].daemon.as_ref();
        if due.is_some_and(|daemon| clock >= daemon.heartbeat_at) {
            self.beat(host);
        }
        self.act(host);
    }

    /// What a leader does when something has changed, or time has passed.
    pub(super) fn lead(&mut self, host: usize) {
        let clock = self.clock(host);
        let found = &mut self.hosts[host];
        let Some(Role::Leader(leader)) = found.daemon.as_mut().map(|daemon| &mut daemon.role)
        else {
            return;
        };
        let Some(controller) = &mut leader.controller else {
            return;
        };
        let commands = controller.tick(clock, &found.replica);
        let mut pushes = Vec::new();
        let revision = found.replica.revision();
        for node in controller.outdated(&found.replica).collect::<Vec<_>>() {
            let pushed = leader.pushed.get(&node);
            let again =
                |(to, at): &(Revision, Duration)| *to < revision || clock >= *at + PUSH_AGAIN;
            if pushed.is_none_or(again)
                && let Some(desired) = controller.push(node, &found.replica)
            {
                leader.pushed.insert(node, (revision, clock));
                pushes.push((node, desired));
            }
        }
        for (node, desired) in pushes {
            let to = self.host_of(node);
            self.send(host, to, Message::Push(desired));
        }
        for command in commands {
            self.note(|| format!("host {host} decides {command:?}"));
            self.propose_own(host, command);
        }
    }

    fn heard(&mut self, host: usize, from: usize, heartbeat: &Heartbeat) {
        let clock = self.clock(host);
        let found = &mut self.hosts[host];
        let Some(Role::Leader(leader)) = found.daemon.as_mut().map(|daemon| &mut daemon.role)
        else {
            return;
        };
        let Some(controller) = &mut leader.controller else {
            return;
        };
        let answer = controller.heard(clock, heartbeat, &found.replica);
        self.send(host, from, Message::Answer(answer));
    }

    /// Tells whoever seems to lead that this node lives.
    fn beat(&mut self, host: usize) {
        let clock = self.clock(host);
        let Some(daemon) = &mut self.hosts[host].daemon else {
            return;
        };
        daemon.heartbeat_at = clock + Duration::from_millis(super::LEASE.renew_ms.into());
        daemon.sequence += 1;
        let heartbeat = daemon.agent.heartbeat(daemon.sequence);
        daemon.asked.insert(daemon.sequence, clock);
        while daemon.asked.len() > 32 {
            daemon.asked.pop_first();
        }
        let leads = matches!(daemon.role, Role::Leader(_));
        let leader = if leads { Some(host) } else { daemon.leader };
        if let Some(leader) = leader {
            self.send(host, leader, Message::Heartbeat(heartbeat));
        }
    }

    fn answered(&mut self, host: usize, answer: &HeartbeatAnswer) {
        let clock = self.clock(host);
        let broken = self.setup.broken;
        let found = self.found(host);
        let Some(daemon) = &mut self.hosts[host].daemon else {
            return;
        };
        let Some(mut asked) = daemon.asked.get(&answer.sequence).copied() else {
            return;
        };
        if broken == Broken::FromArrival {
            asked = clock;
        }
        let seen = daemon.agent.heartbeat(0).seen;
        let mut answer = answer.clone();
        if let Some(desired) = answer
            .desired
            .as_mut()
            .filter(|_| broken == Broken::StaleCopy)
        {
            revive_any(desired, &found);
        }
        let learned = daemon.agent.answered(asked, &answer);
        let is_news = learned.is_ok() && daemon.agent.heartbeat(0).seen > seen;
        if learned.is_err() {
            self.count("older desired states");
        }
        self.after_news(host, is_news);
    }

    fn learn(&mut self, host: usize, desired: &DesiredState) {
        let found = self.found(host);
        let broken = self.setup.broken;
        let Some(daemon) = &mut self.hosts[host].daemon else {
            return;
        };
        let mut desired = desired.clone();
        if broken == Broken::StaleCopy {
            revive_any(&mut desired, &found);
        }
        let is_news = daemon.agent.learn(&desired).is_ok();
        if !is_news {
            self.count("older desired states");
        }
        self.after_news(host, is_news);
    }

    fn after_news(&mut self, host: usize, is_news: bool) {
        if is_news {
            self.beat(host);
        }
        self.prove(host);
        self.act(host);
    }

    /// Compares, and does what follows.
    pub(super) fn act(&mut self, host: usize) {
        let clock = self.clock(host);
        let found = self.found(host);
        let Some(daemon) = &mut self.hosts[host].daemon else {
            return;
        };
        for action in daemon.agent.decide(clock, &found) {
            self.take_up(host, action);
        }
    }

    fn take_up(&mut self, host: usize, action: Action) {
        if !matches!(action, Action::Record(_)) {
            self.note(|| format!("host {host}: {}", shortly(&action)));
        }
        match action {
            Action::Record(ledger) => {
                let boot = self.hosts[host].boot;
                let delay = self.between(1, 20);
                let Some(daemon) = &mut self.hosts[host].daemon else {
                    return;
                };
                if daemon.writing.is_none() {
                    daemon.writing = Some(ledger.clone());
                    self.after(delay, Event::Recorded { host, boot, ledger });
                }
            }
            Action::Propose(command) => {
                let daemon = self.hosts[host].daemon.as_ref();
                let leads = daemon.is_some_and(|daemon| matches!(daemon.role, Role::Leader(_)));
                let leader = daemon.and_then(|daemon| daemon.leader);
                let leader = if leads { Some(host) } else { leader };
                if let Some(leader) = leader {
                    self.send(host, leader, Message::Propose(command, None));
                }
            }
            action => self.ask_process(host, action),
        }
    }

    fn recorded(&mut self, host: usize, ledger: &Ledger) {
        self.hosts[host].disk.ledger = ledger.clone();
        if let Some(daemon) = &mut self.hosts[host].daemon {
            daemon.writing = None;
            daemon.agent.recorded(ledger);
        }
        self.act(host);
    }
}

/// Breaks a rule: whatever copy is there may go on.
fn revive_any(desired: &mut DesiredState, found: &[Found]) {
    for guest in &mut desired.guests {
        let copy = found.iter().find(|process| process.guest == guest.id);
        guest.revives = copy.map(|process| process.epoch);
    }
}

fn shortly(action: &Action) -> String {
    match action {
        Action::Start(launch) => format!("start {} at {}", launch.name, launch.epoch),
        Action::PrepareReceive { launch, .. } => {
            format!("prepare to receive {} at {}", launch.name, launch.epoch)
        }
        action => format!("{action:?}"),
    }
}
