//! Pages of a list: `limit` and `cursor` in, a bare array and `X-Next-Cursor` out.

use axum::Json;
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use sandbar_control::page::{DEFAULT_LIMIT, MAX_LIMIT};
use sandbar_control::{Page, PageRequest};
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{ObjectBuilder, SchemaType, Type};
use utoipa::{IntoParams, openapi};

use crate::error::ApiError;
use crate::extract::QueryPairs;

/// Names the next page; absent on the last one.
pub(crate) const X_NEXT_CURSOR: HeaderName = HeaderName::from_static("x-next-cursor");

/// `limit` and `cursor`, as the document tells of them.
pub(crate) struct PageParams;

impl IntoParams for PageParams {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let parameter = |name, description: String, schema: ObjectBuilder| {
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Query)
                .required(openapi::Required::False)
                .description(Some(description))
                .schema(Some(schema))
                .build()
        };
        let limit = ObjectBuilder::new()
            .schema_type(SchemaType::new(Type::Integer))
            .minimum(Some(1))
            .maximum(Some(MAX_LIMIT));
        let cursor = ObjectBuilder::new().schema_type(SchemaType::new(Type::String));
        vec![
            parameter("limit", format!("Most items of the page; {DEFAULT_LIMIT} by default"), limit),
            parameter("cursor", "The next page, as the page before named it".to_owned(), cursor),
        ]
    }
}

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
