//! Migrations: begin, show, follow, cancel; what one would be like.

use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::response::Response;
use godwit_control_plane::scheduler::Purpose;
use godwit_control_plane::state::State;
use godwit_proto::api::MigrateGuest;
use godwit_proto::cluster::{Command, Guest, MigrationCommand, MigrationReason, ObjectRef, Owner};
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::MigrationId;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::super::answer::{json, raw_json};
use super::super::asker::Asker;
use super::super::error::ApiError;
use super::super::extract::{Json, Name, NoBody, NoQuery, Query};
use super::super::list::ListQuery;
use super::super::service::{Api, Decision, ReadQuery};
use super::super::{find, placing, random, view};

pub(in super::super) async fn list(
    Of(api): Of<Api>,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    query.without_node()?;
    api.list(&query, |state, part| {
        Ok(part.take(state.migrations(), |one| view::migration(state, one)))
    })
    .await
}

pub(in super::super) async fn show(
    Of(api): Of<Api>,
    Query(query): Query<ReadQuery>,
    Name(name): Name,
) -> Result<Response, ApiError> {
    api.show(query, |state| {
        find::migration(state, &name).map(|one| view::migration(state, one))
    })
    .await
}

pub(in super::super) async fn begin(
    Of(api): Of<Api>,
    Name(name): Name,
    asker: Asker,
    _: NoQuery,
    Json(request): Json<MigrateGuest>,
) -> Result<Response, ApiError> {
    let asked = asker.request(&request);
    let id = MigrationId::from_bytes(random::id()?);
    let target = request.target.as_deref();
    let applied = api.commit(&asked, 0, |state| {
        let guest = find::guest(state, &name)?;
        movable(guest)?;
        let prepare = MigrationCommand::Prepare {
            migration: id,
            guest: guest.id,
            target: placing::node(state, guest, Purpose::Move, target)?,
            reason: MigrationReason::Asked,
            expected: Some(guest.meta.revision),
        };
        Ok(Decision {
            command: Command::Migration(prepare),
            again: target.is_none(),
        })
    });
    let applied = applied.await?;
    let view = |state: &State| match applied.object {
        ObjectRef::Migration(id) => state.migration(id).map(|one| view::migration(state, one)),
        _ => None,
    };
    Ok(api.written(StatusCode::CREATED, applied, view).await)
}

/// What is wrong with the guest is told before what is wrong with every node.
fn movable(guest: &Guest) -> Result<(), CodedError> {
    let (found, fix) = match guest.ownership.owner {
        Owner::Node { .. } => return Ok(()),
        Owner::Nobody => ("runs nowhere", "start it on the node instead"),
        Owner::Moving(_) => ("is being moved already", "wait for the migration to end"),
    };
    let message = format!("guest {} {found}", guest.meta.name);
    Err(CodedError::new(ErrorCode::WrongState, message).with_fix(fix))
}

pub(in super::super) async fn cancel(
    Of(api): Of<Api>,
    Name(name): Name,
    _: NoQuery,
    _: NoBody,
) -> Result<Response, ApiError> {
    api.refresh(false).await?;
    let (id, phase) =
        api.look(|state| find::migration(state, &name).map(|one| (one.id, one.phase.clone())))?;
    if phase.is_finished() {
        let error = CodedError::new(ErrorCode::WrongState, "the migration has ended");
        return Err(error.into());
    }
    api.cluster.cancel_migration(id).await?;
    let found = api.look(|state| {
        let one = state.migration(id);
        one.map(|one| view::migration(state, one))
    });
    // What the source was told is not what became of it: that is read from the migration.
    Ok(json(StatusCode::ACCEPTED, &found))
}

/// Where a migration is: the object, and what its source says of it.
pub(in super::super) async fn progress(
    Of(api): Of<Api>,
    Query(query): Query<ReadQuery>,
    Name(name): Name,
) -> Result<Response, ApiError> {
    #[derive(serde::Serialize)]
    struct Progress {
        migration: godwit_proto::api::Migration,
        progress: Option<Box<RawValue>>,
    }
    api.refresh(query.stale).await?;
    let (id, migration) = api.look(|state| {
        find::migration(state, &name).map(|one| (one.id, view::migration(state, one)))
    })?;
    let progress = match migration.phase.is_finished() {
        true => None,
        false => api.cluster.progress(id).await?,
    };
    let progress = progress.map(RawValue::from_string).transpose();
    let progress = progress.map_err(|_| not_json("progress"))?;
    let document = Progress {
        migration,
        progress,
    };
    Ok(json(StatusCode::OK, &document))
}

pub(in super::super) async fn receipt(
    Of(api): Of<Api>,
    Query(query): Query<ReadQuery>,
    Name(name): Name,
) -> Result<Response, ApiError> {
    api.refresh(query.stale).await?;
    let receipt = api.look(|state| {
        let one = find::migration(state, &name)?;
        one.receipt.clone().ok_or_else(|| {
            let message = format!("migration {} has no receipt", one.meta.name);
            let error = CodedError::new(ErrorCode::NotFound, message);
            match one.phase.is_finished() {
                true => error,
                false => error.with_fix("wait until it has ended"),
            }
        })
    })?;
    // It comes from a node.
    match serde_json::from_str::<IgnoredAny>(&receipt) {
        Ok(IgnoredAny) => Ok(raw_json(StatusCode::OK, receipt)),
        Err(_) => Err(not_json("receipt").into()),
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct ForecastQuery {
    /// The node, by name or id; chosen when absent.
    target: Option<String>,
}

pub(in super::super) async fn forecast(
    Of(api): Of<Api>,
    Query(query): Query<ForecastQuery>,
    Name(name): Name,
) -> Result<Response, ApiError> {
    api.refresh(false).await?;
    let (guest, target) = api.look(|state| {
        let guest = find::guest(state, &name)?;
        movable(guest)?;
        let target = query.target.as_deref();
        let target = target.map(|name| find::node(state, name).map(|node| node.id));
        Ok::<_, CodedError>((guest.id, target.transpose()?))
    })?;
    let forecast = api.cluster.forecast(guest, target).await?;
    match serde_json::from_str::<IgnoredAny>(&forecast) {
        Ok(IgnoredAny) => Ok(raw_json(StatusCode::OK, forecast)),
        Err(_) => Err(not_json("forecast").into()),
    }
}

fn not_json(what: &str) -> CodedError {
    CodedError::new(
        ErrorCode::PeerProtocol,
        format!("the {what} that a node sent is not JSON"),
    )
}
