//! A child's output as the agent reads it.
//!
//! All streams share one buffer: the agent has one thread, and what was read is copied out before anything else runs. So a
//! process that says nothing costs no memory, however many of them there are.

use std::cell::RefCell;
use std::io;

use bytes::Bytes;
use tokio::net::unix::pipe::Receiver;

use super::pty::Pty;

/// What one read takes at most.
const PIPE_CHUNK: usize = 32 * 1024;
const PTY_CHUNK: usize = 16 * 1024;
/// What fills a buffer of the C library's, and not what somebody wrote for a reader.
const BULK: usize = 4096;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; PIPE_CHUNK]);
}

/// The agent's end of a stream.
pub(super) enum Reader {
    Pipe(Receiver),
    Terminal(Pty),
}

impl Reader {
    /// What came next; nothing at the end. Safe to cancel.
    pub(super) async fn read(&self) -> io::Result<Bytes> {
        loop {
            // Readiness costs no budget: a child that writes as fast as it is read would keep everything else waiting.
            tokio::task::coop::consume_budget().await;
            match self {
                Self::Pipe(pipe) => pipe.readable().await?,
                Self::Terminal(pty) => pty.readable().await?,
            }
            let read = BUFFER.with_borrow_mut(|buffer| {
                let length = match self {
                    Self::Pipe(pipe) => fill(pipe, buffer)?,
                    Self::Terminal(pty) => pty.try_read(&mut buffer[..PTY_CHUNK])?,
                };
                Ok(Bytes::copy_from_slice(&buffer[..length]))
            });
            match read {
                Err(error) if io::Error::kind(&error) == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }
}

/// What was written; of a process that writes much also what it writes next, where it would run now but for this: on a machine of one
/// processor the agent is woken by each write, and a message for each would cost more than the bytes do.
fn fill(pipe: &Receiver, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = pipe.try_read(buffer)?;
    let mut latest = length;
    while latest >= BULK && length < buffer.len() {
        rustix::thread::sched_yield();
        // Whether this was the end or a failure, the next read says it again.
        latest = pipe.try_read(&mut buffer[length..]).unwrap_or(0);
        length += latest;
    }
    Ok(length)
}
