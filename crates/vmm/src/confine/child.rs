//! What a VMM's process does between its making and its program.
//!
//! Everything that can fail for a reason worth telling, or that allocates, is done before, by the agent; [`Child::start`] then makes the
//! process, which makes system calls only: it is a copy of one thread of many, and a lock that another held stays locked in it.

use std::{
    convert::Infallible,
    ffi::{CStr, CString},
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    path::Path,
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::{Errno, dup2, fcntl_dupfd_cloexec, write},
    pipe::{PipeFlags, pipe_with},
    process::{Resource, Rlimit, setrlimit, setsid, umask},
    thread::{
        CapabilitySet, CapabilitySets, Gid, LinkNameSpaceType, Uid, UnshareFlags,
        remove_capability_from_bounding_set, set_capabilities, set_no_new_privs, set_thread_groups,
        set_thread_res_gid, set_thread_res_uid,
    },
};

use super::{cgroup::Group, mounts::Tree, root::Root};

/// From `linux/sched.h`: too wide for the type that libc gives it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Descriptors from here on are the agent's, below they become the VMM's.
const AGENTS: RawFd = 64;
const TUN: &CStr = c"/dev/net/tun";

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}")]
pub struct LaunchError {
    /// What was tried.
    step: &'static str,
    /// The system's reason.
    source: io::Error,
}

impl LaunchError {
    pub(crate) fn at(step: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { step, source }
    }
}

/// A descriptor that the VMM gets, under the number that its command line names.
#[derive(Debug)]
pub(crate) struct Handed {
    pub(crate) number: RawFd,
    pub(crate) descriptor: OwnedFd,
}

/// Descriptors that a VMM may have.
pub(crate) const DESCRIPTORS: u64 = 512;

/// A process to be.
#[derive(Debug)]
pub(crate) struct Child<'a> {
    pub(crate) root: &'a Root,
    /// Arguments behind the program's name, and the whole environment.
    pub(crate) arguments: Vec<CString>,
    pub(crate) environment: Vec<CString>,
    pub(crate) user: u32,
    pub(crate) group: &'a Group,
    pub(crate) netns: &'a Path,
    /// The TAP to open in that namespace, and the number that the VMM gets it under.
    pub(crate) tap: (&'a str, RawFd),
    pub(crate) files: Vec<(CString, Tree)>,
    pub(crate) handed: Vec<Handed>,
    /// Largest file that it may write.
    pub(crate) file_bytes: u64,
    /// Processes and threads that its user may have.
    pub(crate) tasks: u32,
}

/// Steps of the child, for its parent to name. The order is that of [`Ready::become_vmm`].
const STEPS: [&str; 8] = [
    "join the control group",
    "enter the network namespace",
    "open the TAP device",
    "enter the machine's root",
    "mount the machine's files",
    "set the limits",
    "become the machine's user",
    "run the program",
];

/// All that the child uses, in the form that system calls take.
struct Ready<'a> {
    child: &'a Child<'a>,
    tasks: Vec<File>,
    netns: File,
    tap: libc::ifreq,
    /// The same as the child's, numbered from [`AGENTS`] on: no target of one is the source of another.
    handed: Vec<Handed>,
    argv: Vec<*const libc::c_char>,
    envp: Vec<*const libc::c_char>,
    complaint: OwnedFd,
}

