//! Guests: make, show, start, stop, delete, explain.

use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::response::Response;
use godwit_control_plane::scheduler::{Purpose, explain};
use godwit_control_plane::state::State;
use godwit_proto::api::{CreateGuest, StartGuest};
use godwit_proto::cluster::{Applied, Command, Guest, GuestCommand, ObjectRef};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::GuestId;

use super::super::asker::{AskedFor, Asker};
use super::super::error::ApiError;
use super::super::extract::{Json, Name, NoBody, NoQuery, Query};
use super::super::list::ListQuery;
use super::super::service::{Api, Decision, ReadQuery};
use super::super::{find, placing, random, view};

/// Commands of a request that makes a guest.
const CREATE: u8 = 0;
const START: u8 = 1;

pub(in super::super) async fn list(
    Of(api): Of<Api>,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    api.list(&query, |state, part| {
        let node = query.node.as_deref();
        let node = node.map(|name| find::node(state, name)).transpose()?;
        let show = |guest: &Guest| view::guest(state, guest);
        Ok(match node {
            None => part.take(state.guests(), show),
            Some(node) => part.take(state.guests_on(node.id), show),
        })
    })
    .await
}

pub(in super::super) async fn show(
    Of(api): Of<Api>,
    Query(query): Query<ReadQuery>,
    Name(name): Name,
) -> Result<Response, ApiError> {
    api.show(query, |state| {
        find::guest(state, &name).map(|guest| view::guest(state, guest))
    })
    .await
}

pub(in super::super) async fn create(
    Of(api): Of<Api>,
    asker: Asker,
    _: NoQuery,
    Json(request): Json<CreateGuest>,
) -> Result<Response, ApiError> {
    if request.node.is_some() && !request.start {
        return Err(ApiError::invalid(
            "node needs start: a stopped guest is on none",
        ));
    }
    let asked = asker.request(&request);
    let id = GuestId::from_bytes(random::id()?);
    let made = api.commit(&asked, CREATE, |state| {
        let new = placing::new_guest(state, &request, id)?;
        // A guest that fits nowhere is not left behind.
        if request.start {
            let preview = state.preview(&new);
            placing::node(state, &preview, Purpose::Start, request.node.as_deref())?;
        }
        let create = GuestCommand::Create(Box::new(new));
        Ok(Decision::again(Command::Guest(create)))
    });
    let made = made.await?;
    let applied = match made.object {
        ObjectRef::Guest(id) if request.start => {
            let name = id.to_string();
            let started = start_guest(&api, &asked, START, &name, request.node.as_deref()).await;
            started.map_err(|error| not_started(error, &request.name))?
        }
        _ => made,
    };
    Ok(written(&api, StatusCode::CREATED, applied).await)
}

/// The guest was made and is there.
fn not_started(mut error: CodedError, name: &str) -> CodedError {
    error.message = format!("guest {name} was made but not started: {}", error.message);
    error
}

pub(in super::super) async fn start(
    Of(api): Of<Api>,
    Name(name): Name,
    asker: Asker,
    _: NoQuery,
    Json(request): Json<StartGuest>,
) -> Result<Response, ApiError> {
    let asked = asker.request(&request);
    let applied = start_guest(&api, &asked, START, &name, request.node.as_deref()).await?;
    Ok(written(&api, StatusCode::OK, applied).await)
}

async fn start_guest(
    api: &Api,
    asked: &AskedFor,
    step: u8,
    name: &str,
    node: Option<&str>,
) -> Result<Applied, CodedError> {
    api.commit(asked, step, |state| {
        let guest = find::guest(state, name)?;
        if guest.ownership.hosts().next().is_some() {
            let message = format!("guest {} is started already", guest.meta.name);
            return Err(CodedError::new(ErrorCode::WrongState, message));
        }
        let start = GuestCommand::Start {
            guest: guest.id,
            node: placing::node(state, guest, Purpose::Start, node)?,
            expected: Some(guest.meta.revision),
        };
        Ok(Decision {
            command: Command::Guest(start),
            // One that does not fit the node that was named does not fit it the next time either.
            again: node.is_none(),
        })
    })
    .await
}

pub(in super::super) async fn stop(
    Of(api): Of<Api>,
    Name(name): Name,
    asker: Asker,
    _: NoQuery,
    _: NoBody,
) -> Result<Response, ApiError> {
    let stop = |guest, expected| GuestCommand::Stop { guest, expected };
    let applied = change(&api, &asker.request(&()), &name, stop).await?;
    Ok(written(&api, StatusCode::OK, applied).await)
}

pub(in super::super) async fn delete(
    Of(api): Of<Api>,
    Name(name): Name,
    asker: Asker,
    _: NoQuery,
    _: NoBody,
) -> Result<Response, ApiError> {
    let delete = |guest, expected| GuestCommand::Delete { guest, expected };
    let applied = change(&api, &asker.request(&()), &name, delete).await?;
    Ok(written(&api, StatusCode::OK, applied).await)
}

async fn change(
    api: &Api,
    asked: &AskedFor,
    name: &str,
    command: impl Fn(GuestId, Option<godwit_proto::id::Revision>) -> GuestCommand,
) -> Result<Applied, CodedError> {
    api.commit(asked, 0, |state| {
        let guest = find::guest(state, name)?;
        let command = command(guest.id, Some(guest.meta.revision));
        Ok(Decision::again(Command::Guest(command)))
    })
    .await
}

async fn written(api: &Api, status: StatusCode, applied: Applied) -> Response {
    let view = |state: &State| match applied.object {
        ObjectRef::Guest(id) => state.guest(id).map(|guest| view::guest(state, guest)),
        _ => None,
    };
    api.written(status, applied, view).await
}

pub(in super::super) async fn explain_guest(
    Of(api): Of<Api>,
    Query(query): Query<ReadQuery>,
    Name(name): Name,
) -> Result<Response, ApiError> {
    api.show(query, |state| {
        let guest = find::guest(state, &name)?;
        let explanation = explain(state, state.inventory(), guest, placing::purpose(guest));
        Ok(view::explanation(state, &explanation))
    })
    .await
}

/// Explains where a guest would go that is not made.
pub(in super::super) async fn explain_new(
    Of(api): Of<Api>,
    Query(query): Query<ReadQuery>,
    Json(request): Json<CreateGuest>,
) -> Result<Response, ApiError> {
    let id = GuestId::from_bytes(random::id()?);
    api.show(query, |state| {
        let new = placing::new_guest(state, &request, id)?;
        let preview = state.preview(&new);
        let explanation = explain(state, state.inventory(), &preview, Purpose::Start);
        Ok(view::explanation(state, &explanation))
    })
    .await
}
