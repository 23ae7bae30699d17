//! `cargo xtask licences`: what `cargo deny check licenses bans` does, from the rules in deny.toml, without cargo-deny.
//!
//! Advisories need a database that is fetched from the network; for those run cargo-deny itself.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, bail};
use serde::Deserialize;

/// The part of deny.toml that is applied here.
#[derive(Deserialize)]
struct Rules {
    licenses: Licences,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licences {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
}

pub(crate) fn run() -> anyhow::Result<()> {
    let rules: Rules = toml::from_str(&std::fs::read_to_string("deny.toml").context("read deny.toml")?)
        .context("understand deny.toml")?;
    let faults = faults(&rules, &metadata()?);
    for fault in &faults {
        eprintln!("{fault}");
    }
    if faults.is_empty() {
        return Ok(());
    }
    bail!("{} of the dependencies break a rule in deny.toml", faults.len());
}

fn metadata() -> anyhow::Result<Metadata> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args([
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform=x86_64-unknown-linux-gnu",
    ]);
    let output = command.stderr(std::process::Stdio::inherit()).output().context("run cargo metadata")?;
    if !output.status.success() {
        bail!("cargo metadata: {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("understand cargo metadata")
}

fn faults(rules: &Rules, metadata: &Metadata) -> Vec<String> {
    let used: BTreeSet<_> = metadata.resolve.nodes.iter().map(|node| node.id.as_str()).collect();
    let foreign = metadata.packages.iter().filter(|p| p.source.is_some() && used.contains(p.id.as_str()));
    foreign.flat_map(|package| package_faults(rules, package)).collect()
}

fn package_faults(rules: &Rules, package: &Package) -> Vec<String> {
    let Package { name, version, license, .. } = package;
    let mut faults = Vec::new();
    if let Some(ban) = rules.bans.deny.iter().find(|ban| ban.name == *name) {
        faults.push(format!("{name} {version} is banned: {}", ban.reason));
    }
    match license.as_deref().map(|text| spdx::Expression::parse_mode(text, spdx::ParseMode::LAX)) {
        None => faults.push(format!("{name} {version} names no licence")),
        Some(Err(error)) => {
            faults.push(format!("{name} {version}: its licence cannot be understood: {error}"));
        }
        Some(Ok(expression)) => {
            if !expression.evaluate(|requirement| rules.licenses.allow.contains(&requirement.to_string())) {
                faults.push(format!("{name} {version}: licence {expression} is not allowed"));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(name: &str, license: Option<&str>) -> usize {
        let rules = Rules {
            licenses: Licences { allow: ["MIT", "Apache-2.0"].map(Into::into).into() },
            bans: Bans { deny: vec![Ban { name: "evil".into(), reason: "it is".into() }] },
        };
        let package = Package {
            id: "1".into(),
            name: name.into(),
            version: "1.0.0".into(),
            license: license.map(Into::into),
            source: Some("registry".into()),
        };
        package_faults(&rules, &package).len()
    }

    #[test]
    fn expressions_are_evaluated_not_compared() {
        assert_eq!(faults_of("good", Some("MIT OR GPL-3.0-only")), 0);
        assert_eq!(faults_of("good", Some("MIT/Apache-2.0")), 0);
        assert_eq!(faults_of("good", Some("MIT AND GPL-3.0-only")), 1);
        assert_eq!(faults_of("good", Some("GPL-3.0-or-later")), 1);
        assert_eq!(faults_of("good", Some("surprise")), 1);
        assert_eq!(faults_of("good", None), 1);
        assert_eq!(faults_of("evil", Some("MIT")), 1);
    }
}
