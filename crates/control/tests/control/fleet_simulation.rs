//! Random storms over a fleet: three hosts and two control planes on one database. Hosts crash, fall silent and come back, drop replies,
//! hang, drain, register anew and renew their credentials over a wire that loses answers, with clocks that are five minutes off; control planes
//! die in the middle. Whatever happens:
//!
//! - what a host has and what its rows say agree once all is well again, and nothing is between two states;
//! - nothing that was paused or ran on a host that was only silent is lost;
//! - a host that keeps to the rules of its credentials is never locked out, and one that showed an old token too late always is.
//!
//! A seed that fails is played again alone by `SANDBAR_SEED=n`; `SANDBAR_SEEDS=n` plays as many, `SANDBAR_SEEDS=100..1100` those. All of
//! them are played, whichever fail (`make simulate`). Each has a world of its own, so two are played at a time.

use std::collections::BTreeMap;
use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::future::join_all;
use futures::{FutureExt as _, StreamExt as _};
use sandbar_control::hosts::{Draining, Heartbeat, HostCredentials, HostError, NewHost, Refresh, Running};
use sandbar_control::sandboxes::{NewSandbox, Resume, Sandbox, SandboxFilter};
use sandbar_control::{Control, OpContext, PageRequest};
use sandbar_testkit::sim_host::{Fault, Reason, Rpc, SandboxState, SimHost, Times};
use sandbar_types::id::{self, Host};
use sandbar_types::{ErrorCode, Id, SandboxStatus};
use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;

use crate::simulation::Random;
use crate::support::{World, register};

const SEEDS: u64 = 3;
const STEPS: usize = 60;
const WIDTH: usize = 3;
/// How far a host's clock is off.
const CLOCK_OFF_MS: i64 = 5 * 60 * 1000;
/// Seeds at a time: what one waits for, the other does not.
const AT_ONCE: usize = 2;
/// A seed takes seconds. One that takes this long is stuck.
const PATIENCE: Duration = Duration::from_secs(600);

/// A host, and what its agent knows.
pub(crate) struct Member {
    pub(crate) host: SimHost,
    pub(crate) id: Id<Host>,
    credentials: HostCredentials,
    /// Answers to renewals that were lost since the last that was not.
    lost: u32,
}

fn anonymous() -> OpContext {
    OpContext::anonymous(Uuid::now_v7())
}

impl Member {
    pub(crate) async fn join(world: &World) -> Self {
        let created = world.control.host_create(&OpContext::system(), &NewHost::default()).await.unwrap();
        let host = SimHost::bind().await.unwrap();
        let registered = register(&world.control, &host, created.registration_token).await;
        let member = Self { host, id: created.host.id, credentials: registered.credentials, lost: 0 };
        assert!(member.beat(&world.control).await);
        world.control.ensure_base_template(member.id).await.unwrap();
        member
    }

    /// Whether the heartbeat was taken.
    async fn beat(&self, control: &Control) -> bool {
        let Ok(actor) = control.authenticate_host(self.credentials.token.expose_secret()).await else {
            return false;
        };
        let beat =
            Heartbeat { inventory_generation: self.host.inventory_generation(), ..Heartbeat::default() };
        control.host_heartbeat(&OpContext::new(Uuid::now_v7(), actor), self.id, &beat).await.unwrap();
        true
    }

    async fn refresh(&self, control: &Control, token: &SecretString) -> Result<HostCredentials, HostError> {
        let refresh = Refresh { refresh_token: token.clone(), csr: self.host.csr().unwrap() };
        control.host_refresh(&anonymous(), &refresh).await.map(|refreshed| refreshed.credentials)
    }

    /// A renewal; its answer may be lost on the way. The one that is lost is asked for once more, within the grace, as an agent does.
    async fn renew(&mut self, control: &Control, random: &mut Random) {
        let token = self.credentials.refresh_token.clone();
        let renewed = self.refresh(control, &token).await.expect("a host that keeps to the rules is let in");
        if self.lost == 0 && random.below(3) == 0 {
            self.lost = 1;
            return;
        }
        // Everything that it was given before is of no use any more, and does no harm unless it is shown.
        self.credentials = renewed;
        self.lost = 0;
        self.host.enroll(&self.id.to_string(), &self.credentials.cert, &self.credentials.ca).await.unwrap();
    }

