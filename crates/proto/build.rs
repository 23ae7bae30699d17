//! Generates the message types and service stubs from `proto/`, without `protoc`.

use std::path::PathBuf;

const FILES: &[&str] =
    &["process/process.proto", "filesystem/filesystem.proto", "sandbar/host/v1/host.proto"];

fn main() {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let descriptors = out.join("descriptors.bin");

    let mut compiler = protox::Compiler::new(["proto"]).expect("the proto folder is readable");
    compiler.include_imports(true).include_source_info(true);
    for file in FILES {
        if let Err(error) = compiler.open_file(file) {
            panic!("{file}: {error}");
        }
    }
    std::fs::write(&descriptors, compiler.encode_file_descriptor_set()).expect("OUT_DIR is writable");

    // It would name `descriptors.bin`, which is written here: cargo takes a file that is younger than the run for changed, and would
    // run this, and compile all that depends on it, at every build.
    connectrpc_build::Config::new()
        .emit_rerun_directives(false)
        .descriptor_set(&descriptors)
        .files(FILES)
        .include_file("_connectrpc.rs")
        .compile()
        .expect("the descriptors generate");
}
