//! A Firecracker and a jailer that hold their callers to the published API and documents, and do what a test dictates.
//!
//! The test binary is both, under another name: real processes with real users, namespaces, sockets, mappings and files. What
//! is not there is a guest: a test writes its pages by `PUT /fake/pages`. Nothing here knows the driver's types.

pub(crate) mod bodies;
mod jailer;
mod memory;
mod server;
mod vm;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::exit,
};

use serde::{Deserialize, Serialize};

/// Size of a page.
pub(crate) const PAGE: usize = 4096;

/// What a test dictates to the processes that are started from its folder: read from `plan.json` beside the binary.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// What `--version` says.
    pub(crate) version: String,
    pub(crate) jailer_version: String,
    pub(crate) jailer: Step,
    /// Before the socket is there.
    pub(crate) start: Step,
    /// By request, as `PUT /actions`.
    pub(crate) requests: BTreeMap<String, Step>,
}

/// What happens at a point.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Step {
    /// What should.
    #[default]
    Go,
    /// The process ends.
    Die,
    /// Nothing, for ever.
    Hang,
    /// A refusal with these words.
    Fault(String),
    /// The request is done, and then waits for a file `/go`.
    DoneThenWait,
    /// The request is done, and then the process ends.
    DoneThenDie,
    /// The image stays open for writing.
    KeepOpen,
    /// The state is a link to another file.
    LinkState,
}

impl Plan {
    pub(crate) fn file(folder: &Path) -> PathBuf {
        folder.join("plan.json")
    }

    fn beside(binary: &Path) -> Self {
        let folder = binary.parent().unwrap();
        serde_json::from_slice(&fs::read(Self::file(folder)).unwrap()).unwrap()
    }
}

impl Step {
    /// What can happen anywhere.
    fn pass(&self) {
        match self {
            Self::Die => {
                println!("dying as planned");
                exit(1)
            }
            Self::Hang => loop {
                std::thread::park();
            },
            _ => {}
        }
    }
}

/// Is one of the two, if started under its name.
pub(crate) fn run_if_named() {
    let mut arguments = std::env::args_os();
    let name = PathBuf::from(arguments.next().unwrap());
    let arguments: Vec<OsString> = arguments.collect();
    let version = arguments == ["--version"];
    match name.file_name().and_then(|name| name.to_str()) {
        Some("firecracker") if version => println!("Firecracker {}\n", Plan::beside(&name).version),
        Some("jailer") if version => println!("Jailer {}", Plan::beside(&name).jailer_version),
        Some("jailer") => jailer::run(&arguments),
        Some("firecracker") => panic!("Firecracker without its jailer: {arguments:?}"),
        _ => return,
    }
    exit(0)
}
