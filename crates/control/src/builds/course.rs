//! One attempt at a build: a sandbox of the base, the steps in it, the healthcheck, the template.
//!
//! May be dropped at any await: the sandbox bears the claim's name, and whoever drops this destroys what bears it.

use std::collections::BTreeMap;
use std::time::Duration;

use sandbar_store::StoreError;
use sandbar_store::audit::Outcome as Told;
use sandbar_store::builds::{BuildRow, Claim, Ended};
use sandbar_store::snapshots::{Naming, NewSnapshotRow};
use sandbar_store::templates::{CompleteTemplate, TemplateRow};
use sandbar_types::id::{Host, Template};
use sandbar_types::recipe::{Action, Base, Defaults, Dialect, Recipe, State, Step};
use sandbar_types::{ErrorCode, Id, OnTimeout, PerResource, QuotaExceeded, TemplateKind, TemplateTag};
use serde::Deserialize as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::copy;
use super::files::FilesReader;
use super::given::{Given, boots_after};
use super::output::{StepLog, Stream};
use super::submit::check_steps;
use super::{FilesError, told};
use crate::operation::Operation;
use crate::sandboxes::{
    CallSite, Command, ExecEvent, ExecStream, ExecStreamOptions, NewSandbox, OnClose, Sandbox, SandboxError,
    Stdin,
};
use crate::{Control, OpContext};

/// A sandbox that nobody uses for this long ends by itself, whatever became of the platform.
const IDLE_LIMIT_SEC: u32 = 1800;
/// How long one run of the healthcheck may take.
const HEALTH_RUN_SEC: u32 = 30;
/// How long the platform's own commands in the sandbox may take.
const OWN_LIMIT: Duration = Duration::from_secs(60);

/// How much longer than its limit a step may take until it is given up.
pub(super) const MARGIN: Duration = Duration::from_secs(10);

/// What an attempt came to.
#[derive(Debug)]
pub(super) enum Outcome {
    /// There is a template, and the rows say so.
    Success,
    /// Another attempt would come to the same.
    Failed(String),
    /// Another attempt may come to something else.
    Again(String),
    /// Nobody wants it any more.
    Cancelled,
    /// Another has the build.
    Lost,
    /// This control plane goes down.
    Stopped,
}

/// Why an attempt broke off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("{0}")]
    Failed(String),
    #[error("{0}")]
    Again(String),
    #[error(transparent)]
    Sandbox(#[from] SandboxError),
    #[error(transparent)]
    Quota(#[from] QuotaExceeded),
    #[error("the step took too long")]
    Late,
    #[error("the claim is lost")]
    Lost,
    #[error("the database failed")]
    Store(#[from] StoreError),
}

impl From<Broken> for Outcome {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Failed(reason) => Self::Failed(reason),
            Broken::Again(reason) => Self::Again(reason),
            Broken::Quota(error) => Self::Failed(error.to_string()),
            Broken::Late => Self::Failed(broken.to_string()),
            Broken::Lost => Self::Lost,
            Broken::Store(StoreError::TeamGone) => Self::Cancelled,
            Broken::Store(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a build broke off");
                Self::Again("an internal error occurred".to_owned())
            }
            Broken::Sandbox(error) => {
                tracing::info!(error = &error as &dyn std::error::Error, "a build's sandbox broke");
                match error.code() {
                    ErrorCode::InvalidState
                    | ErrorCode::HostUnavailable
                    | ErrorCode::AgentError
                    | ErrorCode::NoHostsAvailable
                    | ErrorCode::InternalError
                    | ErrorCode::Unavailable
                    | ErrorCode::NotFound => Self::Again(told(&error)),
                    _ => Self::Failed(told(&error)),
                }
            }
        }
    }
}

/// An attempt under way.
struct Course<'a> {
    control: &'a Control,
    ctx: &'a OpContext,
    claim: Claim,
    build: &'a BuildRow,
    sandbox: Sandbox,
    state: State,
    given: Given,
    step: u32,
}

