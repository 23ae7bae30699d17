//! Two hosts with real agents and one control plane: what a snapshot needs goes where it is used.
//!
//! The second host is an agent like any other, with a folder, a network and a store of its own on the same machine.

use std::collections::BTreeSet;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;
use sandbar_tests::census::{Footprint, signal};
use sandbar_tests::{Cli, Platform, Sandbox, wait};
use serde_json::json;
use tokio::process::Child;

use crate::life::Witness;
use crate::{Test, tests};

/// An agent's first start prepares a kernel, and boots a guest to see what it can.
const START_LIMIT: Duration = Duration::from_secs(300);
/// A template is some hundred MB, and is hashed at both ends.
const FETCH_LIMIT: Duration = Duration::from_secs(180);

pub(crate) fn tests() -> Vec<Test> {
    tests![a_snapshot_goes_on_where_its_host_drains_though_the_receiver_is_killed]
}

/// An agent beside the platform's own.
struct SecondHost<'a> {
    platform: &'a Platform,
    footprint: Footprint,
    dir: PathBuf,
    port: u16,
    id: String,
    token: String,
    agent: Option<Child>,
}

impl<'a> SecondHost<'a> {
    async fn join(platform: &'a Platform) -> Result<Self> {
        // Not within, nor beginning like, the platform's own: what is whose is known by its folder.
        let name = platform.data_dir().file_name().context("no folder")?.to_string_lossy();
        let root = platform.data_dir().with_file_name(format!("second-host-of-{name}"));
        let footprint = Footprint::new(&root);
        footprint.remove_everything()?;
        std::fs::create_dir_all(root.join("host"))?;
        let added = platform.cli(&["host", "add"]).run().await?.expect(0)?.text();
        let (id, token) = added.trim().split_once('\n').context("no token")?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let (id, token) = (id.to_owned(), token.to_owned());
        let mut host = Self { platform, footprint, dir: root, port, id, token, agent: None };
        host.start().await?;
        Ok(host)
    }

    /// Starts the agent, and waits until the control plane hears of it.
    async fn start(&mut self) -> Result<()> {
        let listen = format!("127.0.0.1:{}", self.port);
        let network = self.platform.network().replace("10.214.", "10.215.");
        let data_dir = self.dir.join("host").to_string_lossy().into_owned();
        let url = self.platform.url();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.platform.data_dir().join("log/second-host.log"))?;
        let arguments = ["host-agent", "--data-dir", &data_dir, "--control-url", &url, "--listen", &listen];
        let more =
            ["--network", &network, "--warm-pool", "off", "--spare-networks", "1", "--store-size", "8"];
        let agent = Cli::new(self.platform.binary(), arguments.into_iter().chain(more))
            .env("SANDBAR_REGISTER_TOKEN", &self.token)
            .env("RUST_LOG", "info")
            .into_command()
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()?;
        self.agent = Some(agent);
        wait::until_true("the second host serves", START_LIMIT, async || {
            let hosts = self.platform.cli(&["host", "list"]).run().await?.expect(0)?.text();
            let online = |line: &str| line.contains(&self.id) && line.contains("online");
            let serves = tokio::net::TcpStream::connect(("127.0.0.1", self.port)).await.is_ok();
            Ok(serves && hosts.lines().any(online))
        })
        .await
    }

    async fn kill(&mut self) -> Result<()> {
        let mut agent = self.agent.take().context("it does not run")?;
        agent.kill().await?;
        Ok(())
    }

    /// The folders of templates in its store.
    fn templates(&self) -> Result<BTreeSet<String>> {
        names(&self.footprint.host_dir().join("store/templates"))
    }

    /// Whether a part of a template has arrived.
    fn is_receiving(&self, template: &str) -> bool {
        let sessions =
            std::fs::read_dir(self.footprint.host_dir().join("store/tmp")).into_iter().flatten().flatten();
        let files =
            sessions.flat_map(|session| std::fs::read_dir(session.path()).into_iter().flatten().flatten());
        let mut files = files.filter(|file| file.file_name().to_string_lossy().ends_with(template));
        files.any(|folder| {
            use std::os::unix::fs::MetadataExt as _;
            folder.path().join("memory").metadata().is_ok_and(|memory| memory.blocks() > 0)
        })
    }

    /// Takes it away with all that it has.
    async fn leave(mut self) -> Result<()> {
        let delete = ["host", "delete", &self.id, "--force"];
        self.platform.cli(&delete).run().await?.expect(0)?;
        if let Some(mut agent) = self.agent.take() {
            signal(agent.id().context("it has ended before")?.cast_signed(), Signal::TERM)?;
            tokio::time::timeout(START_LIMIT, agent.wait()).await.context("the agent does not end")??;
        }
        self.footprint.remove_everything()
    }
}

