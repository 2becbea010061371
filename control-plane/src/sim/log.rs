//! The replicated log, as far as those above it can tell: one order of entries, each on a quorum's
//! disks before it counts; leaders by term, one for each; entries of a deposed leader that count or
//! do not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use godwit_proto::cluster::{ClusterCommand, Command, Entry, EntryHeader, NodeCommand, Response};
use godwit_proto::id::{NodeId, RequestId, Revision, Timestamp};

use super::Broken;
use super::daemon::Role;
use super::world::{Event, Message, World};
use crate::controller::Controller;
use crate::invariants;

/// What there is of the log, wherever it is.
#[derive(Default)]
pub(super) struct Log {
    /// Committed, in order.
    pub(super) entries: Vec<Entry>,
    positions: BTreeMap<u64, usize>,
    /// Proposed, and not committed yet as far as anybody knows.
    open: BTreeMap<u64, Open>,
    next_id: u64,
}

struct Open {
    entry: Entry,
    term: u64,
    /// Voters that have it on their disks.
    holders: BTreeSet<usize>,
}

/// What a leader knows.
pub(super) struct Leader {
    pub(super) term: u64,
    /// What it has proposed, in order, and who has told that it has it.
    pending: VecDeque<(u64, BTreeSet<usize>)>,
    /// Rounds under way, by when they began, and who answered.
    rounds: BTreeMap<Duration, BTreeSet<usize>>,
    /// The entry that begins its reign.
    lead: u64,
    pub(super) controller: Option<Controller>,
    /// What each node was sent of late, and when.
    pub(super) pushed: BTreeMap<NodeId, (Revision, Duration)>,
}

impl World {
    const fn majority(&self) -> usize {
        self.setup.voters / 2 + 1
    }

    fn other_voters(&self, host: usize) -> impl Iterator<Item = usize> + use<> {
        (0..self.setup.voters).filter(move |voter| *voter != host)
    }

    fn promised(&self, host: usize) -> u64 {
        self.hosts[host].disk.promised
    }

    /// Another term is known of: whoever led or campaigned in an earlier one does not any more.
    fn see_term(&mut self, host: usize, term: u64) {
        if term > self.promised(host) {
            self.hosts[host].disk.promised = term;
            self.step_down(host);
        }
    }

    fn step_down(&mut self, host: usize) {
        let election = self.election_time(host);
        if let Some(daemon) = &mut self.hosts[host].daemon {
            daemon.role = Role::Follower;
            daemon.election_at = election;
        }
    }

    pub(super) fn election_time(&mut self, host: usize) -> Duration {
        self.clock(host) + self.between(800, 1600)
    }

    /// A voter that has heard of no leader for too long wants to be one.
    pub(super) fn campaign(&mut self, host: usize) {
        let term = self.promised(host) + 1;
        self.hosts[host].disk.promised = term;
        let election = self.election_time(host);
        let Some(daemon) = &mut self.hosts[host].daemon else {
            return;
        };
        daemon.election_at = election;
        let votes = BTreeSet::from([host]);
        daemon.role = Role::Candidate { term, votes };
        for voter in self.other_voters(host) {
            self.send(host, voter, Message::Vote { term });
        }
        self.count_votes(host);
    }

    pub(super) fn asked_for_vote(&mut self, host: usize, from: usize, term: u64) {
        if term > self.promised(host) {
            self.see_term(host, term);
            self.send(host, from, Message::Voted { term });
        }
    }

    pub(super) fn voted(&mut self, host: usize, from: usize, vote: u64) {
        let daemon = self.hosts[host].daemon.as_mut();
        if let Some(Role::Candidate { term, votes }) = daemon.map(|daemon| &mut daemon.role)
            && *term == vote
        {
            votes.insert(from);
            self.count_votes(host);
        }
    }

    fn count_votes(&mut self, host: usize) {
        let majority = self.majority();
        let daemon = self.hosts[host].daemon.as_ref();
        let (term, votes) = match daemon.map(|daemon| &daemon.role) {
            Some(Role::Candidate { term, votes }) if votes.len() >= majority => {
                (*term, votes.clone())
            }
            _ => return,
        };
        self.note(|| format!("host {host} leads in term {term}, by {votes:?}"));
        self.count("elections");
        // What any of its voters has may count, so it counts; what none of them has cannot.
        let open = std::mem::take(&mut self.log.open);
        let (taken, lost): (BTreeMap<_, _>, BTreeMap<_, _>) = open
            .into_iter()
            .filter(|(id, _)| !self.log.positions.contains_key(id))
            .partition(|(_, open)| open.term >= term || !open.holders.is_disjoint(&votes));
        if !lost.is_empty() {
            self.count("entries lost with a leader");
        }
        self.log.open = taken;
        let mut pending = VecDeque::new();
        for (id, open) in &mut self.log.open {
            if open.term < term {
                open.term = term;
                open.holders.clear();
                pending.push_back((*id, BTreeSet::new()));
            }
        }
        let adopted: Vec<u64> = pending.iter().map(|(id, _)| *id).collect();
        if !adopted.is_empty() {
            self.count("entries taken over by a leader");
        }
        let leader = Leader {
            term,
            pending,
            rounds: BTreeMap::new(),
            lead: 0,
            controller: None,
            pushed: BTreeMap::new(),
        };
        let daemon = self.hosts[host].daemon.as_mut();
        daemon.expect("it was elected").role = Role::Leader(Box::new(leader));
        for id in adopted {
            self.replicate(host, term, id);
        }
        let node = self.hosts[host].id;
        let lead = Command::Cluster(ClusterCommand::Lead { node });
        let id = self.propose(host, lead, None);
        if let Some(leader) = self.leader(host) {
            leader.lead = id;
        }
        self.ping(host);
    }

