//! Images of others as templates: fetched from a real registry or uploaded, they boot, and sandboxes of them are what the image says.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use connectrpc::ConnectError;
use rpc::import_image_request::{Request, Start};
use rpc::import_image_response::{Done, Response};
use sandbar_proto::host as rpc;
use sandbar_testkit::oci::{LayerBuilder, TestImage, TestRegistry};
use sandbar_tests::{Platform, Sandbox, wait};
use sandbar_types::id::Template;
use sandbar_types::{Arch, Id};
use serde_json::json;

use crate::lone_agent::{LoneAgent, PATIENCE};
use crate::{Test, tests};

/// The smallest there is.
const DISK_MB: u32 = 512;
const MEMORY_MB: u32 = 256;

pub(crate) fn tests() -> Vec<Test> {
    tests![
        an_image_of_a_registry_or_an_archive_becomes_a_template,
        of_an_import_that_is_cut_off_nothing_is_left,
        a_recipe_goes_on_from_an_image_another_from_its_archive_and_one_from_its_disk_with_a_secret,
    ]
}

/// Two layers on nothing: busybox and a user, then a removal.
fn image() -> Result<TestImage> {
    let busybox = fs::read("/bin/busybox").context("busybox (Debian package busybox-static)")?;
    let root = (0, 0);
    let mut first = LayerBuilder::default()
        .folder("bin/", 0o755, root)
        .file("bin/busybox", 0o755, root, &busybox)
        .folder("etc/", 0o755, root)
        .file("etc/passwd", 0o644, root, b"root:x:0:0::/root:/bin/sh\napp:x:5000:5001::/srv:/bin/sh\n")
        .file("etc/group", 0o644, root, b"root:x:0:\napp:x:5001:\n")
        .folder("srv/", 0o755, (5000, 5001))
        .file("srv/kept", 0o600, (5000, 5001), b"kept")
        .file("srv/gone", 0o644, root, b"gone")
        .file("opaque/gone", 0o644, root, b"gone");
    for applet in ["sh", "cat", "grep", "id", "ls", "ps", "pwd", "stat"] {
        first = first.symlink(&format!("bin/{applet}"), "busybox");
    }
    let second = LayerBuilder::default()
        .whiteout("srv", "gone")
        .opaque("opaque")
        .file("opaque/new", 0o644, root, b"new")
        .hard_link("srv/second", "srv/kept");
    let run = json!({
        "Env": ["GREETING=hello", "PATH=/bin"], "User": "app", "WorkingDir": "/srv",
        "Entrypoint": ["/bin/busybox"], "Cmd": ["httpd"],
    });
    let arch = match Arch::host() {
        Arch::X86_64 => "amd64",
        Arch::Aarch64 => "arm64",
    };
    Ok(TestImage::new(vec![first.finish(), second.finish()], run, arch))
}

fn start(template: Id<Template>, reference: &str) -> Request {
    Request::from(Start {
        template_id: template.to_string(),
        reference: reference.to_owned(),
        vcpus: 1,
        memory_mb: MEMORY_MB,
        disk_mb: DISK_MB,
        ..Default::default()
    })
}

fn request(request: Request) -> rpc::ImportImageRequest {
    rpc::ImportImageRequest { request: Some(request), ..Default::default() }
}

/// Imports, and returns the answer with what was told before it.
async fn import(agent: &LoneAgent, requests: Vec<Request>) -> Result<(Done, Vec<String>), ConnectError> {
    let mut call = agent.client.import_image().await?;
    for one in requests {
        // Why it is not read is in the replies.
        let _ = call.send(request(one)).await;
    }
    call.close_send();
    let mut told = Vec::new();
    while let Some(message) = call.message().await? {
        match message.to_owned_message().response {
            Some(Response::Progress(progress)) => told.push(progress.message),
            Some(Response::Done(done)) => return Ok((*done, told)),
            None => {}
        }
    }
    Err(ConnectError::internal("the stream ended before the import"))
}

