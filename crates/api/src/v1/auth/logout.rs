//! `POST /v1/auth/logout`. A page whose sign-in has ended before is rid of its cookie, too.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use sandbar_types::ErrorCode;

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
    caller: Result<PersonCaller, ApiError>,
    forget: Forget,
) -> Result<(StatusCode, HeaderMap), (HeaderMap, ApiError)> {
    let ended = async {
        let PersonCaller(ctx) = caller?;
        app.control.log_out(&ctx).await.map_err(ApiError::from)
    };
    match ended.await {
        Ok(()) => Ok((StatusCode::NO_CONTENT, forget.into_headers())),
        Err(error) if error.code() == ErrorCode::Unauthorized => Err((forget.into_headers(), error)),
        // Another page made the browser ask for it, or it did not succeed.
        Err(error) => Err((HeaderMap::new(), error)),
    }
}
