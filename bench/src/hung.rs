//! What a host that hangs costs those whose sandboxes are elsewhere: a control plane on a database of its own, and simulated hosts that
//! answer at once, but for the one that takes connections and calls and never answers.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use sandbar_control::bootstrap::FirstRunSecrets;
use sandbar_control::host_client::Circuit;
use sandbar_control::hosts::{Heartbeat, NewHost, Registration};
use sandbar_control::sandboxes::{Command, NewSandbox, SandboxFilter};
use sandbar_control::secrets::MasterKey;
use sandbar_control::{Config, Control, OpContext, PageRequest, Sandbox};
use sandbar_store::Store;
use sandbar_testkit::sim_host::{Fault, Rpc, SimHost, Times};
use sandbar_types::id::Host;
use sandbar_types::{Arch, Id, VmmKind};
use secrecy::ExposeSecret as _;
use sqlx::types::Uuid;
use tokio::task::JoinSet;

use crate::database::with_scratch;
use crate::report::{Row, Samples};
use crate::scenarios::ms;

/// The last of them hangs.
const HOSTS: usize = 3;
/// Calls whose p50 and p99 are a sample: as many reads, commands and lists.
const CALLS: usize = 102;
/// Callers of the host that hangs: the same before it does. Each asks again soon after it was answered.
const CALLERS: usize = 16;
/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(20);
const BASELINE: &str = "the same while that host answers its callers";

/// All rows.
pub(crate) async fn rows(rounds: u32) -> Result<Vec<Row>> {
    with_scratch(async |url| {
        let store = Store::connect(url).await?;
        store.migrate().await?;
        let fleet = Fleet::start(store.clone()).await?;
        let rows = fleet.measure(rounds.div_ceil(2)).await;
        drop(fleet);
        store.close().await;
        rows
    })
    .await
}

/// A control plane with its hosts, and a sandbox on each.
struct Fleet {
    control: Control,
    ctx: OpContext,
    hosts: Vec<(Id<Host>, SimHost)>,
    sandboxes: Vec<Sandbox>,
}

/// The p50 and the p99 of each hundred calls.
#[derive(Default)]
struct Hundreds {
    p50: Samples,
    p99: Samples,
}

impl Fleet {
    async fn start(store: Store) -> Result<Self> {
        let control =
            Control::start(store, &MasterKey::from_hex(&"17".repeat(32))?, Config::default()).await?;
        let secrets = FirstRunSecrets::generate();
        control
            .first_run("admin@example.org", "First", &secrets)
            .await?
            .context("the database is not new")?;
        let actor = control.authenticate_api_key(secrets.api_key.expose_secret()).await?;
        let ctx = OpContext::new(Uuid::now_v7(), actor);
        let mut fleet = Self { control, ctx, hosts: Vec::new(), sandboxes: Vec::new() };
        for _ in 0..HOSTS {
            fleet.join().await?;
        }
        // Each goes to the emptiest.
        for _ in 0..HOSTS {
            let new = NewSandbox { timeout_sec: Some(0), ..NewSandbox::default() };
            fleet.sandboxes.push(fleet.control.sandbox_create(&fleet.ctx, &new, None).await?);
        }
        let last = fleet.hung().0;
        fleet.sandboxes.sort_by_key(|sandbox| sandbox.host_id == Some(last));
        let hosts: std::collections::BTreeSet<_> = fleet.sandboxes.iter().map(|of| of.host_id).collect();
        ensure!(hosts.len() == HOSTS, "the sandboxes did not spread");
        Ok(fleet)
    }

    async fn join(&mut self) -> Result<()> {
        let created = self.control.host_create(&OpContext::system(), &NewHost::default()).await?;
        let host = SimHost::bind().await?;
        let registration = Registration {
            token: created.registration_token,
            arch: Arch::X86_64,
            cpu_cores: 4,
            memory_mb: 8192,
            disk_gb: 100,
            address: host.address(),
            vmm: VmmKind::Qemu,
            csr: host.csr()?,
        };
        let anonymous = OpContext::anonymous(Uuid::now_v7());
        let registered = self.control.host_register(&anonymous, &registration).await?;
        let (id, credentials) = (registered.host.id, registered.credentials);
        host.enroll(&id.to_string(), &credentials.cert, &credentials.ca).await?;
        let actor = self.control.authenticate_host(credentials.token.expose_secret()).await?;
        let beat = Heartbeat { inventory_generation: host.inventory_generation(), ..Heartbeat::default() };
        self.control.host_heartbeat(&OpContext::new(Uuid::now_v7(), actor), id, &beat).await?;
        self.control.ensure_base_template(id).await?;
        self.hosts.push((id, host));
        Ok(())
    }

