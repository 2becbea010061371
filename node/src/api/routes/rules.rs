//! Placement rules: make, show, delete.

use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::response::Response;
use godwit_control_plane::state::State;
use godwit_proto::api::{CreateRule, Rule, labels};
use godwit_proto::cluster::{Applied, Command, ObjectRef, ResourceCommand};
use godwit_proto::id::RuleId;

use super::super::asker::Asker;
use super::super::error::ApiError;
use super::super::extract::{Json, Name, NoBody, NoQuery, Query};
use super::super::list::ListQuery;
use super::super::service::{Api, Decision, ReadQuery};
use super::super::{find, random};

pub(in super::super) async fn list(
    Of(api): Of<Api>,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    query.without_node()?;
    api.list(&query, |state, part| {
        Ok(part.take(state.rules(), |rule| Rule::from(rule)))
    })
    .await
}

pub(in super::super) async fn show(
    Of(api): Of<Api>,
    Query(query): Query<ReadQuery>,
    Name(name): Name,
) -> Result<Response, ApiError> {
    api.show(query, |state| find::rule(state, &name).map(Rule::from))
        .await
}

pub(in super::super) async fn create(
    Of(api): Of<Api>,
    asker: Asker,
    _: NoQuery,
    Json(request): Json<CreateRule>,
) -> Result<Response, ApiError> {
    let id = RuleId::from_bytes(random::id()?);
    let asked = asker.request(&request);
    let applied = api.commit(&asked, 0, |_| {
        let create = ResourceCommand::CreateRule {
            id,
            name: request.name.clone(),
            guests: labels(&request.guests),
            kind: (&request.rule).into(),
            strength: request.strength.into(),
        };
        Ok(Decision::again(Command::Resource(create)))
    });
    Ok(written(&api, StatusCode::CREATED, applied.await?).await)
}

pub(in super::super) async fn delete(
    Of(api): Of<Api>,
    Name(name): Name,
    asker: Asker,
    _: NoQuery,
    _: NoBody,
) -> Result<Response, ApiError> {
    let asked = asker.request(&());
    let applied = api.commit(&asked, 0, |state| {
        let id = find::rule(state, &name)?.id;
        Ok(Decision::again(Command::Resource(
            ResourceCommand::DeleteRule { id },
        )))
    });
    Ok(written(&api, StatusCode::OK, applied.await?).await)
}

async fn written(api: &Api, status: StatusCode, applied: Applied) -> Response {
    let view = |state: &State| match applied.object {
        ObjectRef::Rule(id) => state.rule(id).map(Rule::from),
        _ => None,
    };
    api.written(status, applied, view).await
}
