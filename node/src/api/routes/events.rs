//! What happened: the last of it, or as it happens.

use axum::body::Body;
use axum::extract::State as Of;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use godwit_proto::api::{Event, Page};
use godwit_proto::id::Revision;
use serde::Deserialize;

use super::super::answer::{as_of, json};
use super::super::connection::Connection;
use super::super::error::ApiError;
use super::super::extract::Query;
use super::super::service::Api;
use super::super::watch::{Watch, WatchBody};

/// The most events of one answer.
const MAX_EVENTS: usize = 1000;
/// How many there are unless said otherwise.
const DEFAULT_EVENTS: usize = 100;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct EventsQuery {
    #[serde(default)]
    stale: bool,
    /// The most events, the last ones, 1 to 1000.
    limit: Option<usize>,
    /// Tell what happens from now on, and do not end.
    #[serde(default)]
    watch: bool,
    /// In a watch: tell also what happened after this revision; now when absent.
    from: Option<u64>,
    /// In a watch: tell which objects changed, too.
    #[serde(default)]
    changes: bool,
}

pub(in super::super) async fn list(
    Of(api): Of<Api>,
    connection: Connection,
    Query(query): Query<EventsQuery>,
) -> Result<Response, ApiError> {
    api.refresh(query.stale).await?;
    if query.watch {
        if query.limit.is_some() {
            return Err(ApiError::invalid("a watch has no limit"));
        }
        return Ok(watch(&api, connection, &query));
    }
    if query.from.is_some() || query.changes {
        return Err(ApiError::invalid(
            "from and changes are for watches: add watch=true",
        ));
    }
    let limit = query.limit.unwrap_or(DEFAULT_EVENTS);
    if !(1..=MAX_EVENTS).contains(&limit) {
        let message = format!("limit must be 1 to {MAX_EVENTS}");
        return Err(ApiError::invalid(message));
    }
    let (revision, items) = api.look(|state| {
        let events = state.events();
        let skipped = events.len().saturating_sub(limit);
        let last: Vec<Event> = events.skip(skipped).map(Event::from).collect();
        (state.revision(), last)
    });
    let page = Page {
        revision: revision.get(),
        stale: query.stale,
        items,
        next: None,
    };
    Ok(as_of(json(StatusCode::OK, &page), revision, query.stale))
}

fn watch(api: &Api, connection: Connection, query: &EventsQuery) -> Response {
    let now = api.look(godwit_control_plane::state::State::revision);
    let watch = Watch {
        api: api.clone(),
        since: query.from.map_or(now, Revision::new),
        with_changes: query.changes,
        changes: api.cluster.changes(),
        connection,
        began: false,
    };
    let kind = [(header::CONTENT_TYPE, "application/x-ndjson")];
    let response = (kind, Body::new(WatchBody::new(watch))).into_response();
    as_of(response, now, query.stale)
}
