//! A team with thousands of sandboxes that run on a simulated host of its own: it is let in, asked and believed like any other, but its
//! machines are not there. Their rows are put into the database: to ask for each would take minutes.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use reqwest::Method;
use sandbar_testkit::sim_host::SimHost;
use sandbar_tests::Platform;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::task::JoinHandle;

const PASSWORD: &str = "correct horse battery";
/// As often as the control plane must hear of a host that is not to be thought lost, and some.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// See the module.
pub(crate) struct SimulatedTeam {
    /// Who owns the team.
    pub(crate) email: String,
    pub(crate) password: &'static str,
    host_id: String,
    /// What ends the host.
    farewell: reqwest::RequestBuilder,
    database: Database,
    heartbeats: JoinHandle<()>,
    // Serves for as long as it is there.
    _host: SimHost,
}

impl SimulatedTeam {
    /// Has a team with so many sandboxes. All run.
    pub(crate) async fn with(platform: &Platform, sandboxes: u32) -> Result<Self> {
        let (http, base) = (reqwest::Client::new(), platform.url());
        let first = platform.first_run()?;
        let admin = json!({"email": first["email"], "password": first["password"]});
        let admin = text(&post(&http, &base, "/v1/auth/login", None, &admin).await?, "/token")?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis();
        let email = format!("crowd-{now}@example.org");
        let owner = json!({"email": email, "password": PASSWORD, "name": "Crowd"});
        let owner = post(&http, &base, "/v1/auth/signup", None, &owner).await?;
        let (token, team) = (text(&owner, "/token")?, text(&owner, "/team_id")?);
        let byoc = http.request(Method::PUT, format!("{base}/v1/admin/teams/{team}/byoc"));
        answer(byoc.bearer_auth(&admin).json(&json!({"is_byoc": true}))).await?;

        let asked = json!({"type": "byoc", "provider": "simulated"});
        let created = post(&http, &base, "/v1/hosts", Some(&token), &asked).await?;
        let (host_id, registration) = (text(&created, "/host/id")?, text(&created, "/registration_token")?);
        let host = SimHost::bind().await?;
        let database = Database::of(platform);
        for id in database.fill(&team, &host_id, sandboxes).await? {
            host.plant(&id, Duration::ZERO);
        }
        let registration = json!({
            "token": registration,
            "arch": "x86_64",
            "cpu_cores": 64,
            "memory_mb": 4_194_304,
            "disk_gb": 50_000,
            "address": host.address(),
            "vmm": "qemu",
            "csr": host.csr()?,
        });
        let registered = post(&http, &base, "/v1/hosts/register", None, &registration).await?;
        host.enroll(&host_id, &text(&registered, "/cert")?, &text(&registered, "/ca")?).await?;
        let beat = json!({"inventory_generation": host.inventory_generation()});
        let url = format!("{base}/v1/hosts/{host_id}/heartbeat");
        let heartbeat = http.post(url).header("x-host-token", text(&registered, "/token")?).json(&beat);
        let again = || heartbeat.try_clone().context("a body in memory is sent again");
        answer(again()?).await?;
        let heartbeats = tokio::spawn(async move {
            loop {
                tokio::time::sleep(HEARTBEAT).await;
                // One that is not heard is made up for by the next.
                if let Some(heartbeat) = heartbeat.try_clone() {
                    drop(heartbeat.send().await);
                }
            }
        });
        let farewell = http.delete(format!("{base}/v1/hosts/{host_id}")).bearer_auth(token);
        Ok(Self { email, password: PASSWORD, host_id, farewell, database, heartbeats, _host: host })
    }

    /// Takes them away: what other tests count are machines that are there.
    pub(crate) async fn leave(self) -> Result<()> {
        self.heartbeats.abort();
        self.database.empty(&self.host_id).await?;
        answer(self.farewell).await.map(drop)
    }
}

async fn post(
    http: &reqwest::Client,
    base: &str,
    path: &str,
    token: Option<&str>,
    body: &Value,
) -> Result<Value> {
    let request = http.post(format!("{base}{path}")).json(body);
    answer(token.into_iter().fold(request, reqwest::RequestBuilder::bearer_auth))
        .await
        .context(path.to_owned())
}

/// A success's body, if it has one.
async fn answer(request: reqwest::RequestBuilder) -> Result<Value> {
    let response = request.send().await?;
    let (status, body) = (response.status(), response.text().await?);
    ensure!(status.is_success(), "{status}: {body}");
    Ok(serde_json::from_str(&body).unwrap_or_default())
}

fn text(answer: &Value, field: &str) -> Result<String> {
    Ok(answer.pointer(field).and_then(Value::as_str).with_context(|| format!("no {field}"))?.to_owned())
}

/// The platform's own.
struct Database(std::path::PathBuf);

impl Database {
    fn of(platform: &Platform) -> Self {
        Self(platform.data_dir().join("postgres/run"))
    }

    /// Sandboxes of the team on the host, one made each minute before; their ids.
    async fn fill(&self, team: &str, host: &str, count: u32) -> Result<Vec<String>> {
        let (team, host) = (uuid(team)?, uuid(host)?);
        self.run(&format!(
            "INSERT INTO sandboxes (id, team_id, template_id, host_id, status, vcpus, memory_mb, disk_mb, metadata, guest_ip, \
                 host_ip, created_at, started_at, last_active_at)
             SELECT gen_random_uuid(), '{team}', template.id, '{host}', 'running', 1, 512 + (n % 4) * 512, 2048,
                    jsonb_build_object('number', n::text, 'agent', (ARRAY['reviewer', 'builder', 'tester'])[1 + n % 3]),
                    '192.168.0.2', '10.64.0.2', at, at, at
             FROM generate_series(1, {count}) AS n,
                  LATERAL (SELECT now() - make_interval(mins => n) AS at) AS made,
                  (SELECT id FROM templates WHERE name = 'base' AND deleted_at IS NULL ORDER BY created_at LIMIT 1) AS template
             RETURNING 'sb-' || id"
        ))
        .await
        .map(|ids| ids.lines().map(str::to_owned).collect())
    }

    async fn empty(&self, host: &str) -> Result<()> {
        let host = uuid(host)?;
        let rows = format!("DELETE FROM sandboxes WHERE host_id = '{host}'");
        self.run(&rows).await.map(drop)
    }

    /// What the statement answers, a row in a line.
    async fn run(&self, statement: &str) -> Result<String> {
        let output = Command::new("psql")
            .args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1"])
            .args(["--username", "sandbar", "--dbname", "sandbar", "--command", statement])
            .arg("--host")
            .arg(&self.0)
            .output()
            .await?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// The end of an id, as the database has it.
fn uuid(id: &str) -> Result<&str> {
    Ok(id.split_once('-').context("an id has a prefix")?.1)
}
