//! Liveness after healing: what users asked for is so, and nothing is left over.

use godwit_proto::cluster::{NodeState, ObservedState, Owner, RunIntent};

use crate::sim::world::World;

impl World {
    pub(in crate::sim) fn check_healed(&mut self) {
        let wrong = self.unhealed();
        if let Some(what) = wrong.first() {
            self.fail(format!("healed: {what}, and {} more", wrong.len() - 1));
        }
    }

    /// What is not as it was asked for.
    pub(in crate::sim) fn unhealed(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        let state = &self.truth;
        for node in state.nodes().filter(|node| node.state != NodeState::Ready) {
            wrong.push(format!("node {} is {:?}", node.meta.name, node.state));
        }
        for migration in state.migrations().filter(|m| !m.phase.is_finished()) {
            wrong.push(format!("migration {} goes on", migration.meta.name));
        }
        for operation in state.operations().filter(|o| !o.state.is_finished()) {
            let blockers = &operation.blockers;
            wrong.push(format!("{} goes on: {blockers:?}", operation.meta.name));
        }
        let mut wanted = Vec::new();
        for guest in state.guests() {
            let (name, owner) = (&guest.meta.name, guest.ownership.owner);
            match (guest.intent, owner) {
                (RunIntent::Running, Owner::Node { node, epoch }) => {
                    if guest.observed.state != ObservedState::Running {
                        wrong.push(format!("guest {name} is {:?}", guest.observed.state));
                    }
                    wanted.push((self.host_of(node), (guest.id, epoch)));
                }
                (RunIntent::Stopped, Owner::Nobody) => {}
                (intent, owner) => wrong.push(format!("guest {name}: {intent:?}, {owner:?}")),
            }
        }
        let mut found = Vec::new();
        for (number, host) in self.hosts.iter().enumerate() {
            for (key, process) in &host.processes {
                found.push((number, *key));
                if !process.runs() {
                    wrong.push(format!("guest {} stands still on host {number}", key.0));
                }
            }
        }
        wanted.sort_unstable();
        if found != wanted {
            wrong.push(format!("processes are {found:?} and not {wanted:?}"));
        }
        wrong
    }
}
