//! `/volumes`: the team's volumes, by id or by name, with the token that opens their files (`content.rs`).

pub(super) mod content;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use sandbar_control::page::MAX_LIMIT;
use sandbar_control::{Control, PageRequest, volumes};
use sandbar_types::{Id, id};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};

use crate::AppState;
use crate::auth::Caller;
use crate::error::ApiError;
use crate::extract::{JsonBody, PathName};

#[derive(Serialize)]
pub(super) struct Volume {
    #[serde(rename = "volumeID")]
    volume_id: Id<id::Volume>,
    name: String,
}

/// A volume, and what opens its files.
#[derive(Serialize)]
pub(super) struct VolumeAndToken {
    #[serde(flatten)]
    volume: Volume,
    token: String,
}

#[derive(Deserialize)]
pub(super) struct NewVolume {
    name: String,
}

impl From<volumes::Volume> for Volume {
    fn from(volume: volumes::Volume) -> Self {
        Self { volume_id: volume.id, name: volume.name.into() }
    }
}

impl VolumeAndToken {
    fn of(control: &Control, volume: volumes::Volume) -> Self {
        let token = control.volume_token(volume.id).expose_secret().to_owned();
        Self { volume: volume.into(), token }
    }
}

/// All of them: the contract has no pages here.
pub(super) async fn list(
    State(app): State<AppState>,
    Caller(ctx): Caller,
) -> Result<Json<Vec<Volume>>, ApiError> {
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let request =
            PageRequest::new(Some(MAX_LIMIT), after).map_err(|error| ApiError::invalid(error.to_string()))?;
        let page = app.control.volume_list(&ctx, &request).await?;
        all.extend(page.items.into_iter().map(Volume::from));
        match page.next {
            Some(next) => after = Some(next),
            None => return Ok(Json(all)),
        }
    }
}

pub(super) async fn create(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    JsonBody(NewVolume { name }): JsonBody<NewVolume>,
) -> Result<(StatusCode, Json<VolumeAndToken>), ApiError> {
    let made = app.control.volume_create(&ctx, &volumes::NewVolume { name, size_mb: None }).await?;
    Ok((StatusCode::CREATED, Json(VolumeAndToken::of(&app.control, made))))
}

pub(super) async fn one(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(volume): PathName,
) -> Result<Json<VolumeAndToken>, ApiError> {
    let volume = app.control.volume_get(&ctx, &volume).await?;
    Ok(Json(VolumeAndToken::of(&app.control, volume)))
}

pub(super) async fn remove(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    PathName(volume): PathName,
) -> Result<StatusCode, ApiError> {
    app.control.volume_delete(&ctx, &volume).await?;
    Ok(StatusCode::NO_CONTENT)
}