impl Control {
    /// One attempt, to its end.
    pub(super) async fn build_attempt(&self, ctx: &OpContext, claim: Claim, build: &BuildRow) -> Outcome {
        match self.attempt(ctx, claim, build).await {
            Ok(()) => Outcome::Success,
            Err(broken) => broken.into(),
        }
    }

    async fn attempt(&self, ctx: &OpContext, claim: Claim, build: &BuildRow) -> Result<(), Broken> {
        let recipe =
            Vec::<Step>::deserialize(&build.recipe).map(|steps| Recipe { from: None, steps }).map_err(
                |_| Broken::Failed("it was asked for in another version's words: ask again".to_owned()),
            )?;
        let (base, image) = match &build.base {
            Base::Template(name) => {
                let base = self.store().template_by_tag(build.team_id, name, &build.base_tag).await?;
                let gone = || Broken::Failed(format!("there is no template {name} any more"));
                (base.ok_or_else(gone)?, None)
            }
            Base::Image(_) | Base::Archive(_) => {
                let (base, says) = self.build_import(claim, build).await?;
                (base, Some(says))
            }
        };
        let given = self.given_to(build.team_id, &build.secrets).await?;
        let metadata = [("build", build.id.uuid().to_string()), ("worker", claim.worker.to_string())];
        let new = NewSandbox {
            template: Some(base.name.to_string()),
            // What has memory keeps its own.
            vcpus: Some(build.vcpus),
            memory_mb: Some(build.memory_mb),
            timeout_sec: Some(IDLE_LIMIT_SEC),
            on_timeout: Some(OnTimeout::Kill),
            metadata: metadata.map(|(key, value)| (key.to_owned(), value)).into(),
            ..NewSandbox::default()
        };
        let sandbox = self.build_sandbox_create(ctx, build.team_id, base.clone(), &new).await?;
        let defaults = match (image, build.dialect) {
            (None, _) => base.defaults.clone(),
            (Some(says), dialect) => {
                let mut defaults = self.image_defaults(ctx, &sandbox, says).await?;
                if dialect == Dialect::E2b {
                    // Its users know an image's environment alone.
                    defaults = Defaults { env: defaults.env, ..Defaults::default() };
                }
                let fits = check_steps(&recipe, State::new(dialect, defaults.clone()));
                fits.map_err(|fault| Broken::Failed(format!("with what the image says, {fault}")))?;
                defaults
            }
        };
        let state = State::new(build.dialect, defaults);
        let mut course = Course { control: self, ctx, claim, build, sandbox, state, given, step: 0 };
        let boots_after = boots_after(&recipe, &build.secrets, build.kind);
        for (number, step) in (1..).zip(&recipe.steps) {
            let action = course.state.take(step);
            course.step(&step.shown(), &action).await?;
            if boots_after == Some(number) {
                course.sandbox = self.boot_anew(ctx, &course.sandbox).await?;
            }
        }
        if let Some(healthcheck) = &build.healthcheck {
            course.healthcheck(healthcheck).await?;
        }
        course.keep(&base).await
    }
}

