//! Which kernel modules a guest's init inserts, and in which order.
//!
//! Debian's package has no `modules.dep` (that is made when it is installed), so dependencies are read where `depmod` reads them:
//! in each module's own `.modinfo` section.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use sandbar_types::limits::SANDBOX_VOLUMES;

use super::KernelError;
use super::compression::decompress;
use crate::files::{FileError, OnFile};

/// What a guest needs to find its disk and its network, to stack filesystems, and to mount volumes; each with whatever it needs, in an order that works.
/// A kernel may have any of them built in.
const WANTED: [&str; 11] = [
    "virtio",
    "virtio_ring",
    "virtio_mmio",
    "virtio_blk",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_rng",
    "ext4",
    "overlay",
    "nbd",
];

/// What a module is told: as many devices as a sandbox may have volumes, and none of them with partitions.
fn parameters(module: &str) -> String {
    match module {
        "nbd" => format!("nbds_max={SANDBOX_VOLUMES} max_part=0"),
        _ => String::new(),
    }
}

/// A module to be inserted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// Its file's name in the initramfs, `NAME.ko`.
    pub(super) file: String,
    /// What it is told.
    pub(super) parameters: String,
    /// The file, not compressed.
    pub(super) content: Vec<u8>,
}

/// The modules from a folder such as `/lib/modules/6.1.0-40-cloud-amd64`, in the order in which to insert them.
pub(super) fn collect(dir: &Path) -> Result<Vec<Module>, KernelError> {
    let builtin = fs::read_to_string(dir.join("modules.builtin")).on("read", &dir.join("modules.builtin"))?;
    let mut files = BTreeMap::new();
    index(&dir.join("kernel"), &mut files)?;
    let mut collector = Collector {
        builtin: builtin.lines().map(|line| module_name(Path::new(line))).collect(),
        files,
        seen: BTreeSet::new(),
        modules: Vec::new(),
    };
    for name in WANTED {
        collector.add(name)?;
    }
    Ok(collector.modules)
}

struct Collector {
    builtin: BTreeSet<String>,
    files: BTreeMap<String, PathBuf>,
    seen: BTreeSet<String>,
    modules: Vec<Module>,
}

impl Collector {
    fn add(&mut self, name: &str) -> Result<(), KernelError> {
        if self.builtin.contains(name) || !self.seen.insert(name.to_owned()) {
            return Ok(());
        }
        let path = self.files.get(name).ok_or_else(|| KernelError::NoModule { module: name.to_owned() })?;
        let content = fs::read(path).on("read", path)?;
        let content = decompress(content)?;
        let depends = depends(&content).ok_or_else(|| KernelError::BadModule { module: name.to_owned() })?;
        for needed in depends {
            self.add(&needed)?;
        }
        self.modules.push(Module { file: format!("{name}.ko"), parameters: parameters(name), content });
        Ok(())
    }
}

fn index(dir: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<(), FileError> {
    for entry in fs::read_dir(dir).on("list", dir)? {
        let entry = entry.on("list", dir)?;
        let path = entry.path();
        if entry.file_type().on("look at", &path)?.is_dir() {
            index(&path, files)?;
        } else if path.to_string_lossy().contains(".ko") {
            files.insert(module_name(&path), path);
        }
    }
    Ok(())
}

/// The kernel's name for the module in a file: without folder and endings, and with underscores where the file may have dashes.
fn module_name(path: &Path) -> String {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    file.split('.').next().unwrap_or_default().replace('-', "_")
}

/// The modules that a module says it needs; `None` if this is no module.
fn depends(module: &[u8]) -> Option<Vec<String>> {
    let info = section(module, b".modinfo")?;
    let value = info.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(b"depends="))?;
    let value = std::str::from_utf8(value).ok()?;
    Some(value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}

/// The content of a section of a 64-bit little-endian ELF file.
fn section<'a>(elf: &'a [u8], wanted: &[u8]) -> Option<&'a [u8]> {
    fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<usize> {
        let field = bytes.get(at..at.checked_add(N)?)?;
        let value = field.iter().rev().fold(0u64, |value, &byte| value << 8 | u64::from(byte));
        usize::try_from(value).ok()
    }
    elf.starts_with(b"\x7fELF\x02\x01").then_some(())?;
    let (table, entry_size, count, names) =
        (number::<8>(elf, 0x28)?, number::<2>(elf, 0x3a)?, number::<2>(elf, 0x3c)?, number::<2>(elf, 0x3e)?);
    let header = |index: usize| elf.get(table.checked_add(index.checked_mul(entry_size)?)?..);
    let content = |header: &[u8]| {
        let (offset, size) = (number::<8>(header, 0x18)?, number::<8>(header, 0x20)?);
        elf.get(offset..offset.checked_add(size)?)
    };
    let names = content(header(names)?)?;
    (0..count).find_map(|index| {
        let header = header(index)?;
        let name = names.get(number::<4>(header, 0)?..)?.split(|&byte| byte == 0).next()?;
        (name == wanted).then(|| content(header))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn one_name_per_module() {
        for file in ["a/virtio-rng.ko", "virtio_rng.ko.xz", "kernel/drivers/virtio-rng.ko.zst"] {
            assert_eq!(module_name(Path::new(file)), "virtio_rng");
        }
    }

    proptest! {
        #[test]
        fn garbage_is_no_module(mut bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            prop_assert_eq!(depends(&bytes), None);
            let magic = b"\x7fELF\x02\x01";
            let length = magic.len().min(bytes.len());
            bytes[..length].copy_from_slice(&magic[..length]);
            let _ = depends(&bytes);
        }
    }
}