impl Child<'_> {
    /// Makes the process and waits until it runs its program. Returns its process id.
    pub(crate) fn start(&self) -> Result<i32, LaunchError> {
        let open_tasks = self.group.task_files().map(|file| File::options().write(true).open(file));
        let unified = self.group.unified().map(File::open).transpose();
        let (mut complaints, complaint) = {
            let (reading, writing) = pipe_with(PipeFlags::CLOEXEC)
                .map_err(io::Error::from)
                .map_err(LaunchError::at("make a pipe"))?;
            (File::from(reading), above(writing).map_err(LaunchError::at("make a pipe"))?)
        };
        let pointers = |texts: &[CString], first: Option<&CString>| {
            let all = first.into_iter().chain(texts).map(|text| text.as_ptr());
            all.chain([std::ptr::null()]).collect::<Vec<_>>()
        };
        let handed = self.handed.iter().map(|Handed { number, descriptor }| {
            let descriptor = fcntl_dupfd_cloexec(descriptor, AGENTS)?;
            Ok(Handed { number: *number, descriptor })
        });
        let ready = Ready {
            child: self,
            tasks: open_tasks
                .collect::<io::Result<_>>()
                .map_err(LaunchError::at("open the control group"))?,
            netns: File::open(self.netns).map_err(LaunchError::at("open the network namespace"))?,
            tap: tap_request(self.tap.0).map_err(LaunchError::at("name the TAP device"))?,
            handed: handed.collect::<io::Result<_>>().map_err(LaunchError::at("hand descriptors over"))?,
            argv: pointers(&self.arguments, Some(self.root.program())),
            envp: pointers(&self.environment, None),
            complaint,
        };
        let unified = unified.map_err(LaunchError::at("open the control group"))?;
        let pid = ready.clone_process(unified.as_ref()).map_err(LaunchError::at("make a process"))?;
        // The writing end is the child's alone from here on, and goes when it runs its program.
        drop(ready);
        let mut said = [0; 5];
        match complaints.read(&mut said) {
            Ok(0) => Ok(pid),
            Ok(5) => {
                reap(pid);
                let [step, errno @ ..] = said;
                let source = io::Error::from_raw_os_error(i32::from_ne_bytes(errno));
                Err(LaunchError { step: STEPS.get(usize::from(step)).copied().unwrap_or("start"), source })
            }
            Ok(_) => Err(LaunchError { step: "start", source: io::ErrorKind::InvalidData.into() }),
            Err(source) => Err(LaunchError { step: "start", source }),
        }
    }
}

/// The status of a child that never became anybody.
fn reap(pid: i32) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid) {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
    }
}

/// The same descriptor under a number that is none of the VMM's.
fn above(descriptor: OwnedFd) -> io::Result<OwnedFd> {
    Ok(fcntl_dupfd_cloexec(descriptor, AGENTS)?)
}

fn tap_request(name: &str) -> io::Result<libc::ifreq> {
    // SAFETY: all-zero bytes are a valid `ifreq`: numbers and a null pointer.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (place, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *place = libc::c_char::from_ne_bytes([byte]);
    }
    // As it was made; another kind of device is refused.
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(|_| io::ErrorKind::InvalidInput)?;
    Ok(request)
}