impl<'a> Course<'a> {
    /// Goes on to the next step, and begins its log.
    async fn next(&mut self, cmd: &str) -> Result<StepLog<'a>, Broken> {
        self.step += 1;
        let control: &'a Control = self.control;
        let store = control.store();
        if !store.build_progress(self.claim, self.step, self.sandbox.id).await? {
            return Err(Broken::Lost);
        }
        Ok(StepLog::begin(store, self.claim, self.step, cmd, self.given.mask()).await?)
    }

    /// A shell line as the steps before have left it.
    fn shell(&self, line: &str, user: Option<&str>) -> Command {
        let (cmd, options): (_, &[&str]) = match self.build.dialect {
            Dialect::Recipe => ("/bin/sh", &["-c"]),
            Dialect::E2b => ("/bin/bash", &["-l", "-c"]),
        };
        Command {
            cmd: cmd.to_owned(),
            args: options.iter().copied().chain([line]).map(str::to_owned).collect(),
            env: self.state.env().clone(),
            cwd: self.state.workdir().map(str::to_owned),
            user: Some(user.unwrap_or(self.state.user()).to_owned()),
        }
    }

    async fn step(&mut self, cmd: &str, action: &Action) -> Result<(), Broken> {
        let number = self.step + 1;
        let limit = self.control.config().builds.step_limit;
        let mut archive = None;
        let (command, limit) = match action {
            Action::None => {
                self.next(cmd).await?.end(Some(0)).await?;
                return Ok(());
            }
            Action::Start { command } => return self.start(cmd, &self.shell(command, None)).await,
            Action::Run { command, timeout, user } => {
                let mut shell = self.shell(command, user.as_deref());
                self.given.add_to(&mut shell.env);
                (shell, timeout.unwrap_or(limit))
            }
            Action::MakeFolder { path, owner } => (make_folder(path, owner), OWN_LIMIT),
            Action::Copy { files, sources, dest, owner, mode } => {
                let name = files.as_ref().ok_or(FilesError::Unnamed)?;
                archive = Some(self.control.build_files_open(self.build.team_id, name).await?);
                (copy::command(sources, dest, owner, *mode), limit)
            }
        };
        let dialect = self.build.dialect;
        let failed = |what: &str| {
            Broken::Failed(match (dialect, action) {
                // As E2B's clients know it.
                (Dialect::E2b, Action::Run { command, .. }) => {
                    format!("failed to run command '{command}': command failed: {what}")
                }
                _ => format!("step {number} ({cmd}) {what}"),
            })
        };
        let (control, ctx, sandbox) = (self.control, self.ctx, self.sandbox.clone());
        let mut log = self.next(cmd).await?;
        let ran = run(control, ctx, &sandbox, &command, (limit, archive), &mut log);
        // The host ends it in time; one that does not must not keep a worker.
        let ran = tokio::time::timeout(limit + MARGIN, ran).await.unwrap_or(Err(Broken::Late));
        let exit_code = ran.as_ref().ok().copied();
        log.end(exit_code).await?;
        match ran {
            Ok(0) => Ok(()),
            Ok(code) => Err(failed(&match dialect {
                Dialect::Recipe => format!("failed: exit code {code}"),
                Dialect::E2b => format!("exit status {code}"),
            })),
            Err(Broken::Late | Broken::Sandbox(SandboxError::Timeout { .. })) => {
                Err(failed(&format!("took longer than {} s", limit.as_secs())))
            }
            Err(Broken::Sandbox(error))
                if matches!(error.code(), ErrorCode::InvalidRequest | ErrorCode::NotFound) =>
            {
                Err(failed(&match (dialect, error.to_string()) {
                    (Dialect::E2b, why) if why.contains("invalid username") => {
                        format!("unauthenticated: {why}")
                    }
                    (Dialect::E2b, why) => why,
                    (Dialect::Recipe, why) => format!("cannot be run: {why}"),
                }))
            }
            Err(broken) => Err(broken),
        }
    }

    /// Starts a process, and leaves it running.
    async fn start(&mut self, cmd: &str, command: &Command) -> Result<(), Broken> {
        let (control, ctx, sandbox) = (self.control, self.ctx, self.sandbox.clone());
        let log = self.next(cmd).await?;
        let options = ExecStreamOptions { timeout: None, on_close: OnClose::Detach, stdin: Stdin::Closed };
        let mut stream = control.sandbox_exec_stream(ctx, &sandbox, command, options).await?;
        while let Some(event) = stream.output.next().await? {
            if let ExecEvent::Started { .. } = event {
                break;
            }
        }
        Ok(log.end(None).await?)
    }

    /// Asks until the sandbox is well, or its time is over.
    async fn healthcheck(&mut self, line: &str) -> Result<(), Broken> {
        let command = self.shell(line, None);
        let (control, ctx, sandbox) = (self.control, self.ctx, self.sandbox.clone());
        let limit = Duration::from_secs(self.build.healthcheck_sec.into());
        let interval = control.config().builds.health_interval;
        let mut log = self.next(&format!("HEALTHCHECK {line}")).await?;
        let until = Instant::now() + limit;
        loop {
            let run_sec = match self.build.dialect {
                Dialect::Recipe => HEALTH_RUN_SEC,
                // `sleep 60` is one.
                Dialect::E2b => left_sec(until),
            };
            let ran = control.sandbox_exec(ctx, &sandbox, &command, Some(run_sec)).await;
            let (exit_code, out, err) = match ran {
                Ok(ended) => (Some(ended.exit_code), ended.stdout, ended.stderr),
                Err(SandboxError::Timeout { .. }) => (None, Default::default(), Default::default()),
                Err(error) => return Err(error.into()),
            };
            if exit_code == Some(0) {
                return Ok(log.end(exit_code).await?);
            }
            if Instant::now() >= until {
                // Of all its runs the last one's words tell most.
                log.take(Stream::Stdout, &out).await?;
                log.take(Stream::Stderr, &err).await?;
                log.end(exit_code).await?;
                return Err(Broken::Failed(format!(
                    "the healthcheck did not pass within {} s",
                    limit.as_secs()
                )));
            }
            tokio::time::sleep(interval).await;
        }
    }

    /// Keeps the sandbox as the template. The template, the build's end and the event are one transaction.
    async fn keep(mut self, base: &TemplateRow) -> Result<(), Broken> {
        let name = self.build.name.clone();
        // Its end is the build's, which nothing can follow.
        self.next(&format!("KEEP {name}")).await?.end(None).await?;
        let Self { control, claim, build, sandbox, state, .. } = self;
        let missing = || SandboxError::Missing { id: sandbox.id };
        let (Some(host), Some(address)) = (sandbox.host_id, &sandbox.host_address) else {
            return Err(missing().into());
        };
        let id = Id::new();
        let defaults = serde_json::to_value(state.into_defaults());
        let defaults = defaults.map_err(|_| Broken::Failed("its defaults cannot be kept".to_owned()))?;
        let mut tx = control.store().begin().await?;
        let mut room = control.headroom(&mut tx, build.team_id).await?;
        // One that takes the place of another is none more.
        let is_new = !tx.tags_displace(build.team_id, &name, &build.tags).await?;
        if is_new && build.team_id != Id::PLATFORM {
            room.take(&PerResource::of_snapshot())?;
        }
        tx.snapshot_reserve(&NewSnapshotRow {
            id,
            team_id: build.team_id,
            name: &name,
            naming: Naming::Replace,
            kind: build.kind,
            vcpus: sandbox.vcpus,
            memory_mb: sandbox.memory_mb,
            arch: base.arch,
            vmm: base.vmm,
            host_id: host,
            source_id: sandbox.id,
            defaults: Some(&defaults),
            // The trail hears of the build, not of this.
            operation: &json!({}),
        })
        .await?;
        tx.commit().await?;

        let made = (id, build.kind, &build.tags[..]);
        let published = publish(control, claim, &sandbox, (host, address), made).await;
        if published.is_err() {
            control.snapshot_abandoned(id).await?;
        }
        // Files are owed to be deleted: of the template that was replaced, or of this one.
        control.wants_reconcile(host);
        published
    }
}

