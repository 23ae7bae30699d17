//! Pages of a list: `limit` and `cursor` in, a bare array and `X-Next-Cursor` out.

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use sandbar_control::{Page, PageRequest};

use crate::error::ApiError;
use crate::extract::QueryPairs;

/// Names the next page; absent on the last one.
const X_NEXT_CURSOR: HeaderName = HeaderName::from_static("x-next-cursor");

/// The page that the query asks for.
pub(crate) fn request(query: &QueryPairs) -> Result<PageRequest, ApiError> {
    PageRequest::new(query.parse("limit")?, query.parse("cursor")?)
        .map_err(|error| ApiError::invalid(error.to_string()))
}

/// The answer that a page makes.
pub(crate) fn answer<T, D>(page: Page<T>, item: impl Fn(T) -> D) -> (HeaderMap, Json<Vec<D>>) {
    let mut headers = HeaderMap::new();
    if let Some(value) = page.next.and_then(|cursor| HeaderValue::from_str(&cursor.to_string()).ok()) {
        headers.insert(X_NEXT_CURSOR, value);
    }
    (headers, Json(page.items.into_iter().map(item).collect()))
}
