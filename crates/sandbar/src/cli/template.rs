//! `sandbar template ...`: templates made of recipes.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use sandbar_types::TemplateName;
use sandbar_types::recipe::{Origin, Recipe};
use secrecy::SecretString;

use super::endpoint::SignedIn;
use super::pairs::pair;
use super::snapshot::{DeleteArgs, ListArgs, delete, list};
use super::{EndpointArgs, archive, context};
use crate::client::{Build, BuildEvent, Builds, Client, ClientError, NewBuild, Registry, StepLog};
use crate::shutdown::Signals;

/// How often a stream that broke is asked for again before the command gives up, and the time between.
const RECONNECTS: u32 = 60;
const RECONNECT_AFTER: Duration = Duration::from_secs(1);
/// Where the password of a private registry may be.
const REGISTRY_PASSWORD: &str = "SANDBAR_REGISTRY_PASSWORD";

/// Build templates of recipes, list and delete them
#[derive(Debug, Args)]
pub(crate) struct TemplateArgs {
    #[command(subcommand)]
    action: Action,

    #[command(flatten)]
    endpoint: EndpointArgs,
}

#[derive(Debug, Subcommand)]
enum Action {
    Build(Box<BuildArgs>),
    #[command(visible_alias = "ls")]
    List(ListArgs),
    #[command(visible_alias = "rm")]
    Delete(DeleteArgs),
}

/// Build a template of a recipe, with live output
///
/// A recipe's lines are RUN (or a shell line alone), START, COPY, ENV, WORKDIR and USER, after an optional FROM (a template, a registry's image, or one in an archive: ./image.tar); a Dockerfile of these is one.
/// Ends with 0 once the template can be used, with 1 where there is none. Ctrl-C cancels the build.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sandbar template build Dockerfile --name tools\n  \
    printf 'RUN pip install numpy\\n' | sandbar template build - --name numpy\n  \
    sandbar template build recipe --name web --healthcheck 'curl -fs localhost:8000'\n  \
    docker save app -o app.tar && sandbar template build recipe --from-archive app.tar --no-memory\n  \
    sandbar template build recipe --name app --secret GITHUB_TOKEN=github-token")]
struct BuildArgs {
    /// The recipe; `-` reads standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Folder that COPY takes files from; what its .dockerignore names is left out [default: the recipe's]
    #[arg(long, value_name = "DIR")]
    context: Option<PathBuf>,

    /// The template's name [default: the file's name without its extension]
    #[arg(long, short, value_name = "NAME")]
    name: Option<TemplateName>,

    /// Template to start from, where the recipe has no FROM [default: base]
    #[arg(long, value_name = "NAME")]
    from: Option<TemplateName>,

    /// Archive with the image to start from, as `docker save` writes it or OCI's layout as tar; a recipe says `FROM ./image.tar`, from its own folder
    #[arg(long, value_name = "FILE", conflicts_with = "from")]
    from_archive: Option<PathBuf>,

    /// Variable of RUN steps whose value is the secret of this name; may be repeated. It is not in the template
    #[arg(long = "secret", value_name = "VARIABLE=NAME", value_parser = pair)]
    secrets: Vec<(String, String)>,

    /// Keep the disk alone: sandboxes of the template boot, in any size
    #[arg(long)]
    no_memory: bool,

    #[command(flatten)]
    registry: RegistryArgs,

    /// Shell line that succeeds once the template is as it is to be kept
    #[arg(long, value_name = "LINE")]
    healthcheck: Option<String>,

    /// Seconds for which the healthcheck is tried [default: 120]
    #[arg(long, value_name = "SECONDS", requires = "healthcheck")]
    healthcheck_timeout: Option<u32>,

    /// Virtual CPUs: those of the template that it starts from; from an image or a disk alone, any
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,

    /// Memory in MiB: the same
    #[arg(long, value_name = "MIB")]
    memory: Option<u32>,

    /// Disk in MiB: that of the template that it starts from, or of `base` for an image
    #[arg(long, value_name = "MIB")]
    disk: Option<u32>,

    /// Build it for every team, as an administrator of the platform
    ///
    /// On the machine that runs `sandbar up`, root needs no token: the first person's sign-in is used for the one command.
    #[arg(long)]
    platform: bool,

    /// Token of a sign-in, for --platform (better given in the environment than in the arguments, which other users can see)
    #[arg(long, env = "SANDBAR_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// Who asks the registry of the image in FROM.
#[derive(Debug, Args)]
struct RegistryArgs {
    /// User of the private registry that FROM names
    #[arg(long, env = "SANDBAR_REGISTRY_USERNAME", value_name = "NAME")]
    registry_username: Option<String>,