/// What a sandbox of the image is, whichever way it came.
async fn check(agent: &LoneAgent, done: Done) -> Result<()> {
    let template = done.template.into_option().context("no template")?;
    assert_eq!((template.disk_mb, template.memory_mb), (DISK_MB, MEMORY_MB));
    let config = done.config.into_option().context("no configuration")?;
    let env: Vec<_> =
        config.env.iter().map(|variable| format!("{}={}", variable.name, variable.value)).collect();
    assert_eq!(env, ["GREETING=hello", "PATH=/bin"]);
    assert_eq!((config.user.as_str(), config.workdir.as_str()), ("app", "/srv"));
    assert_eq!((config.entrypoint, config.cmd), (vec!["/bin/busybox".to_owned()], vec!["httpd".to_owned()]));

    let id = agent.sandbox_of(template.id.clone()).await?;
    assert_eq!(
        agent.sh(&id, "id -un; id -u; pwd; echo written > here; cat here").await?,
        "user\n1000\n/home/user\nwritten"
    );
    assert_eq!(agent.sh_as(&id, "app", "id -u; id -g; cat /srv/second").await?, "5000\n5001\nkept");
    assert_eq!(
        agent.sh_as(&id, "root", "ls /srv /opaque; stat -c %h /srv/kept").await?,
        "/opaque:\nnew\n\n/srv:\nkept\nsecond\n2"
    );
    assert_eq!(
        agent.sh(&id, "cat /srv/kept 2>&1 || echo no").await?.lines().last(),
        Some("no"),
        "anybody reads it"
    );
    agent.destroy(&id).await?;
    let request = rpc::DeleteTemplateRequest { id: template.id, ..Default::default() };
    ensure!(agent.client.delete_template(request).await?.into_owned().existed, "it was not there");
    Ok(())
}

async fn an_image_of_a_registry_or_an_archive_becomes_a_template(platform: &Platform) -> Result<()> {
    let registry = TestRegistry::start(None).await?;
    let image = image()?;
    registry.push("team/app", "1", &image).await?;
    let agent = LoneAgent::start(platform, &["--insecure-registry", registry.address()]).await?;
    let reference = |name: &str| format!("{}/{name}", registry.address());

    let missing = import(&agent, vec![start(Id::new(), &reference("team/other"))]).await;
    let missing = missing.err().context("an image that is not there was imported")?;
    assert_eq!(missing.code, connectrpc::ErrorCode::NotFound, "{missing}");
    let foreign = import(&agent, vec![start(Id::new(), "localhost:1/team/app")]).await;
    let foreign = foreign.err().context("a registry that nobody named was asked")?;
    ensure!(foreign.to_string().contains("private address"), "{foreign}");

    let id = Id::new();
    let (done, told) = import(&agent, vec![start(id, &reference("team/app:1"))]).await?;
    ensure!(told.iter().any(|step| step.contains("booting")), "{told:?}");
    // Asked again, it is there: the registry need not be.
    drop(registry);
    let (again, _) = import(&agent, vec![start(id, "127.0.0.1:1/gone")]).await?;
    assert_eq!(again, done);
    check(&agent, done).await?;

    let archive = image.layout(&[]);
    let mut requests = vec![start(Id::new(), "")];
    requests.extend(archive.chunks(1 << 20).map(|chunk| Request::Chunk(chunk.to_vec())));
    let cut = import(&agent, requests.clone()).await.err().context("half an archive was imported")?;
    ensure!(cut.to_string().contains("broke off"), "{cut}");
    requests.push(Request::End(true));
    let (done, _) = import(&agent, requests).await?;
    check(&agent, done).await?;
    agent.end().await
}

