//! What is taken from a request, bounded, and refused with the name of the field that is wrong.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query as AxumQuery, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use godwit_proto::api::MAX_BODY_BYTES;
use godwit_proto::codes::{CodedError, ErrorCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ApiError;

/// The most of a mistake that is told back.
const MAX_TOLD: usize = 400;

/// The body of a request: a JSON document. No body is an empty one.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<S: Sync, T: DeserializeOwned + Serialize> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let bytes = collect(body).await?;
        if bytes.is_empty() {
            return parse(b"{}").map(Self);
        }
        if !is_json(&parts.headers) {
            // A browser sends other types for any page that asks it to; this one only with leave.
            let error = CodedError::new(ErrorCode::RequestInvalid, "the body is not JSON")
                .with_fix("send it with the header Content-Type: application/json");
            return Err(ApiError::with_status(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                error,
            ));
        }
        parse(&bytes).map(Self)
    }
}

/// A request that must not have a body.
#[derive(Debug)]
pub(super) struct NoBody;

impl<S: Sync> FromRequest<S> for NoBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        match collect(request.into_body()).await?.is_empty() {
            true => Ok(Self),
            false => Err(ApiError::invalid("this request takes no body")),
        }
    }
}

async fn collect(body: Body) -> Result<Vec<u8>, ApiError> {
    match Limited::new(body, MAX_BODY_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::with_status(
            StatusCode::PAYLOAD_TOO_LARGE,
            CodedError::new(
                ErrorCode::RequestInvalid,
                format!("the body is longer than {MAX_BODY_BYTES} bytes"),
            ),
        )),
        Err(error) => Err(ApiError::invalid(format!("the body broke off: {error}"))),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or("");
    let media_type = text.split(';').next().unwrap_or("").trim();
    media_type.eq_ignore_ascii_case("application/json")
}

fn parse<T: DeserializeOwned + Serialize>(bytes: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let path = error.path().to_string();
        let error = error.into_inner();
        match path.as_str() {
            "." => invalid_body(&error.to_string()),
            path => invalid_body(&format!("{path}: {error}")),
        }
    })?;
    deserializer
        .end()
        .map_err(|error| invalid_body(&error.to_string()))?;
    // Serde takes the values of an object in an array, too, by their order. No client may come to
    // rely on the order of fields.
    let sent: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let meant = serde_json::to_value(&value).unwrap_or_default();
    match array_for_object("the document", &sent, &meant) {
        None => Ok(value),
        Some(path) => Err(invalid_body(&format!("{path} is an array, want an object"))),
    }
}

/// Where an array was sent for an object.
fn array_for_object(path: &str, sent: &Value, meant: &Value) -> Option<String> {
    match (sent, meant) {
        (Value::Array(_), Value::Object(_)) => Some(path.into()),
        (Value::Object(sent), Value::Object(meant)) => sent
            .iter()
            .find_map(|(name, sent)| array_for_object(name, sent, meant.get(name)?)),
        (Value::Array(sent), Value::Array(meant)) => sent
            .iter()
            .zip(meant)
            .find_map(|(sent, meant)| array_for_object(path, sent, meant)),
        _ => None,
    }
}

fn invalid_body(why: &str) -> ApiError {
    let mut error = CodedError::new(ErrorCode::RequestInvalid, "the body is not as documented");
    error.causes.push(shorten(why));
    error.into()
}

/// What follows the `?` of a request.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match AxumQuery::<T>::from_request_parts(parts, state).await {
            Ok(AxumQuery(query)) => Ok(Self(query)),
            Err(rejection) => Err(ApiError::invalid(shorten(&rejection.body_text()))),
        }
    }
}

/// A request that must not have a query: a change that is asked for in another way than was meant is
/// not done.
#[derive(Debug)]
pub(super) struct NoQuery;

impl<S: Sync> FromRequestParts<S> for NoQuery {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match parts.uri.query() {
            None | Some("") => Ok(Self),
            Some(_) => Err(ApiError::invalid("this request takes no query")),
        }
    }
}

/// The object that a path names, by name or id.
#[derive(Debug)]
pub(super) struct Name(pub(super) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::<String>::from_request_parts(parts, state).await {
            Ok(Path(name)) => Ok(Self(name)),
            Err(rejection) => Err(ApiError::invalid(shorten(&rejection.body_text()))),
        }
    }
}

/// What is told back of what was sent: a line, and not all of it.
fn shorten(text: &str) -> String {
    let line = text.replace(char::is_control, " ");
    match line.char_indices().nth(MAX_TOLD) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}
