//! Builds: templates made of recipes.
//!
//! ```text
//!   submit ──► row pending ──► queue ──► worker: claim ─► sandbox of the base ─► step, step, step ─► healthcheck ─► snapshot
//!                                          │                                                                     │
//!                                          └── lease runs out: another attempt, from the start      one transaction: template,
//!                                                                                                    build, event
//! ```
//!
//! - The rows are the truth about builds; a queue only says who takes which. `queue`: PostgreSQL, or Redis.
//! - `submit`: asking for builds, looking at them, cancelling them. `follow`: their progress as it comes.
//! - `e2b`: builds as E2B's clients ask for them, announced before their steps come. `entries`: a build's log as one list.
//! - `files`: archives that clients bring for `COPY`.
//! - `registry`: credentials for an image's registry.
//! - `image`: what comes before the steps where the base is an image, of a registry or in an archive.
//! - `given`: the team's secrets that its steps are given; `mask`: what their output has in their place.
//! - `worker`: claims, keeps the lease, cleans up. `course`: one attempt from sandbox to template; `copy`: its steps that bring files. `output`: logs, bounded.
//! - `sweep`: what dead workers left: builds that were begun too often, sandboxes that nobody needs.
//!
//! A build's sandbox is the platform's and bears the claim's name: no team sees it, and whoever finds it without its claim destroys it.

mod copy;
mod course;
mod e2b;
mod entries;
mod files;
mod follow;
mod given;
mod image;
mod mask;
mod output;
mod queue;
mod registry;
mod submit;
mod sweep;
mod worker;

use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sandbar_store::StoreError;
use sandbar_store::builds::{BuildLogRow, BuildRow};
use sandbar_types::id::{self, Team};
use sandbar_types::name::InvalidName;
use sandbar_types::recipe::{Base, Dialect, E2bFault, InvalidFilesName, Origin, Outside, RecipeError};
use sandbar_types::{
    BuildStatus, ErrorCode, Id, QuotaExceeded, TemplateKind, TemplateName, TemplateTag, limits,
};

pub use e2b::{Announced, E2bBase, E2bBuild, E2bStep, NewAnnouncement};
pub use entries::{Entry, EntryQuery, EntryStart};
pub use files::{BuildFiles, FilesError, FilesPut, MAX_ARCHIVE_BYTES, PlaceError};
pub(crate) use files::{FilesPlace, TicketKey};
pub use follow::BuildFollower;
pub use queue::QueueError;
pub(crate) use queue::{BuildQueue, open as open_queue};
pub use submit::{BuildScope, NewBuild};

use crate::access::AccessError;
use crate::context::NoTeam;
use crate::control::ShuttingDown;
use crate::sandboxes::{InvalidSandbox, SandboxError};
use crate::snapshots::SnapshotError;
use crate::tags::TagError;
use crate::templates::TemplateError;

/// How builds are run.
#[derive(Debug, Clone)]
pub struct BuildConfig {
    /// How many this control plane runs at the same time. 0 = it leaves them to others.
    pub workers: usize,
    /// A worker that is not heard of for this long has died.
    pub lease: Duration,
    /// Time between two looks for what dead workers left.
    pub sweep: Duration,
    /// How often a build is begun before it has failed.
    pub attempts: u32,
    /// How long a step may take that does not say.
    pub step_limit: Duration,
    /// Time between two healthchecks.
    pub health_interval: Duration,
    /// The shared queue; none = the database.
    pub redis_url: Option<String>,
    /// Where archives for builds are kept where there is no object storage; none = nowhere.
    pub files_folder: Option<PathBuf>,
    /// What the archives of one team may take.
    pub files_bytes: u64,
}

impl Default for BuildConfig {
    fn default() -> Self {
        Self {
            workers: 2,
            lease: Duration::from_secs(30),
            sweep: Duration::from_secs(5),
            attempts: 3,
            step_limit: Duration::from_secs(1800),
            health_interval: Duration::from_secs(1),
            redis_url: None,
            files_folder: None,
            files_bytes: 16 << 30,
        }
    }
}

/// A build, as it was when it was looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the names are the API's own")]
pub struct Build {
    pub id: Id<id::Build>,
    pub team_id: Id<Team>,
    pub name: TemplateName,
    pub base: Base,
    pub dialect: Dialect,
    /// What its template is tagged with.
    pub tags: Vec<TemplateTag>,
    /// What its owner is told before the first step.
    pub note: Option<String>,
    /// Its steps alone, without what the platform does before and after them.
    pub recipe_steps: u32,
    pub healthcheck: Option<String>,
    /// Of what kind its template is.
    pub kind: TemplateKind,
    pub vcpus: u32,
    pub memory_mb: u32,
    pub disk_mb: Option<u32>,
    pub status: BuildStatus,
    pub current_step: u32,
    pub total_steps: u32,
    pub error: Option<String>,
    pub attempts: u32,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
}

