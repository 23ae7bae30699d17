//! Pages of E2B's lists: `limit` and `nextToken` in, a bare array and `X-Next-Token` out.

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use sandbar_control::{Page, PageRequest};

use crate::error::ApiError;
use crate::extract::QueryPairs;

/// Names the next page; absent on the last one.
const X_NEXT_TOKEN: HeaderName = HeaderName::from_static("x-next-token");
/// Items of a page where the caller does not say.
const DEFAULT_LIMIT: u32 = 100;

/// The page that the query asks for.
pub(super) fn request(query: &QueryPairs) -> Result<PageRequest, ApiError> {
    // A client may send an empty token for the first page.
    let token = query.one("nextToken")?.filter(|token| !token.is_empty());
    let after = token
        .map(|token| token.parse().map_err(|error| ApiError::invalid(format!("nextToken: {error}"))))
        .transpose()?;
    PageRequest::new(Some(query.parse("limit")?.unwrap_or(DEFAULT_LIMIT)), after)
        .map_err(|error| ApiError::invalid(error.to_string()))
}

/// The answer that a page makes.
pub(super) fn answer<T, D>(page: Page<T>, item: impl Fn(T) -> D) -> (HeaderMap, Json<Vec<D>>) {
    let mut headers = HeaderMap::new();
    if let Some(value) = page.next.and_then(|cursor| HeaderValue::from_str(&cursor.to_string()).ok()) {
        headers.insert(X_NEXT_TOKEN, value);
    }
    (headers, Json(page.items.into_iter().map(item).collect()))
}
