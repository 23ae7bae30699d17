//! Embeds the two binaries that run inside the microVM. `cargo xtask guest` builds them: for another target and profile than this
//! package, which cargo cannot do as part of it.

use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=SANDBAR_GUEST_BINARIES");
    let made = match env::var_os("SANDBAR_GUEST_BINARIES") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/guest/out"),
    };
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for name in ["sandbar-init", "sandbar-guest-agent"] {
        let from = made.join(name);
        println!("cargo::rerun-if-changed={}", from.display());
        if let Err(error) = fs::copy(&from, out.join(name)) {
            println!(
                "cargo::error=cannot embed {} ({error}): run `cargo xtask guest` first (`make` does)",
                from.display()
            );
        }
    }
}
