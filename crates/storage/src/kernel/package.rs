//! Debian's cloud kernel: the one that is installed here, else its package, fetched and unpacked but not installed.

use std::fs;
use std::path::{Path, PathBuf};

use super::KernelError;
use crate::Progress;
use crate::debian::DebianSource;
use crate::files::OnFile;
use crate::tool::Tool;

/// A kernel as Debian ships it.
#[derive(Debug)]
pub(super) struct Package {
    /// Such as `6.1.0-40-cloud-amd64`.
    pub(super) release: String,
    pub(super) vmlinuz: PathBuf,
    pub(super) modules: PathBuf,
}

/// The newest cloud kernel that is installed under `root`.
pub(super) fn installed(root: &Path, debian_arch: &str) -> Option<Package> {
    let ending = format!("-cloud-{debian_arch}");
    let boot = root.join("boot");
    let releases = fs::read_dir(&boot).ok()?.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        name.strip_prefix("vmlinuz-").filter(|release| release.ends_with(&ending)).map(str::to_owned)
    });
    let mut releases: Vec<_> = releases.collect();
    releases.sort_by_key(|release| version_numbers(release));
    releases.into_iter().rev().find_map(|release| {
        let vmlinuz = boot.join(format!("vmlinuz-{release}"));
        let folders = ["usr/lib/modules", "lib/modules"].map(|folder| root.join(folder).join(&release));
        let modules = folders.into_iter().find(|folder| folder.join("modules.builtin").exists())?;
        Some(Package { release, vmlinuz, modules })
    })
}

fn version_numbers(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

/// Fetches the cloud kernel of the source's release into `dir`, an empty folder, and unpacks it there.
pub(super) fn fetch(
    source: &DebianSource,
    dir: &Path,
    progress: &dyn Progress,
) -> Result<Package, KernelError> {
    let meta = format!("linux-image-cloud-{}", source.debian_arch());
    let apt = Apt::new(source, dir)?;
    progress.step("fetching Debian's package lists");
    apt.tool("apt-get").args(["-q", "update"]).run()?;
    let shown = apt.tool("apt-cache").args(["--no-all-versions", "show", &meta]).run()?;
    let package =
        kernel_package(&String::from_utf8_lossy(&shown)).ok_or(KernelError::NoPackage { package: meta })?;
    progress.step(&format!("fetching {package}"));
    apt.tool("apt-get").args(["-q", "download", &package]).working_dir(dir).run()?;
    let mut debs = fs::read_dir(dir).on("list", dir)?.flatten().map(|entry| entry.path());
    let deb = debs.find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    let deb = deb.ok_or_else(|| KernelError::NoPackage { package: package.clone() })?;
    progress.step(&format!("unpacking {package}"));
    let root = dir.join("root");
    Tool::new("dpkg-deb", "dpkg").arg("--extract").arg(&deb).arg(&root).run()?;
    installed(&root, source.debian_arch()).ok_or(KernelError::NoPackage { package })
}

/// The package with the kernel, of which the one asked for is only a name: `Depends: linux-image-6.1.0-40-cloud-amd64 (= 6.1.153-1)`.
fn kernel_package(shown: &str) -> Option<String> {
    let depends = shown.lines().find_map(|line| line.strip_prefix("Depends:"))?;
    let mut names = depends.split(',').filter_map(|dependency| dependency.split_whitespace().next());
    names.find(|name| name.starts_with("linux-image-")).map(str::to_owned)
}

/// apt with lists, cache and sources of its own: the machine's are neither needed nor touched, whatever release it runs.
struct Apt {
    config: PathBuf,
}

impl Apt {
    fn new(source: &DebianSource, dir: &Path) -> Result<Self, KernelError> {
        let apt = dir.join("apt");
        for folder in ["lists/partial", "cache/archives/partial", "parts"] {
            let folder = apt.join(folder);
            fs::create_dir_all(&folder).on("create", &folder)?;
        }
        let write = |name: &str, text: &str| {
            let path = apt.join(name);
            fs::write(&path, text).on("write", &path).map(|()| path)
        };
        let sources = write("sources.list", &(source.lines().join("\n") + "\n"))?;
        let status = write("status", "")?;
        let arch = source.debian_arch();
        let (sources, status, apt) = (sources.display(), status.display(), apt.display());
        // Read after the machine's own configuration, which may set a proxy, but must not add architectures, sources or pins.
        let config = write(
            "apt.conf",
            &format!(
                r#"#clear APT::Architectures;
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::Etc::sourcelist "{sources}";
Dir::Etc::sourceparts "{apt}/parts";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "{apt}/parts";
Dir::State::lists "{apt}/lists";
Dir::State::status "{status}";
Dir::Cache "{apt}/cache";
"#
            ),
        )?;
        Ok(Self { config })
    }

    fn tool(&self, program: &'static str) -> Tool {
        Tool::new(program, "apt").arg("-c").arg(&self.config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_name_to_the_package() {
        let shown = "Package: linux-image-cloud-amd64\nSource: linux-signed-amd64\nVersion: 6.1.153-1\n\
            Depends: foo, linux-image-6.1.0-40-cloud-amd64 (= 6.1.153-1)\n";
        assert_eq!(kernel_package(shown).as_deref(), Some("linux-image-6.1.0-40-cloud-amd64"));
        assert_eq!(kernel_package("Package: x\n"), None);
    }

    #[test]
    fn takes_the_newest_installed_kernel_that_has_its_modules() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("boot")).unwrap();
        for release in
            ["6.1.0-9-cloud-amd64", "6.1.0-40-cloud-amd64", "6.12.0-1-amd64", "6.13.0-1-cloud-amd64"]
        {
            fs::write(root.path().join(format!("boot/vmlinuz-{release}")), "").unwrap();
            let modules = root.path().join("lib/modules").join(release);
            fs::create_dir_all(&modules).unwrap();
            if !release.starts_with("6.13") {
                fs::write(modules.join("modules.builtin"), "").unwrap();
            }
        }
        assert_eq!(installed(root.path(), "amd64").unwrap().release, "6.1.0-40-cloud-amd64");
        assert!(installed(root.path(), "arm64").is_none());
    }
}
