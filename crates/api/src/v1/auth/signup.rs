//! `POST /v1/auth/signup`.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use sandbar_control::people::NewUser;
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

/// Who wants an account.
#[derive(Deserialize, ToSchema)]
pub(crate) struct SignUp {
    #[schema(example = "ann@example.org", max_length = 254)]
    email: String,
    #[schema(value_type = String, min_length = 8, max_length = 1024, format = Password)]
    password: SecretString,
    #[schema(example = "Ann", min_length = 1, max_length = 100)]
    name: String,
}

/// Makes an account, with a team of its own, and signs in. The first one of an installation administers the platform.
#[utoipa::path(
    post,
    path = "/signup",
    operation_id = "sign_up",
    tag = "auth",
    request_body = SignUp,
    responses((status = 201, description = "It is made", body = SignIn), PeopleRefusals),
    security(()),
)]
pub(crate) async fn sign_up(
    State(app): State<AppState>,
    AnonymousCaller(ctx): AnonymousCaller,
    From(client): From,
    delivery: Delivery,
    JsonBody(body): JsonBody<SignUp>,
) -> Result<(StatusCode, HeaderMap, Json<SignIn>), ApiError> {
    let SignUp { email, password, name } = body;
    let signed_in = app.control.sign_up(&ctx, &NewUser { email, password, name }, &client).await?;
    let (headers, body) = delivery.answer(signed_in)?;
    Ok((StatusCode::CREATED, headers, body))
}