impl Ready<'_> {
    fn clone_process(&self, unified: Option<&File>) -> io::Result<i32> {
        let wide = |number: i32| u64::from(number.unsigned_abs());
        let namespaces = libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        let (into_group, group) = unified.map_or((0, 0), |group| (CLONE_INTO_CGROUP, group.as_raw_fd()));
        let arguments = libc::clone_args {
            // The thread would only wait for the child to run its program anyway.
            flags: wide(namespaces | libc::CLONE_VFORK) | into_group,
            pidfd: 0,
            child_tid: 0,
            parent_tid: 0,
            exit_signal: wide(libc::SIGCHLD),
            stack: 0,
            stack_size: 0,
            tls: 0,
            set_tid: 0,
            set_tid_size: 0,
            cgroup: wide(group),
        };
        // SAFETY: without CLONE_VM and a stack this is a fork: the child goes on behind the call with a copy of all memory, and makes
        // nothing but system calls until it runs its program or ends.
        let outcome =
            unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>()) };
        match i32::try_from(outcome) {
            Ok(0) => self.child_main(),
            Ok(pid) if pid > 0 => Ok(pid),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn child_main(&self) -> ! {
        let mut step = 0;
        let Err(errno) = self.become_vmm(&mut step);
        let mut complaint = [step, 0, 0, 0, 0];
        complaint[1..].copy_from_slice(&errno.raw_os_error().to_ne_bytes());
        let _ = write(&self.complaint, &complaint);
        // SAFETY: ends this process at once, without handlers or destructors, which belong to the parent.
        unsafe { libc::_exit(127) }
    }

    /// System calls only, and no allocation.
    #[expect(
        clippy::disallowed_methods,
        reason = "runs in the forked child, which has one thread and becomes the VMM"
    )]
    fn become_vmm(&self, step: &mut u8) -> rustix::io::Result<Infallible> {
        let child = self.child;
        for tasks in &self.tasks {
            // Itself, by the file for threads: for a process the kernel would wait for every processor to come by.
            write(tasks, b"0")?;
        }
        *step = 1;
        rustix::thread::move_into_link_name_space(self.netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        *step = 2;
        // A descriptor of the driver belongs to the namespace that it was opened in.
        let tap = open(TUN, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // SAFETY: the request takes an `ifreq`, which lives through the call and ends its name with a zero.
        if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETIFF, &raw const self.tap) } < 0 {
            return Err(last_errno());
        }
        // One that was not there would have been made, and would go with its descriptor: a machine without a network.
        let mut found = self.tap;
        // SAFETY: as above; this one is written.
        if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNGETIFF, &raw mut found) } < 0 {
            return Err(last_errno());
        }
        // SAFETY: the call before has set the flags.
        if i32::from(unsafe { found.ifr_ifru.ifru_flags }) & libc::IFF_PERSIST == 0 {
            return Err(Errno::NODEV);
        }
        // Otherwise its number may be the target of one of those that are handed over.
        let tap = fcntl_dupfd_cloexec(&tap, AGENTS)?;
        *step = 3;
        rustix::thread::move_into_link_name_space(child.root.namespace(), Some(LinkNameSpaceType::Mount))?;
        // SAFETY: this process has one thread, and nothing that Rust's rules are about changes.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        *step = 4;
        for (at, tree) in &child.files {
            tree.attach(at)?;
        }
        *step = 5;
        // A terminal's or a supervisor's signals to our group are not for the machines.
        setsid()?;
        umask(Mode::from_raw_mode(0o077));
        for (resource, most) in [
            // A core file would be the guest's memory.
            (Resource::Core, 0),
            (Resource::Fsize, child.file_bytes),
            (Resource::Nproc, u64::from(child.tasks)),
            (Resource::Nofile, DESCRIPTORS),
        ] {
            setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
        }
        *step = 6;
        self.drop_privileges()?;
        *step = 7;
        close_all_at_exec()?;
        for Handed { number, descriptor } in &self.handed {
            hand_over(descriptor.as_fd(), *number)?;
        }
        hand_over(tap.as_fd(), child.tap.1)?;
        self.exec()
    }

    fn drop_privileges(&self) -> rustix::io::Result<()> {
        for capability in CapabilitySet::all().iter() {
            match remove_capability_from_bounding_set(capability) {
                // One that this kernel does not know.
                Err(Errno::INVAL) => {}
                removed => removed?,
            }
        }
        set_no_new_privs(true)?;
        set_thread_groups(&[])?;
        let (user, group) = (Uid::from_raw(self.child.user), Gid::from_raw(self.child.user));
        set_thread_res_gid(group, group, group)?;
        // With this the last capabilities in force go; the inheritable ones go by name.
        set_thread_res_uid(user, user, user)?;
        let none = CapabilitySet::empty();
        set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })
    }

    fn exec(&self) -> rustix::io::Result<Infallible> {
        // SAFETY: the set is written before it is read; signals that the agent handles are handled by nobody once the program runs,
        // and those that it ignores are the program's to decide about.
        unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        }
        // SAFETY: every pointer is to a text of `child`, which ends with a zero, and the last one is null.
        unsafe { libc::execve(self.child.root.program().as_ptr(), self.argv.as_ptr(), self.envp.as_ptr()) };
        Err(last_errno())
    }
}

