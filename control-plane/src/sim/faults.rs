//! What goes wrong, and what users do meanwhile.

use std::time::Duration;

use godwit_proto::cluster::{
    Command, Desired, FailoverPolicy, Guest, GuestCommand, Labels, MigrationCommand,
    MigrationReason, NodeCommand, Owner, RunIntent, Scheduling,
};
use godwit_proto::id::{MigrationId, NodeId, OperationId, RequestId};

use super::host::Key;
use super::world::{Event, Message, World};
use super::{FAULTS, Setup};
use crate::scheduler::{Demand, Purpose, Scheduler};

/// Something that goes wrong, or ends going wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fault {
    /// One of many, and then the next.
    Some,
    /// A user wants something, and then the next thing.
    User,
    /// A link is cut.
    Cut(usize, usize, Duration),
    /// A cut link is whole again.
    Mend(usize, usize),
    /// Messages are lost no more than usual.
    LoseLess,
    /// From now on nothing goes wrong.
    Heal,
    /// A user looks after nodes that take no guests.
    Tidy,
}

/// Long enough to outlast a lease, and often what the ends of a handover wait for each other.
const LONG_MS: (u64, u64) = (300, 15_000);

impl World {
    pub(super) fn schedule_faults(&mut self) {
        self.after(Duration::from_secs(4), Event::Fault(Fault::Some));
        self.after(Duration::from_secs(2), Event::Fault(Fault::User));
        self.at(FAULTS, Event::Fault(Fault::Heal));
    }

    pub(super) fn strike(&mut self, fault: Fault) {
        match fault {
            Fault::Cut(a, b, length) if !self.healing => self.cut_link(a, b, length),
            Fault::Cut(..) => {}
            Fault::Mend(a, b) => {
                self.cut.remove(&(a, b));
            }
            Fault::LoseLess => self.loss_permille = 0,
            Fault::Heal => self.heal(),
            Fault::Tidy => self.tidy(),
            Fault::Some if !self.healing => {
                self.one_of_many();
                let delay = self.between(200, 6_000);
                self.after(delay, Event::Fault(Fault::Some));
            }
            Fault::User if !self.healing => {
                self.user();
                let delay = self.between(100, 2_500);
                self.after(delay, Event::Fault(Fault::User));
            }
            Fault::Some | Fault::User => {}
        }
    }

    fn heal(&mut self) {
        self.healing = true;
        self.cut.clear();
        self.loss_permille = 0;
        for host in &mut self.hosts {
            host.disks_out_until = Duration::ZERO;
        }
        self.note(|| "all is well from now on".into());
        self.tidy();
    }

    fn tidy(&mut self) {
        let cordoned = |node: &godwit_proto::cluster::Node| {
            matches!(node.scheduling, Scheduling::Cordoned { .. })
        };
        let nodes = self.truth.nodes().filter(|node| cordoned(node));
        let nodes: Vec<NodeId> = nodes.map(|node| node.id).collect();
        let leader = (0..self.setup.voters).find(|voter| self.leader(*voter).is_some());
        for node in nodes {
            let uncordon = Command::Node(NodeCommand::Uncordon { node });
            let leader = leader.unwrap_or(0);
            self.send(leader, leader, Message::Propose(uncordon, None));
        }
        self.after(Duration::from_secs(3), Event::Fault(Fault::Tidy));
    }

    fn a_host(&mut self) -> usize {
        self.random.below(self.hosts.len() as u64) as usize
    }

    /// A leader, if there is one, half of the time: that is where it hurts.
    fn a_victim(&mut self) -> usize {
        let host = self.a_host();
        let leader = (0..self.setup.voters).find(|voter| self.leader(*voter).is_some());
        match leader {
            Some(leader) if self.random.one_in(3) => leader,
            _ => host,
        }
    }

    fn a_process(&mut self) -> Option<(usize, Key)> {
        let all: Vec<(usize, Key)> = (0..self.hosts.len())
            .flat_map(|host| {
                self.hosts[host]
                    .processes
                    .keys()
                    .map(move |key| (host, *key))
            })
            .collect();
        (!all.is_empty()).then(|| self.random.one_of(&all))
    }

