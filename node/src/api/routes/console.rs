//! A guest's console, over a connection that stops being HTTP.

use axum::extract::{Request, State as Of};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use godwit_proto::api::CONSOLE_PROTOCOL;
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::process::ConsoleKind;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::io::copy_bidirectional;

use super::super::cluster::Stream;
use super::super::connection::Connection;
use super::super::error::ApiError;
use super::super::extract::{Name, Query};
use super::super::find;
use super::super::service::Api;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in super::super) struct ConsoleQuery {
    #[serde(default)]
    which: Which,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Which {
    #[default]
    Serial,
    Virtio,
}

pub(in super::super) async fn connect(
    Of(api): Of<Api>,
    connection: Connection,
    Name(name): Name,
    Query(query): Query<ConsoleQuery>,
    mut request: Request,
) -> Result<Response, ApiError> {
    let wanted = request.headers().get(header::UPGRADE);
    if wanted.is_none_or(|protocol| protocol != CONSOLE_PROTOCOL) {
        let message = format!(
            "a console needs the headers Connection: Upgrade and Upgrade: {CONSOLE_PROTOCOL}"
        );
        let error = CodedError::new(ErrorCode::RequestInvalid, message);
        return Err(ApiError::with_status(StatusCode::UPGRADE_REQUIRED, error));
    }
    let Some(upgrade) = request.extensions_mut().remove::<OnUpgrade>() else {
        return Err(ApiError::invalid("this connection cannot be upgraded"));
    };
    let which = match query.which {
        Which::Serial => ConsoleKind::Serial,
        Which::Virtio => ConsoleKind::Virtio,
    };
    api.refresh(false).await?;
    let guest = api.look(|state| find::guest(state, &name).map(|guest| guest.id))?;
    let console = api.cluster.console(guest, which).await?;
    tokio::spawn(carry(upgrade, console, connection));
    let headers = [
        (header::CONNECTION, HeaderValue::from_static("upgrade")),
        (header::UPGRADE, HeaderValue::from_static(CONSOLE_PROTOCOL)),
    ];
    Ok((StatusCode::SWITCHING_PROTOCOLS, headers).into_response())
}

/// Carries bytes both ways until one side ends or the server stops. The connection counts for as
/// long.
async fn carry(upgrade: OnUpgrade, mut console: Box<dyn Stream>, mut connection: Connection) {
    let Ok(upgraded) = upgrade.await else {
        return;
    };
    let mut upgraded = TokioIo::new(upgraded);
    tokio::select! {
        // Whichever end failed, there is nobody to tell.
        _ = copy_bidirectional(&mut upgraded, &mut console) => {}
        () = connection.stopped() => {}
    }
}