    pub(super) fn leader(&mut self, host: usize) -> Option<&mut Leader> {
        match &mut self.hosts[host].daemon.as_mut()?.role {
            Role::Leader(leader) => Some(leader),
            _ => None,
        }
    }

    /// A leader takes a command into its log.
    pub(super) fn propose(
        &mut self,
        host: usize,
        command: Command,
        request: Option<RequestId>,
    ) -> u64 {
        let millis = self.clock(host).as_millis() as u64;
        let id = self.log.next_id + 1;
        self.log.next_id = id;
        let Some(leader) = self.leader(host) else {
            return id;
        };
        leader.pending.push_back((id, BTreeSet::new()));
        let term = leader.term;
        let actor = format!("host {host}");
        let now = Timestamp::from_millis(millis);
        let header = EntryHeader {
            now,
            actor,
            request,
        };
        let open = Open {
            entry: Entry { header, command },
            term,
            holders: BTreeSet::new(),
        };
        self.log.open.insert(id, open);
        self.replicate(host, term, id);
        id
    }

    fn replicate(&mut self, host: usize, term: u64, id: u64) {
        self.sync(host, term, id);
        for voter in self.other_voters(host) {
            self.send(host, voter, Message::Append { term, id });
        }
    }

    fn sync(&mut self, host: usize, term: u64, id: u64) {
        let boot = self.hosts[host].boot;
        let delay = self.between(0, 10);
        let synced = Event::Synced {
            host,
            boot,
            term,
            id,
        };
        self.after(delay, synced);
    }

    pub(super) fn append(&mut self, host: usize, from: usize, term: u64, id: u64) {
        if term < self.promised(host) {
            let term = self.promised(host);
            self.send(host, from, Message::Higher { term });
            return;
        }
        self.see_term(host, term);
        self.sync(host, term, id);
    }

    /// It lies on a voter's disk, unless somebody else leads by now.
    pub(super) fn synced(&mut self, host: usize, term: u64, id: u64) {
        if self.promised(host) > term {
            return;
        }
        if let Some(open) = self.log.open.get_mut(&id)
            && open.term == term
        {
            open.holders.insert(host);
        }
        for voter in 0..self.setup.voters {
            let leads = match self.hosts[voter].daemon.as_ref().map(|daemon| &daemon.role) {
                Some(Role::Leader(leader)) => leader.term == term,
                _ => false,
            };
            if leads && voter == host {
                self.appended(voter, host, term, id);
            } else if leads {
                self.send(host, voter, Message::Appended { term, id });
            }
        }
    }

    pub(super) fn appended(&mut self, host: usize, from: usize, term: u64, id: u64) {
        let majority = self.majority();
        let Some(leader) = self.leader(host).filter(|leader| leader.term == term) else {
            return;
        };
        if let Some((_, holders)) = leader.pending.iter_mut().find(|(found, _)| *found == id) {
            holders.insert(from);
        }
        let mut is_news = false;
        while let Some(leader) = self.leader(host)
            && let Some((id, holders)) = leader.pending.front()
            && holders.len() >= majority
        {
            let id = *id;
            leader.pending.pop_front();
            self.commit(host, id);
            is_news = true;
        }
        if is_news {
            self.lead(host);
        }
    }

    /// An entry is on a quorum's disks.
    fn commit(&mut self, host: usize, id: u64) {
        if !self.log.positions.contains_key(&id) {
            let Some(open) = self.log.open.remove(&id) else {
                self.fail(format!("entry {id} was committed and lost"));
                return;
            };
            self.log.positions.insert(id, self.log.entries.len());
            self.apply_truth(&open.entry);
            self.log.entries.push(open.entry);
        }
        let position = self.log.positions[&id];
        let responses = self.catch_up(host, position + 1);
        let entry = self.log.entries[position].clone();
        if let (Some(Response::Applied(applied)), Some(_)) = (responses, entry.header.request) {
            self.acknowledged.push((entry, applied));
            self.count("acknowledged");
        }
        let bound = self.setup.bound();
        let clock = match self.setup.broken {
            Broken::NoWaiting => Duration::ZERO,
            _ => self.clock(host),
        };
        let found = &mut self.hosts[host];
        if let Some(daemon) = &mut found.daemon
            && let Role::Leader(leader) = &mut daemon.role
            && leader.lead == id
        {
            leader.controller = Some(Controller::elected(clock, bound, &found.replica));
        }
    }

