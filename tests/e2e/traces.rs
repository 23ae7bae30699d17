//! What the processes tell of themselves, where the environment asks for it: one trace from a request to the guest, as a collector receives it, and
//! both processes' figures, as Prometheus reads them.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use reqwest::{Method, RequestBuilder};
use sandbar_testkit::collector::{Collector, Manner, Span};
use sandbar_tests::{Platform, Sandbox, wait};
use sandbar_types::guest::AGENT_PORT;
use serde_json::json;

use crate::{Test, tests};

const LIMIT: Duration = Duration::from_secs(240);
/// What the platform calls its processes.
const CONTROL_PLANE: &str = "sandbar-control-plane";
const HOST_AGENT: &str = "sandbar-host-agent";
/// The span of the client's that its requests are part of.
const CALLER: &str = "3333333333333333";

pub(crate) fn tests() -> Vec<Test> {
    tests![one_trace_leads_from_a_request_into_the_guest]
}

async fn one_trace_leads_from_a_request_into_the_guest(platform: &Platform) -> Result<()> {
    let collector = Collector::start().await?;
    let figures = [free_address()?, free_address()?];
    let variables = [
        ("SANDBAR_METRICS_LISTEN", figures[0].to_string()),
        ("SANDBAR_HOST_METRICS_LISTEN", figures[1].to_string()),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url().to_owned()),
        ("OTEL_BSP_SCHEDULE_DELAY", "200".to_owned()),
    ];
    platform.restart_with(&variables).await?;
    let traced = Traced::new(platform, &collector)?;
    let outcome = match traced.follow().await {
        Ok(()) => traced.figures(figures).await,
        failed => failed,
    };

    // Who does not answer the platform keeps it from nothing, its end included.
    collector.set_manner(Manner::Hangs);
    let before = collector.requests();
    traced.list("55555555555555555555555555555555").await?;
    collector.asked_again(before).await;
    traced.list("66666666666666666666666666666666").await?;
    platform.restart_with(&[]).await?;

    // Off again, for those who come after.
    collector.set_manner(Manner::Takes);
    let before = collector.requests();
    traced.list("77777777777777777777777777777777").await?;
    assert_eq!(collector.requests(), before);
    outcome
}

/// Where nobody listened just now.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// The platform, asked by somebody who traces.
struct Traced<'a> {
    platform: &'a Platform,
    collector: &'a Collector,
    http: reqwest::Client,
    key: String,
}

impl<'a> Traced<'a> {
    fn new(platform: &'a Platform, collector: &'a Collector) -> Result<Self> {
        let http = reqwest::Client::builder().no_proxy().timeout(LIMIT).build()?;
        let key = platform.client()?.key().context("no key")?.to_owned();
        Ok(Self { platform, collector, http, key })
    }

