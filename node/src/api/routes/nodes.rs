//! Members: show, cordon, uncordon, drain, label, remove.

use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::response::Response;
use godwit_control_plane::state::State;
use godwit_proto::api::{Cordon, ReplaceLabels, labels};
use godwit_proto::cluster::{Command, NodeCommand, ObjectRef};
use godwit_proto::codes::CodedError;
use godwit_proto::id::{OperationId, Revision};
use serde::Deserialize;

use super::super::asker::{AskedFor, Asker};
use super::super::error::ApiError;
use super::super::extract::{Json, Name, NoBody, NoQuery, Query};
use super::super::list::ListQuery;
use super::super::service::{Api, Decision, ReadQuery};
use super::super::{find, random, view};

pub(in super::super) async fn list(
    Of(api): Of<Api>,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    query.without_node()?;
    api.list(&query, |state, part| {
        Ok(part.take(state.nodes(), |node| view::node(state, node)))
    })
    .await
}

pub(in super::super) async fn show(
    Of(api): Of<Api>,
    Query(query): Query<ReadQuery>,
    Name(name): Name,
) -> Result<Response, ApiError> {
    api.show(query, |state| {
        find::node(state, &name).map(|node| view::node(state, node))
    })
    .await
}

pub(in super::super) async fn cordon(
    Of(api): Of<Api>,
    Name(name): Name,
    asker: Asker,
    _: NoQuery,
    Json(request): Json<Cordon>,
) -> Result<Response, ApiError> {
    change(&api, &asker.request(&request), |state| {
        let cordon = NodeCommand::Cordon {
            node: find::node(state, &name)?.id,
            reason: request.reason.clone(),
        };
        Ok(Decision::again(Command::Node(cordon)))
    })
    .await
}

pub(in super::super) async fn uncordon(
    Of(api): Of<Api>,
    Name(name): Name,
    asker: Asker,
    _: NoQuery,
    _: NoBody,
) -> Result<Response, ApiError> {
    change(&api, &asker.request(&()), |state| {
        let uncordon = NodeCommand::Uncordon {
            node: find::node(state, &name)?.id,
        };
        Ok(Decision::again(Command::Node(uncordon)))
    })
    .await
}

pub(in super::super) async fn drain(
    Of(api): Of<Api>,
    Name(name): Name,
    asker: Asker,
    _: NoQuery,
    _: NoBody,
) -> Result<Response, ApiError> {
    let operation = OperationId::from_bytes(random::id()?);
    let decide = |state: &State| {
        let drain = NodeCommand::Drain {
            node: find::node(state, &name)?.id,
            operation,
        };
        Ok(Decision::again(Command::Node(drain)))
    };
    let applied = api.commit(&asker.request(&()), 0, decide).await?;
    // That of the first time, when it is asked for again.
    let view = |state: &State| match applied.object {
        ObjectRef::Operation(id) => state.operation(id).map(|one| view::operation(state, one)),
        _ => None,
    };
    Ok(api.written(StatusCode::ACCEPTED, applied, view).await)
}

/// How a node is removed.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct RemoveQuery {
    /// Whether its guests go with it: whoever says so knows that it does not run, and will not.
    #[serde(default)]
    force: bool,
}

pub(in super::super) async fn remove(
    Of(api): Of<Api>,
    Query(query): Query<RemoveQuery>,
    Name(name): Name,
    asker: Asker,
    _: NoBody,
) -> Result<Response, ApiError> {
    change(&api, &asker.request(&query.force), |state| {
        let remove = NodeCommand::Remove {
            node: find::node(state, &name)?.id,
            force: query.force,
        };
        Ok(Decision::again(Command::Node(remove)))
    })
    .await
}

pub(in super::super) async fn replace_labels(
    Of(api): Of<Api>,
    Name(name): Name,
    asker: Asker,
    _: NoQuery,
    Json(request): Json<ReplaceLabels>,
) -> Result<Response, ApiError> {
    change(&api, &asker.request(&request), |state| {
        let command = NodeCommand::SetLabels {
            node: find::node(state, &name)?.id,
            labels: labels(&request.labels),
            expected: request.revision.map(Revision::new),
        };
        Ok(Decision::once(Command::Node(command)))
    })
    .await
}

async fn change(
    api: &Api,
    asked: &AskedFor,
    decide: impl Fn(&State) -> Result<Decision, CodedError>,
) -> Result<Response, ApiError> {
    let applied = api.commit(asked, 0, decide).await?;
    let view = |state: &State| match applied.object {
        ObjectRef::Node(id) => state.node(id).map(|node| view::node(state, node)),
        _ => None,
    };
    Ok(api.written(StatusCode::OK, applied, view).await)
}
