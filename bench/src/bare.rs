//! The platform's template without the platform: restored by the same VMM with the same command line, in a slot of a network of
//! its own, with a clone of the same disk.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use connectrpc::client::{CallOptions, ClientConfig, ClientTransport, HttpClient, ServerStream};
use sandbar_hostnet::{NetConfig, Pool, Slot};
use sandbar_proto::process::process_event::Event;
use sandbar_proto::process::process_event::data_event::Output;
use sandbar_proto::process::{ProcessClient, ProcessConfig, StartRequest, StartResponse, StartResponseView};
use sandbar_storage::{Store, StoreOptions, Template, TemplateFile, clone_file};
use sandbar_types::guest::{AGENT_PORT, DEFAULT_USER};
use sandbar_types::{TemplateKind, VmmKind};
use sandbar_vmm::{
    Cgroups, Compatibility, Confinement, DiskRate, Machine, MachineSpec, ProcessIdentity, QemuVmm,
    SnapshotFiles, Vmm,
};
use serde_json::json;

/// The network of bare machines: neither the platform's nor that of its tests.
const NETWORK: &str = "10.215.0.0/16";
/// As many slots as are taken at once.
pub(crate) const SLOTS: usize = 10;
const TOKEN: &str = "bench";
/// Users of bare machines: beside those of platforms.
const FIRST_USER: u32 = 0x7100_0000;

/// What bare machines are made with.
pub(crate) struct Bare {
    vmm: QemuVmm,
    template: Template,
    config: NetConfig,
    pool: Pool,
    /// On the store's filesystem, so that disks can be cloned.
    folder: PathBuf,
    /// Knows nothing of any machine; its connections are told apart by address.
    http: reqwest::Client,
    made: AtomicU32,
}

/// All that a machine needs, taken before the clock runs.
pub(crate) struct Prepared {
    spec: MachineSpec,
    slot: Slot,
}

/// A machine that runs.
pub(crate) struct BareMachine {
    machine: Box<dyn Machine>,
    process: ProcessClient<HttpClient>,
    slot: Slot,
    folder: PathBuf,
    /// From the VMM's start to the answer of the guest's agent.
    pub(crate) took: Duration,
}

impl Bare {
    /// Prepares the slots, and finds the platform's template.
    pub(crate) async fn new(store_dir: PathBuf) -> Result<Self> {
        let store = Store::open(&store_dir, &StoreOptions::default())?;
        let mut templates = store.templates()?;
        templates.retain(|template| {
            template.manifest.spec.kind == TemplateKind::Snapshot
                && template.manifest.spec.vmm == VmmKind::Qemu
        });
        templates.sort_by_key(|template| template.manifest.created_at);
        let template = templates.pop().context("the platform has no template with memory")?;
        let needed: Compatibility = serde_json::from_value(template.manifest.spec.compatibility.clone())?;
        let qemu = std::env::var_os("SANDBAR_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into());
        let cgroups = Cgroups::open(&format!("sandbar-bench-{}", std::process::id()))?;
        let vmm = QemuVmm::new(qemu.as_ref(), needed.accelerator, cgroups).await?;
        needed.check(vmm.compatibility())?;

        let mut tag = [0; 2];
        getrandom::fill(&mut tag)?;
        let config =
            NetConfig { pool_size: SLOTS, ..NetConfig::new(hex::encode(tag).parse()?, NETWORK.parse()?) };
        let pool = Pool::open(config.clone(), &[]).await?;
        let folder = store.dir().join(format!("bench-{}", std::process::id()));
        fs::create_dir(&folder)?;
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { vmm, template, config, pool, folder, http, made: AtomicU32::default() })
    }