    /// Read that user's password, or an access token, from standard input [default: the variable SANDBAR_REGISTRY_PASSWORD]
    #[arg(long, requires = "registry_username")]
    registry_password_stdin: bool,
}

impl RegistryArgs {
    fn read(self, recipe: &Path) -> anyhow::Result<Option<Registry>> {
        let Self { registry_username, registry_password_stdin } = self;
        let Some(username) = registry_username else { return Ok(None) };
        let password = if registry_password_stdin {
            anyhow::ensure!(
                recipe != Path::new("-"),
                "standard input cannot be both the recipe and the password"
            );
            let mut text = String::new();
            io::stdin().read_to_string(&mut text).context("cannot read the password from standard input")?;
            text.trim_end_matches(['\r', '\n']).into()
        } else {
            let password = std::env::var(REGISTRY_PASSWORD).ok().filter(|text| !text.is_empty());
            password.map(SecretString::from).with_context(|| {
                format!("give the password by --registry-password-stdin or {REGISTRY_PASSWORD}")
            })?
        };
        Ok(Some(Registry { username, password }))
    }
}

impl TemplateArgs {
    pub(crate) async fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Build(args) if args.platform => build_for_all(&self.endpoint, *args).await,
            Action::Build(args) => build(&self.endpoint.client()?, Builds::Team, *args).await,
            Action::List(args) => list(&self.endpoint.client()?, &args).await,
            Action::Delete(args) => Ok(delete(&self.endpoint.client()?, &args).await),
        }
    }
}

/// The platform's templates are people's to make.
async fn build_for_all(endpoint: &EndpointArgs, args: BuildArgs) -> anyhow::Result<ExitCode> {
    let (client, signed_in) = endpoint.person(args.token.as_deref()).await?;
    let built = build(&client, Builds::Platform, args).await;
    if signed_in == SignedIn::Here
        && let Err(error) = client.sign_out().await
    {
        eprintln!("sandbar: the sign-in of this command was not ended: {error}");
    }
    built
}

async fn build(client: &Client, whose: Builds, args: BuildArgs) -> anyhow::Result<ExitCode> {
    let BuildArgs {
        file,
        context,
        name,
        from,
        from_archive,
        secrets,
        no_memory,
        registry,
        healthcheck,
        healthcheck_timeout,
        vcpus,
        memory,
        disk,
        platform: _,
        token: _,
    } = args;
    let registry = registry.read(&file)?;
    let text = read(&file)?;
    // What is wrong with it, the platform tells.
    let recipe: Option<Recipe> = text.parse().ok();
    let from_archive = match (from_archive, recipe.as_ref().and_then(|recipe| recipe.from.as_ref())) {
        (Some(path), _) => Some(path),
        (None, Some(Origin::Archive(path))) => Some(folder_of(&file).join(path)),
        (None, _) => None,
    };
    let from_archive = match from_archive {
        Some(path) => Some(archive::bring(client, whose, &path).await?),
        None => None,
    };
    let folder = context.as_deref().unwrap_or_else(|| folder_of(&file));
    let files = match &recipe {
        Some(recipe) => bring_files(client, whose, recipe, folder).await?,
        None => None,
    };
    let new = NewBuild {
        name: name.map_or_else(|| named_after(&file), |name| Ok(name.to_string()))?,
        recipe: text.lines().map(str::to_owned).collect(),
        files,
        from_archive,
        secrets: secrets.into_iter().collect(),
        memory: no_memory.then_some(false),
        registry,
        base_template: from.map(Into::into),
        healthcheck,
        healthcheck_sec: healthcheck_timeout,
        vcpus,
        memory_mb: memory,
        disk_mb: disk,
    };
    let mut signals = Signals::listen()?;
    let begun = client.create_build(whose, &new).await?;
    let mut screen = Screen::default();
    let ended = tokio::select! {
        ended = follow(client, whose, &begun, &mut screen) => ended?,
        signal = signals.next() => {
            eprintln!("sandbar: cancelling {}", begun.id);
            client.cancel_build(whose, &begun.id).await?;
            return Ok(ExitCode::from(signal.exit_code()));
        }
    };
    if ended.status == "success" {
        println!("{}", ended.name);
        return Ok(ExitCode::SUCCESS);
    }
    let why = ended.error.unwrap_or_else(|| ended.status.clone());
    eprintln!("sandbar: {} was not built: {why}", ended.name);
    Ok(ExitCode::FAILURE)
}

/// Brings the files that a recipe copies, unless the platform has them: the name of their archive.
async fn bring_files(
    client: &Client,
    whose: Builds,
    recipe: &Recipe,
    folder: &Path,
) -> anyhow::Result<Option<String>> {
    let sources = context::named(recipe)?;
    if sources.is_empty() {
        return Ok(None);
    }
    let folder = folder.to_owned();
    let packed = tokio::task::spawn_blocking(move || context::pack(&folder, &sources)).await??;
    archive::send(client, whose, packed).await.map(Some)
}

