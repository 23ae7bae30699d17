//! Building templates: `POST /v3/templates` for a name, `POST /v2/templates/{id}/builds/{build}` for what is to be done, its log, and its status,
//! which clients ask for five times a second. Beneath are the same builds as `/v1/builds`.

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, OriginalUri, Path, State};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{HeaderMap, StatusCode, header};
use sandbar_control::OpContext;
use sandbar_control::builds::{
    Build, BuildScope, E2bBase, E2bBuild, E2bStep, Entry, EntryQuery, EntryStart, FilesPut, NewAnnouncement,
};
use sandbar_control::host_client::RegistryCredentials;
use sandbar_control::templates::Reference;
use sandbar_types::{BuildStatus, ErrorCode, Id, LogDirection, LogLevel, TemplateName, id};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::names;
use crate::AppState;
use crate::auth::Caller;
use crate::client::Scheme;
use crate::error::ApiError;
use crate::extract::{BodyLength, JsonBody, PathName, QueryPairs};
use crate::schema::Timestamp;

/// Where archives are uploaded to: no API key is asked for there.
pub(super) const FILES: &str = "/v3/templates/files";
/// Entries of the log that one answer has at most.
const MOST_ENTRIES: usize = 100;

/// Template and build in the path.
pub(super) struct PathBuild {
    template: String,
    build: Id<id::Build>,
}

impl<S: Send + Sync> FromRequestParts<S> for PathBuild {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let unknown = || ApiError::new(ErrorCode::NotFound, "there is no such build");
        let both = Path::<(String, String)>::from_request_parts(parts, state).await;
        let Path((template, build)) = both.map_err(|_| unknown())?;
        let build = Uuid::try_parse(&build).map_err(|_| unknown())?;
        Ok(Self { template, build: Id::from_uuid(build) })
    }
}

impl PathBuild {
    /// Whether the template in the path is that of a build of the team's that is called so.
    fn is_of(&self, team: Id<id::Team>, name: &TemplateName) -> Result<(), ApiError> {
        let by_name = Reference::read(&self.template);
        let fits = self.template == names::template_id(team, name)
            || (by_name.name == name.as_str() && by_name.tag.is_none());
        if fits { Ok(()) } else { Err(self.unknown()) }
    }

    fn unknown(&self) -> ApiError {
        let Self { template, build } = self;
        ApiError::new(ErrorCode::NotFound, format!("template {template:?} has no build {}", build.uuid()))
    }
}

/// A template to be. What else the contract has here, such as a wish for free space, is not asked for: a disk is as large as its base's.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct NewTemplate {
    name: Option<String>,
    /// What the name was before it could have a tag.
    alias: Option<String>,
    tags: Option<Vec<String>>,
    cpu_count: Option<u32>,
    #[serde(rename = "memoryMB")]
    memory_mb: Option<u32>,
}

/// What its builds and its files are known by.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct AnnouncedTemplate {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "buildID")]
    build_id: String,
    public: bool,
    names: Vec<String>,
    tags: Vec<String>,
    aliases: Vec<String>,
}

pub(super) async fn announce(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    JsonBody(body): JsonBody<NewTemplate>,
) -> Result<(StatusCode, Json<AnnouncedTemplate>), ApiError> {
    let NewTemplate { name, alias, tags, cpu_count, memory_mb } = body;
    let name = name.or(alias).ok_or_else(|| ApiError::invalid("name is missing"))?;
    let new = NewAnnouncement { name, tags: tags.unwrap_or_default(), vcpus: cpu_count, memory_mb };
    let announced = app.control.build_announce(&ctx, &new).await?;
    let namespace = app.control.team_namespace(&ctx).await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(AnnouncedTemplate {
            template_id: names::template_id(announced.team_id, &announced.name),
            build_id: announced.id.uuid().to_string(),
            public: false,
            names: vec![format!("{namespace}/{}", announced.name)],
            tags: announced.tags.iter().map(ToString::to_string).collect(),
            aliases: vec![announced.name.into()],
        }),
    ))
}

/// What a build is to do. Whether it is `force`d is not asked: nothing is kept of former builds.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StartBuild {
    from_image: Option<String>,
    from_template: Option<String>,
    from_image_registry: Option<Registry>,
    #[serde(default)]
    steps: Vec<Step>,
    start_cmd: Option<String>,
    ready_cmd: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Step {
    #[serde(rename = "type")]
    word: String,
    #[serde(default)]
    args: Vec<String>,
    files_hash: Option<String>,
}