impl Drop for SecondHost<'_> {
    fn drop(&mut self) {
        // Only where the test failed: nothing of it must stay in the way of those after it.
        if let Some(agent) = &mut self.agent {
            let _ended = agent.start_kill();
            let _removed = self.footprint.remove_everything();
        }
    }
}

fn names(folder: &Path) -> Result<BTreeSet<String>> {
    let entries = std::fs::read_dir(folder)?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

async fn a_snapshot_goes_on_where_its_host_drains_though_the_receiver_is_killed(
    platform: &Platform,
) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let mut second = SecondHost::join(platform).await?;
    // The platform's own template has come by itself: this host has no image to make it of.
    wait::until_true("the second host has the platform's template", FETCH_LIMIT, async || {
        Ok(second.templates()?.len() == 1)
    })
    .await?;

    // On the first host: the second takes nothing yet.
    let drain = |host: String, more: &'static [&'static str]| async move {
        let arguments = ["host", "drain", &host].into_iter().chain(more.iter().copied()).collect::<Vec<_>>();
        platform.cli(&arguments).run().await?.expect(0)
    };
    drain(second.id.clone(), &[]).await?;
    let witness = Witness::start(platform, &json!({})).await?;
    let first = witness.sandbox.made["host_id"].as_str().context("no host")?.to_owned();
    ensure!(first != second.id, "it is on the host that drains");
    let store = platform.footprint().host_dir().join("store/templates");
    let before = names(&store)?;
    let snapshot = json!({"sandbox_id": witness.sandbox.id, "name": "wanders"});
    client.post("/v1/snapshots", &snapshot).await?.json(201)?;
    let id = names(&store)?.difference(&before).next().context("no new template")?.clone();
    let steps = witness.steps().await?;
    drain(first.clone(), &[]).await?;
    drain(second.id.clone(), &["--end"]).await?;

    // A kill in the middle of the transfer: nothing of it is a template; then it arrives.
    let body = json!({"template": "wanders"});
    let asked = tokio::spawn({
        let (client, body) = (client.clone(), body.clone());
        async move { client.create(&body).await }
    });
    wait::until_true("parts arrive", FETCH_LIMIT, async || Ok(second.is_receiving(&id))).await?;
    second.kill().await?;
    ensure!(!second.templates()?.contains(&id), "it was complete before: the kill came too late");
    second.start().await?;
    let _whatever = asked.await?;
    let arrived = wait::until("the snapshot arrives", FETCH_LIMIT, async || {
        let reply = client.create(&body).await?;
        Ok((reply.status == 201).then_some(reply))
    })
    .await?
    .json(201)?;
    let sandbox = Sandbox::of(&client, arrived["id"].as_str().context("no id")?, arrived.clone());
    assert_eq!(sandbox.made["host_id"], second.id.as_str());

    // The same memory: the process goes on there, and its file is that of one life.
    let copy = witness.seen_in(sandbox);
    copy.steps_past(steps).await?;
    copy.is_the_same().await?;
    copy.testifies().await?;
    copy.sandbox.destroy().await?;
    witness.sandbox.destroy().await?;

    // Deleted, it is deleted on both.
    ensure!(second.templates()?.contains(&id));
    client.delete("/v1/snapshots/wanders").await?.expect(204)?;
    ensure!(!second.templates()?.contains(&id) && !names(&store)?.contains(&id), "files are left");
    drain(first, &["--end"]).await?;
    second.leave().await
}