    /// Somebody who copied the credentials shows them after the host renewed its own: both are locked out, until an operator gives the
    /// host a new token. Its sandboxes stay.
    async fn is_robbed(&mut self, world: &World, control: &Control) {
        let copied = self.credentials.refresh_token.clone();
        while self.lost > 0 || self.credentials.refresh_token.expose_secret() == copied.expose_secret() {
            self.credentials = self.refresh(control, &self.credentials.refresh_token.clone()).await.unwrap();
            self.lost = 0;
        }
        // It has used its new one, so that the copy cannot pass for a repetition.
        self.credentials = self.refresh(control, &self.credentials.refresh_token.clone()).await.unwrap();
        assert!(self.refresh(control, &copied).await.is_err());
        assert!(self.refresh(control, &self.credentials.refresh_token.clone()).await.is_err());
        assert!(!self.beat(control).await);
        let token = control.host_issue_token(&OpContext::system(), self.id).await.unwrap();
        self.credentials = register(&world.control, &self.host, token).await.credentials;
        assert!(self.beat(control).await);
    }
}

async fn age(world: &World, host: Id<Host>) {
    sqlx::query("UPDATE hosts SET last_heartbeat_at = now() - interval '91 seconds' WHERE id = $1")
        .bind(host.uuid())
        .execute(world.database.pool())
        .await
        .unwrap();
}

pub(crate) async fn operate(control: Control, ctx: OpContext, choice: usize, sandbox: Option<Sandbox>) {
    let code = match (choice, sandbox) {
        (0..3, _) | (_, None) => {
            control.sandbox_create(&ctx, &NewSandbox::default(), None).await.err().map(|error| error.code())
        }
        (3..5, Some(of)) => control.sandbox_pause(&ctx, &of).await.err().map(|error| error.code()),
        (5..7, Some(of)) => {
            control.sandbox_resume(&ctx, &of, Resume::default()).await.err().map(|error| error.code())
        }
        (_, Some(of)) => control.sandbox_destroy(&ctx, &of).await.err().map(|error| error.code()),
    };
    assert_ne!(code, Some(ErrorCode::InternalError), "{choice}");
}

const CALLS: [Rpc; 5] =
    [Rpc::ListSandboxes, Rpc::CreateSandbox, Rpc::DestroySandbox, Rpc::PauseSandbox, Rpc::ResumeSandbox];

async fn step(world: &World, members: &mut [Member], controls: &[Control], random: &mut Random) {
    let page = PageRequest::new(Some(200), None).unwrap();
    let living = controls[0].sandbox_list(&world.ctx, &SandboxFilter::default(), &page).await.unwrap().items;
    let control = random.pick(controls);
    let which = random.below(members.len());
    let member = &mut members[which];
    if random.below(2) == 0 {
        let fault = random.pick(&[
            Fault::LoseReply,
            Fault::Fail,
            Fault::Refuse(Reason::REASON_NO_CAPACITY),
            Fault::Refuse(Reason::REASON_BUSY),
        ]);
        member.host.inject(random.pick(&CALLS), fault, Times::Once);
    }
    match random.below(14) {
        0 => {
            member.host.crash().await.unwrap();
            member.host.restart().await.unwrap();
        }
        1 | 2 => {
            age(world, member.id).await;
            let (one, two) = tokio::join!(controls[0].monitor_round(true), controls[1].monitor_round(true));
            one.unwrap();
            two.unwrap();
        }
        3 | 4 => assert!(member.beat(&control).await),
        5 => {
            let draining = random.pick(&[Draining::On(Running::GoOn), Draining::Off]);
            control.host_drain(&OpContext::system(), member.id, draining).await.unwrap();
        }
        6 | 7 => member.renew(&control, random).await,
        8 => member.is_robbed(world, &control).await,
        9 => drop(control.reconcile_host(member.id, None).await),
        // A machine that nobody knows, and that is there for longer than the grace by any clock.
        10 => member.host.plant(&Id::<id::Sandbox>::new().to_string(), Duration::from_secs(660)),
        11 => return doomed(world, member, &living, random).await,
        _ => {}
    }
    let operations = (0..WIDTH).map(|_| {
        let sandbox = (!living.is_empty()).then(|| random.pick(&living));
        operate(random.pick(controls), world.ctx.clone(), random.below(8), sandbox)
    });
    join_all(operations.collect::<Vec<_>>()).await;
}

/// An operation of a control plane that is killed while some host is at it, before or after the work is done there.
async fn doomed(world: &World, member: &Member, living: &[Sandbox], random: &mut Random) {
    let (choice, call) = random.pick(&[
        (0, Rpc::CreateSandbox),
        (3, Rpc::PauseSandbox),
        (5, Rpc::ResumeSandbox),
        (7, Rpc::DestroySandbox),
    ]);
    let theirs: Vec<Sandbox> = living.iter().filter(|of| of.host_id == Some(member.id)).cloned().collect();
    let sandbox = (!theirs.is_empty()).then(|| random.pick(&theirs));
    member.host.heal();
    let before = member.host.calls(call);
    member.host.inject(call, random.pick(&[Fault::Hang, Fault::HangAfter]), Times::Once);
    let doomed = world.doomed(move |control, ctx| operate(control, ctx, choice, sandbox));
    tokio::select! {
        () = member.host.arrived(call, before + 1) => {}
        // Another host was asked, or none.
        () = doomed.ended() => {}
    }
    doomed.kill();
    member.host.heal();
}