/// Whatever the agent has open, marked or not, is not for the VMM.
fn close_all_at_exec() -> rustix::io::Result<()> {
    // SAFETY: marks descriptors, and closes none before exec.
    let marked =
        unsafe { libc::syscall(libc::SYS_close_range, 0, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if marked < 0 { Err(last_errno()) } else { Ok(()) }
}

/// Makes `number` a copy of the descriptor that outlives exec.
fn hand_over(descriptor: BorrowedFd<'_>, number: RawFd) -> rustix::io::Result<()> {
    // SAFETY: below `AGENTS` nothing of this process is used any more, and the copy is forgotten, not closed.
    let mut target = std::mem::ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(number) });
    dup2(descriptor, &mut target)
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        path::PathBuf,
        process::Command,
        sync::atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::confine::{Access, Cgroups, Program, cgroup::Bounds};

    const TAP_NUMBER: RawFd = 5;

    /// A network namespace with a TAP.
    struct Slot {
        name: String,
    }

    impl Slot {
        fn new() -> Self {
            static NUMBER: AtomicU32 = AtomicU32::new(0);
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let slot = Self { name: format!("sbchild-{}-{number}", std::process::id()) };
            for arguments in [
                &["netns", "add", &slot.name][..],
                &["-n", &slot.name, "tuntap", "add", "tap0", "mode", "tap"],
            ] {
                assert!(Command::new("ip").args(arguments).status().unwrap().success());
            }
            slot
        }

        fn path(&self) -> PathBuf {
            Path::new("/run/netns").join(&self.name)
        }
    }

    impl Drop for Slot {
        fn drop(&mut self) {
            let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
        }
    }

    fn sleeper() -> Root {
        let binary = PathBuf::from("/usr/bin/sleep");
        Root::make(&Program { binary, data: Vec::new(), kvm: false }).unwrap()
    }

    fn child<'a>(root: &'a Root, group: &'a Group, netns: &'a Path) -> Child<'a> {
        Child {
            root,
            arguments: vec![c"1000".to_owned()],
            environment: Vec::new(),
            user: 0x6ffe_0000,
            group,
            netns,
            tap: ("tap0", TAP_NUMBER),
            files: Vec::new(),
            handed: Vec::new(),
            file_bytes: 1 << 20,
            tasks: 10,
        }
    }

    fn end(pid: i32) {
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        reap(pid.as_raw_nonzero().get());
    }

    #[test]
    fn nothing_of_the_agents_is_open_in_it_but_what_it_was_handed() {
        let (root, slot) = (sleeper(), Slot::new());
        let group = Group::none();
        // One that was left open for everybody.
        let open_to_all = File::open("/etc/passwd").unwrap();
        rustix::io::fcntl_setfd(&open_to_all, rustix::io::FdFlags::empty()).unwrap();
        let path = slot.path();
        let handed = vec![Handed { number: 3, descriptor: File::open("/proc/version").unwrap().into() }];
        let pid = Child { handed, ..child(&root, &group, &path) }.start().unwrap();
        let mut open: Vec<_> = fs::read_dir(format!("/proc/{pid}/fd"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        open.sort();
        assert_eq!(open, ["3", "5"]);
        end(pid);
    }

    #[test]
    fn a_step_that_fails_is_named_and_leaves_no_process() {
        let (root, slot) = (sleeper(), Slot::new());
        let group = Group::none();
        let path = slot.path();
        let said = |child: Child<'_>| child.start().unwrap_err().to_string();
        assert_eq!(
            said(Child { tap: ("tap9", TAP_NUMBER), ..child(&root, &group, &path) }),
            "cannot open the TAP device"
        );
        let nowhere = Path::new("/run/netns/none");
        assert_eq!(said(child(&root, &group, nowhere)), "cannot open the network namespace");
        let no_namespace = Path::new("/proc/version");
        assert_eq!(said(child(&root, &group, no_namespace)), "cannot enter the network namespace");
        let tree = Tree::take(Path::new("/proc/version"), Access::Read).unwrap();
        let files = vec![(c"/no/such/place".to_owned(), tree)];
        assert_eq!(said(Child { files, ..child(&root, &group, &path) }), "cannot mount the machine's files");
    }

    /// Without its controllers, which few machines of the kind that also have version 1 have: it is about the place, not the bounds.
    #[test]
    fn a_process_is_born_in_its_group_of_version_two() {
        let parent = format!("sandbar-child-{}", std::process::id());
        let Some(cgroups) = Cgroups::unified_alone(&parent) else {
            eprintln!("skipped: this machine has no cgroup v2");
            return;
        };
        let bounds = Bounds { memory_bytes: 0, processor_percent: 0, weight: 0, tasks: 0 };
        let group = cgroups.create("one", &bounds).unwrap();
        let (root, slot) = (sleeper(), Slot::new());
        let path = slot.path();
        let pid = child(&root, &group, &path).start().unwrap();
        let place = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
        assert!(place.lines().any(|line| line.starts_with(&format!("0::/{parent}/one."))), "{place}");
        end(pid);
        group.remove();
        assert!(!group.unified().unwrap().exists());
    }
}