    fn one_of_many(&mut self) {
        let length = self.between(LONG_MS.0, LONG_MS.1);
        let victim = self.a_victim();
        match self.random.below(20) {
            0..3 => {
                self.note(|| format!("host {victim} is cut off for {length:?}"));
                for other in 0..self.hosts.len() {
                    self.cut_link(victim, other, length);
                }
                self.count("hosts cut off");
            }
            3..5 => {
                let sides: Vec<bool> = self.hosts.iter().map(|_| self.random.one_in(2)).collect();
                self.note(|| format!("the network is split for {length:?}: {sides:?}"));
                for a in 0..sides.len() {
                    for b in (0..a).filter(|b| sides[*b] != sides[a]) {
                        self.cut_link(a, b, length);
                    }
                }
                self.count("networks split");
            }
            5 if self.random.one_in(2) => {
                self.note(|| format!("host {victim} does not reach the disks for {length:?}"));
                self.hosts[victim].disks_out_until = self.now + length;
                self.count("disks out of reach");
            }
            5 => {
                let other = self.a_host();
                self.note(|| format!("hosts {victim} and {other} are cut off for {length:?}"));
                self.cut_link(victim, other, length);
            }
            6..8 => {
                self.loss_permille = 20 + self.random.below(300);
                self.after(length, Event::Fault(Fault::LoseLess));
                self.count("losses");
            }
            8..11 => {
                self.kill_daemon(victim);
                self.after(length, Event::StartDaemon { host: victim });
                self.count("daemons killed");
            }
            11..13 => {
                self.kill_daemon(victim);
                let keys: Vec<Key> = self.hosts[victim].processes.keys().copied().collect();
                for key in keys {
                    self.crash(victim, key);
                }
                self.after(length, Event::StartDaemon { host: victim });
                self.count("hosts killed");
            }
            13..15 => {
                if let Some((host, key)) = self.a_process() {
                    self.crash(host, key);
                    self.count("guests killed");
                }
            }
            15..17 => {
                if let Some((host, key)) = self.a_process() {
                    self.stop(host, key, length);
                    self.count("guests stopped from outside");
                }
            }
            17 => {
                self.stop_daemon(victim, length);
                self.count("daemons stopped from outside");
            }
            _ => {
                // The whole machine stands still.
                self.stop_daemon(victim, length);
                let keys: Vec<Key> = self.hosts[victim].processes.keys().copied().collect();
                for key in keys {
                    self.stop(victim, key, length);
                }
                self.count("hosts stopped");
            }
        }
    }

    /// Something goes wrong within the milliseconds in which a guest is handed over.
    pub(super) fn strike_handover(&mut self, source: (usize, Key), target: (usize, Key)) {
        if self.healing || !self.random.one_in(3) {
            return;
        }
        let moment = self.between(0, 12);
        let length = self.between(500, 40_000);
        let (host, key) = self.random.one_of(&[source, target]);
        self.note(|| format!("the handover of {} is struck", key.0));
        match self.random.below(5) {
            0 | 1 => {
                let cut = Fault::Cut(source.0, target.0, length);
                self.after(moment, Event::Fault(cut));
            }
            2 => self.after(moment, Event::Kill { host, key }),
            3 => self.stop(host, key, length),
            _ => {
                self.kill_daemon(host);
                self.after(length, Event::StartDaemon { host });
            }
        }
    }

    fn stop_daemon(&mut self, host: usize, length: Duration) {
        self.note(|| format!("host {host}: daemon is stopped for {length:?}"));
        self.hosts[host].stopped_until = Some(self.now + length);
    }

    fn cut_link(&mut self, a: usize, b: usize, length: Duration) {
        let link = (a.min(b), a.max(b));
        if a != b && self.cut.insert(link) {
            self.after(length, Event::Fault(Fault::Mend(link.0, link.1)));
        }
    }

