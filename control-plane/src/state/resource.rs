//! Commands about pools, volumes, networks and placement rules.

use godwit_proto::cluster::{
    EventKind, Labels, Meta, Network, Node, ObjectRef, PlacementRule, Pool, PoolKind,
    ResourceCommand, RuleKind, Strength, Volume,
};
use godwit_proto::id::{GuestId, NetworkId, NodeId, PoolId, RuleId, VolumeId};

use super::{Context, Refusal, State, check};

impl State {
    pub(super) fn apply_resource(
        &mut self,
        context: &Context<'_>,
        command: &ResourceCommand,
    ) -> Result<ObjectRef, Refusal> {
        match command {
            ResourceCommand::CreatePool {
                id,
                name,
                kind,
                path,
            } => self.create_pool(context, *id, name, *kind, path),
            ResourceCommand::DeletePool { id } => self.delete_pool(context, *id),
            ResourceCommand::CreateVolume {
                id,
                name,
                pool,
                node,
                size_bytes,
            } => {
                let meta = new_meta(context, name);
                let volume = Volume {
                    id: *id,
                    meta,
                    pool: *pool,
                    node: *node,
                    size_bytes: *size_bytes,
                    attached: None,
                };
                self.create_volume(context, volume)
            }
            ResourceCommand::DeleteVolume { id } => self.delete_volume(context, *id),
            ResourceCommand::CreateNetwork { id, name, bridge } => {
                self.create_network(context, *id, name, bridge)
            }
            ResourceCommand::DeleteNetwork { id } => self.delete_network(context, *id),
            ResourceCommand::CreateRule {
                id,
                name,
                guests,
                kind,
                strength,
            } => {
                let meta = new_meta(context, name);
                let rule = PlacementRule {
                    id: *id,
                    meta,
                    guests: guests.clone(),
                    kind: kind.clone(),
                    strength: *strength,
                };
                self.create_rule(context, rule)
            }
            ResourceCommand::DeleteRule { id } => self.delete_rule(context, *id),
        }
    }

    fn create_pool(
        &mut self,
        context: &Context<'_>,
        id: PoolId,
        name: &str,
        kind: PoolKind,
        path: &str,
    ) -> Result<ObjectRef, Refusal> {
        check::name("pool name", name)?;
        check::filled("path", path)?;
        self.pools.check_new(id, name)?;
        self.pools.put(Pool {
            id,
            meta: new_meta(context, name),
            kind,
            path: path.into(),
        });
        Ok(self.made(context, ObjectRef::Pool(id), "pool", name))
    }

    fn delete_pool(&mut self, context: &Context<'_>, id: PoolId) -> Result<ObjectRef, Refusal> {
        let name = self.pools.want(id)?.meta.name.clone();
        let object = ObjectRef::Pool(id);
        if let Some(volume) = self.volumes.iter().find(|volume| volume.pool == id) {
            return Err(Refusal::InUse {
                object,
                user: format!("volume {}", volume.meta.name),
            });
        }
        self.strip_nodes(context, |node| {
            let before = node.pools.len();
            node.pools.retain(|pool| *pool != id);
            node.pools.len() != before
        });
        self.pools.remove(id);
        Ok(self.gone(context, object, "pool", &name))
    }

    fn create_volume(
        &mut self,
        context: &Context<'_>,
        volume: Volume,
    ) -> Result<ObjectRef, Refusal> {
        let name = volume.meta.name.clone();
        check::name("volume name", &name)?;
        self.volumes.check_new(volume.id, &name)?;
        if volume.size_bytes == 0 || !volume.size_bytes.is_multiple_of(512) {
            return Err(Refusal::invalid(
                "size",
                "must be a multiple of 512 bytes, and not 0",
            ));
        }
        let pool = self.pools.want(volume.pool)?;
        match (pool.kind, volume.node) {
            (PoolKind::Shared, None) => {}
            (PoolKind::Shared, Some(_)) => {
                let problem = format!("must not be named: pool {} is shared", pool.meta.name);
                return Err(Refusal::invalid("node", problem));
            }
            (PoolKind::Local, None) => {
                let problem = format!("must be named: pool {} is local", pool.meta.name);
                return Err(Refusal::invalid("node", problem));
            }
            (PoolKind::Local, Some(node)) => {
                let node = self.nodes.want(node)?;
                if !node.pools.contains(&pool.id) {
                    let (node, pool) = (&node.meta.name, &pool.meta.name);
                    let problem = format!("{node} does not reach pool {pool}");
                    return Err(Refusal::invalid("node", problem));
                }
            }
        }
        let object = ObjectRef::Volume(volume.id);
        self.volumes.put(volume);
        Ok(self.made(context, object, "volume", &name))
    }

    fn delete_volume(&mut self, context: &Context<'_>, id: VolumeId) -> Result<ObjectRef, Refusal> {
        let volume = self.volumes.want(id)?;
        let object = ObjectRef::Volume(id);
        if let Some(guest) = volume.attached {
            return Err(Refusal::InUse {
                object,
                user: ObjectRef::Guest(guest).to_string(),
            });
        }
        let name = volume.meta.name.clone();
        self.volumes.remove(id);
        Ok(self.gone(context, object, "volume", &name))
    }

