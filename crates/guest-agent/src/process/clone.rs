//! Calls a function in a child that shares this process's memory until it calls exec or ends.
//!
//! `fork` copies the page tables, and afterwards every page that either side writes: under emulation that costs as much as
//! the program itself. So the child borrows this process's memory, while the calling thread waits (`CLONE_VM |
//! CLONE_VFORK`, as `posix_spawn` does inside libc, which cannot switch users). And it is born in its control group:
//! to move it there later would wait for every CPU to come by.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use rustix::process::Pid;

/// What the child's few calls need, several times over; kept below the size that malloc would map anew each time.
const STACK_BYTES: usize = 64 * 1024;

/// From `linux/sched.h`: too wide for the type that libc gives it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Makes the child, in `group` or where this process is, and waits until it has called exec or ended. Returns its id and a
/// descriptor of it.
///
/// # Safety
/// In the child, which shares memory with threads that go on, `body` must not allocate, lock, or panic.
pub(super) unsafe fn call_in_child(
    body: &dyn Fn(),
    group: Option<BorrowedFd<'_>>,
) -> io::Result<(Pid, OwnedFd)> {
    let mut stack: Vec<u8> = Vec::with_capacity(STACK_BYTES);
    let mut handle: RawFd = -1;
    let (into_group, group) = match group {
        Some(group) => (CLONE_INTO_CGROUP, group.as_raw_fd()),
        None => (0, 0),
    };
    let base = stack.as_mut_ptr().expose_provenance().next_multiple_of(16);
    let wide = |number: RawFd| u64::from(number.unsigned_abs());
    let arguments = libc::clone_args {
        flags: wide(libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD) | into_group,
        pidfd: (&raw mut handle).expose_provenance() as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: wide(libc::SIGCHLD),
        stack: base as u64,
        stack_size: (STACK_BYTES - 16) as u64,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: wide(group),
    };
    let blocked = Blocked::all();
    // SAFETY: the child runs on a stack of its own, aligned as the ABI wants and within the buffer. Because of CLONE_VFORK
    // this thread sleeps until the child has exec'ed or ended, so stack, body and handle outlive its use of them;
    // thread-local storage, which it shares with this thread, is used by one of the two at a time. With every signal blocked
    // no handler can run on that stack. The kernel writes the pidfd before the child runs.
    let outcome = unsafe { clone_and_call(&arguments, &body) };
    drop(blocked);
    // Up to here the child may have used it.
    drop(stack);
    let pid = i32::try_from(outcome).ok().filter(|outcome| *outcome > 0).and_then(Pid::from_raw);
    match pid {
        // SAFETY: the kernel has just made this descriptor for us.
        Some(pid) => Ok((pid, unsafe { OwnedFd::from_raw_fd(handle) })),
        None => Err(io::Error::from_raw_os_error(i32::try_from(-outcome).unwrap_or(libc::EINVAL))),
    }
}

/// `clone3`, for which libc has no function. Returns the child's id, or an error's number below zero; in the child it calls
/// [`child_main`] and never returns.
///
/// # Safety
/// The arguments must give the child a stack, and the body must live until it no longer uses this process's memory.
#[cfg(target_arch = "x86_64")]
unsafe fn clone_and_call(arguments: &libc::clone_args, body: &&dyn Fn()) -> isize {
    let outcome: isize;
    // SAFETY: the parent goes on behind the block with `rax` set, as after any system call. The child has the same
    // registers but an empty stack: it enters a function that never returns, with the stack aligned as a call leaves it.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => outcome,
            in("rdi") ptr::from_ref(arguments),
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") ptr::from_ref(body),
            in("r13") child_main as extern "C" fn(&&dyn Fn()) -> !,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    outcome
}

#[cfg(not(target_arch = "x86_64"))]
compile_error!("the guest agent starts processes by a system call of its own, which is written for x86-64");

extern "C" fn child_main(body: &&dyn Fn()) -> ! {
    body();
    // SAFETY: ends this process at once, without handlers or destructors, which belong to the parent.
    unsafe { libc::_exit(127) }
}

/// Every signal blocked in this thread, until it is dropped.
struct Blocked(libc::sigset_t);

impl Blocked {
    fn all() -> Self {
        // SAFETY: an all-zero sigset_t is valid, and both sets outlive the calls.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut before: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self(before)
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // SAFETY: the set outlives the call, which only reads it.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.0, ptr::null_mut()) };
    }
}