async fn of_an_import_that_is_cut_off_nothing_is_left(platform: &Platform) -> Result<()> {
    let registry = TestRegistry::start(None).await?;
    registry.push("team/app", "1", &image()?).await?;
    let arguments = ["--insecure-registry", registry.address()];
    let agent = LoneAgent::start(platform, &arguments).await?;
    let reference = format!("{}/team/app:1", registry.address());
    let folders = |name: &str| -> Result<usize> {
        Ok(fs::read_dir(platform.footprint().store_dir().join(name))?.count())
    };
    let templates = folders("templates")?;
    // The machine is there, and the caller goes.
    {
        let _call = until_it_boots(&agent, &reference).await?;
    }
    let work = || -> Result<usize> {
        let sessions = fs::read_dir(platform.footprint().store_dir().join("tmp"))?;
        sessions.map(|session| Ok(fs::read_dir(session?.path())?.count())).sum()
    };
    wait::until_true("all of it is gone", PATIENCE, async || {
        Ok(work()? == 0 && platform.footprint().vmms()?.is_empty())
    })
    .await?;
    assert_eq!(folders("templates")?, templates);
    // The agent is killed with a machine half way.
    let call = until_it_boots(&agent, &reference).await?;
    agent.kill().await?;
    drop(call);
    let agent = LoneAgent::start(platform, &arguments).await?;
    assert_eq!((work()?, platform.footprint().vmms()?, folders("templates")?), (0, vec![], templates));
    agent.end().await
}

/// What nobody but a step of a build is to have.
const SECRET: &str = "hunter2-and-more";
/// What a template's memory has, to see that it is looked at.
const REMEMBERED: &str = "remembered-by-what-runs";

