//! Extractors whose refusals are worded as the contract's errors.

use std::convert::Infallible;
use std::error::Error as _;
use std::str::FromStr;
use std::time::Duration;

use axum::body::Body;
use axum::extract::rejection::JsonRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};
use futures::StreamExt as _;
use sandbar_types::id::Kind;
use sandbar_types::{ErrorCode, Id, TemplateName};
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::Config;
use crate::error::ApiError;

/// How much of a body that is too large is read and dropped.
const DROPPED_BYTES: usize = 64 << 20;
/// How long a JSON body may take to come, however steadily it does.
const BODY_LIMIT: Duration = Duration::from_secs(60);

/// The most bytes of a JSON body: an extension of the request, where it is not the default.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JsonLimit(pub(crate) usize);

impl Default for JsonLimit {
    fn default() -> Self {
        Self(Config::default().json_body_bytes)
    }
}

/// A JSON object. No body at all is an empty object; unknown fields are ignored.
pub(crate) struct JsonBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let is_json = is_json(request.headers());
        let limit = request.extensions().get().copied().unwrap_or_default();
        let body = timeout(BODY_LIMIT, read(request.into_body(), limit)).await.map_err(|_| {
            let seconds = BODY_LIMIT.as_secs();
            ApiError::invalid(format!("the request's body did not come within {seconds} s"))
        })??;
        let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
        if !is_json && body.as_ref() != b"{}" {
            return Err(ApiError::invalid("send the body as JSON, with Content-Type: application/json"));
        }
        // An array would be taken for the fields in the order of their declaration.
        if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Err(ApiError::invalid("the body must be a JSON object"));
        }
        let axum::Json(value) = axum::Json::from_bytes(&body).map_err(|rejection| refused(&rejection))?;
        Ok(Self(value))
    }
}

/// Reads a body whole. Of one that is too large the rest is read too, up to a bound, and dropped: a client that is still sending when the
/// connection ends would never see the answer.
async fn read(body: Body, JsonLimit(limit): JsonLimit) -> Result<Bytes, ApiError> {
    let mut chunks = body.into_data_stream();
    let (mut kept, mut length) = (BytesMut::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|_| ApiError::invalid("the request's body could not be read to its end"))?;
        length += chunk.len();
        if length <= limit {
            kept.extend_from_slice(&chunk);
        } else if length > limit + DROPPED_BYTES {
            break;
        }
    }
    if length > limit {
        return Err(ApiError::new(ErrorCode::TooLarge, "the request's body is too large"));
    }
    Ok(kept.freeze())
}

fn refused(rejection: &JsonRejection) -> ApiError {
    // The source names the field and what is wrong with it; the rejection itself would only add words about types.
    let what = rejection.source().map_or_else(|| rejection.body_text(), ToString::to_string);
    ApiError::invalid(match rejection {
        JsonRejection::JsonSyntaxError(_) => format!("the body is not valid JSON: {what}"),
        _ => what,
    })
}

fn is_json(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = given.split(';').next().unwrap_or("").trim();
    essence.eq_ignore_ascii_case("application/json")
}

/// How long the body is to be, where the request says so. The body itself does not know: what bounds its silence wraps it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLength(pub(crate) Option<u64>);

impl<S: Send + Sync> FromRequestParts<S> for BodyLength {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let length = parts.headers.get(header::CONTENT_LENGTH);
        Ok(Self(length.and_then(|length| length.to_str().ok()?.parse().ok())))
    }
}

/// The id in the path `/{id}`. Text that is no id of this kind names nothing: 404.
pub(crate) struct PathId<K>(pub(crate) Id<K>);

impl<K: Kind, S: Send + Sync> FromRequestParts<S> for PathId<K> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let unknown = || ApiError::new(ErrorCode::NotFound, format!("there is no such {}", K::NOUN));
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| unknown())?;
        text.parse().map(Self).map_err(|_| unknown())
    }
}