    /// Returns once no slot is being made: that would go on beside what is measured next.
    pub(crate) async fn settle(&self) {
        while self.pool.counts().free < SLOTS {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Takes a slot and clones the disk.
    pub(crate) async fn prepare(&self) -> Result<Prepared> {
        let slot = self.pool.take().await?;
        let work_dir = self.folder.join(self.made.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&work_dir)?;
        let disk = work_dir.join(TemplateFile::Disk.name());
        clone_file(&self.template.path(TemplateFile::Disk), &disk)?;
        let spec = &self.template.manifest.spec;
        let (vcpus, memory_mb) = (spec.vcpus, spec.memory_mb);
        let (netns, tap) = (slot.netns.clone(), slot.tap.clone());
        let confinement =
            Confinement { user: FIRST_USER + u32::from(slot.index.0), group: "bare".to_owned() };
        let spec = MachineSpec {
            vcpus,
            memory_mb,
            disk,
            work_dir,
            netns,
            tap,
            confinement,
            disk_rate: DiskRate::default(),
        };
        Ok(Prepared { spec, slot })
    }

    /// Restores the template: from the VMM's start until the guest's agent answers.
    pub(crate) async fn restore(&self, prepared: Prepared) -> Result<BareMachine> {
        let Prepared { spec, slot } = prepared;
        let snapshot = SnapshotFiles {
            state: self.template.path(TemplateFile::State),
            memory: self.template.path(TemplateFile::Memory),
        };
        let started = Instant::now();
        let machine = self.vmm.restore(&spec, &snapshot).await?;
        // No use in asking twice: the guest runs, and what is sent to it waits for it.
        let health = self.http.get(format!("{}/health", agent(slot.host_ip))).send().await;
        let took = started.elapsed();
        let folder = spec.work_dir;
        let machine = BareMachine { machine, process: client(slot.host_ip), slot, folder, took };
        match health.and_then(reqwest::Response::error_for_status) {
            Ok(_) => Ok(machine),
            Err(error) => {
                self.destroy(machine).await?;
                Err(error.into())
            }
        }
    }

    /// Gives the guest an identity, as the host agent does: from the call to the answer. From then on it takes commands.
    pub(crate) async fn adopt(&self, machine: &BareMachine) -> Result<Duration> {
        let mut entropy = [0; 64];
        getrandom::fill(&mut entropy)?;
        let body = json!({
            "accessToken": TOKEN,
            "hostname": "bench",
            "entropy": STANDARD.encode(entropy),
            "timestampUnixNanos": chrono::Utc::now().timestamp_nanos_opt().context("no time")?.to_string(),
            "defaultUser": DEFAULT_USER,
        });
        let mut request = self.http.post(format!("{}/init", agent(machine.slot.host_ip))).json(&body);
        if let Some(token) = &self.template.manifest.spec.guest_token {
            request = request.header("x-access-token", token);
        }
        let started = Instant::now();
        request.send().await?.error_for_status()?;
        Ok(started.elapsed())
    }

    /// Asks the guest's agent for nothing, once more.
    pub(crate) async fn health(&self, machine: &BareMachine) -> Result<Duration> {
        let started = Instant::now();
        self.http.get(format!("{}/health", agent(machine.slot.host_ip))).send().await?.error_for_status()?;
        Ok(started.elapsed())
    }

    /// Writes a file of zeros through the guest's agent.
    pub(crate) async fn upload(&self, machine: &BareMachine, bytes: usize) -> Result<Duration> {
        let request = self
            .http
            .post(file(machine.address()))
            .header("x-access-token", TOKEN)
            .header("content-type", "application/octet-stream")
            .body(vec![0; bytes]);
        let started = Instant::now();
        request.send().await?.error_for_status()?;
        Ok(started.elapsed())
    }

    /// Reads that file through the guest's agent.
    pub(crate) async fn download(&self, machine: &BareMachine, bytes: usize) -> Result<Duration> {
        let request = self.http.get(file(machine.address())).header("x-access-token", TOKEN);
        let started = Instant::now();
        let mut answer = request.send().await?.error_for_status()?;
        let mut got = 0;
        while let Some(chunk) = answer.chunk().await? {
            got += chunk.len();
        }
        ensure!(got == bytes, "{got} bytes of {bytes}");
        Ok(started.elapsed())
    }

    /// Ends a machine and gives back what it held.
    pub(crate) async fn destroy(&self, machine: BareMachine) -> Result<()> {
        machine.machine.kill().await?;
        self.pool.release(machine.slot.index).await?;
        Ok(fs::remove_dir_all(machine.folder)?)
    }

    /// Removes all that was made, machines of an interrupted measurement included.
    pub(crate) async fn remove(self) -> Result<()> {
        for (_, process) in sandbar_vmm::process::machines_under(&self.folder)? {
            sandbar_vmm::process::kill(process).await?;
        }
        fs::remove_dir_all(&self.folder)?;
        self.pool.shutdown().await?;
        // Slots whose machines were just ended are in nobody's use: who opens the pool anew removes them.
        Ok(Pool::open(self.config, &[]).await?.shutdown().await?)
    }
}

impl BareMachine {
    /// Runs `true`, as the host agent does: from the call to the command's end.
    pub(crate) async fn exec(&self) -> Result<Duration> {
        let started = Instant::now();
        let process = ProcessConfig { cmd: "true".into(), ..Default::default() };
        let request = StartRequest { process: process.into(), stdin: Some(false), ..Default::default() };
        let options = CallOptions::default().with_timeout(Duration::from_secs(30));
        let mut events = self.process.start_with_options(request, options).await?;
        while let Some(message) = events.message::<StartResponse>().await? {
            let event = message.to_owned_message().event.into_option().and_then(|event| event.event);
            if let Some(Event::End(end)) = event {
                let took = started.elapsed();
                ensure!(end.exit_code == 0, "true failed: {}", end.status);
                return Ok(took);
            }
        }
        bail!("the command's stream ended before the command")
    }

    /// Where the guest is reached.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.slot.host_ip
    }

    /// Starts a process, and returns when it has written something. It goes on; its output ends with what is returned.
    pub(crate) async fn start(&self, cmd: &str, args: &[&str]) -> Result<impl Sized> {
        let mut events = self.events(cmd, args).await?;
        while let Some(message) = events.message::<StartResponse>().await? {
            if stdout(&message.to_owned_message()).is_some() {
                return Ok(events);
            }
        }
        bail!("{cmd} ended without a word")
    }

    /// From the call that starts a process to the first byte that it writes.
    pub(crate) async fn first_byte(&self) -> Result<Duration> {
        let started = Instant::now();
        let events = self.start("echo", &["x"]).await?;
        let took = started.elapsed();
        drop(events);
        Ok(took)
    }

    /// From the call that starts a process to the last of the bytes that it writes.
    pub(crate) async fn output(&self, bytes: usize) -> Result<Duration> {
        let count = bytes.to_string();
        let started = Instant::now();
        let mut events = self.events("head", &["-c", &count, "/dev/zero"]).await?;
        let mut got = 0;
        while let Some(message) = events.message::<StartResponse>().await? {
            got += stdout(&message.to_owned_message()).unwrap_or_default();
        }
        ensure!(got == bytes, "{got} bytes of {bytes}");
        Ok(started.elapsed())
    }

    async fn events(
        &self,
        cmd: &str,
        args: &[&str],
    ) -> Result<ServerStream<<HttpClient as ClientTransport>::ResponseBody, StartResponseView<'static>>> {
        let process = ProcessConfig {
            cmd: cmd.into(),
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            ..Default::default()
        };
        let request = StartRequest { process: process.into(), stdin: Some(false), ..Default::default() };
        Ok(self.process.start(request).await?)
    }

    /// The VMM's process.
    pub(crate) fn vmm(&self) -> ProcessIdentity {
        self.machine.process()
    }
}

/// How much a message brings of a process's standard output.
fn stdout(message: &StartResponse) -> Option<usize> {
    match message.event.as_option()?.event.as_ref()? {
        Event::Data(data) => match data.output.as_ref()? {
            Output::Stdout(bytes) => Some(bytes.len()),
            Output::Stderr(_) | Output::Pty(_) => None,
        },
        _ => None,
    }
}

fn file(address: Ipv4Addr) -> String {
    format!("{}/files?path=/tmp/bench", agent(address))
}

fn agent(address: Ipv4Addr) -> String {
    format!("http://{address}:{AGENT_PORT}")
}

fn client(address: Ipv4Addr) -> ProcessClient<HttpClient> {
    let base = agent(address).parse().expect("an address and a port are a URI");
    let config = ClientConfig::new(base).with_default_header("x-access-token", TOKEN);
    ProcessClient::new(HttpClient::builder().plaintext(), config)
}