    /// A user asks some node for something, as they see the state.
    fn user(&mut self) {
        let Some(command) = self.wish() else {
            return;
        };
        self.requests += 1;
        let mut bytes = [0xaa; 16];
        bytes[..8].copy_from_slice(&self.requests.to_le_bytes());
        let request = Some(RequestId::from_bytes(bytes));
        let host = self.a_host();
        let leader = self.hosts[host].daemon.as_ref().and_then(|d| d.leader);
        let leader = leader.unwrap_or(host);
        self.note(|| format!("a user at host {host} wants {command:?}"));
        // Sent twice now and then: it is done once.
        for _ in 0..1 + self.random.below(2) {
            self.send(host, leader, Message::Propose(command.clone(), request));
        }
    }

    fn id(&mut self) -> [u8; 16] {
        let mut bytes = [0xdd; 16];
        bytes[..8].copy_from_slice(&self.random.number().to_le_bytes());
        bytes
    }

    fn wish(&mut self) -> Option<Command> {
        let guests: Vec<Guest> = self.truth.guests().cloned().collect();
        let guest = &guests[self.random.below(guests.len() as u64) as usize];
        let expected = None;
        let id = guest.id;
        match self.random.below(12) {
            0 => Some(Command::Guest(GuestCommand::Stop {
                guest: id,
                expected,
            })),
            1 => {
                let failover = match self.random.below(2) {
                    0 => FailoverPolicy::Never,
                    _ => FailoverPolicy::Restart { priority: 1 },
                };
                let labels = Labels::none();
                Some(Command::Guest(GuestCommand::SetPolicy {
                    guest: id,
                    labels,
                    failover,
                    expected,
                }))
            }
            2 => {
                let node = self.a_node();
                let operation = OperationId::from_bytes(self.id());
                let draining = self
                    .truth
                    .nodes()
                    .filter(|node| matches!(node.scheduling, Scheduling::Draining { .. }));
                // Where everything is drained nothing fits.
                (draining.count() == 0)
                    .then_some(Command::Node(NodeCommand::Drain { node, operation }))
            }
            3 => {
                let busy = self
                    .truth
                    .nodes()
                    .find(|node| node.scheduling != Scheduling::Enabled);
                busy.map(|node| Command::Node(NodeCommand::Uncordon { node: node.id }))
            }
            4 => {
                let settings = self.truth.settings();
                Some(Command::Cluster(
                    godwit_proto::cluster::ClusterCommand::Configure {
                        settings: Desired {
                            name: settings.meta.name.clone(),
                            overcommit: settings.overcommit,
                            strategy: settings.strategy,
                            migrations_per_node: settings.migrations_per_node,
                            migrations_per_cluster: settings.migrations_per_cluster,
                            lease: settings.lease,
                        },
                        expected,
                    },
                ))
            }
            5..8 => {
                let stopped = guests.iter().find(|guest| {
                    guest.intent == RunIntent::Stopped && guest.ownership.owner == Owner::Nobody
                })?;
                let node = self.place(stopped, Purpose::Start)?;
                Some(Command::Guest(GuestCommand::Start {
                    guest: stopped.id,
                    node,
                    expected,
                }))
            }
            _ => {
                let target = self.place(guest, Purpose::Move)?;
                Some(Command::Migration(MigrationCommand::Prepare {
                    migration: MigrationId::from_bytes(self.id()),
                    guest: id,
                    target,
                    reason: MigrationReason::Asked,
                    expected,
                }))
            }
        }
    }

    fn a_node(&mut self) -> NodeId {
        let host = self.a_host();
        self.hosts[host].id
    }

    fn place(&self, guest: &Guest, purpose: Purpose) -> Option<NodeId> {
        let inventory = self.truth.inventory();
        let demand = Demand::new(&self.truth, inventory, guest, purpose);
        Scheduler::new().choose(inventory, &demand)
    }
}

impl Setup {
    /// A cluster of three to seven nodes, as the seed says.
    pub(super) fn of_seed(seed: u64) -> Self {
        let mut random = crate::workload::Random::new(seed ^ 0x5eed);
        let nodes = 3 + random.below(5) as usize;
        Self {
            seed,
            nodes,
            voters: if nodes >= 5 && random.one_in(2) { 5 } else { 3 },
            broken: super::Broken::Nothing,
            trace: false,
        }
    }
}