/// Who asks the image's registry.
#[derive(Debug, Deserialize)]
struct Registry {
    #[serde(rename = "type")]
    kind: String,
    username: Option<String>,
    password: Option<SecretString>,
}

impl TryFrom<StartBuild> for E2bBuild {
    type Error = ApiError;

    fn try_from(body: StartBuild) -> Result<Self, ApiError> {
        let StartBuild { from_image, from_template, from_image_registry, steps, start_cmd, ready_cmd } = body;
        let registry = match from_image_registry {
            None => None,
            Some(Registry { kind, username: Some(username), password: Some(password) })
                if kind == "registry" =>
            {
                Some(RegistryCredentials { username, password })
            }
            Some(_) => {
                let why =
                    "fromImageRegistry: only the type registry is supported, with username and password";
                return Err(ApiError::invalid(why));
            }
        };
        let some = |text: Option<String>| text.filter(|text| !text.trim().is_empty());
        let base = match (some(from_image), some(from_template)) {
            (Some(image), None) => E2bBase::Image(image),
            (None, Some(template)) => E2bBase::Template(template),
            _ => return Err(ApiError::invalid("name one of fromImage and fromTemplate")),
        };
        let steps = steps.into_iter().map(|Step { word, args, files_hash }| E2bStep {
            word,
            args,
            files: files_hash,
        });
        let steps = steps.collect();
        Ok(Self { base, steps, start: some(start_cmd), ready: some(ready_cmd), registry })
    }
}

pub(super) async fn begin(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    path: PathBuild,
    JsonBody(body): JsonBody<StartBuild>,
) -> Result<StatusCode, ApiError> {
    look(&app, &ctx, &path).await?;
    app.control.build_begin(&ctx, path.build, &body.try_into()?).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Where a step's files go, unless they are there.
#[derive(Debug, Serialize)]
pub(super) struct FileUpload {
    present: bool,
    url: String,
}

/// Says where the archive of a `COPY` step goes. The URL is all that an upload to it needs.
pub(super) async fn files(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    Path((template, hash)): Path<(String, String)>,
    scheme: Scheme,
    headers: HeaderMap,
    OriginalUri(uri): OriginalUri,
) -> Result<(StatusCode, Json<FileUpload>), ApiError> {
    let unknown = || ApiError::new(ErrorCode::NotFound, format!("there is no template {template:?}"));
    let id = Uuid::try_parse(&template).map_err(|_| unknown())?;
    let (present, ticket) = app.control.build_files_wanted(&ctx, id, &hash).await?.ok_or_else(unknown)?;
    // To where the client found us.
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| uri.authority().map(Authority::as_str));
    let host = host.ok_or_else(|| ApiError::invalid("the request says no Host"))?;
    let scheme = match scheme {
        Scheme::Http => "http",
        Scheme::Https => "https",
    };
    let url = format!("{scheme}://{host}{FILES}/{}", ticket.expose_secret());
    Ok((StatusCode::CREATED, Json(FileUpload { present, url })))
}

/// Takes the archive, from whoever has the ticket.
pub(super) async fn take_files(
    State(app): State<AppState>,
    PathName(ticket): PathName,
    BodyLength(length): BodyLength,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let put = app.control.build_files_put_by_ticket(&ticket, length, body.into_data_stream()).await?;
    Ok(match put {
        FilesPut::Stored(_) => StatusCode::CREATED,
        FilesPut::Present(_) => StatusCode::OK,
    })
}

/// Where a build stands, in the contract's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Status {
    Waiting,
    Building,
    Ready,
    Error,
}

impl Status {
    pub(super) const fn of(status: BuildStatus) -> Self {
        match status {
            BuildStatus::Pending => Self::Waiting,
            BuildStatus::Running => Self::Building,
            BuildStatus::Success => Self::Ready,
            BuildStatus::Failed | BuildStatus::Cancelled => Self::Error,
        }
    }
}

/// A build and what is new in its log.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct BuildInfo {
    #[serde(rename = "templateID")]
    template_id: String,
    #[serde(rename = "buildID")]
    build_id: String,
    status: Status,
    /// Nobody reads them any more, and everybody requires them.
    logs: [String; 0],
    log_entries: Vec<LogEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
}