    fn hung(&self) -> &(Id<Host>, SimHost) {
        &self.hosts[HOSTS - 1]
    }

    /// Before anything hangs, while a host does (before that is known, and from then on), and when it answers again.
    async fn measure(&self, rounds: u32) -> Result<Vec<Row>> {
        let (mut without, mut with) = (Hundreds::default(), Hundreds::default());
        let (id, host) = self.hung();
        let mut callers = JoinSet::new();
        for turn in 0..CALLERS {
            let (control, ctx) = (self.control.clone(), self.ctx.clone());
            callers.spawn(ask(control, ctx, self.sandboxes[HOSTS - 1].clone(), turn));
        }
        // Brings plans and connections into being.
        self.hundreds(1, &mut Hundreds::default()).await?;
        self.hundreds(rounds, &mut without).await?;
        let asked = [Rpc::Exec, Rpc::PingSandbox].map(|rpc| (rpc, host.calls(rpc) + CALLERS / 2));
        for rpc in [Rpc::Exec, Rpc::PingSandbox, Rpc::GetHealth] {
            host.inject(rpc, Fault::Hang, Times::Always);
        }
        for (rpc, calls) in asked {
            host.arrived(rpc, calls).await;
        }
        self.hundreds(rounds, &mut with).await?;
        let mut circuit = self.control.host_circuit(*id).context("the host was not called")?;
        circuit.wait_for(|circuit| *circuit == Circuit::Open).await?;
        self.hundreds(rounds, &mut with).await?;
        host.heal();
        circuit.wait_for(|circuit| *circuit == Circuit::Closed).await?;
        self.hundreds(rounds, &mut without).await?;
        callers.shutdown().await;
        Ok(vec![
            Row::new("fleet_hung_p50", "ms", &with.p50, BASELINE, &without.p50),
            Row::new("fleet_hung_p99", "ms", &with.p99, BASELINE, &without.p99),
        ])
    }

    /// So many hundred calls to the hosts that answer.
    async fn hundreds(&self, rounds: u32, told: &mut Hundreds) -> Result<()> {
        for _ in 0..rounds {
            let mut samples = Samples::new();
            for turn in 0..CALLS {
                let sandbox = &self.sandboxes[turn % (HOSTS - 1)];
                let begun = Instant::now();
                self.call(turn / (HOSTS - 1), sandbox).await?;
                samples.push(ms(begun.elapsed()));
            }
            told.p50.push(samples.percentile(0.5));
            told.p99.push(samples.percentile(0.99));
        }
        Ok(())
    }

    async fn call(&self, turn: usize, sandbox: &Sandbox) -> Result<()> {
        match turn % 3 {
            0 => drop(self.control.sandbox_get(&self.ctx, sandbox.id).await?),
            1 => drop(self.control.sandbox_exec(&self.ctx, sandbox, &echo(), None).await?),
            _ => {
                let (filter, page) = (SandboxFilter::default(), PageRequest::default());
                let listed = self.control.sandbox_list(&self.ctx, &filter, &page).await?;
                ensure!(listed.items.len() == HOSTS, "not all are listed");
            }
        }
        Ok(())
    }
}

fn echo() -> Command {
    Command { cmd: "echo".to_owned(), args: vec!["on".to_owned()], ..Command::default() }
}

/// Asks a host that does not answer, again and again, as users of its sandboxes do.
async fn ask(control: Control, ctx: OpContext, sandbox: Sandbox, turn: usize) {
    loop {
        // What it comes to is known.
        if turn.is_multiple_of(2) {
            drop(control.sandbox_exec(&ctx, &sandbox, &echo(), Some(1)).await);
        } else {
            drop(control.sandbox_ping(&ctx, &sandbox).await);
        }
        tokio::time::sleep(PAUSE).await;
    }
}