    /// Notes whose disk a volume is.
    pub(super) fn set_attached(
        &mut self,
        context: &Context<'_>,
        id: VolumeId,
        guest: Option<GuestId>,
    ) {
        if let Some(mut volume) = self.volumes.find(id).cloned() {
            volume.attached = guest;
            volume.meta.revision = context.revision;
            volume.meta.generation = volume.meta.generation.next();
            self.changed(context, ObjectRef::Volume(id));
            self.volumes.put(volume);
        }
    }

    fn create_network(
        &mut self,
        context: &Context<'_>,
        id: NetworkId,
        name: &str,
        bridge: &str,
    ) -> Result<ObjectRef, Refusal> {
        check::name("network name", name)?;
        // IFNAMSIZ (linux/if.h) is 16, with the zero at the end.
        check::filled("bridge", bridge)?;
        check::longest("bridge", bridge, 15)?;
        self.networks.check_new(id, name)?;
        self.networks.put(Network {
            id,
            meta: new_meta(context, name),
            bridge: bridge.into(),
        });
        Ok(self.made(context, ObjectRef::Network(id), "network", name))
    }

    fn delete_network(
        &mut self,
        context: &Context<'_>,
        id: NetworkId,
    ) -> Result<ObjectRef, Refusal> {
        let name = self.networks.want(id)?.meta.name.clone();
        let object = ObjectRef::Network(id);
        let user = self.guests.iter().find(|guest| {
            let mut networks = guest.template.networks.iter();
            networks.any(|attachment| attachment.network == id)
        });
        if let Some(guest) = user {
            return Err(Refusal::InUse {
                object,
                user: format!("guest {}", guest.meta.name),
            });
        }
        self.strip_nodes(context, |node| {
            let before = node.networks.len();
            node.networks.retain(|network| *network != id);
            node.networks.len() != before
        });
        self.networks.remove(id);
        Ok(self.gone(context, object, "network", &name))
    }

    /// Changes every node that `strip` says it changed.
    fn strip_nodes(&mut self, context: &Context<'_>, strip: impl Fn(&mut Node) -> bool) {
        let nodes: Vec<NodeId> = self.nodes.iter().map(|node| node.id).collect();
        for id in nodes {
            if let Some(mut node) = self.nodes.find(id).cloned()
                && strip(&mut node)
            {
                self.put_node(context, node);
            }
        }
    }

    fn create_rule(
        &mut self,
        context: &Context<'_>,
        rule: PlacementRule,
    ) -> Result<ObjectRef, Refusal> {
        let name = rule.meta.name.clone();
        check::name("rule name", &name)?;
        check_selector("guests", &rule.guests)?;
        if let RuleKind::NodeAffinity { nodes } = &rule.kind {
            check_selector("nodes", nodes)?;
        }
        if let Strength::Preferred { weight } = rule.strength
            && !(1..=100).contains(&weight)
        {
            return Err(Refusal::invalid("weight", "must be 1 to 100"));
        }
        self.rules.check_new(rule.id, &name)?;
        let object = ObjectRef::Rule(rule.id);
        let inventory = &mut self.index.inventory;
        inventory.add_rule(&rule, self.guests.iter());
        self.rules.put(rule);
        Ok(self.made(context, object, "placement rule", &name))
    }

    fn delete_rule(&mut self, context: &Context<'_>, id: RuleId) -> Result<ObjectRef, Refusal> {
        let name = self.rules.want(id)?.meta.name.clone();
        self.index.inventory.remove_rule(id);
        self.rules.remove(id);
        Ok(self.gone(context, ObjectRef::Rule(id), "placement rule", &name))
    }

    fn made(
        &mut self,
        context: &Context<'_>,
        object: ObjectRef,
        what: &str,
        name: &str,
    ) -> ObjectRef {
        self.changed(context, object);
        let message = format!("{what} {name} was made");
        self.happened(context, object, EventKind::Created, message);
        object
    }

    fn gone(
        &mut self,
        context: &Context<'_>,
        object: ObjectRef,
        what: &str,
        name: &str,
    ) -> ObjectRef {
        self.deleted(context, object);
        let message = format!("{what} {name} was deleted");
        self.happened(context, object, EventKind::Deleted, message);
        object
    }
}

fn check_selector(field: &str, selector: &Labels) -> Result<(), Refusal> {
    match selector.is_empty() {
        true => Err(Refusal::invalid(
            field,
            "must be chosen by at least one label",
        )),
        false => check::labels(field, selector),
    }
}

fn new_meta(context: &Context<'_>, name: &str) -> Meta {
    Meta {
        name: name.into(),
        revision: context.revision,
        generation: godwit_proto::id::Generation::new(1),
        created: context.now,
        ..Meta::default()
    }
}
