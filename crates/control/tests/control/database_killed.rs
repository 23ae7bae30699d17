//! The database is killed in the middle: three hosts, two control planes, a server of the test's own.

use std::time::Duration;

use futures::future::join_all;
use sandbar_control::OpContext;
use sandbar_control::PageRequest;
use sandbar_control::auth::AuthError;
use sandbar_control::hosts::{Draining, Running};
use sandbar_control::sandboxes::{NewSandbox, SandboxError, SandboxFilter};
use sandbar_testkit::server::OwnServer;
use sandbar_types::ErrorCode;

use crate::fleet_simulation::{Member, all_is_well_again, operate};
use crate::simulation::Random;
use crate::support::{World, config};

const ROUNDS: usize = 4;
const WIDTH: usize = 12;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_is_killed_in_the_middle_of_everything_loses_and_leaks_nothing() {
    let mut server = OwnServer::start().await;
    let world = World::on(server.database().await, config()).await;
    // The world's own host takes nothing: the three are alike.
    let on = Draining::On(Running::GoOn);
    world.control.host_drain(&OpContext::system(), world.host_id, on).await.unwrap();
    let mut members = Vec::new();
    for _ in 0..3 {
        members.push(Member::join(&world).await);
    }
    let controls = [world.control.clone(), world.replica().await];
    // When it is killed is left to chance; what is under way then is this.
    let mut random = Random(0x0da7_aba5);
    let page = PageRequest::new(Some(200), None).unwrap();
    for _ in 0..ROUNDS {
        let living =
            controls[0].sandbox_list(&world.ctx, &SandboxFilter::default(), &page).await.unwrap().items;
        let storm: Vec<_> = (0..WIDTH)
            .map(|_| {
                let sandbox = (!living.is_empty()).then(|| random.pick(&living));
                operate(random.pick(&controls), world.ctx.clone(), random.below(8), sandbox)
            })
            .collect();
        let moment = Duration::from_millis(u64::try_from(random.below(60)).unwrap());
        let restart = async {
            tokio::time::sleep(moment).await;
            server.kill().await;
            server.start_again().await;
        };
        tokio::join!(join_all(storm), restart);
    }
    all_is_well_again(&world, &members, &controls, 0).await;
    // And all goes on.
    world.create().await.unwrap();
}

#[tokio::test]
async fn while_the_database_is_away_callers_are_told_just_that() {
    let mut server = OwnServer::start().await;
    let world = World::on(server.database().await, config()).await;
    let sandbox = world.create().await.unwrap();
    server.kill().await;
    let refused = tokio::join!(
        async {
            let error = world.control.sandbox_get(&world.ctx, sandbox.id).await.unwrap_err();
            SandboxError::code(&error)
        },
        async {
            let error =
                world.control.sandbox_create(&world.ctx, &NewSandbox::default(), None).await.unwrap_err();
            SandboxError::code(&error)
        },
        async {
            let key = format!("e2b_{}", "0".repeat(40));
            AuthError::code(&world.control.authenticate_api_key(&key).await.unwrap_err())
        },
    );
    let away = ErrorCode::Unavailable;
    assert_eq!(refused, (away, away, away));
    assert_eq!(away.http_status(), 503);
    server.start_again().await;
    assert_eq!(world.get(sandbox.id).await.status, sandbox.status);
    world.create().await.unwrap();
    let none: i64 =
        sqlx::query_scalar("SELECT count(*) FROM sandboxes WHERE status IN ('pending', 'starting')")
            .fetch_one(world.database.pool())
            .await
            .unwrap();
    assert_eq!(none, 0, "what was refused was not begun");
}
