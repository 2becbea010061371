//! Operations: show.

use axum::extract::State as Of;
use axum::response::Response;

use super::super::error::ApiError;
use super::super::extract::{Name, Query};
use super::super::list::ListQuery;
use super::super::service::{Api, ReadQuery};
use super::super::{find, view};

pub(in super::super) async fn list(
    Of(api): Of<Api>,
    Query(query): Query<ListQuery>,
) -> Result<Response, ApiError> {
    query.without_node()?;
    api.list(&query, |state, part| {
        Ok(part.take(state.operations(), |one| view::operation(state, one)))
    })
    .await
}

pub(in super::super) async fn show(
    Of(api): Of<Api>,
    Query(query): Query<ReadQuery>,
    Name(name): Name,
) -> Result<Response, ApiError> {
    api.show(query, |state| {
        find::operation(state, &name).map(|one| view::operation(state, one))
    })
    .await
}
