//! `POST /v1/auth/login`.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use secrecy::SecretString;
use serde::Deserialize;
use utoipa::ToSchema;

use super::SignIn;
use crate::AppState;
use crate::auth::AnonymousCaller;
use crate::client::From;
use crate::cookie::Delivery;
use crate::error::ApiError;
use crate::extract::JsonBody;
use crate::schema::PeopleRefusals;

/// Who signs in.
#[derive(Deserialize, ToSchema)]
pub(crate) struct LogIn {
    #[schema(example = "ann@example.org")]
    email: String,
    #[schema(value_type = String, format = Password)]
    password: SecretString,
}

/// Signs in. Whatever is wrong, the answer is the same.
#[utoipa::path(
    post,
    path = "/login",
    operation_id = "log_in",
    tag = "auth",
    request_body = LogIn,
    responses((status = 200, description = "Signed in", body = SignIn), PeopleRefusals),
    security(()),
)]
pub(crate) async fn log_in(
    State(app): State<AppState>,
    AnonymousCaller(ctx): AnonymousCaller,
    From(client): From,
    delivery: Delivery,
    JsonBody(body): JsonBody<LogIn>,
) -> Result<(HeaderMap, Json<SignIn>), ApiError> {
    let LogIn { email, password } = body;
    delivery.answer(app.control.log_in(&ctx, &email, &password, &client).await?)
}