/// The ids in a path of two, `/{id}/.../{other}`.
pub(crate) struct PathIds<A, B>(pub(crate) Id<A>, pub(crate) Id<B>);

impl<A: Kind, B: Kind, S: Send + Sync> FromRequestParts<S> for PathIds<A, B> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        fn unknown<K: Kind>() -> ApiError {
            ApiError::new(ErrorCode::NotFound, format!("there is no such {}", K::NOUN))
        }
        let ids = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((a, b)) = ids.map_err(|_| unknown::<A>())?;
        Ok(Self(a.parse().map_err(|_| unknown::<A>())?, b.parse().map_err(|_| unknown::<B>())?))
    }
}

/// The id and the name in a path `/{id}/.../{name}`. The name is looked up, not parsed.
pub(crate) struct PathIdAndName<K>(pub(crate) Id<K>, pub(crate) String);

impl<K: Kind, S: Send + Sync> FromRequestParts<S> for PathIdAndName<K> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let unknown = || ApiError::new(ErrorCode::NotFound, format!("there is no such {}", K::NOUN));
        let both = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((id, name)) = both.map_err(|_| unknown())?;
        Ok(Self(id.parse().map_err(|_| unknown())?, name))
    }
}

/// A name in the path that is looked up, not parsed. Text that is none names nothing.
pub(crate) struct PathName(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let unknown = |_| ApiError::new(ErrorCode::NotFound, "there is no such name");
        Path::<String>::from_request_parts(parts, state).await.map(|Path(name)| Self(name)).map_err(unknown)
    }
}

/// The name of a snapshot in the path `/{name}`. Text that can be no name names nothing: 404.
pub(crate) struct PathSnapshot(pub(crate) TemplateName);

impl<S: Send + Sync> FromRequestParts<S> for PathSnapshot {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let unknown = || ApiError::new(ErrorCode::NotFound, "there is no such snapshot");
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| unknown())?;
        text.parse().map(Self).map_err(|_| unknown())
    }
}

/// The query as pairs, in order, so that a parameter may be repeated.
pub(crate) struct QueryPairs(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for QueryPairs {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Query(pairs) = Query::<Vec<(String, String)>>::from_request_parts(parts, state)
            .await
            .map_err(|_| ApiError::invalid("the query is not valid"))?;
        Ok(Self(pairs))
    }
}

impl QueryPairs {
    /// All values of a parameter.
    pub(crate) fn all(&self, name: &'static str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter that may be given once.
    pub(crate) fn one(&self, name: &'static str) -> Result<Option<&str>, ApiError> {
        let mut values = self.all(name);
        let first = values.next();
        match values.next() {
            None => Ok(first),
            Some(_) => Err(ApiError::invalid(format!("{name} may be given only once"))),
        }
    }

    /// The same, read as a `T`.
    pub(crate) fn parse<T>(&self, name: &'static str) -> Result<Option<T>, ApiError>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        let read = |text: &str| text.parse().map_err(|error| ApiError::invalid(format!("{name}: {error}")));
        self.one(name)?.map(read).transpose()
    }

    /// A time in milliseconds.
    pub(crate) fn moment(&self, name: &'static str) -> Result<Option<DateTime<Utc>>, ApiError> {
        let Some(millis) = self.parse::<i64>(name)? else { return Ok(None) };
        let moment = DateTime::from_timestamp_millis(millis).filter(|_| millis >= 0);
        moment.map(Some).ok_or_else(|| ApiError::invalid(format!("{name}: not a time in milliseconds")))
    }

    /// The values of a parameter that may be repeated, or given as a comma-separated list.
    pub(crate) fn list<T>(&self, name: &'static str) -> Result<Vec<T>, ApiError>
    where
        T: FromStr,
        T::Err: std::fmt::Display,
    {
        self.all(name)
            .flat_map(|value| value.split(','))
            .map(|text| text.parse().map_err(|error| ApiError::invalid(format!("{name}: {error}"))))
            .collect()
    }
}
