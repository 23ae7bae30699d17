//! E2B's SDKs, as they are, on the whole platform: a program is told where that is by its environment alone, in one of two forms. What they ask
//! of the control plane alone is judged beside a simulated host, too (`crates/api/tests/api/e2b/sdk.rs`).

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use sandbar_tests::Platform;
use tokio::process::Command;

use crate::{Test, tests};

pub(crate) fn tests() -> Vec<Test> {
    tests![
        the_python_sdk_works_in_real_guests,
        the_javascript_sdk_works_in_real_guests,
        volumes_keep_what_guests_leave_in_them,
        sdks_of_a_year_ago_work_in_real_guests,
        sdks_find_everything_below_a_domain,
        an_agents_loop_runs_as_it_was_written,
    ]
}

/// Of Node's own test runner; a busy machine needs less.
const NODE_TEST: [&str; 2] = ["--test", "--test-timeout=600000"];
const PYTEST: [&str; 4] = ["-B", "-m", "pytest", "-q"];

/// How a program hears where the platform is.
#[derive(Debug, Clone, Copy)]
enum Told {
    /// One address for all that it asks, by plain HTTP.
    OneAddress,
    /// A domain alone: the API and each port of each sandbox are names below it, by HTTPS under an authority of the platform's own.
    Domain,
}

/// Which of E2B's SDKs.
#[derive(Debug, Clone, Copy)]
enum Age {
    Newest,
    YearOld,
}

async fn the_python_sdk_works_in_real_guests(platform: &Platform) -> Result<()> {
    // Four workers, who share the platform as programs of one team do.
    let tests = ["-n", "4", "--maxfail", "1", "python_platform/test_guest.py"];
    python(platform, Told::OneAddress, Age::Newest, &[&PYTEST[..], &tests].concat()).await
}

async fn the_javascript_sdk_works_in_real_guests(platform: &Platform) -> Result<()> {
    node(platform, Told::OneAddress, &[&NODE_TEST[..], &["js/platform/guest.test.js"]].concat()).await
}

async fn volumes_keep_what_guests_leave_in_them(platform: &Platform) -> Result<()> {
    // Of what the simulated host has shown in each flavour, one.
    let tests =
        ["-x", "python_platform/test_volumes.py::test_a_life[async]", "python_platform/test_mounts.py"];
    python(platform, Told::OneAddress, Age::Newest, &[&PYTEST[..], &tests].concat()).await
}

async fn sdks_of_a_year_ago_work_in_real_guests(platform: &Platform) -> Result<()> {
    // The form of their time: what JavaScript's asks of a sandbox by one address does not say of which.
    let told = Told::Domain;
    python(platform, told, Age::YearOld, &[&PYTEST[..], &["-x", "year_old/test_journey.py"]].concat())
        .await?;
    node(platform, told, &[&NODE_TEST[..], &["year_old/journey.test.js"]].concat()).await
}

async fn sdks_find_everything_below_a_domain(platform: &Platform) -> Result<()> {
    // What the other form has shown in each flavour, once; and what it cannot do.
    let tests = ["-x", "python_platform/test_guest.py::test_a_life[sync]", "python_platform/test_by_name.py"];
    python(platform, Told::Domain, Age::Newest, &[&PYTEST[..], &tests].concat()).await?;
    let tests =
        ["--test-name-pattern=a life|by name", "js/platform/guest.test.js", "js/platform/by_name.test.js"];
    node(platform, Told::Domain, &[&NODE_TEST[..], &tests].concat()).await
}

/// The examples of the documentation, unchanged, in both languages at once.
async fn an_agents_loop_runs_as_it_was_written(platform: &Platform) -> Result<()> {
    let wheels = target(platform)?.join("sdk-wheels");
    let wheel =
        std::fs::read_dir(&wheels).context("run tests/sdk/install.sh")?.next().context("no wheel")??.path();
    let wheel = wheel.to_str().context("the target folder's name is no text")?;
    let examples = sdk().join("../../docs/examples").canonicalize()?;
    let example =
        |name: &str| Ok::<_, anyhow::Error>(examples.join(name).to_str().context("no text")?.to_owned());

    // A program's packages are those beside it.
    let beside = tempfile::tempdir()?;
    std::os::unix::fs::symlink(sdk().join("js/node_modules"), beside.path().join("node_modules"))?;
    let copy = beside.path().join("agent_loop.mjs");
    std::fs::copy(example("agent_loop.mjs")?, &copy)?;
    let copy = copy.to_str().context("no text")?;

    let original = example("agent_loop.py")?;
    let (python_loop, node_loop) = (["-B", original.as_str(), wheel], [copy, wheel]);
    tokio::try_join!(
        python(platform, Told::Domain, Age::Newest, &python_loop),
        node(platform, Told::Domain, &node_loop),
    )?;
    Ok(())
}

async fn python(platform: &Platform, told: Told, age: Age, arguments: &[&str]) -> Result<()> {
    let program = match age {
        Age::Newest => "sdk-venv/bin/python",
        Age::YearOld => "year_old-venv/bin/python",
    };
    run(platform, told, program, arguments).await
}

async fn node(platform: &Platform, told: Told, arguments: &[&str]) -> Result<()> {
    run(platform, told, "node/bin/node", arguments).await
}

/// The tests' folder.
fn sdk() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk")
}

/// Where what they run on is installed.
fn target(platform: &Platform) -> Result<&Path> {
    platform.binary().parent().and_then(Path::parent).context("the binary is in no target folder")
}

/// Runs a program of the target folder to its end, which must be a good one. What it says is shown when it is not.
async fn run(platform: &Platform, told: Told, program: &str, arguments: &[&str]) -> Result<()> {
    platform.start().await?;
    let first_run = platform.first_run()?;
    let key = first_run["api_key"].as_str().context("no api_key")?;
    let (sdk, program) = (sdk(), target(platform)?.join(program));
    ensure!(sdk.join("year_old/node_modules/installed").exists(), "run tests/sdk/install.sh");
    let mut command = match told {
        Told::OneAddress => Command::new(program),
        Told::Domain => {
            // Names of its own, and nobody else's.
            let mut command = Command::new(sdk.join("by-name.sh"));
            command.arg(Platform::DOMAIN).arg(program);
            command
        }
    };
    // Nothing of the caller's environment may lead an SDK elsewhere (E2B_*, proxies).
    command.args(arguments).current_dir(&sdk).env_clear();
    command
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .env("HOME", &sdk)
        .env("LANG", "C.UTF-8");
    command.env("E2B_API_KEY", key);
    match told {
        Told::OneAddress => {
            for variable in ["E2B_API_URL", "E2B_SANDBOX_URL", "E2B_VOLUME_API_URL"] {
                command.env(variable, platform.url());
            }
        }
        Told::Domain => {
            let authority = platform.data_dir().join("tls/ca.pem");
            let domain = format!("{}:{}", Platform::DOMAIN, platform.https_address().port());
            command.env("E2B_DOMAIN", domain);
            command.env("SSL_CERT_FILE", &authority).env("NODE_EXTRA_CA_CERTS", &authority);
        }
    }
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    ensure!(
        output.status.success(),
        "{}\n{}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