/// What one step wrote.
pub type BuildLog = BuildLogRow;

impl From<BuildRow> for Build {
    fn from(row: BuildRow) -> Self {
        let BuildRow {
            id,
            team_id,
            name,
            base,
            base_tag: _,
            dialect,
            tags,
            note,
            recipe,
            healthcheck,
            healthcheck_sec: _,
            vcpus,
            memory_mb,
            disk_mb,
            status,
            current_step,
            total_steps,
            error,
            template_id: _,
            sandbox_id: _,
            attempts,
            cancel_asked: _,
            operation: _,
            created_at,
            started_at,
            finished_at,
            kind,
            secrets: _,
            trace: _,
        } = row;
        Self {
            id,
            team_id,
            name,
            base,
            dialect,
            tags,
            note,
            recipe_steps: recipe_steps(&recipe),
            healthcheck,
            kind,
            vcpus,
            memory_mb,
            disk_mb,
            status,
            current_step,
            total_steps,
            error,
            attempts,
            created_at,
            started_at,
            finished_at,
        }
    }
}

fn recipe_steps(recipe: &serde_json::Value) -> u32 {
    recipe.as_array().and_then(|steps| u32::try_from(steps.len()).ok()).unwrap_or_default()
}

/// Why an operation on a build failed.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The caller acts for no team.
    #[error(transparent)]
    NoTeam(#[from] NoTeam),
    /// The caller may not.
    #[error(transparent)]
    Access(#[from] AccessError),
    /// A name that cannot be one.
    #[error("name: {0}")]
    Name(#[from] InvalidName),
    /// The platform has a template of this name.
    #[error("{name} is the name of a template of the platform: choose another")]
    Reserved {
        /// The name.
        name: TemplateName,
    },
    /// The recipe is none.
    #[error("recipe: {0}")]
    Recipe(#[from] RecipeError),
    /// A step's environment, folder or user cannot be one.
    #[error("recipe: step {step}: {fault}")]
    Step {
        /// Which, from 1.
        step: usize,
        /// What is wrong.
        fault: InvalidSandbox,
    },
    /// A step of E2B's cannot be one of ours.
    #[error("step {step}: {fault}")]
    E2bStep {
        /// Which, from 1.
        step: usize,
        /// What is wrong.
        fault: E2bFault,
    },
    /// Too many steps.
    #[error("a build may have at most {} steps", sandbar_types::recipe::MAX_STEPS)]
    TooManySteps,
    /// No image can be called so.
    #[error("{reference:?} is no name of an image")]
    ImageName {
        /// What was said.
        reference: String,
    },
    /// A name or a tag that cannot be one, or is another's.
    #[error(transparent)]
    Tag(#[from] TagError),
    /// There is no such base.
    #[error(transparent)]
    BaseTemplate(#[from] TemplateError),
    /// Its steps have come already.
    #[error("build {id} has begun already")]
    Begun {
        /// Which.
        id: Id<id::Build>,
    },
    /// Too many wait for their steps.
    #[error("too many builds of the team's wait for their steps: begin them, or wait an hour")]
    TooManyAnnounced,
    /// A step copies what is not the build's.
    #[error("recipe: step {step}: {fault}")]
    Source {
        /// Which, from 1.
        step: usize,
        /// What is wrong.
        fault: Outside,
    },
    /// The archive's name cannot be one.
    #[error("files: {0}")]
    FilesName(#[from] InvalidFilesName),
    /// The request names two bases.
    #[error("{field} is {asked}, and the recipe says FROM {from}: leave one out")]
    TwoBases {
        /// What of the request.
        field: &'static str,
        /// The request's.
        asked: String,
        /// The recipe's.
        from: Origin,
    },
    /// The request names an archive and a template.
    #[error("base_template and from_archive are two bases: leave one out")]
    ArchiveAndTemplate,
    /// The recipe names a file of its author's.
    #[error(
        "{path} is a file of yours: upload it, and say its SHA-256 with from_archive, as `sandbar template build` does"
    )]
    NoArchive {
        /// The file.
        path: String,
    },
    /// A process that goes on, in what does not.
    #[error(
        "recipe: step {step}: what START began would be gone without the template's memory: leave it out, or build with memory"
    )]
    StartWithoutMemory {
        /// Which, from 1.
        step: usize,
    },
    /// A process that goes on, before the sandbox boots anew.
    #[error(
        "recipe: step {step}: with secrets START comes after the last RUN: the sandbox boots anew there, so that no memory has them"
    )]
    StartBeforeSecrets {
        /// Which, from 1.
        step: usize,
    },
    /// A variable that is said twice.
    #[error("recipe: step {step}: {variable} is a secret's variable, too")]
    SecretSaidTwice {
        /// Which, from 1.
        step: usize,
        /// Which.
        variable: String,
    },
    /// Secrets that cannot be given.
    #[error(transparent)]
    Secrets(SandboxError),
    /// There is no such base.
    #[error("there is no template {name}")]
    NoBase {
        /// What was said.
        name: TemplateName,
    },
    /// Another size than the base's.
    #[error(
        "a template has its base's size: {vcpus} vCPUs, {memory_mb} MiB of memory and {disk_mb} MiB of disk; say so or leave it out"
    )]
    Size {
        /// The base's.
        vcpus: u32,
        /// The base's.
        memory_mb: u32,
        /// The base's.
        disk_mb: u32,
    },
    /// Another disk than that of a base that is a disk alone.
    #[error("a template has its base's disk, of {disk_mb} MiB: say so or leave it out")]
    Disk {
        /// The base's.
        disk_mb: u32,
    },
    /// A size that no machine has.
    #[error(
        "a machine has {} to {} vCPUs, {} to {} MiB of memory and {} to {} MiB of disk",
        limits::VCPUS.start(), limits::VCPUS.end(), limits::MEMORY_MB.start(), limits::MEMORY_MB.end(),
        limits::DISK_MB.start(), limits::DISK_MB.end()
    )]
    NoSize,
    /// Credentials for a registry that cannot be any.
    #[error("registry: a username without colons, and a password, of at most 512 and 16384 bytes")]
    Registry,
    /// Credentials for a registry that is not asked.
    #[error("registry: credentials are for an image, and this build starts from template {name}")]
    NoRegistry {
        /// The template.
        name: Base,
    },
    /// A healthcheck that cannot be one.
    #[error("healthcheck must be a shell line of 1 to 4096 bytes, and its limit 1 to 3600 seconds")]
    Healthcheck,
    /// The team has as many as it may have.
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    /// There is no such build.
    #[error("there is no build {id}")]
    NotFound {
        /// Which.
        id: Id<id::Build>,
    },
    /// It has ended.
    #[error("build {id} has ended: it is {status}")]
    Ended {
        /// Which.
        id: Id<id::Build>,
        /// How.
        status: BuildStatus,
    },
    /// The platform cannot be without it.
    #[error("{name} is what all else is made of: it cannot be deleted")]
    Needed {
        /// Its name.
        name: TemplateName,
    },
    /// A template could not be deleted.
    #[error(transparent)]
    Template(#[from] SnapshotError),
    /// The files of a build.
    #[error(transparent)]
    Files(#[from] FilesError),
    /// The control plane goes down.
    #[error(transparent)]
    ShuttingDown(#[from] ShuttingDown),
    /// The database failed.
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl BuildError {
    /// The code that the API answers with.
    #[must_use]
    pub const fn code(&self) -> ErrorCode {
        match self {
            Self::NoTeam(_) => ErrorCode::NoTeam,
            Self::Access(error) => error.code(),
            Self::Name(_)
            | Self::Recipe(_)
            | Self::Step { .. }
            | Self::Source { .. }
            | Self::FilesName(_)
            | Self::TwoBases { .. }
            | Self::ArchiveAndTemplate
            | Self::NoArchive { .. }
            | Self::StartWithoutMemory { .. }
            | Self::StartBeforeSecrets { .. }
            | Self::SecretSaidTwice { .. }
            | Self::NoBase { .. }
            | Self::Size { .. }
            | Self::Disk { .. }
            | Self::NoSize
            | Self::E2bStep { .. }
            | Self::TooManySteps
            | Self::ImageName { .. }
            | Self::Registry
            | Self::NoRegistry { .. }
            | Self::Healthcheck => ErrorCode::InvalidRequest,
            Self::Secrets(error) => error.code(),
            Self::Tag(error) => error.code(),
            Self::BaseTemplate(error) => error.code(),
            Self::Begun { .. } => ErrorCode::InvalidState,
            Self::TooManyAnnounced => ErrorCode::RateLimited,
            Self::Reserved { .. } => ErrorCode::NameReserved,
            Self::Quota(_) => ErrorCode::RateLimited,
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::Ended { .. } => ErrorCode::InvalidState,
            Self::Needed { .. } => ErrorCode::Forbidden,
            Self::Template(error) => error.code(),
            Self::Files(error) => error.code(),
            Self::ShuttingDown(_) => ErrorCode::InternalError,
            Self::Store(error) => crate::access::store_code(error),
        }
    }
}

/// What a build's owner is told of a failure that is not the recipe's: nothing that is only ours to know.
fn told(error: &SandboxError) -> String {
    match error.code() {
        ErrorCode::InternalError => "an internal error occurred".to_owned(),
        _ => error.to_string(),
    }
}