    fn request(&self, method: Method, path: &str, trace: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.platform.url()));
        request.header("x-api-key", &self.key).header("traceparent", format!("00-{trace}-{CALLER}-01"))
    }

    /// What [`follow`](Self::follow) did is in the figures of both processes.
    async fn figures(&self, [control_plane, host_agent]: [SocketAddr; 2]) -> Result<()> {
        for (address, lines) in [
            (
                control_plane,
                [
                    "sandbar_host_rpc_seconds_count{rpc=\"Exec\",outcome=\"ok\"}",
                    "sandbar_host_rpc_seconds_count{rpc=\"CreateSandbox\",outcome=\"ok\"}",
                    "sandbar_sandboxes{status=\"running\"}",
                ],
            ),
            (
                host_agent,
                [
                    "sandbar_agent_rpc_seconds_count{rpc=\"Exec\",outcome=\"ok\"}",
                    "sandbar_agent_rpc_seconds_count{rpc=\"CreateSandbox\",outcome=\"ok\"}",
                    "sandbar_agent_sandboxes{state=\"running\"}",
                ],
            ),
        ] {
            let told = self.http.get(format!("http://{address}/metrics")).send().await?.error_for_status()?;
            let told = told.text().await?;
            for line in lines {
                let value = told.lines().find_map(|told| told.strip_prefix(line)?.strip_prefix(' '));
                let value: f64 = value.with_context(|| format!("{line} is not in {told}"))?.parse()?;
                ensure!(value >= 1.0 || !line.contains("seconds"), "{line} is {value}");
            }
        }
        Ok(())
    }

    async fn list(&self, trace: &str) -> Result<()> {
        self.request(Method::GET, "/v1/sandboxes", trace).send().await?.error_for_status()?;
        Ok(())
    }

    /// The spans of a trace, each the next one's parent, from the client's on: processes and names.
    async fn chain<const N: usize>(&self, trace: &str, steps: [(&str, &str); N]) -> Result<[Span; N]> {
        let found = wait::until("the spans have come", LIMIT, async || {
            let spans = self.collector.of_trace(trace);
            let mut chain: Vec<Span> = Vec::new();
            for (service, name) in steps {
                let parent = chain.last().map_or(CALLER, |parent| parent.id.as_str());
                let is_next =
                    |span: &&Span| span.service == service && span.name == name && span.parent == parent;
                let Some(next) = spans.iter().find(is_next).cloned() else { return Ok(None) };
                chain.push(next);
            }
            Ok(chain.try_into().ok())
        });
        found.await.with_context(|| format!("{steps:?} in {:#?}", self.collector.of_trace(trace)))
    }

    /// Waits until a sandbox's console tells of a trace and a path. It is a file in memory, the machine's standard output.
    async fn in_console(&self, sandbox: &Sandbox, trace: &str, path: &str) -> Result<()> {
        let machine = self.platform.footprint().vmm_of(&sandbox.id)?.context("it has no machine")?;
        wait::until_true("the guest's console has it", LIMIT, async || {
            let mut console = String::new();
            std::fs::File::open(format!("/proc/{}/fd/1", machine.pid))?.read_to_string(&mut console)?;
            Ok(console.lines().any(|line| line.contains(trace) && line.contains(path)))
        })
        .await
    }

    async fn follow(&self) -> Result<()> {
        let [create, exec, visit, failed] = ["1", "2", "4", "8"].map(|digit| digit.repeat(32));
        let made = self.request(Method::POST, "/v1/sandboxes", &create).json(&json!({})).send().await?;
        let made: serde_json::Value = made.error_for_status()?.json().await?;
        let id = made["id"].as_str().context("no id")?.to_owned();
        let sandbox = Sandbox::of(&self.platform.client()?, &id, made);
        let command = json!({"cmd": "echo", "args": ["a-secret-word"]});
        let path = format!("/v1/sandboxes/{id}/exec");
        let ran = self.request(Method::POST, &path, &exec).json(&command).send().await?.error_for_status()?;
        let request_id = ran.headers()["x-request-id"].to_str()?.to_owned();
        // To a port of the sandbox: that of its agent, which tells of it.
        let health = self.request(Method::GET, "/health", &visit).header("e2b-sandbox-id", &id);
        health.header("e2b-sandbox-port", AGENT_PORT).send().await?.error_for_status()?;

        let created = self.chain(
            &create,
            [
                (CONTROL_PLANE, "POST /v1/sandboxes"),
                (CONTROL_PLANE, "CreateSandbox"),
                (HOST_AGENT, "CreateSandbox"),
                (HOST_AGENT, "guest POST /init"),
            ],
        );
        assert_eq!(created.await?[2].attributes["sandbar.sandbox.id"], id);
        let ran = self.chain(
            &exec,
            [
                (CONTROL_PLANE, "POST /v1/sandboxes/{id}/exec"),
                (CONTROL_PLANE, "Exec"),
                (HOST_AGENT, "Exec"),
                (HOST_AGENT, "guest POST /process.Process/Start"),
            ],
        );
        let [request, call, answer, _] = ran.await?;
        // The log's id of the request leads to its trace.
        assert_eq!(request.attributes["sandbar.request.id"], request_id);
        assert_eq!(request.attributes["http.route"], "/v1/sandboxes/{id}/exec");
        assert_eq!(request.attributes["http.response.status_code"], "200");
        ensure!(request.attributes["sandbar.team.id"].starts_with("team-"), "{request:?}");
        ensure!(call.attributes["sandbar.host.id"].starts_with("host-"), "{call:?}");
        assert_eq!(answer.attributes["sandbar.sandbox.id"], id);
        let steps = [(CONTROL_PLANE, "edge"), (CONTROL_PLANE, "Tunnel"), (HOST_AGENT, "Tunnel")];
        assert_eq!(self.chain(&visit, steps).await?[0].attributes["sandbar.sandbox.id"], id);

        // Nothing of what passed is in any.
        let all = format!("{:?}", self.collector.spans());
        for secret in ["a-secret-word", &self.key, sandbox.made["access_token"].as_str().context("no token")?]
        {
            ensure!(!all.contains(secret), "{secret} is in {all}");
        }
        // The guest was told, too: of its own making, of the command, and by the client itself.
        for (trace, path) in [(&create, "/init"), (&exec, "/process.Process/Start"), (&visit, "/health")] {
            self.in_console(&sandbox, trace, path).await?;
        }
        // What the log has to say of a request names its trace.
        let late = json!({"cmd": "sleep", "args": ["1000"], "timeout_sec": 1});
        let late = self.request(Method::POST, &path, &failed).json(&late).send().await?;
        ensure!(late.status().is_server_error() || late.status() == 408, "{late:?}");
        ensure!(self.platform.logs().contains(&format!("trace={failed}")), "the log does not name the trace");
        sandbox.destroy().await
    }
}
