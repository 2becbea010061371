//! The cluster as a whole: where it stands, its settings.

use std::collections::BTreeMap;

use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::response::Response;
use godwit_control_plane::state::State;
use godwit_proto::api::{ClusterStatus, Configure, Counts, GuestState, Named, NodeState, Settings};
use godwit_proto::cluster::{ClusterCommand, Command};
use godwit_proto::id::{NodeId, Revision};

use super::super::answer::{as_of, json};
use super::super::asker::Asker;
use super::super::error::ApiError;
use super::super::extract::{Json, NoQuery, Query};
use super::super::service::{Api, Decision, ReadQuery};
use super::super::view::named_node;

/// What this node knows, without asking any other: this is what is looked at when others are gone.
pub(in super::super) async fn status(Of(api): Of<Api>) -> Response {
    let status = api.cluster.status();
    let document = api.look(|state| {
        let named = |ids: &[NodeId]| -> Vec<Named> {
            ids.iter().map(|id| named_node(state, *id)).collect()
        };
        ClusterStatus {
            name: state.settings().meta.name.clone(),
            node: Named {
                id: status.node.to_string(),
                name: status.name.clone(),
            },
            version: status.version.clone(),
            leader: status.leader.map(|leader| named_node(state, leader)),
            term: status.term,
            voters: named(&status.voters),
            learners: named(&status.learners),
            revision: status.revision.get(),
            quorum: status.quorum,
            nodes: count(state.nodes().map(|node| NodeState::from(node.state).name())),
            guests: count(
                state
                    .guests()
                    .map(|guest| GuestState::from(&guest.observed.state).name()),
            ),
            migrations: state
                .migrations()
                .filter(|migration| !migration.phase.is_finished())
                .count() as u64,
        }
    });
    as_of(json(StatusCode::OK, &document), status.revision, true)
}

fn count(names: impl Iterator<Item = &'static str>) -> Counts {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    let counts = counts.into_iter();
    counts.map(|(name, count)| (name.into(), count)).collect()
}

pub(in super::super) async fn settings(
    Of(api): Of<Api>,
    Query(query): Query<ReadQuery>,
) -> Result<Response, ApiError> {
    api.show(query, |state| Ok(Settings::from(state.settings())))
        .await
}

pub(in super::super) async fn configure(
    Of(api): Of<Api>,
    asker: Asker,
    _: NoQuery,
    Json(request): Json<Configure>,
) -> Result<Response, ApiError> {
    let asked = asker.request(&request);
    let applied = api.commit(&asked, 0, |state| {
        let settings = state.settings();
        let configure = ClusterCommand::Configure {
            settings: request.over(settings),
            expected: match request.revision {
                Some(revision) => Some(Revision::new(revision)),
                None => Some(settings.meta.revision),
            },
        };
        Ok(Decision {
            command: Command::Cluster(configure),
            again: request.revision.is_none(),
        })
    });
    let applied = applied.await?;
    let view = |state: &State| Some(Settings::from(state.settings()));
    Ok(api.written(StatusCode::OK, applied, view).await)
}