/// Where a recipe is.
fn folder_of(file: &Path) -> &Path {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

/// Shows a build's progress until it ends. A control plane that is started again goes on with it, and so does this.
async fn follow(client: &Client, whose: Builds, build: &Build, screen: &mut Screen) -> anyhow::Result<Build> {
    let mut left = RECONNECTS;
    loop {
        match follow_once(client, whose, &build.id, screen).await {
            Ok(Some(ended)) => return Ok(ended),
            Err(error @ (ClientError::Refused { .. } | ClientError::KeyRefused { .. })) => {
                return Err(error.into());
            }
            Err(error) if left == 0 => return Err(error.into()),
            Ok(None) | Err(_) => left = left.saturating_sub(1),
        }
        anyhow::ensure!(left > 0, "the platform does not tell how build {} goes on", build.id);
        tokio::time::sleep(RECONNECT_AFTER).await;
    }
}

/// The build once it has ended; none where the stream ended before.
async fn follow_once(
    client: &Client,
    whose: Builds,
    id: &str,
    screen: &mut Screen,
) -> Result<Option<Build>, ClientError> {
    let mut events = client.follow_build(whose, id).await?;
    screen.begin();
    while let Some(event) = events.next().await? {
        match event {
            BuildEvent::Log(log) => screen.show(&log),
            BuildEvent::Build(build) if build.has_ended() => return Ok(Some(build)),
            BuildEvent::Build(build) => screen.total = build.total_steps,
        }
    }
    Ok(None)
}

/// What was shown, so that a stream that begins anew shows nothing twice.
#[derive(Debug, Default)]
struct Screen {
    total: u32,
    attempt: u32,
    /// By step: how much of its two streams was shown.
    shown: BTreeMap<u32, (usize, usize)>,
    /// The same, of what this stream brought.
    received: BTreeMap<u32, (usize, usize)>,
}

impl Screen {
    fn begin(&mut self) {
        self.received.clear();
    }

    fn show(&mut self, log: &StepLog) {
        if log.attempt != self.attempt {
            if self.attempt > 0 {
                eprintln!("-- begun anew (attempt {})", log.attempt);
            }
            self.attempt = log.attempt;
            self.shown.clear();
            self.received.clear();
        }
        if !self.shown.contains_key(&log.step) {
            eprintln!("[{}/{}] {}", log.step, self.total.max(log.step), log.cmd);
        }
        let (out, err) = self.fresh(log);
        // Whoever reads this may have gone; the build goes on.
        let _ = io::stdout().write_all(out.as_bytes()).and_then(|()| io::stdout().flush());
        let _ = io::stderr().write_all(err.as_bytes());
        if log.truncated && log.duration_ms.is_some() {
            eprintln!("-- more was written, and dropped");
        }
    }

    /// What of an event was not shown.
    fn fresh<'a>(&mut self, log: &'a StepLog) -> (&'a str, &'a str) {
        let received = self.received.entry(log.step).or_default();
        let shown = self.shown.entry(log.step).or_default();
        let fresh = |text: &'a str, received: &mut usize, shown: &mut usize| {
            let skip = shown.saturating_sub(*received).min(text.len());
            *received += text.len();
            *shown = (*shown).max(*received);
            text.get(skip..).unwrap_or_default()
        };
        (fresh(&log.stdout, &mut received.0, &mut shown.0), fresh(&log.stderr, &mut received.1, &mut shown.1))
    }
}

fn named_after(file: &Path) -> anyhow::Result<String> {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).filter(|stem| *stem != "-");
    let name: Option<TemplateName> = stem.and_then(|stem| stem.parse().ok());
    name.map(Into::into).context("name the template with --name")
}

fn read(file: &Path) -> anyhow::Result<String> {
    if file == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).context("cannot read the recipe from standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(file).with_context(|| format!("cannot read the recipe {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(step: u32, stdout: &str, stderr: &str) -> StepLog {
        StepLog {
            attempt: 1,
            step,
            cmd: "RUN x".to_owned(),
            stdout: stdout.to_owned(),
            stderr: stderr.to_owned(),
            truncated: false,
            duration_ms: None,
        }
    }

    #[test]
    fn a_stream_that_begins_anew_shows_nothing_twice() {
        let mut screen = Screen::default();
        screen.begin();
        assert_eq!(screen.fresh(&log(1, "one\n", "")), ("one\n", ""));
        assert_eq!(screen.fresh(&log(1, "two\n", "e")), ("two\n", "e"));
        assert_eq!(screen.fresh(&log(2, "x", "")), ("x", ""));
        screen.begin();
        assert_eq!(screen.fresh(&log(1, "one\ntwo\n", "e")), ("", ""));
        assert_eq!(screen.fresh(&log(2, "xy", "")), ("y", ""));
        assert_eq!(screen.fresh(&log(2, "z", "")), ("z", ""));
    }

    #[test]
    fn a_template_is_named_after_its_file() {
        assert_eq!(named_after(Path::new("/a/tools.recipe")).unwrap(), "tools");
        assert_eq!(named_after(Path::new("Dockerfile")).unwrap(), "Dockerfile");
        for bad in ["-", "a b.txt", "/"] {
            named_after(Path::new(bad)).unwrap_err();
        }
    }
}