/// Has the host keep the sandbox, and writes down what comes of it.
async fn publish(
    control: &Control,
    claim: Claim,
    sandbox: &Sandbox,
    (host, address): (Id<Host>, &str),
    (id, kind, tags): (Id<Template>, TemplateKind, &[TemplateTag]),
) -> Result<(), Broken> {
    let limit = control.config().snapshot_deadline;
    let client = control.host_clients().get(host, address);
    let complete = match kind {
        TemplateKind::Snapshot => client.snapshot_sandbox(sandbox.id, id, limit).await.map(|(made, _)| made),
        TemplateKind::Base => client.flatten_rootfs(sandbox.id, id, limit).await,
    };
    let complete = complete
        .map_err(|error| control.host_failed(CallSite::of(sandbox, "keeping the template", limit), error))?;
    let sizes = CompleteTemplate {
        vcpus: complete.vcpus,
        memory_mb: complete.memory_mb,
        disk_mb: complete.disk_mb,
        size_bytes: complete.size_bytes,
        compatibility: &complete.compatibility,
    };
    let mut tx = control.store().begin().await?;
    if tx.snapshot_publish(id, host, &sizes, tags).await?.is_none() {
        // It was given up as overdue.
        return Err(SandboxError::Interrupted { id: sandbox.id }.into());
    }
    let row = tx.build_end(claim, Ended::Success(id)).await?.ok_or(Broken::Lost)?;
    tx_tell(&mut tx, &row, Told::Success).await?;
    Ok(tx.commit().await?)
}