/// From a recipe's `FROM` to a sandbox, on the platform's own host: of an image in a registry and in an archive, and of a template that is a disk
/// alone; what a step was told in secret is nowhere in that template.
async fn a_recipe_goes_on_from_an_image_another_from_its_archive_and_one_from_its_disk_with_a_secret(
    platform: &Platform,
) -> Result<()> {
    let registry = TestRegistry::start(None).await?;
    let image = image()?;
    registry.push("team/app", "1", &image).await?;
    platform.restart_with(&[("SANDBAR_INSECURE_REGISTRY", registry.address().to_owned())]).await?;
    let client = platform.client()?;
    let templates = || -> Result<BTreeSet<OsString>> {
        let folder = fs::read_dir(platform.footprint().store_dir().join("templates"))?;
        folder.map(|template| Ok(template?.file_name())).collect()
    };
    let before = templates()?;

    let context = tempfile::tempdir()?;
    let recipe = context.path().join("Recipe");
    let build = async |name: &str, lines: &str, more: &[&str]| {
        fs::write(&recipe, lines)?;
        let file = recipe.to_string_lossy();
        let arguments = ["template", "build", &*file, "--name", name];
        platform.cli(&[&arguments[..], more].concat()).run().await
    };
    fs::write(context.path().join("page"), "a page")?;
    let from = format!(
        "FROM {}/team/app:1\n\
         RUN echo $GREETING, I am $(id -un) in $(pwd) > here\n\
         COPY page pages/\n\
         ENV GREETING=\"$GREETING again\"\n\
         START busybox httpd -f -p 8123 -h pages\n",
        registry.address()
    );
    let page = "busybox wget -q -O - http://127.0.0.1:8123/page";
    let more = ["--memory", "256", "--disk", "512", "--healthcheck", page];
    let built = build("e2e-image", &from, &more).await?.expect(0)?;
    ensure!(built.text().contains("booting the image"), "{}{}", built.text(), built.stderr);
    // Whoever says nothing has what the image and the recipe say.
    let seen = "id -un; pwd; cat here second; echo; echo $GREETING; ls -A . /opaque; ps -o args | grep -q '[h]ttpd -f' && echo serves || echo rests";
    let is_seen = "app\n/srv\nhello, I am app in /srv\nkept\nhello again\n\
                   .:\nhere\nkept\npages\nsecond\n\n/opaque:\nnew\nserves\n";
    let says = async |sandbox: &Sandbox, script: &str| -> Result<String> {
        let seen = sandbox.exec(&json!({"cmd": "sh", "args": ["-c", script], "timeout_sec": 120})).await?;
        Ok(String::from_utf8(seen.stdout)?)
    };
    let sandbox = Sandbox::create(&client, &json!({"template": "e2e-image"})).await?;
    assert_eq!(sandbox.made["memory_mb"], MEMORY_MB);
    assert_eq!(says(&sandbox, seen).await?, is_seen);
    assert_eq!(says(&sandbox, page).await?, "a page", "what was started runs");

    sandbox.destroy().await?;

    // The same image in an archive, and no memory of what is made of it.
    fs::write(context.path().join("image.tar"), image.layout(&[]))?;
    let from = "FROM ./image.tar\nRUN echo $GREETING, I am $(id -un) in $(pwd) > here\nENV GREETING=\"$GREETING again\"\n";
    let more = ["--memory", "256", "--disk", "512", "--no-memory"];
    let built = build("e2e-disk", from, &more).await?.expect(0)?;
    ensure!(built.stderr.contains("FROM archive:sha256:"), "{}", built.stderr);

    // What is built on a disk boots, in another size; once more, after the last step that was told a secret.
    client.post("/v1/secrets", &json!({"name": "e2e-build", "value": SECRET})).await?.json(201)?;
    let before_booted = templates()?;
    let from = format!(
        "FROM template:e2e-disk\n\
         RUN echo \"$GREETING, ${{#TOKEN}}\" >> here; echo \"the token is $TOKEN\"\n\
         START KEPT={REMEMBERED} busybox httpd -f -p 8123 -h .\n"
    );
    let serves = "test \"$TOKEN\" = '' && busybox wget -q -O - http://127.0.0.1:8123/here";
    let more = ["--memory", "320", "--secret", "TOKEN=e2e-build", "--healthcheck", serves];
    let built = build("e2e-booted", &from, &more).await?.expect(0)?;
    let log = format!("{}{}", built.text(), built.stderr);
    ensure!(log.contains("the token is ***\n") && !log.contains(SECRET), "{log}");
    client.delete("/v1/secrets/e2e-build").await?.expect(204)?;
    let folder = platform.footprint().store_dir().join("templates");
    let made: Vec<_> = templates()?.difference(&before_booted).map(|name| folder.join(name)).collect();
    ensure!(holds(&made, REMEMBERED)?, "the memory of {made:?} was not looked at");
    ensure!(!holds(&made, SECRET)?, "the template has the secret");

    let sandbox = Sandbox::create(&client, &json!({"template": "e2e-booted"})).await?;
    assert_eq!((&sandbox.made["memory_mb"], &sandbox.made["disk_mb"]), (&json!(320), &json!(DISK_MB)));
    let is_seen = is_seen.replace("in /srv\n", &format!("in /srv\nhello again, {}\n", SECRET.len()));
    assert_eq!(says(&sandbox, seen).await?, is_seen.replace("pages\n", ""));
    assert_eq!(says(&sandbox, "echo ${TOKEN-none}").await?, "none\n");
    sandbox.destroy().await?;

    let missing = format!("FROM {}/team/other\nRUN true\n", registry.address());
    let failed = build("e2e-none", &missing, &[]).await?.expect(1)?;
    ensure!(failed.stderr.contains("team/other"), "{}", failed.stderr);
    for name in ["e2e-image", "e2e-disk", "e2e-booted"] {
        platform.cli(&["template", "delete", name]).run().await?.expect(0)?;
    }
    // Those of the images, too.
    wait::until_true("no template is left", PATIENCE, async || Ok(templates()? == before)).await?;
    platform.restart_with(&[]).await
}

/// Whether any file in these folders has the text in it.
fn holds(folders: &[PathBuf], text: &str) -> Result<bool> {
    ensure!(!folders.is_empty(), "nothing to look at");
    let found = Command::new("grep").args(["-rqaF", text]).args(folders).status()?;
    found.code().filter(|code| *code < 2).map(|code| code == 0).context("grep failed")
}

/// An import that is booting its image.
async fn until_it_boots(agent: &LoneAgent, reference: &str) -> Result<impl Sized + use<>> {
    let mut call = agent.client.import_image().await?;
    call.send(request(start(Id::new(), reference))).await?;
    loop {
        let message = call.message().await?.context("the import ended")?.to_owned_message();
        match message.response {
            Some(Response::Progress(progress)) if progress.message.contains("booting") => return Ok(call),
            Some(Response::Done(_)) => anyhow::bail!("it was done before it could be cut off"),
            _ => {}
        }
    }
}
