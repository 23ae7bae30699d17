//! Watches on filesystems that somebody else serves. Here that is the test itself: a FUSE filesystem with an empty folder.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::thread::JoinHandle;

use connectrpc::ErrorCode;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use sandbar_proto::filesystem::CreateWatcherRequest;

use crate::harness::Agent;
use crate::watch::{Polled, polled};

const GETATTR: u32 = 3;
const STATFS: u32 = 17;
const INIT: u32 = 26;

/// The mount, and the thread that serves it. Both end with the test.
struct Served<'a> {
    at: &'a Path,
    thread: Option<JoinHandle<()>>,
}

impl<'a> Served<'a> {
    fn mount(at: &'a Path) -> Self {
        fs::create_dir(at).unwrap();
        let device = OpenOptions::new().read(true).write(true).open("/dev/fuse").unwrap();
        let options = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", device.as_raw_fd());
        let options = std::ffi::CString::new(options).unwrap();
        mount("served", at, "fuse", MountFlags::empty(), Some(options.as_c_str())).unwrap();
        let thread = std::thread::spawn(move || serve(device));
        Self { at, thread: Some(thread) }
    }
}

impl Drop for Served<'_> {
    fn drop(&mut self) {
        let _ = unmount(self.at, UnmountFlags::DETACH | UnmountFlags::FORCE);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Answers until the filesystem is unmounted.
fn serve(mut device: File) {
    let mut request = vec![0; 1 << 20];
    while let Ok(length) = device.read(&mut request) {
        assert!(length >= 40, "a request of {length} bytes");
        let word = |at: usize| u32::from_ne_bytes(request[at..at + 4].try_into().unwrap());
        let (opcode, unique) = (word(4), &request[8..16]);
        let body = match opcode {
            INIT => words(&[7, 31], 64),
            // An empty folder: mode and number of links are the words 19 and 20 of the answer.
            GETATTR => words(&[&[0; 4][..], &[1], &[0; 14], &[0o040_755, 2]].concat(), 104),
            STATFS => words(&[], 80),
            _ => Vec::new(),
        };
        let error: i32 = if body.is_empty() { -libc::ENOSYS } else { 0 };
        let length = u32::try_from(16 + body.len()).unwrap();
        let answer = [&length.to_ne_bytes()[..], &error.to_ne_bytes(), unique, &body].concat();
        // What needs no answer takes none.
        let _ = device.write(&answer);
    }
}

fn words(words: &[u32], bytes: usize) -> Vec<u8> {
    let mut encoded: Vec<u8> = words.iter().flat_map(|word| word.to_ne_bytes()).collect();
    encoded.resize(bytes, 0);
    encoded
}

#[tokio::test]
async fn a_network_mount_is_watched_only_where_that_is_allowed() {
    let agent = Agent::start().await;
    let folder = agent.path("served");
    let _served = Served::mount(&folder);
    let error = Polled::create(&agent, polled(agent.at("served"), false)).await.err().unwrap();
    let message = format!("cannot watch path on network filesystem: {}", folder.display());
    assert_eq!((error.code, error.message), (ErrorCode::InvalidArgument, Some(message)));
    let request = CreateWatcherRequest { allow_network_mounts: true, ..polled(agent.at("served"), false) };
    let watcher = Polled::create(&agent, request).await.unwrap();
    watcher.remove().await.unwrap();

    // A tree that has such a mount in it is watched without it.
    let watcher = Polled::create(&agent, polled(agent.at(""), true)).await.unwrap();
    fs::write(agent.path("file"), "").unwrap();
    assert_eq!(watcher.told().await.len(), 1);
    watcher.remove().await.unwrap();
    agent.until_queues(0).await;
}
