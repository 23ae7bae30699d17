//! The dashboard in a browser: `dashboard/tests` against this platform, with its guests. The pages are those that the binary embeds.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use sandbar_testkit::issuer::{Account, Algorithm, CLIENT_ID, CLIENT_SECRET, Issuer};
use sandbar_tests::Platform;
use tokio::process::Command;

use crate::simulated::SimulatedTeam;
use crate::{Test, tests};

/// Of all tests of pages together; each has a limit of its own.
const LIMIT: Duration = Duration::from_secs(2400);
/// As many capsules as a list must bear.
const CROWD: u32 = 5_000;
/// Arguments for Playwright, apart by spaces, of somebody who wants some of the tests alone.
const SOME: &str = "SANDBAR_E2E_PAGES";

pub(crate) fn tests() -> Vec<Test> {
    tests![pages_do_what_they_offer]
}

async fn pages_do_what_they_offer(platform: &Platform) -> Result<()> {
    let issuer = Issuer::start(Algorithm::Rs256).await;
    let providers = platform.data_dir().join("providers.toml");
    std::fs::write(&providers, config(platform, &issuer))?;
    issuer.sign_in(Some(newcomer()?));
    platform.restart_with(&[("SANDBAR_OAUTH_CONFIG", providers.to_string_lossy().into_owned())]).await?;
    let told = in_a_browser(platform, &issuer).await;
    platform.restart_with(&[]).await?;
    print!("{}", told?);
    Ok(())
}

/// Where people may sign in besides.
fn config(platform: &Platform, issuer: &Issuer) -> String {
    let (public, url) = (platform.url(), issuer.url());
    format!(
        "public_url = \"{public}\"\n[[provider]]\nname = \"harbour\"\nlabel = \"Harbour ID\"\nkind = \"oidc\"\nissuer = \"{url}\"\n\
         client_id = \"{CLIENT_ID}\"\nclient_secret = \"{CLIENT_SECRET}\"\n"
    )
}

/// Somebody whom the platform does not know, however often this was run on it.
fn newcomer() -> Result<Account> {
    let subject = u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?;
    let email = format!("olga-{subject}@example.org");
    Ok(Account { subject, email, email_verified: true, name: "Olga".to_owned() })
}

/// What Playwright tells.
async fn in_a_browser(platform: &Platform, issuer: &Issuer) -> Result<String> {
    let first = platform.first_run()?;
    let text = |name: &str| first[name].as_str().context("first-run.json lacks it");
    let (node, pages) = (node().await?, Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboard"));
    let playwright = pages.join("node_modules/.bin/playwright");
    ensure!(playwright.exists(), "the dashboard's packages are missing: run `cargo xtask dashboard`");
    let browser = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".to_owned());
    ensure!(Path::new(&browser).exists(), "there is no {browser}: set CHROMIUM to a Chromium or Chrome");
    let crowd = SimulatedTeam::with(platform, CROWD).await.context("a team on a simulated host")?;
    let some = std::env::var(SOME).unwrap_or_default();
    let tests = Command::new(node.join("node"))
        .arg(playwright)
        .arg("test")
        .args(some.split_whitespace())
        .current_dir(&pages)
        .env("SANDBAR_URL", platform.url())
        .env("SANDBAR_EMAIL", text("email")?)
        .env("SANDBAR_PASSWORD", text("password")?)
        .env("SANDBAR_ISSUER", issuer.url())
        .env("SANDBAR_CROWD_EMAIL", &crowd.email)
        .env("SANDBAR_CROWD_PASSWORD", crowd.password)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = tokio::time::timeout(LIMIT, tests.wait_with_output()).await;
    crowd.leave().await?;
    let output = output.context("the tests of pages hang")??;
    let told = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(told.into_owned())
}

/// The folder of the Node that the pages were built with.
async fn node() -> Result<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/node.sh");
    let output = Command::new(script).output().await?;
    ensure!(output.status.success(), "there is no Node: {}", String::from_utf8_lossy(&output.stderr));
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}