    /// Brings a node's state up to an entry; answers what became of that one, if it was new.
    pub(super) fn catch_up(&mut self, host: usize, length: usize) -> Option<Response> {
        let found = &mut self.hosts[host];
        let mut last = None;
        while found.applied < length {
            last = Some(found.replica.apply(&self.log.entries[found.applied]));
            found.applied += 1;
        }
        last
    }

    /// What the log as a whole leads to; every invariant of state and step.
    fn apply_truth(&mut self, entry: &Entry) {
        let before = self.truth.clone();
        let response = self.truth.apply(entry);
        let Response::Applied(_) = response else {
            self.note(|| format!("refused: {:?} {response:?}", entry.command));
            return;
        };
        self.note(|| {
            let revision = self_revision(&before);
            format!("{revision}: {:?} by {}", entry.command, entry.header.actor)
        });
        let wrong = invariants::check_step(&before, &self.truth);
        // An index is built anew for this, so not each time.
        let wrong = match self.truth.revision().get().is_multiple_of(16) {
            true => [wrong, invariants::check(&self.truth)].concat(),
            false => wrong,
        };
        if let Some(violation) = wrong.first() {
            self.fail(format!("{violation}, after {:?}", entry.command));
        }
        self.check_entry(&entry.command);
    }

    /// A leader asks everybody whether it still is one.
    pub(super) fn ping(&mut self, host: usize) {
        let began = self.clock(host);
        let lonely = self.setup.broken == Broken::NoQuorum;
        let Some(leader) = self.leader(host) else {
            return;
        };
        let term = leader.term;
        leader.rounds.insert(began, BTreeSet::from([host]));
        if lonely && let Some(controller) = &mut leader.controller {
            controller.confirmed(began);
        }
        while leader.rounds.len() > 8 {
            leader.rounds.pop_first();
        }
        let missing: Vec<(u64, BTreeSet<usize>)> =
            leader.pending.iter().take(32).cloned().collect();
        for other in (0..self.hosts.len()).filter(|other| *other != host) {
            self.send(host, other, Message::Ping { term, began });
        }
        for (id, holders) in missing {
            for voter in self
                .other_voters(host)
                .filter(|voter| !holders.contains(voter))
            {
                self.send(host, voter, Message::Append { term, id });
            }
        }
    }

    pub(super) fn pinged(&mut self, host: usize, from: usize, term: u64, began: Duration) {
        let is_voter = host < self.setup.voters;
        if term < self.promised(host) {
            let term = self.promised(host);
            self.send(host, from, Message::Higher { term });
            return;
        }
        self.see_term(host, term);
        let election = self.election_time(host);
        if let Some(daemon) = &mut self.hosts[host].daemon {
            daemon.election_at = election;
            daemon.leader = Some(from);
        }
        if is_voter {
            self.send(host, from, Message::Pong { term, began });
        }
    }

    pub(super) fn ponged(&mut self, host: usize, from: usize, term: u64, began: Duration) {
        let majority = self.majority();
        let Some(leader) = self.leader(host).filter(|leader| leader.term == term) else {
            return;
        };
        if let Some(answers) = leader.rounds.get_mut(&began) {
            answers.insert(from);
            if answers.len() >= majority
                && let Some(controller) = &mut leader.controller
            {
                controller.confirmed(began);
            }
        }
    }

    pub(super) fn higher(&mut self, host: usize, term: u64) {
        self.see_term(host, term);
    }

    /// What a leader's controller wants committed.
    pub(super) fn propose_own(&mut self, host: usize, command: Command) {
        if self.setup.broken == Broken::ForwardedLapse
            && let Command::Node(NodeCommand::LapseLease {
                node, incarnation, ..
            }) = command
        {
            // Whoever leads really takes it for its own.
            let leaders = (0..self.setup.voters).filter_map(|voter| {
                let daemon = self.hosts[voter].daemon.as_ref()?;
                match &daemon.role {
                    Role::Leader(leader) => Some((leader.term, voter)),
                    _ => None,
                }
            });
            if let Some((_, latest)) = leaders.max() {
                let reign = self.truth.reign();
                let lapse = NodeCommand::LapseLease {
                    node,
                    incarnation,
                    reign,
                };
                self.propose(latest, Command::Node(lapse), None);
            }
            return;
        }
        self.propose(host, command, None);
    }
}

fn self_revision(state: &crate::state::State) -> String {
    format!("r{}", state.revision().next())
}
