//! How hosts come in, and who may speak for whom.

use sandbar_control::hosts::{Heartbeat, HostError, HostStatus, NewHost};
use sandbar_control::{Actor, OpContext};
use sandbar_testkit::sim_host::SimHost;
use sandbar_types::{ErrorCode, Id};
use secrecy::{ExposeSecret as _, SecretString};
use uuid::Uuid;

use crate::support::{World, host_context, register, registration};

fn anonymous() -> OpContext {
    OpContext::anonymous(Uuid::now_v7())
}

#[tokio::test]
async fn a_registration_token_works_once() {
    let world = World::new().await;
    let token = world.control.host_issue_token(&OpContext::system(), world.host_id).await.unwrap();
    let registration = registration(&world.host, token);
    world.control.host_register(&anonymous(), &registration).await.unwrap();
    let error = world.control.host_register(&anonymous(), &registration).await.unwrap_err();
    assert!(matches!(error, HostError::InvalidToken), "{error}");
    let made_up = sandbar_control::hosts::Registration {
        token: SecretString::from(format!("htok_{}", "0".repeat(64))),
        ..registration
    };
    let error = world.control.host_register(&anonymous(), &made_up).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unauthorized);
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let world = World::new().await;
    let token = world.control.host_issue_token(&OpContext::system(), world.host_id).await.unwrap();
    world.execute("UPDATE host_tokens SET expires_at = now() - interval '1 second'").await;
    let error =
        world.control.host_register(&anonymous(), &registration(&world.host, token)).await.unwrap_err();
    assert!(matches!(error, HostError::InvalidToken), "{error}");
}

#[tokio::test]
async fn a_registration_that_fails_does_not_use_up_its_token() {
    let world = World::new().await;
    let token = world.control.host_issue_token(&OpContext::system(), world.host_id).await.unwrap();
    let mut bad = registration(&world.host, token.clone());
    bad.csr = "not a request".to_owned();
    let error = world.control.host_register(&anonymous(), &bad).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidRequest, "{error}");
    for spoil in [
        |r: &mut sandbar_control::hosts::Registration| r.address = "nowhere".to_owned(),
        |r: &mut sandbar_control::hosts::Registration| r.memory_mb = 0,
        |r: &mut sandbar_control::hosts::Registration| r.cpu_cores = u32::MAX,
    ] {
        let mut bad = registration(&world.host, token.clone());
        spoil(&mut bad);
        let error = world.control.host_register(&anonymous(), &bad).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidRequest, "{error}");
    }
    let good = registration(&world.host, token);
    world.control.host_register(&anonymous(), &good).await.unwrap();
}

#[tokio::test]
async fn a_new_registration_ends_the_credentials_of_the_one_before() {
    let world = World::new().await;
    let renew = async || {
        let token = world.control.host_issue_token(&OpContext::system(), world.host_id).await.unwrap();
        register(&world.control, &world.host, token).await
    };
    let first = renew().await;
    let still_valid = world.control.authenticate_host(first.credentials.token.expose_secret()).await;
    assert_eq!(still_valid.unwrap(), Actor::Host { id: world.host_id });
    let second = renew().await;
    assert!(world.control.authenticate_host(first.credentials.token.expose_secret()).await.is_err());
    assert!(world.control.authenticate_host(second.credentials.token.expose_secret()).await.is_ok());
    // The host serves with the new certificate, and is called again.
    assert!(world.create().await.is_ok());
}

#[tokio::test]
async fn a_host_speaks_for_itself_alone() {
    let world = World::new().await;
    let other_host = SimHost::bind().await.unwrap();
    let created = world.control.host_create(&OpContext::system(), &NewHost::default()).await.unwrap();
    let registered = register(&world.control, &other_host, created.registration_token).await;
    let other = host_context(&world.control, &registered).await;
    let beat = Heartbeat::default();
    let error = world.control.host_heartbeat(&other, world.host_id, &beat).await.unwrap_err();
    assert!(matches!(error, HostError::OtherHost), "{error}");
    for nobody in [anonymous(), world.ctx.clone(), OpContext::system()] {
        let error = world.control.host_heartbeat(&nobody, world.host_id, &beat).await.unwrap_err();
        assert_eq!(error.code(), ErrorCode::Forbidden, "{nobody:?}");
    }
    world.control.host_heartbeat(&other, created.host.id, &beat).await.unwrap();
}

#[tokio::test]
async fn a_deleted_host_is_told_so_and_gets_no_say() {
    let world = World::new().await;
    world.execute("UPDATE hosts SET deleted_at = now()").await;
    let error = world
        .control
        .host_heartbeat(&world.host_ctx, world.host_id, &Heartbeat::default())
        .await
        .unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound, "{error}");
    let error = world.control.host_issue_token(&OpContext::system(), world.host_id).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound, "{error}");
}

#[tokio::test]
async fn a_host_at_another_hosts_address_is_not_mistaken_for_it() {
    let world = World::new().await;
    let sandbox = world.create().await.unwrap();
    let impostor = SimHost::bind().await.unwrap();
    let created = world.control.host_create(&OpContext::system(), &NewHost::default()).await.unwrap();
    register(&world.control, &impostor, created.registration_token).await;
    // The first host's row now leads to the second host.
    sqlx::query("UPDATE hosts SET address = $1 WHERE id = $2")
        .bind(impostor.address())
        .bind(world.host_id.uuid())
        .execute(world.database.pool())
        .await
        .unwrap();
    let misled = world.get(sandbox.id).await;
    let error = world.control.sandbox_ping(&world.ctx, &misled).await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::HostUnavailable, "{error}");
    assert_eq!(impostor.calls(sandbar_testkit::sim_host::Rpc::PingSandbox), 0);
}

#[tokio::test]
async fn whoever_waits_for_a_host_is_woken_by_its_first_heartbeat_anywhere() {
    let world = World::new().await;
    let created = world.control.host_create(&OpContext::system(), &NewHost::default()).await.unwrap();
    let id = created.host.id;
    let replica = world.replica().await;
    let arrive = async {
        let host = SimHost::bind().await.unwrap();
        let registered = register(&replica, &host, created.registration_token).await;
        assert_eq!(registered.host.status, HostStatus::Offline);
        let ctx = host_context(&replica, &registered).await;
        replica.host_heartbeat(&ctx, id, &Heartbeat::default()).await.unwrap();
    };
    let (host, ()) = tokio::join!(world.control.host_wait_online(id), arrive);
    assert_eq!(host.unwrap().status, HostStatus::Online);
    // One that is online already is not waited for.
    assert_eq!(world.control.host_wait_online(id).await.unwrap().id, id);
    let unknown = world.control.host_wait_online(Id::new()).await.unwrap_err();
    assert_eq!(unknown.code(), ErrorCode::NotFound);
}

#[tokio::test]
async fn keys_and_tokens_that_are_not_ours_are_refused() {
    let world = World::new().await;
    for bad in ["", "e2b_", &format!("e2b_{}", "0".repeat(40)), "' OR 1=1 --", "\0"] {
        assert!(world.control.authenticate_api_key(bad).await.is_err(), "{bad:?}");
        assert!(world.control.authenticate_host(bad).await.is_err(), "{bad:?}");
    }
}