#[derive(Debug, Serialize)]
struct LogEntry {
    timestamp: Timestamp,
    message: String,
    level: LogLevel,
    #[serde(skip_serializing_if = "Option::is_none")]
    step: Option<String>,
}

impl From<Entry> for LogEntry {
    fn from(entry: Entry) -> Self {
        let Entry { at, level, step, message } = entry;
        Self { timestamp: Timestamp(at), message, level, step: step.map(|step| step.to_string()) }
    }
}

/// Why a build failed.
#[derive(Debug, Serialize)]
struct Reason {
    message: String,
    /// The number of the step, from 1, or what comes before and after all of them.
    step: String,
}

impl Reason {
    fn of(build: &Build) -> Option<Self> {
        let message = match build.status {
            BuildStatus::Failed => build.error.clone().unwrap_or_else(|| "the build failed".to_owned()),
            BuildStatus::Cancelled => "the build was cancelled".to_owned(),
            BuildStatus::Pending | BuildStatus::Running | BuildStatus::Success => return None,
        };
        let step = match build.current_step {
            0 => "base".to_owned(),
            step if step <= build.recipe_steps => step.to_string(),
            _ => "finalize".to_owned(),
        };
        Some(Self { message, step })
    }
}

pub(super) async fn status(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    path: PathBuild,
    query: QueryPairs,
) -> Result<Json<BuildInfo>, ApiError> {
    // Of those of the level.
    let query = entry_query(&query, EntryStart::After(query.parse("logsOffset")?.unwrap_or_default()))?;
    let told = |team, name: &TemplateName, status, entries, reason| BuildInfo {
        template_id: names::template_id(team, name),
        build_id: path.build.uuid().to_string(),
        status,
        logs: [],
        log_entries: entries,
        reason,
    };
    Ok(Json(match look(&app, &ctx, &path).await? {
        Seen::Announced(team, name) => told(team, &name, Status::Waiting, Vec::new(), None),
        Seen::Begun(build) => {
            // The build before its log: what a build that has ended wrote is there.
            let entries = app.control.build_entries(&build, &query).await?;
            let entries = entries.into_iter().map(LogEntry::from).collect();
            told(build.team_id, &build.name, Status::of(build.status), entries, Reason::of(&build))
        }
    }))
}

fn entry_query(query: &QueryPairs, from: EntryStart) -> Result<EntryQuery, ApiError> {
    Ok(EntryQuery {
        least: query.parse("level")?.unwrap_or(LogLevel::Debug),
        from,
        limit: query.parse("limit")?.unwrap_or(MOST_ENTRIES).min(MOST_ENTRIES),
    })
}

/// A build's log alone.
#[derive(Debug, Serialize)]
pub(super) struct BuildLogs {
    logs: Vec<LogEntry>,
}

/// The entries from a point in time on, or backward from before it.
pub(super) async fn logs(
    State(app): State<AppState>,
    Caller(ctx): Caller,
    path: PathBuild,
    query: QueryPairs,
) -> Result<Json<BuildLogs>, ApiError> {
    let direction = query.parse("direction")?.unwrap_or(LogDirection::Forward);
    let query = entry_query(&query, EntryStart::At(query.moment("cursor")?, direction))?;
    let entries = match look(&app, &ctx, &path).await? {
        Seen::Announced(..) => Vec::new(),
        Seen::Begun(build) => app.control.build_entries(&build, &query).await?,
    };
    Ok(Json(BuildLogs { logs: entries.into_iter().map(LogEntry::from).collect() }))
}

/// A build of the team's, and of the template in the path.
enum Seen {
    Announced(Id<id::Team>, TemplateName),
    Begun(Box<Build>),
}

async fn look(app: &AppState, ctx: &OpContext, path: &PathBuild) -> Result<Seen, ApiError> {
    if let Some(announced) = app.control.build_announced(ctx, path.build).await? {
        path.is_of(announced.team_id, &announced.name)?;
        return Ok(Seen::Announced(announced.team_id, announced.name));
    }
    let build = app.control.build_get(ctx, BuildScope::Team, path.build).await?;
    path.is_of(build.team_id, &build.name)?;
    Ok(Seen::Begun(Box::new(build)))
}
