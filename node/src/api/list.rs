//! Parts of lists.

use std::str::FromStr;

use axum::http::StatusCode;
use axum::response::Response;
use godwit_control_plane::state::State;
use godwit_proto::api::Page;
use godwit_proto::cluster::{
    Guest, Labels, Migration, Network, Node, Operation, PlacementRule, Pool, Volume,
};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::{
    GuestId, MigrationId, NetworkId, NodeId, OperationId, PoolId, RuleId, VolumeId,
};
use serde::{Deserialize, Serialize};

use super::answer::{as_of, json};
use super::error::ApiError;
use super::service::Api;

/// The most objects of one answer.
const MAX_ITEMS: usize = 1000;
/// How many there are unless said otherwise.
const DEFAULT_ITEMS: usize = 500;

/// The query of a list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ListQuery {
    /// Whether what is here will do.
    #[serde(default)]
    stale: bool,
    /// The most objects, 1 to 1000.
    limit: Option<usize>,
    /// The id after which the part begins.
    after: Option<String>,
    /// Labels that objects have, as in `tier=web,zone=a`.
    label: Option<String>,
    /// The node on which guests are, by name or id.
    pub(super) node: Option<String>,
}

/// What a list is filtered by, and where it goes on.
pub(super) struct Part<I> {
    after: Option<I>,
    limit: usize,
    labels: Labels,
}

impl ListQuery {
    /// Refuses a query by node for what is not on one.
    pub(super) fn without_node(&self) -> Result<(), CodedError> {
        match self.node {
            None => Ok(()),
            Some(_) => Err(CodedError::new(
                ErrorCode::RequestInvalid,
                "node is for lists of guests only",
            )),
        }
    }

    fn part<I: FromStr>(&self) -> Result<Part<I>, CodedError> {
        let invalid = |message: String| CodedError::new(ErrorCode::RequestInvalid, message);
        let limit = self.limit.unwrap_or(DEFAULT_ITEMS);
        if !(1..=MAX_ITEMS).contains(&limit) {
            return Err(invalid(format!("limit must be 1 to {MAX_ITEMS}")));
        }
        let after = self.after.as_ref().map(|after| {
            let id = after.parse().map_err(|_| "after must be an id");
            id.map_err(|why| invalid(why.into()))
        });
        let labels = self.label.as_deref().map_or(Ok(Vec::new()), |text| {
            let labels = text.split(',').map(|label| label.split_once('='));
            labels
                .collect::<Option<Vec<_>>>()
                .ok_or_else(|| invalid("label must be KEY=VALUE[,KEY=VALUE...]".into()))
        })?;
        Ok(Part {
            after: after.transpose()?,
            limit,
            labels: labels.into_iter().collect(),
        })
    }
}

/// What lists are of.
pub(super) trait Listed {
    type Id: Ord + FromStr + ToString;

    fn id(&self) -> Self::Id;
    fn labels(&self) -> &Labels;
}

macro_rules! listed {
    ($($type:ty, $id:ty;)*) => {
        $(impl Listed for $type {
            type Id = $id;

            fn id(&self) -> $id {
                self.id
            }

            fn labels(&self) -> &Labels {
                &self.meta.labels
            }
        })*
    };
}

listed! {
    Guest, GuestId;
    Migration, MigrationId;
    Network, NetworkId;
    Node, NodeId;
    Operation, OperationId;
    PlacementRule, RuleId;
    Pool, PoolId;
    Volume, VolumeId;
}

impl<I: Ord + ToString> Part<I> {
    /// The objects of this part, and where the next one begins. `objects` come by id.
    pub(super) fn take<'a, T: Listed<Id = I> + 'a, V>(
        &self,
        objects: impl Iterator<Item = &'a T>,
        view: impl Fn(&T) -> V,
    ) -> (Vec<V>, Option<String>) {
        let mut objects = objects
            .filter(|object| self.after.as_ref().is_none_or(|after| object.id() > *after))
            .filter(|object| object.labels().matches(&self.labels));
        let mut items = Vec::new();
        let mut last = None;
        for object in objects.by_ref().take(self.limit) {
            items.push(view(object));
            last = Some(object.id());
        }
        let next = objects.next().and(last);
        (items, next.map(|id| id.to_string()))
    }
}

impl Api {
    /// Answers with a part of a list.
    pub(super) async fn list<I: FromStr, V: Serialize>(
        &self,
        query: &ListQuery,
        take: impl FnOnce(&State, &Part<I>) -> Result<(Vec<V>, Option<String>), CodedError>,
    ) -> Result<Response, ApiError> {
        let part = query.part()?;
        self.refresh(query.stale).await?;
        let (revision, taken) = self.look(|state| (state.revision(), take(state, &part)));
        let (items, next) = taken?;
        let page = Page {
            revision: revision.get(),
            stale: query.stale,
            items,
            next,
        };
        Ok(as_of(json(StatusCode::OK, &page), revision, query.stale))
    }
}
