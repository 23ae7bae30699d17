//! Inserts the initramfs's kernel modules.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use rustix::io::Errno;

/// Inserts the modules that `dir/order` names, one a line, in that order, each with its parameters behind a blank. A kernel with everything built in has no such file.
pub(crate) fn insert_all(dir: &Path) -> Result<(), ModuleError> {
    let order = match fs::read_to_string(dir.join("order")) {
        Ok(order) => order,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(ModuleError { module: "order".into(), source }),
    };
    for line in order.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (module, parameters) = line.split_once(' ').unwrap_or((line, ""));
        insert(&dir.join(module), parameters)
            .map_err(|source| ModuleError { module: module.into(), source })?;
    }
    Ok(())
}

fn insert(path: &Path, parameters: &str) -> io::Result<()> {
    let file = File::open(path)?;
    let parameters = CString::new(parameters)?;
    match rustix::system::finit_module(&file, &parameters, 0) {
        // Loaded already, or built into this kernel.
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A module could not be inserted.
#[derive(Debug, thiserror::Error)]
#[error("cannot insert kernel module {module}: {source}")]
pub(crate) struct ModuleError {
    module: String,
    source: io::Error,
}