/// Tells the trail how a build ended, on behalf of whoever asked for it.
pub(super) async fn tx_tell(
    tx: &mut sandbar_store::Tx,
    row: &BuildRow,
    outcome: Told,
) -> Result<(), StoreError> {
    let Some(operation) = Operation::read(row.operation.as_ref()) else { return Ok(()) };
    let mut metadata = json!({ "build": row.id, "base_template": row.base.to_string() });
    if let (Some(error), Value::Object(map)) = (&row.error, &mut metadata) {
        map.insert("error".to_owned(), error.as_str().into());
    }
    tx.audit(&operation.template_event(row.team_id, &row.name, outcome, metadata)).await
}

/// Makes a folder and those above it; one that is there stays whose it is.
fn make_folder(path: &str, owner: &str) -> Command {
    const OWNED: &str = r#"[ -d "$0" ] || { mkdir -p -- "$0" && chown -- "$1:" "$0"; }"#;
    let (cmd, args) = match owner {
        "root" => ("/bin/mkdir", vec!["-p", "--", path]),
        owner => ("/bin/sh", vec!["-c", OWNED, path, owner]),
    };
    Command {
        cmd: cmd.to_owned(),
        args: args.into_iter().map(str::to_owned).collect(),
        env: BTreeMap::new(),
        cwd: Some("/".to_owned()),
        user: Some("root".to_owned()),
    }
}

/// Whole seconds until then, one at least.
fn left_sec(until: Instant) -> u32 {
    let left = until.saturating_duration_since(Instant::now()).as_secs();
    u32::try_from(left).unwrap_or(u32::MAX).max(1)
}

/// Runs a command to its end, with an archive as its input or none: its exit code.
async fn run(
    control: &Control,
    ctx: &OpContext,
    sandbox: &Sandbox,
    command: &Command,
    (limit, archive): (Duration, Option<FilesReader>),
    log: &mut StepLog<'_>,
) -> Result<i32, Broken> {
    let stdin = if archive.is_some() { Stdin::Open } else { Stdin::Closed };
    let options = ExecStreamOptions { timeout: Some(limit), on_close: OnClose::Kill, stdin };
    let ExecStream { input, mut output } =
        control.sandbox_exec_stream(ctx, sandbox, command, options).await?;
    let mut feeding = std::pin::pin!(copy::feed(input, archive));
    loop {
        let event = tokio::select! {
            event = output.next() => event?,
            Err(broken) = &mut feeding => return Err(broken),
            () = log.due() => {
                log.write().await?;
                continue;
            }
        };
        match event {
            Some(ExecEvent::Stdout(bytes)) => log.take(Stream::Stdout, &bytes).await?,
            Some(ExecEvent::Stderr(bytes)) => log.take(Stream::Stderr, &bytes).await?,
            Some(ExecEvent::Exit { exit_code, .. }) => return Ok(exit_code),
            Some(ExecEvent::Started { .. } | ExecEvent::Terminal(_)) => {}
            None => return Err(SandboxError::Gone { id: sandbox.id }.into()),
        }
    }
}
