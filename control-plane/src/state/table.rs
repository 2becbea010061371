//! Objects of a kind, by id and by name.

use std::collections::BTreeMap;

use godwit_proto::cluster::{
    Guest, Meta, Network, Node, ObjectRef, PlacementRule, Pool, Volume, limits,
};
use godwit_proto::id::{GuestId, NetworkId, NodeId, PoolId, Revision, RuleId, VolumeId};

use super::refusal::Refusal;

/// An object with a name that no other of its kind has.
pub(super) trait Named {
    type Id: Copy + Ord;
    /// What there are of it, in the plural.
    const WHAT: &'static str;
    /// How many there may be.
    const MAX: usize;

    fn id(&self) -> Self::Id;
    fn meta(&self) -> &Meta;
    fn reference(id: Self::Id) -> ObjectRef;
}

macro_rules! named {
    ($type:ty, $id:ty, $reference:path, $what:literal, $max:expr) => {
        impl Named for $type {
            type Id = $id;
            const WHAT: &'static str = $what;
            const MAX: usize = $max;

            fn id(&self) -> $id {
                self.id
            }

            fn meta(&self) -> &Meta {
                &self.meta
            }

            fn reference(id: $id) -> ObjectRef {
                $reference(id)
            }
        }
    };
}

named!(Node, NodeId, ObjectRef::Node, "nodes", limits::MAX_NODES);
named!(
    Guest,
    GuestId,
    ObjectRef::Guest,
    "guests",
    limits::MAX_GUESTS
);
named!(Pool, PoolId, ObjectRef::Pool, "pools", limits::MAX_POOLS);
named!(
    Volume,
    VolumeId,
    ObjectRef::Volume,
    "volumes",
    limits::MAX_VOLUMES
);
named!(
    Network,
    NetworkId,
    ObjectRef::Network,
    "networks",
    limits::MAX_NETWORKS
);
named!(
    PlacementRule,
    RuleId,
    ObjectRef::Rule,
    "placement rules",
    limits::MAX_RULES
);

/// Objects of a kind. An object keeps its name.
#[derive(Clone, Debug)]
pub(super) struct Table<T: Named> {
    objects: BTreeMap<T::Id, T>,
    names: BTreeMap<String, T::Id>,
}

impl<T: Named> Table<T> {
    pub(super) const fn new() -> Self {
        Self {
            objects: BTreeMap::new(),
            names: BTreeMap::new(),
        }
    }

    pub(super) fn find(&self, id: T::Id) -> Option<&T> {
        self.objects.get(&id)
    }

    pub(super) fn by_name(&self, name: &str) -> Option<&T> {
        self.find(*self.names.get(name)?)
    }

    /// The object, or why the command that names it is refused.
    pub(super) fn want(&self, id: T::Id) -> Result<&T, Refusal> {
        self.find(id).ok_or(Refusal::NotFound {
            object: T::reference(id),
        })
    }

    /// The same, as it was when it was read.
    pub(super) fn want_at(&self, id: T::Id, expected: Option<Revision>) -> Result<&T, Refusal> {
        let object = self.want(id)?;
        let found = object.meta().revision;
        match expected.filter(|expected| *expected < found) {
            None => Ok(object),
            Some(expected) => Err(Refusal::Conflict {
                object: T::reference(id),
                expected,
                found,
            }),
        }
    }

    /// Whether an object of this id and name can be made.
    pub(super) fn check_new(&self, id: T::Id, name: &str) -> Result<(), Refusal> {
        if self.objects.contains_key(&id) {
            return Err(Refusal::Exists {
                object: T::reference(id),
            });
        }
        if let Some(holder) = self.names.get(name) {
            return Err(Refusal::NameTaken {
                name: name.into(),
                object: T::reference(*holder),
            });
        }
        if self.objects.len() >= T::MAX {
            return Err(Refusal::Limit {
                what: T::WHAT,
                max: T::MAX,
            });
        }
        Ok(())
    }

    /// Puts in a new object, or another version of one that is there.
    pub(super) fn put(&mut self, object: T) {
        let id = object.id();
        if !self.objects.contains_key(&id) {
            self.names.insert(object.meta().name.clone(), id);
        }
        self.objects.insert(id, object);
    }

    pub(super) fn remove(&mut self, id: T::Id) -> Option<T> {
        let object = self.objects.remove(&id)?;
        self.names.remove(&object.meta().name);
        Some(object)
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &T> + Clone {
        self.objects.values()
    }

    pub(super) fn len(&self) -> usize {
        self.objects.len()
    }
}
