//! Many sandboxes at once.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::{Platform, Sandbox, wait};
use serde_json::json;

use crate::{Test, tests};

/// What a host keeps ready unless it is told otherwise (`sandbar host-agent --spare-networks`).
const SPARE_NETWORKS: usize = 8;

pub(crate) fn tests() -> Vec<Test> {
    tests![ten_at_once_are_ten_sandboxes_and_leave_nothing, the_same_request_twice_is_one_sandbox]
}

async fn ten_at_once_are_ten_sandboxes_and_leave_nothing(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let footprint = platform.footprint();
    let nothing = json!({});
    let made: Vec<Sandbox> = futures::future::join_all((0..10).map(|_| Sandbox::create(&client, &nothing)))
        .await
        .into_iter()
        .collect::<Result<_>>()?;
    let distinct = |of: &dyn Fn(&Sandbox) -> Result<String>| -> Result<usize> {
        Ok(made.iter().map(of).collect::<Result<BTreeSet<_>>>()?.len())
    };
    assert_eq!(distinct(&|sandbox| Ok(sandbox.id.clone()))?, 10);
    assert_eq!(distinct(&|sandbox| Ok(sandbox.host_ip()?.to_string()))?, 10);
    assert_eq!(footprint.vmms()?.len(), 10);
    ensure!(footprint.namespaces()?.len() >= 10, "no namespace for each: {:?}", footprint.namespaces()?);
    let answers = futures::future::join_all(made.iter().map(|sandbox| sandbox.sh("hostname"))).await;
    let hostnames: BTreeSet<String> = answers.into_iter().collect::<Result<_>>()?;
    assert_eq!(hostnames.len(), 10, "{hostnames:?}");

    let ends = futures::future::join_all(made.iter().map(Sandbox::destroy)).await;
    ends.into_iter().collect::<Result<Vec<()>>>()?;
    // At once, not some time later: who is told that it is gone may count on it.
    assert_eq!(footprint.vmms()?, []);
    assert_eq!(footprint.sandbox_folders()?, BTreeSet::new());
    assert_eq!(client.list("").await?.len(), 0);
    // No network is there but those that wait for the next.
    wait::until_true("used networks are gone", Duration::from_secs(30), async || {
        Ok(footprint.namespaces()?.len() == SPARE_NETWORKS)
    })
    .await
}

async fn the_same_request_twice_is_one_sandbox(platform: &Platform) -> Result<()> {
    platform.start().await?;
    let client = platform.client()?;
    let http = reqwest::Client::builder().no_proxy().build()?;
    let key = client.key().context("no key")?;
    let mut random = [0; 8];
    getrandom::fill(&mut random)?;
    let once = format!("end-to-end-{}", hex::encode(random));
    let ask = |body: &'static str| {
        let request = http.post(format!("{}/v1/sandboxes", client.base())).header("x-api-key", key);
        let request = request.header("idempotency-key", &once).header("content-type", "application/json");
        client.send(request.body(body))
    };
    let first = ask(r#"{"metadata":{"a":"b"}}"#).await?.json(201)?;
    let again = ask(r#"{"metadata":{"a":"b"}}"#).await?.json(201)?;
    assert_eq!(first["id"], again["id"]);
    ask(r#"{"metadata":{"a":"c"}}"#).await?.refusal(sandbar_types::ErrorCode::Conflict)?;
    assert_eq!(platform.footprint().vmms()?.len(), 1);
    let id = first["id"].as_str().context("no id")?;
    client.delete(&format!("/v1/sandboxes/{id}")).await?.expect(204)?;
    Ok(())
}
