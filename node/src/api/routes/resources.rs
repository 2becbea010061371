//! Pools, volumes, networks: make, show, delete.

use axum::extract::State as Of;
use axum::http::StatusCode;
use axum::response::Response;
use godwit_control_plane::state::State;
use godwit_proto::api::{CreateNetwork, CreatePool, CreateVolume};
use godwit_proto::cluster::{Applied, Command, ObjectRef, ResourceCommand};
use godwit_proto::id::{NetworkId, PoolId, VolumeId};

use super::super::asker::Asker;
use super::super::error::ApiError;
use super::super::extract::{Json, Name, NoBody, NoQuery, Query};
use super::super::list::ListQuery;
use super::super::service::{Api, Decision, ReadQuery};
use super::super::{find, placing, random, view};

/// Listing, showing and deleting a kind of resource.
macro_rules! resource {
    ($kind:ident, $all:ident, $reference:path, $delete:ident) => {
        pub(in super::super) mod $kind {
            use super::*;

            pub(in super::super::super) async fn list(
                Of(api): Of<Api>,
                Query(query): Query<ListQuery>,
            ) -> Result<Response, ApiError> {
                query.without_node()?;
                api.list(&query, |state, part| {
                    Ok(part.take(state.$all(), |one| view::$kind(state, one)))
                })
                .await
            }

            pub(in super::super::super) async fn show(
                Of(api): Of<Api>,
                Query(query): Query<ReadQuery>,
                Name(name): Name,
            ) -> Result<Response, ApiError> {
                api.show(query, |state| {
                    find::$kind(state, &name).map(|one| view::$kind(state, one))
                })
                .await
            }

            pub(in super::super::super) async fn delete(
                Of(api): Of<Api>,
                Name(name): Name,
                asker: Asker,
                _: NoQuery,
                _: NoBody,
            ) -> Result<Response, ApiError> {
                let asked = asker.request(&());
                let applied = api.commit(&asked, 0, |state| {
                    let id = find::$kind(state, &name)?.id;
                    let delete = ResourceCommand::$delete { id };
                    Ok(Decision::again(Command::Resource(delete)))
                });
                let applied = applied.await?;
                Ok(written(&api, StatusCode::OK, applied).await)
            }

            pub(super) async fn written(
                api: &Api,
                status: StatusCode,
                applied: Applied,
            ) -> Response {
                let view = |state: &State| match applied.object {
                    $reference(id) => state.$kind(id).map(|one| view::$kind(state, one)),
                    _ => None,
                };
                api.written(status, applied, view).await
            }
        }
    };
}

resource!(pool, pools, ObjectRef::Pool, DeletePool);
resource!(volume, volumes, ObjectRef::Volume, DeleteVolume);
resource!(network, networks, ObjectRef::Network, DeleteNetwork);

pub(in super::super) async fn create_pool(
    Of(api): Of<Api>,
    asker: Asker,
    _: NoQuery,
    Json(request): Json<CreatePool>,
) -> Result<Response, ApiError> {
    placing::absolute("path", Some(&request.path))?;
    let id = PoolId::from_bytes(random::id()?);
    let asked = asker.request(&request);
    let applied = api.commit(&asked, 0, |_| {
        let create = ResourceCommand::CreatePool {
            id,
            name: request.name.clone(),
            kind: request.kind.into(),
            path: request.path.clone(),
        };
        Ok(Decision::again(Command::Resource(create)))
    });
    Ok(pool::written(&api, StatusCode::CREATED, applied.await?).await)
}

pub(in super::super) async fn create_volume(
    Of(api): Of<Api>,
    asker: Asker,
    _: NoQuery,
    Json(request): Json<CreateVolume>,
) -> Result<Response, ApiError> {
    let id = VolumeId::from_bytes(random::id()?);
    let asked = asker.request(&request);
    let applied = api.commit(&asked, 0, |state| {
        let node = request.node.as_deref();
        let node = node.map(|name| find::node(state, name).map(|node| node.id));
        let create = ResourceCommand::CreateVolume {
            id,
            name: request.name.clone(),
            pool: find::pool(state, &request.pool)?.id,
            node: node.transpose()?,
            size_bytes: request.size_bytes,
        };
        Ok(Decision::again(Command::Resource(create)))
    });
    Ok(volume::written(&api, StatusCode::CREATED, applied.await?).await)
}

pub(in super::super) async fn create_network(
    Of(api): Of<Api>,
    asker: Asker,
    _: NoQuery,
    Json(request): Json<CreateNetwork>,
) -> Result<Response, ApiError> {
    let id = NetworkId::from_bytes(random::id()?);
    let asked = asker.request(&request);
    let applied = api.commit(&asked, 0, |_| {
        let create = ResourceCommand::CreateNetwork {
            id,
            name: request.name.clone(),
            bridge: request.bridge.clone(),
        };
        Ok(Decision::again(Command::Resource(create)))
    });
    Ok(network::written(&api, StatusCode::CREATED, applied.await?).await)
}
