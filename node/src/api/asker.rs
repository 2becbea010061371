//! Who asks for a change, and under which idempotency key.
//!
//! A request that is sent twice with the same key is done once. The commands that it becomes differ
//! from one time to the next: ids are drawn, nodes are chosen anew. So the key of a command (its
//! [`RequestId`]) is made of the request alone:
//!
//! ```text
//!  8 bytes          7 bytes                        1 byte
//!  digest of key    digest of path and document    which of the request's commands
//! ```
//!
//! and the API looks for it in the state before it decides anything. The same key with another
//! digest of the request is a mistake of the client.

use std::ops::RangeInclusive;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use godwit_control_plane::state::State;
use godwit_proto::api::IDEMPOTENCY_KEY;
use godwit_proto::cluster::Applied;
use godwit_proto::codes::{CodedError, ErrorCode};
use godwit_proto::id::RequestId;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_64;

use super::connection::Connection;
use super::error::ApiError;

/// The longest idempotency key, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// Who asks for a change.
#[derive(Clone, Debug)]
pub(super) struct Asker {
    /// Who.
    name: String,
    /// Method, path and query.
    target: String,
    key: Option<u64>,
}

impl<S: Sync> FromRequestParts<S> for Asker {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Ok(connection) = Connection::from_request_parts(parts, state).await;
        let key = match parts.headers.get(IDEMPOTENCY_KEY) {
            None => None,
            Some(value) => match value.as_bytes() {
                key if (1..=MAX_KEY_BYTES).contains(&key.len()) && value.to_str().is_ok() => {
                    Some(xxh3_64(key))
                }
                _ => {
                    return Err(ApiError::invalid(format!(
                        "{IDEMPOTENCY_KEY} must be 1 to {MAX_KEY_BYTES} printable characters"
                    )));
                }
            },
        };
        Ok(Self {
            name: connection.caller.name,
            target: format!("{} {}", parts.method, parts.uri),
            key,
        })
    }
}

impl Asker {
    /// The request that asks for `document`.
    pub(super) fn request<T: Serialize>(&self, document: &T) -> AskedFor {
        let key = self.key.map(|key| {
            let mut text = self.target.clone().into_bytes();
            text.push(0);
            serde_json::to_writer(&mut text, document).expect("keys of these documents are text");
            Key {
                key,
                digest: xxh3_64(&text),
            }
        });
        AskedFor {
            actor: self.name.clone(),
            key,
        }
    }
}

/// A request that asks for a change.
#[derive(Clone, Debug)]
pub(super) struct AskedFor {
    /// Who asks.
    pub(super) actor: String,
    key: Option<Key>,
}

#[derive(Clone, Copy, Debug)]
struct Key {
    key: u64,
    digest: u64,
}

impl AskedFor {
    /// The key of the request's command number `step`.
    pub(super) fn id(&self, step: u8) -> Option<RequestId> {
        self.key.map(|key| key.id(step))
    }

    /// What became of command number `step` when this was asked before.
    ///
    /// # Errors
    /// Something else was asked with the key.
    pub(super) fn done(&self, step: u8, state: &State) -> Result<Option<Applied>, CodedError> {
        let Some(key) = self.key else {
            return Ok(None);
        };
        let wanted = key.id(step);
        let mut applied = None;
        for done in state.requests_done(key.range()) {
            if done.id.as_bytes()[..15] != wanted.as_bytes()[..15] {
                return Err(CodedError::new(
                    ErrorCode::KeyReused,
                    "the idempotency key was used for another request",
                )
                .with_fix("use a key of its own for each request"));
            }
            if done.id == wanted {
                applied = Some(done.applied);
            }
        }
        Ok(applied)
    }
}

impl Key {
    fn id(self, step: u8) -> RequestId {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.key.to_be_bytes());
        bytes[8..].copy_from_slice(&self.digest.to_be_bytes());
        bytes[15] = step;
        RequestId::from_bytes(bytes)
    }

    /// Every request under the key.
    fn range(self) -> RangeInclusive<RequestId> {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.key.to_be_bytes());
        let first = RequestId::from_bytes(bytes);
        bytes[8..].fill(0xff);
        first..=RequestId::from_bytes(bytes)
    }
}
