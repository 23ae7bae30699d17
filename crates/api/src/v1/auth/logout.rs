//! `POST /v1/auth/logout`.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};

use crate::AppState;
use crate::auth::PersonCaller;
use crate::cookie::Forget;
use crate::error::ApiError;
use crate::schema::PeopleRefusals;

/// Ends the sign-in: its tokens are refused from the next request on.
#[utoipa::path(
    post,
    path = "/logout",
    operation_id = "log_out",
    tag = "auth",
    responses((status = 204, description = "Signed out"), PeopleRefusals),
    security(("bearer" = [])),
)]
pub(crate) async fn log_out(
    State(app): State<AppState>,
    PersonCaller(ctx): PersonCaller,
    forget: Forget,
) -> Result<(StatusCode, HeaderMap), ApiError> {
    app.control.log_out(&ctx).await?;
    Ok((StatusCode::NO_CONTENT, forget.into_headers()))
}