fn seeds() -> Range<u64> {
    let variable = |name| std::env::var(name).ok();
    let number = |text: &str| text.parse().expect("a seed is a number");
    if let Some(seed) = variable("SANDBAR_SEED").map(|text| number(&text)) {
        return seed..seed + 1;
    }
    match variable("SANDBAR_SEEDS").as_deref() {
        Some(text) => match text.split_once("..") {
            Some((first, end)) => number(first)..number(end),
            None => 0..number(text),
        },
        None => 0..SEEDS,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_any_storm_over_the_fleet_all_agree_and_nobody_is_locked_out() {
    let playing = |seed| async move {
        // What fails says so by a panic.
        let played = AssertUnwindSafe(tokio::time::timeout(PATIENCE, play(seed))).catch_unwind().await;
        (seed, played.ok().and_then(Result::ok))
    };
    let mut played = futures::stream::iter(seeds()).map(playing).buffer_unordered(AT_ONCE);
    let (mut passed, mut failed) = (0, Vec::new());
    while let Some((seed, ended)) = played.next().await {
        match ended {
            Some(()) => passed += 1,
            None => failed.push(seed),
        }
        println!("SANDBAR_SEED={seed} {}", if ended.is_some() { "passed" } else { "FAILED" });
    }
    assert!(failed.is_empty(), "{passed} seeds passed, these failed: {failed:?}");
}

async fn play(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x1000) + 7);
    let world = World::new().await;
    // The world's own host takes nothing: the three are alike.
    world.control.host_drain(&OpContext::system(), world.host_id, Draining::On(Running::GoOn)).await.unwrap();
    // Apart from what happens, so that a seed's story does not depend on it.
    let mut clocks = Random(seed);
    let mut members = Vec::new();
    for _ in 0..3 {
        let member = Member::join(&world).await;
        member.host.set_clock_ahead(clocks.pick(&[-CLOCK_OFF_MS, 0, CLOCK_OFF_MS]));
        members.push(member);
    }
    let controls = [world.control.clone(), world.replica().await];
    for _ in 0..STEPS {
        step(&world, &mut members, &controls, &mut random).await;
    }
    all_is_well_again(&world, &members, &controls, seed).await;
}

pub(crate) async fn all_is_well_again(world: &World, members: &[Member], controls: &[Control], seed: u64) {
    for member in members {
        member.host.heal();
        assert!(member.beat(&world.control).await, "seed {seed}");
    }
    for control in controls {
        control.drain().await;
    }
    let settled = world.replica().await;
    let mut before = BTreeMap::new();
    for _ in 0..2 {
        world.age_rows().await;
        for member in members {
            let report = settled.reconcile_host(member.id, before.get(&member.id)).await.unwrap();
            before.insert(member.id, report);
        }
    }
    for (host, report) in &before {
        assert_eq!((report.failed, report.spared), (0, 0), "seed {seed}, {host}");
    }
    for member in members {
        let rows: Vec<(Uuid, String)> = sqlx::query_as(
            "SELECT id, status FROM sandboxes WHERE host_id = $1 AND status NOT IN ('stopped', 'error')",
        )
        .bind(member.id.uuid())
        .fetch_all(world.database.pool())
        .await
        .unwrap();
        let rows: BTreeMap<String, String> =
            rows.into_iter().map(|(id, status)| (format!("sb-{id}"), status)).collect();
        let word = |sandbox: sandbar_proto::host::Sandbox| {
            let state = match sandbox.state.as_known().unwrap() {
                SandboxState::SANDBOX_STATE_RUNNING => SandboxStatus::Running,
                SandboxState::SANDBOX_STATE_PAUSED => SandboxStatus::Paused,
                other => panic!("seed {seed}: {other:?}"),
            };
            (sandbox.id, state.to_string())
        };
        let machines: BTreeMap<String, String> = member.host.sandboxes().into_iter().map(word).collect();
        assert_eq!(rows, machines, "seed {seed}, {}", member.id);
    }
    let lost: Vec<(Uuid, String)> = sqlx::query_as(
        "SELECT id, status_reason FROM sandboxes WHERE status = 'stopped' AND status_reason IS NOT NULL",
    )
    .fetch_all(world.database.pool())
    .await
    .unwrap();
    assert_eq!(lost, [], "seed {seed}: a sandbox ended that nobody ended");
}
